"""A rosbag2 recording turned into episodes at the rate of a dataset profile.

Step k of an episode is the time from t0 + k step_s to t0 + (k + 1) step_s. Its image is the newest
at its start, as the policy would have had it; its action is what the arm did, or was told, until
its end, in the conventions of the profile, so that executing it leads where the arm went.
"""

import dataclasses
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from openvla_ros.action_space.dataset_profile import DatasetProfile, from_eef_delta
from openvla_ros.action_space.eef_delta import EefDelta, delta_between
from openvla_ros.core.status import Status
from openvla_ros.core.strict_config import ConfigError
from openvla_ros.data.episode import Episode, encode_image, no_ops
from openvla_ros.data.episode_label import EpisodeLabel, load_label
from openvla_ros.data.faults import Faults
from openvla_ros.data.recorded_motion import AchievedMotion, CommandedTwist
from openvla_ros.data.recorded_pose import pose_history
from openvla_ros.data.recording import (
    IMAGE_TYPES,
    OPENING_TYPE,
    POSE_TYPE,
    ROUNDING_S,
    TEXT_TYPE,
    TWIST_TYPE,
    Recording,
    Track,
)

MotionSource = Literal['achieved', 'commanded']
_USUAL = {
    'image': ('image_raw', 'image_raw/compressed', 'image'),
    'pose': ('ee_pose',),
    'gripper': ('gripper_cmd', 'gripper'),
    'twist': ('twist_cmd',),
}
#: Recorded openings may leave [0, 1] by this much and are clipped.
_OPENING_SLACK = 0.02


@dataclasses.dataclass(frozen=True)
class Choices:
    """What to read from a recording; a topic of None is the only one there is of its type.

    Attributes:
        image: Image or CompressedImage.
        pose: PoseStamped of the end effector in the base frame.
        gripper: Float64, the commanded opening 0 to 1.
        twist: TwistStamped in the base frame, for commanded motion.
        instruction_topic: String.
        instruction: The sentence, where none was recorded.
        motion: What the arm did (poses) or was told (twists).
        keep_no_ops: Keep steps in which nothing is done.
    """

    image: str | None = None
    pose: str | None = None
    gripper: str | None = None
    twist: str | None = None
    instruction_topic: str | None = None
    instruction: str | None = None
    motion: MotionSource = 'achieved'
    keep_no_ops: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class _Tracks:
    poses: Track
    openings: Track
    motion: AchievedMotion | CommandedTwist
    achieved: AchievedMotion


@dataclasses.dataclass(frozen=True, eq=False)
class _Step:
    at_s: float
    state: NDArray[np.float64]
    action: NDArray[np.float64]


def episodes_of(
    path: Path, profile: DatasetProfile, choices: Choices, faults: Faults
) -> list[Episode]:
    """Read the episodes of one recording: one for every sentence that was said.

    A recording whose label says failure has none; the topics that a label names are the ones read
    unless ``choices`` names others.

    Args:
        path: The recording's folder.
        profile: The rate and the conventions to write actions in.
        choices: What to read.
        faults: Gets what was dropped and why.

    Raises:
        ConfigError: the recording cannot be used; it says what is missing.
    """
    label = load_label(path)
    if label is not None and label.outcome == 'failure':
        faults.failed_episodes += 1
        return []
    choices = _as_labelled(choices, label)
    with Recording(path) as recording:
        try:
            tracks = _tracks(recording, choices)
            said = _said(recording, choices)
            stored = _stored_images(recording, choices, faults)
        except ConfigError:
            raise
        except Exception as error:  # rosbags raises what the damaged file makes it raise
            raise ConfigError(
                f'{path}: is damaged: {" ".join(str(error).split())[:200]}'
            ) from error
    episodes = []
    for text, start_s, stop_s in _spans(said, stored, tracks):
        steps = _steps(tracks, profile, start_s, stop_s, faults)
        episode = _episode(steps, stored, profile, text, choices, faults, path)
        if episode is not None:
            episodes.append(episode)
    return episodes


def _as_labelled(choices: Choices, label: EpisodeLabel | None) -> Choices:
    if label is None:
        return choices
    named = label.topics.get
    return dataclasses.replace(
        choices,
        image=choices.image or named('image'),
        pose=choices.pose or named('pose'),
        gripper=choices.gripper or named('gripper_command') or named('gripper_state'),
        twist=choices.twist or named('twist_command'),
        instruction_topic=choices.instruction_topic or named('instruction'),
    )


def _tracks(recording: Recording, choices: Choices) -> _Tracks:
    pose = recording.choose(choices.pose, (POSE_TYPE,), 'pose', _USUAL['pose'])
    gripper = recording.choose(choices.gripper, (OPENING_TYPE,), 'gripper', _USUAL['gripper'])
    poses, openings = _finite(recording.poses(pose)), _finite(recording.openings(gripper))
    if not len(poses.values) or not len(openings.values):
        raise ConfigError(f'{recording.path}: {pose} or {gripper} holds no finite number')
    low, high = float(openings.values.min()), float(openings.values.max())
    if low < -_OPENING_SLACK or high > 1.0 + _OPENING_SLACK:
        raise ConfigError(
            f'{recording.path}: {gripper}: got {low:g} to {high:g}, expected openings from 0 '
            '(closed) to 1 (open); convert the gripper signal before recording it'
        )
    openings = Track(openings.stamps_s, np.clip(openings.values, 0.0, 1.0), openings.frame_id)
    achieved = AchievedMotion(pose_history(poses), openings)
    if choices.motion == 'achieved':
        return _Tracks(poses, openings, achieved, achieved)
    twist = recording.choose(choices.twist, (TWIST_TYPE,), 'twist command', _USUAL['twist'])
    commands = CommandedTwist(_finite(recording.twists(twist)), openings)
    return _Tracks(poses, openings, commands, achieved)


def _finite(track: Track) -> Track:
    """A track without the rows that hold NaN or infinity: gaps, as if not recorded."""
    keep = np.isfinite(track.values).all(axis=1)
    return Track(track.stamps_s[keep], track.values[keep], track.frame_id)


def _said(recording: Recording, choices: Choices) -> list[tuple[float, str]]:
    if choices.instruction is not None:
        return [(-np.inf, choices.instruction)]
    usual = ('instruction',)
    topic = recording.choose(choices.instruction_topic, (TEXT_TYPE,), 'instruction', usual)
    said = recording.texts(topic)
    if not any(text.strip() for _, text in said):
        raise ConfigError(
            f'{recording.path}: {topic} holds no sentence; say what was done with --instruction'
        )
    return said


def _stored_images(
    recording: Recording, choices: Choices, faults: Faults
) -> list[tuple[float, bytes]]:
    """Stamp and file of every image in order; compressed ones stay as they were recorded."""
    topic = recording.choose(choices.image, IMAGE_TYPES, 'image', _USUAL['image'])
    refused: list[Status] = []
    if recording.topics()[topic] == IMAGE_TYPES[0]:
        stored = [
            (stamped.stamp_s, encode_image(stamped.image))
            for stamped in recording.images(topic, refused)
        ]
    else:
        stored = list(recording.encoded_images(topic, refused))
    if not stored:
        why = f': {refused[0].sentence}' if refused else ''
        raise ConfigError(f'{recording.path}: {topic} holds no image that can be used{why}')
    faults.unreadable += len(refused)
    return sorted(stored, key=lambda entry: entry[0])


def _spans(
    said: list[tuple[float, str]], stored: list[tuple[float, bytes]], tracks: _Tracks
) -> Iterator[tuple[str, float, float]]:
    """(sentence, start, stop) of each time in which one sentence held; said again it goes on."""
    first = max(stored[0][0], float(tracks.poses.stamps_s[0]))
    last = float(tracks.poses.stamps_s[-1])
    changes = [said[0]]
    changes += [entry for before, entry in pairwise(said) if entry[1] != before[1]]
    ends = [at_s for at_s, _ in changes[1:]] + [np.inf]
    for (at_s, text), end_s in zip(changes, ends):
        if text.strip():
            yield text.strip(), max(first, at_s), min(last, end_s)


def _steps(
    tracks: _Tracks, profile: DatasetProfile, start_s: float, stop_s: float, faults: Faults
) -> list[_Step]:
    """The whole steps between two times whose motion is recorded."""
    count = max(0, int((stop_s - start_s + ROUNDING_S) / profile.step_s))
    steps = []
    for k in range(count):
        at_s = start_s + k * profile.step_s
        pose, delta = tracks.achieved.pose_at(at_s), _delta(tracks, profile, at_s)
        opening = tracks.openings.before(at_s + ROUNDING_S)
        if pose is None or delta is None:
            faults.no_motion += 1
            continue
        now = delta.gripper if opening is None else float(opening[0])
        turn = Rotation.from_quat(pose[3:]).as_rotvec()
        state = np.concatenate([pose[:3], turn, [now]])
        steps.append(_Step(at_s, state, from_eef_delta(delta, profile)))
    return steps


def _delta(tracks: _Tracks, profile: DatasetProfile, at_s: float) -> EefDelta | None:
    """What was done during the step that begins at ``at_s``, in the profile's frame."""
    before = tracks.achieved.pose_at(at_s)
    motion = tracks.motion.during(at_s, profile.step_s)
    if before is None or motion is None or np.isnan(motion.gripper):
        return None
    opening = motion.gripper
    if profile.gripper.threshold is not None:
        opening = float(opening >= profile.gripper.threshold)
    moved = Rotation.from_rotvec(motion.rotation_rad) * Rotation.from_quat(before[3:])
    after = np.concatenate([before[:3] + motion.translation_m, moved.as_quat()])
    return delta_between(
        before, after, gripper=opening, frame=profile.frame, step_s=profile.step_s
    )


def _episode(
    steps: list[_Step],
    stored: list[tuple[float, bytes]],
    profile: DatasetProfile,
    text: str,
    choices: Choices,
    faults: Faults,
    path: Path,
) -> Episode | None:
    """Put images to steps and leave out what cannot be learnt from."""
    stamps = np.array([stamp_s for stamp_s, _ in stored])
    newest = np.searchsorted(stamps, [step.at_s + ROUNDING_S for step in steps], 'right') - 1
    age_s = np.array([step.at_s for step in steps]) - stamps[newest]
    stale = age_s > 0.5 * profile.step_s
    if stale.sum() > 0.5 * len(steps):
        rate = (len(stamps) - 1) / max(stamps[-1] - stamps[0], 1e-9)
        raise ConfigError(
            f'{path}: {int(stale.sum())} of {len(steps)} steps have no image younger than '
            f'{0.5 * profile.step_s:g} s: the camera gives {rate:.1f} images a second, expected '
            f'at least {2.0 / profile.step_s:g} for steps of {profile.step_s:g} s'
        )
    faults.stale += int(stale.sum())
    if not steps:
        faults.short_episodes += 1
        return None
    actions = np.stack([step.action for step in steps])
    idle = no_ops(actions, profile.gripper.value(float(steps[0].state[6])))
    faults.count_idle(idle, profile.step_s)
    files = [stored[index][1] for index in newest]
    frozen = np.array([False, *(a == b for a, b in pairwise(files))]) & ~idle & ~stale
    faults.repeated += int(frozen.sum())
    keep = ~stale & ~frozen & (choices.keep_no_ops | ~idle)
    if keep.sum() < 2:
        faults.short_episodes += 1
        return None
    faults.kept += int(keep.sum())
    return Episode(
        [files[i] for i in np.flatnonzero(keep)],
        np.stack([step.state for step in steps])[keep].astype(np.float32),
        actions[keep].astype(np.float32),
        text,
    )
