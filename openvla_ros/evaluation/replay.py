"""Run a policy over a recording and compare: ``python -m openvla_ros.evaluation.replay BAG``.

This is how one checks a new robot's conventions before anything moves: the same image, recipe,
decoding and un-normalisation as in the node, and beside each predicted displacement the recorded
one. Nothing is published.
"""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from openvla_ros.action_space.action_tokens import NonActionTokenError
from openvla_ros.action_space.dataset_profile import DatasetProfile, profile_of_policy
from openvla_ros.action_space.normalization import resolve_unnorm_key
from openvla_ros.core.resources import resource_path
from openvla_ros.core.status import Status
from openvla_ros.core.strict_config import ConfigError
from openvla_ros.data.recorded_motion import (
    AchievedMotion,
    CommandedTwist,
    Motion,
    RecordedActions,
    RecordedMotion,
    motion_of_delta,
)
from openvla_ros.data.recorded_pose import (
    DEFAULT_BASE_FRAME,
    RobotFrames,
    recorded_pose,
    unused_transforms,
)
from openvla_ros.data.recording import (
    ACTION_TYPE,
    IMAGE_TYPES,
    OPENING_TYPE,
    TEXT_TYPE,
    TWIST_TYPE,
    Recording,
    Track,
)
from openvla_ros.evaluation.displacement_agreement import (
    LEAST_SAMPLES,
    Agreement,
    Displacements,
    compare,
)
from openvla_ros.observation.instruction import parse_instruction
from openvla_ros.policy.inference import GRAPH_MODES, BackendUnavailable, InferenceBackend
from openvla_ros.policy.policy import Policy

PROGRESS_PERIOD_S = 2.0
# What a recording of everything holds besides is made from these.
_CAMERA_TOPICS = ('camera/image_raw', 'camera/image_raw/compressed')
_INSTRUCTION_TOPICS = ('instruction', 'active_instruction')


@dataclass(frozen=True, eq=False)
class Replayed:
    """One image of the recording, after the policy has seen it.

    Attributes:
        stamp_s: Of the image.
        predicted: In the base frame.
        recorded: Of the same step, or None where the recording has none.
        stage_s: Wall time by stage [s].
    """

    stamp_s: float
    predicted: Motion
    recorded: Motion | None
    stage_s: Mapping[str, float]


class Instructions:
    """Which instruction was active at a time: a given one, or what the recording says."""

    def __init__(self, given: str | None, recorded: Sequence[tuple[float, str]]) -> None:
        """Take one sentence for all images, or (time [s], text) as recorded."""
        self._given = given
        self._recorded = sorted(recorded)

    def at(self, recorded_s: float) -> str:
        """Return the instruction at a time of recording; empty where there was none."""
        if self._given is not None:
            return self._given
        before = [text for at_s, text in self._recorded if at_s <= recorded_s]
        return before[-1] if before else ''


def replay(
    recording: Recording,
    policy: Policy,
    image_topic: str,
    instructions: Instructions,
    reference: RecordedMotion | None,
    poses: AchievedMotion | None,
    limit: int,
) -> tuple[list[Replayed], dict[str, int]]:
    """Run the policy over the recording, one image per step of its dataset.

    Returns:
        What was replayed, and how many images were left out, by reason.
    """
    step_s = policy.profile.step_s
    replayed: list[Replayed] = []
    refused: list[Status] = []
    left_out: dict[str, int] = {}
    due_s, shown_s = -np.inf, time.monotonic()
    for picture in recording.images(image_topic, refused):
        # A tenth of a step early counts as on time: cameras and steps have unrelated periods.
        if picture.stamp_s < due_s - 0.1 * step_s:
            continue
        # A sentence has no stamp, and the camera's clock may be another one than the recorder's.
        instruction = instructions.at(picture.recorded_s)
        if not instruction:
            left_out['NO_INSTRUCTION'] = left_out.get('NO_INSTRUCTION', 0) + 1
            continue
        due_s = picture.stamp_s + step_s
        pose = None if poses is None else poses.pose_at(picture.stamp_s)
        try:
            step = policy.act(picture.image, instruction)
        except NonActionTokenError:
            left_out['BAD_TOKENS'] = left_out.get('BAD_TOKENS', 0) + 1
            continue
        predicted = motion_of_delta(step.delta, pose)
        if predicted is None:
            left_out['NO_POSE'] = left_out.get('NO_POSE', 0) + 1
            continue
        recorded = None if reference is None else reference.during(picture.stamp_s, step_s)
        replayed.append(Replayed(picture.stamp_s, predicted, recorded, step.stage_s))
        if time.monotonic() - shown_s > PROGRESS_PERIOD_S:
            shown_s = time.monotonic()
            print(f'{len(replayed)} images replayed', file=sys.stderr, flush=True)
        if len(replayed) >= limit:
            break
    for refusal in refused:
        if refusal.code not in left_out:
            print(f'an image is left out: {refusal.sentence}', file=sys.stderr)
        left_out[refusal.code] = left_out.get(refusal.code, 0) + 1
    return replayed, left_out


def agreement_of(replayed: Sequence[Replayed]) -> Agreement | None:
    """Compare the images that have a recorded motion; None where none has."""
    pairs = [(r.predicted, r.recorded) for r in replayed if r.recorded is not None]
    if not pairs:
        return None
    return compare(
        _displacements([predicted for predicted, _ in pairs]),
        _displacements([recorded for _, recorded in pairs]),
    )


def latency_percentiles(replayed: Sequence[Replayed]) -> dict[str, tuple[float, float]]:
    """Return (p50, p99) in seconds by stage, and for their sum as 'total'."""
    stages: dict[str, list[float]] = {'total': []}
    for step in replayed:
        parts = {k: v for k, v in step.stage_s.items() if '.' not in k}
        stages['total'].append(sum(parts.values()))
        for name, value in step.stage_s.items():
            stages.setdefault(name, []).append(value)
    return {
        name: (float(np.percentile(values, 50)), float(np.percentile(values, 99)))
        for name, values in stages.items()
        if values
    }


def report(
    replayed: Sequence[Replayed], left_out: Mapping[str, int], agreement: Agreement | None,
    against: str,
) -> str:  # fmt: skip
    """Return the table and the findings as text."""
    lines = [f'{len(replayed)} images replayed']
    lines += [f'{count} images left out: {code}' for code, count in left_out.items()]
    lines += ['', 'stage                    p50 ms   p99 ms']
    for name, (p50, p99) in latency_percentiles(replayed).items():
        lines.append(f'{name:22} {1e3 * p50:8.1f} {1e3 * p99:8.1f}')
    if agreement is None:
        return '\n'.join([*lines, '', 'nothing recorded to compare with'])
    lines += ['', f'{agreement.steps} steps compared with {against}', _table(agreement)]
    for name, value in (
        ('mean cosine of the directions', agreement.direction_cosine),
        ('directions within 30 degrees', agreement.within_30_deg),
        ('gripper agreement', agreement.gripper_agreement),
    ):
        lines.append(f'{name:30} {"-" if value is None else format(value, ".2f")}')
    lines += [f'LOOK: {finding}' for finding in agreement.findings]
    unchecked = [axis.name for axis in agreement.axes if axis.moving < LEAST_SAMPLES]
    if unchecked:
        axes = ', '.join(unchecked)
        lines.append(f'not checked, moved in fewer than {LEAST_SAMPLES} steps: {axes}')
    if not agreement.findings and len(unchecked) < len(agreement.axes):
        lines.append('no flipped or swapped axis, no wrong unit, no inverted gripper found')
    return '\n'.join(lines)


def main(args: Sequence[str] | None = None) -> int:
    """Replay a recording.

    Returns:
        0 done, 1 something looks wrong, 2 it could not be done or there was nothing to compare.
    """
    options = _parser().parse_args(args)
    try:
        _default_network(options)
        profile = profile_of_policy(
            options.unnorm_key, options.dataset_directory, options.adapter, options.model
        )
        if options.instruction is not None:
            parse_instruction(options.instruction)
        with Recording(options.bag) as recording:
            return _run(options, recording, profile)
    except (ValueError, BackendUnavailable) as error:  # every refusal of ours is a ValueError
        print(f'replay: {error}', file=sys.stderr)
        return 2


def _run(options: argparse.Namespace, recording: Recording, profile: DatasetProfile) -> int:
    image_topic = recording.choose(
        options.image_topic, IMAGE_TYPES, 'camera image', _CAMERA_TOPICS
    )
    instructions = _instructions(options, recording)
    frames = RobotFrames.of(
        options.robot, options.base_frame, options.ee_frame, options.pose_topic, options.tf_topic
    )
    poses = _achieved(options, recording, frames)
    reference = _reference(options, recording, frames, poses)
    backend = _backend(options)
    backend.warm_up()
    policy = Policy(backend, profile)
    replayed, left_out = replay(
        recording, policy, image_topic, instructions, reference, poses, options.limit
    )
    if not replayed:
        why = ', '.join(f'{code}: {count}' for code, count in left_out.items()) or 'it is empty'
        raise ConfigError(f'{recording.path}: no image of {image_topic} could be replayed ({why})')
    agreement = agreement_of(replayed)
    against = '' if reference is None else reference.description
    print(f'{recording.path}: {image_topic}, {backend.description}')
    print(report(replayed, left_out, agreement, against))
    _write(Path(options.out), replayed, left_out, agreement)
    if reference is not None:
        _check_compared(recording, replayed, reference, agreement)
    return 1 if agreement is not None and agreement.findings else 0


def _check_compared(
    recording: Recording,
    replayed: Sequence[Replayed],
    reference: RecordedMotion,
    agreement: Agreement | None,
) -> None:
    """Refuse to call it agreement where nothing was compared; raises ConfigError."""
    if agreement is None:
        raise ConfigError(
            f'{recording.path}: nothing to compare: the {len(replayed)} images are of '
            f'{replayed[0].stamp_s:.2f} to {replayed[-1].stamp_s:.2f} s, '
            f'{reference.description} of {reference.span_s[0]:.2f} to {reference.span_s[1]:.2f} s '
            'or has gaps there; do both clocks agree, and was the robot recorded throughout?'
        )
    if not agreement.findings and all(axis.moving < LEAST_SAMPLES for axis in agreement.axes):
        raise ConfigError(
            f'{recording.path}: nothing to compare: in {agreement.steps} steps no axis moves in '
            f'{LEAST_SAMPLES} or more; record the arm moving along and about every axis'
        )


def _instructions(options: argparse.Namespace, recording: Recording) -> Instructions:
    if options.instruction is not None:
        return Instructions(options.instruction, ())
    found = recording.topics((TEXT_TYPE,))
    topic = options.instruction_topic or next(
        (t for name in _INSTRUCTION_TOPICS for t in found if t.rsplit('/', 1)[-1] == name), None
    )
    if topic is None:
        raise ConfigError(
            f'{recording.path}: has no topic named instruction; say --instruction "..."'
        )
    topic = recording.choose(topic, (TEXT_TYPE,), 'instruction')
    return Instructions(None, recording.texts(topic))


def _achieved(
    options: argparse.Namespace, recording: Recording, frames: RobotFrames
) -> AchievedMotion | None:
    found = recorded_pose(recording, frames)
    if found is None:
        return None
    poses, source = found
    return AchievedMotion(poses, _openings(options, recording), source)


def _openings(options: argparse.Namespace, recording: Recording) -> Track | None:
    found = recording.topics((OPENING_TYPE,))
    topic = options.gripper_topic or next((t for t in found if t.endswith('gripper_cmd')), None)
    if topic is None:
        return None
    return recording.openings(recording.choose(topic, (OPENING_TYPE,), 'gripper opening'))


def _reference(
    options: argparse.Namespace,
    recording: Recording,
    frames: RobotFrames,
    poses: AchievedMotion | None,
) -> RecordedMotion | None:
    """Return what to compare with: the arm's motion, else recorded commands.

    None only where the user asked for no comparison.
    """
    if options.against == 'auto':
        there = {
            'achieved': poses is not None,
            'twist': recording.topics((TWIST_TYPE,)),
            'action': recording.topics((ACTION_TYPE,)),
        }
        kind = next((name for name, found in there.items() if found), '')
    else:
        kind = options.against
    if kind == 'achieved':
        if poses is None:
            hint = unused_transforms(recording, frames) or '; say --pose-topic'
            raise ConfigError(f'{recording.path}: has no end-effector pose{hint}')
        return poses
    if kind == 'twist':
        topic = recording.choose(
            options.command_topic, (TWIST_TYPE,), 'twist command', ('twist_cmd',)
        )
        twists = recording.twists(topic)
        frames.check(twists.frame_id, topic, recording)
        return CommandedTwist(twists, _openings(options, recording))
    if kind == 'action':
        topic = recording.choose(options.command_topic, (ACTION_TYPE,), 'PolicyAction')
        actions = recording.actions(topic)
        frames.check(actions.frame_id, topic, recording)
        return RecordedActions(actions)
    if kind == 'none':
        return None
    raise ConfigError(
        f'{recording.path}: has nothing to compare with: no PoseStamped on ee_pose, no '
        f'TwistStamped, no PolicyAction{unused_transforms(recording, frames)}; --against none '
        'measures latency alone'
    )


def _default_network(options: argparse.Namespace) -> None:
    """Fill in what was left open: the shipped checkpoint, and the only key of a checkpoint."""
    if options.server_url:
        if options.model:
            raise ConfigError('both --model and --server-url are given; say which network to run')
        offered = [] if options.unnorm_key else _server_keys(options.server_url)
        if offered:
            options.unnorm_key = resolve_unnorm_key(offered, None)
        return
    if not options.model:
        options.model = str(resource_path('checkpoints/demo'))
        print(
            f'neither --model nor --server-url is given: replaying with {options.model}, which '
            'knows nothing but the simulated arm',
            flush=True,
        )
    if not options.unnorm_key:
        from openvla_ros.model.local_backend import statistics_of

        options.unnorm_key = resolve_unnorm_key(
            statistics_of(options.model, options.adapter), None
        )


def _server_keys(server_url: str) -> list[str]:
    from openvla_ros.serving.client import RemoteBackend

    with contextlib.closing(RemoteBackend(server_url, '', timeout_s=60.0)) as backend:
        return backend.unnorm_keys()


def _backend(options: argparse.Namespace) -> InferenceBackend:
    if options.server_url:
        from openvla_ros.serving.client import RemoteBackend

        return RemoteBackend(options.server_url, options.unnorm_key, timeout_s=60.0)
    from openvla_ros.model.local_backend import LocalBackend

    return LocalBackend.load(
        options.model,
        options.unnorm_key,
        dtype=options.dtype,
        device=options.device,
        quantization=options.quantization,
        cuda_graphs=options.cuda_graphs,
        adapter=options.adapter,
        allow_slow=True,
    )


def _write(
    folder: Path,
    replayed: Sequence[Replayed],
    left_out: Mapping[str, int],
    agreement: Agreement | None,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        'images': len(replayed),
        'left_out': dict(left_out),
        'latency_s': {
            k: {'p50': a, 'p99': b} for k, (a, b) in latency_percentiles(replayed).items()
        },
        'agreement': None if agreement is None else asdict(agreement),
    }
    (folder / 'replay.json').write_text(json.dumps(content, indent=1) + '\n', encoding='utf-8')
    from openvla_ros.evaluation.replay_plot import plot_replay

    plot_replay(
        folder / 'replay.png',
        np.array([step.stamp_s for step in replayed]),
        _displacements([step.predicted for step in replayed]),
        _displacements([step.recorded or _UNKNOWN for step in replayed]),
    )
    print(f'wrote {folder / "replay.json"} and {folder / "replay.png"}')


_UNKNOWN = Motion(np.full(3, np.nan), np.full(3, np.nan), float('nan'))


def _displacements(motions: Sequence[Motion]) -> Displacements:
    return Displacements(
        np.array([m.translation_m for m in motions]).reshape(-1, 3),
        np.array([m.rotation_rad for m in motions]).reshape(-1, 3),
        np.array([m.gripper for m in motions]),
    )


def _table(agreement: Agreement) -> str:
    rows = ['axis   mean |error|   recorded rms  predicted rms   same sign  correlation']
    for axis in agreement.axes:
        sign = '-' if axis.sign_agreement is None else f'{100 * axis.sign_agreement:.0f} %'
        correlation = '-' if axis.correlation is None else f'{axis.correlation:.2f}'
        rows.append(
            f'{axis.name:4} {axis.mean_abs_error:8.2f} {axis.unit:4} {axis.recorded_rms:10.2f} '
            f'{axis.unit:4} {axis.predicted_rms:8.2f} {axis.unit:4} {sign:>9}  {correlation:>10}'
        )
    return '\n'.join(rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m openvla_ros.evaluation.replay',
        description='Run a policy over a rosbag2 recording and compare with what was done.',
    )
    add = parser.add_argument
    add('bag', help='recording: a rosbag2 folder (sqlite3 or MCAP)')
    add(
        '--unnorm-key',
        default='',
        help='dataset profile and statistics to use (default: the only one the checkpoint has)',
    )
    add('--dataset-directory', help="folder of dataset profiles (default: the package's own)")
    add(
        '--model',
        '--checkpoint',
        help='checkpoint folder or hub id (default: the small one that comes with the package)',
    )
    add('--adapter', help='folder of a LoRA adapter to go on top')
    add('--server-url', help='ask a server instead of loading a model')
    add('--device', default='cpu', help='torch device (default: cpu)')
    add(
        '--dtype',
        choices=('auto', 'float32', 'bfloat16', 'float16'),
        default='auto',
        help="number format of the weights (default: auto, the checkpoint's)",
    )
    add(
        '--cuda-graphs',
        choices=GRAPH_MODES,
        default='auto',
        help='run the network as CUDA graphs (default: on a CUDA device, if they give the same '
        'tokens)',
    )
    add('--quantization', help="scheme such as 'nf4' or 'int8' (default: none)")
    add('--instruction', help='sentence for all images; default: the recorded instruction topic')
    add('--image-topic', help='camera topic, where there are several')
    add('--instruction-topic', help='topic of the instruction (default: .../instruction)')
    add('--pose-topic', help='topic of the end-effector pose (default: .../ee_pose)')
    add('--command-topic', help='topic of the commands for --against twist or action')
    add('--gripper-topic', help='topic of the gripper opening 0..1 (default: .../gripper_cmd)')
    add('--robot', help="robot profile (name or .yaml) that names the robot's frames")
    add(
        '--base-frame',
        help=f"the robot's base frame (default: the profile's, else {DEFAULT_BASE_FRAME})",
    )
    add('--ee-frame', help="frame of the end effector in /tf (default: the profile's)")
    add('--tf-topic', help='topic of the transforms, where there are several (default: /tf)')
    add(
        '--against',
        choices=('auto', 'achieved', 'twist', 'action', 'none'),
        default='auto',
        help='compare with the motion of ee_pose or /tf, with TwistStamped commands or with '
        'PolicyActions (default: the first of them that is there)',
    )
    add('--limit', type=int, default=100_000, help='stop after this many images')
    add('--out', default='out/replay', help='folder for the JSON and the plot')
    return parser


if __name__ == '__main__':
    sys.exit(main())
