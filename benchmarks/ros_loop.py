"""B5: camera to action through ROS, in real processes, with and without our Fast DDS profile.

A camera process publishes 640x480 rgb8 at 30 Hz; policy_node as shipped takes the images, hands
the newest to its worker at every tick and publishes actions; a listener receives them. The model
either sleeps (so that only ROS and the node cost anything) or is a checkpoint. Every combination
of DDS profile and reliability runs in turn, then in the reverse order, so that what else the
machine does meets all alike; how much that was is in the result. On a busy machine
``chrt -r 10`` in front keeps most of it out (Linux gives every session its share, so that a
better nice does not).

    source scripts/env.sh; python -m benchmarks.ros_loop
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.conditions import conditions, output_argument, print_conditions, print_result
from openvla_ros.nodes.dds_profile import profile_variable

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'test'))

from harness.processes import DeadlineError, Process, Processes  # noqa: E402  the harness of the tests

PROFILE_VARIABLE = profile_variable()
SHM_PROFILE = ROOT / 'config' / 'fastdds_shm.xml'
#: Which processes get our profile; the others have Fast DDS's defaults.
PROFILES: dict[str, tuple[str, ...]] = {
    'default': (),
    'shm': ('camera', 'policy', 'listener'),
    'shm-camera-only': ('camera',),
    'shm-policy-only': ('policy', 'listener'),
}
RELIABILITIES = ('reliable', 'best_effort')
UNNORM_KEY = 'openvla_ros_demo'
_LOADED = ('READY', 'NO_INSTRUCTION', 'NO_IMAGE', 'IMAGE_STALE')
_SCHEDULERS = {os.SCHED_OTHER: 'normal', os.SCHED_FIFO: 'fifo', os.SCHED_RR: 'round robin'}
_START_LIMIT_S = 90.0
_SETTLE_S = 4.0  # the subscription follows the camera's reliability within the first
_INSTRUCTION = 'move to the red block'


class Case(NamedTuple):
    """One combination.

    Attributes:
        backend: 'sleep' or 'checkpoint'.
        profile: A key of PROFILES.
        reliability: Of the camera; the policy follows it.
    """

    backend: str
    profile: str
    reliability: str

    def __str__(self) -> str:
        return f'{self.backend}, {self.profile}, {self.reliability}'


class Window(NamedTuple):
    """What was measured in one run of one case; times in seconds, columns as in the actors."""

    length_s: float
    sent: NDArray[np.int64]
    publish_s: NDArray[np.float64]
    images: NDArray[np.int64]
    inferences: NDArray[np.int64]
    ticks: NDArray[np.int64]
    actions: NDArray[np.int64]
    skipped_ticks: int
    cpu_s: dict[str, float]
    others_cpu_s: float
    status: str


def run_case(case: Case, arguments: argparse.Namespace, folder: Path) -> Window:
    """Start the processes, measure for a while, end them."""
    limit_s = _START_LIMIT_S + _SETTLE_S + arguments.seconds + 60.0
    with Processes(folder, deadline_s=limit_s) as processes:
        processes.env.pop(PROFILE_VARIABLE, None)
        camera = _start(processes, case, 'camera', *_camera_arguments(case, arguments))
        listener = _start(processes, case, 'listener')
        file = folder / 'policy.npz'
        policy = _start(processes, case, 'policy', *_policy_arguments(case, arguments, file))
        _wait_until(lambda: _code(listener) in _LOADED, policy)
        listener.call('instruct', text=_INSTRUCTION)
        time.sleep(_SETTLE_S)
        running = {'camera': camera, 'policy': policy, 'listener': listener}
        before, others_before_s = _cpu_s(running), _busy_s()
        begin_ns = time.time_ns()
        time.sleep(arguments.seconds)
        end_ns = time.time_ns()
        after, others_after_s = _cpu_s(running), _busy_s()
        status = listener.call('status', deadline_s=30.0)
        sent, publish_ns = (np.array(row, np.int64) for row in camera.call('sent'))
        actions = np.array(listener.call('actions'), np.int64).reshape(-1, 2)
        # Killed ones would leave their shared memory behind.
        for process in running.values():
            process.signal(signal.SIGINT)
        for process in running.values():
            process.wait(20.0)
    spent = {name: after[name] - before[name] for name in running}
    found = np.load(file)

    def within(times: NDArray[np.int64]) -> NDArray[np.bool_]:
        return (times >= begin_ns) & (times < end_ns)

    return Window(
        length_s=1e-9 * (end_ns - begin_ns),
        sent=sent[within(sent)],
        publish_s=np.asarray(1e-9 * publish_ns[within(sent)], np.float64),
        images=found['images'][within(found['images'][:, 0])],
        inferences=found['inferences'][within(found['inferences'][:, 1])],
        ticks=found['ticks'][within(found['ticks'])],
        actions=actions[within(actions[:, 1])],
        skipped_ticks=int(found['skipped_ticks']),
        cpu_s=spent,
        others_cpu_s=others_after_s - others_before_s - sum(spent.values()),
        status=status,
    )


def _camera_arguments(case: Case, arguments: argparse.Namespace) -> Iterator[str]:
    yield from ('--rate-hz', str(arguments.camera_hz))
    yield from ('--width', str(arguments.width), '--height', str(arguments.height))
    if case.reliability == 'best_effort':
        yield '--best-effort'


def _policy_arguments(case: Case, arguments: argparse.Namespace, file: Path) -> Iterator[str]:
    yield from ('--file', str(file))
    if case.backend == 'sleep':
        yield from ('--sleep-s', str(arguments.sleep_s))
    parameters: dict[str, Any] = {
        'robot': 'sim',
        'unnorm_key': UNNORM_KEY,
        'rate_hz': arguments.policy_hz,
        'allow_slow': 'true',
    }
    if case.backend == 'checkpoint':
        parameters['checkpoint'] = arguments.checkpoint
    yield '--ros-args'
    for name, value in parameters.items():
        yield from ('-p', f'{name}:={value}')


def _start(processes: Processes, case: Case, role: str, *arguments: str) -> Process:
    argv = [sys.executable, '-m', 'benchmarks.ros_loop_actors', role, *arguments]
    ours = role in PROFILES[case.profile]
    process = processes.start(role, argv, env={PROFILE_VARIABLE: str(SHM_PROFILE)} if ours else {})
    if role != 'policy':
        process.call('ping', deadline_s=30.0)
    return process


def _code(listener: Process) -> str:
    return str(listener.call('status', deadline_s=30.0)).partition(':')[0]


def _wait_until(is_true: Callable[[], bool], policy: Process) -> None:
    deadline_s = time.monotonic() + _START_LIMIT_S
    while not is_true():
        if policy.returncode is not None or time.monotonic() > deadline_s:
            raise RuntimeError(f'the policy is not up; its log ends: {policy.log_tail()}')
        time.sleep(0.2)


def _cpu_s(processes: dict[str, Process]) -> dict[str, float]:
    return {name: process.cpu_s() for name, process in processes.items()}


def _busy_s() -> float:
    """CPU time of the whole machine that was not idle."""
    fields = [int(field) for field in Path('/proc/stat').read_text().split('\n')[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, _steal = fields
    return (user + nice + system + irq + softirq) / os.sysconf('SC_CLK_TCK')


def summarize(windows: Sequence[Window], policy_hz: float, camera_hz: float) -> dict[str, Any]:
    """Join the runs of one case."""
    sent = sum(len(w.sent) for w in windows)
    arrived = sum(len(np.intersect1d(w.images[:, 0], w.sent)) for w in windows)
    length_s = sum(w.length_s for w in windows)
    intervals_s = [np.diff(w.actions[:, 1]) * 1e-9 for w in windows]
    late_s = [np.abs(np.diff(w.ticks) * 1e-9 - 1 / policy_hz) for w in windows]
    camera_late_s = [np.abs(np.diff(w.sent) * 1e-9 - 1 / camera_hz) for w in windows]
    actions = sum(len(w.actions) for w in windows)
    return {
        'seconds': round(length_s, 1),
        'sent': sent,
        'delivered': arrived,
        'delivered_percent': round(100 * arrived / max(sent, 1), 2),
        'camera_to_callback_ms': _quantiles([_ages(w.images, 1) for w in windows]),
        'image_age_at_inference_start_ms': _quantiles([_ages(w.inferences, 1) for w in windows]),
        'image_age_at_action_ms': _quantiles([_ages(w.actions, 1) for w in windows]),
        'inference_ms': _quantiles(
            [
                np.asarray((w.inferences[:, 2] - w.inferences[:, 1]) * 1e-9, np.float64)
                for w in windows
            ]
        ),
        'actions_hz': round(actions / length_s, 2),
        'expected_actions': round(length_s * policy_hz),
        'actions': actions,
        'skipped_ticks': sum(w.skipped_ticks for w in windows),
        'action_interval_ms': _quantiles(intervals_s),
        'policy_timer_off_ms': _quantiles(late_s),
        'camera_timer_off_ms': _quantiles(camera_late_s),
        'publish_image_ms': _quantiles([w.publish_s for w in windows]),
        'cpu_percent': {
            name: round(100 * sum(w.cpu_s[name] for w in windows) / length_s, 1)
            for name in ('camera', 'policy', 'listener')
        },
        'others_busy_cores': round(sum(w.others_cpu_s for w in windows) / length_s, 2),
        'status_at_end': sorted({w.status.partition(':')[0] for w in windows}),
    }


def _ages(rows: NDArray[np.int64], column: int) -> NDArray[np.float64]:
    return np.asarray((rows[:, column] - rows[:, 0]) * 1e-9)


def _quantiles(values_s: Sequence[NDArray[np.float64]]) -> dict[str, float] | None:
    """p50, p90, p99 and largest [ms]; None without values."""
    joined = np.concatenate(values_s)
    if not len(joined):
        return None
    quantiles = np.percentile(1e3 * joined, [50, 90, 99, 100])
    return dict(zip(('p50', 'p90', 'p99', 'max'), (round(float(q), 2) for q in quantiles)))


def table(summaries: dict[str, dict[str, Any]]) -> str:
    """One line per case, milliseconds."""
    lines = [
        '| model, profile, reliability | delivered | camera to callback p50/p99 '
        '| age at inference start p50/p99 | age at action p50/p99 | skipped ticks '
        '| policy CPU | others busy |',
        '|---|---|---|---|---|---|---|---|',
    ]
    for name, row in summaries.items():
        cells = (
            f'{row["delivered"]}/{row["sent"]} ({row["delivered_percent"]:.1f} %)',
            _pair(row['camera_to_callback_ms']),
            _pair(row['image_age_at_inference_start_ms']),
            _pair(row['image_age_at_action_ms']),
            f'{row["skipped_ticks"]}',
            f'{row["cpu_percent"]["policy"]:.0f} %',
            f'{row["others_busy_cores"]:.1f} cores',
        )
        lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def _pair(quantiles: dict[str, float] | None) -> str:
    return f'{quantiles["p50"]:.1f} / {quantiles["p99"]:.1f}' if quantiles else '-'


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seconds', type=float, default=15.0, help='of each run')
    parser.add_argument('--rounds', type=int, default=2, help='runs per case')
    parser.add_argument('--sleep-s', type=float, default=0.1, help='time of a sleeping inference')
    parser.add_argument('--policy-hz', type=float, default=5.0)
    parser.add_argument('--camera-hz', type=float, default=30.0)
    parser.add_argument('--width', type=int, default=640)
    parser.add_argument('--height', type=int, default=480)
    parser.add_argument('--profile', nargs='+', choices=list(PROFILES), default=['default', 'shm'])
    parser.add_argument(
        '--reliability', nargs='+', choices=RELIABILITIES, default=list(RELIABILITIES)
    )
    shipped = ROOT / 'checkpoints' / 'demo'
    parser.add_argument(
        '--checkpoint', type=Path, default=shipped, help='runs too where this folder exists'
    )
    parser.add_argument('--only-sleep', action='store_true', help='leave the checkpoint out')
    parser.add_argument('--note', default='', help='kept in the result')
    output_argument(parser)
    return parser.parse_args()


def cases_of(arguments: argparse.Namespace) -> list[Case]:
    """All combinations; with the checkpoint only those that people are meant to use."""
    every = [Case('sleep', p, r) for p in arguments.profile for r in arguments.reliability]
    if arguments.checkpoint.is_dir() and not arguments.only_sleep:
        every += [Case('checkpoint', 'shm', r) for r in arguments.reliability]
    return every


def main() -> int:
    arguments = _arguments()
    found = conditions()
    found['rmw'] = os.environ.get('RMW_IMPLEMENTATION', 'default')
    found['scheduler'] = _SCHEDULERS.get(os.sched_getscheduler(0), 'other')
    print_conditions(found)
    cases = cases_of(arguments)
    windows: dict[Case, list[Window]] = defaultdict(list)
    for number in range(arguments.rounds):
        for case in cases if number % 2 == 0 else reversed(cases):
            print(f'# round {number + 1} of {arguments.rounds}: {case}', flush=True)
            try:
                with tempfile.TemporaryDirectory() as folder:
                    windows[case].append(run_case(case, arguments, Path(folder)))
            except (RuntimeError, DeadlineError) as error:
                print(f'#   not measured: {error}', flush=True)
    rates = (arguments.policy_hz, arguments.camera_hz)
    summaries = {str(c): summarize(windows[c], *rates) for c in cases if windows[c]}
    print(table(summaries))
    found['load_1min_at_end'] = round(os.getloadavg()[0], 2)
    result: dict[str, Any] = {
        'image': f'{arguments.width}x{arguments.height} rgb8 at {arguments.camera_hz:g} Hz',
        'policy_hz': arguments.policy_hz,
        'sleep_s': arguments.sleep_s,
        'rounds': arguments.rounds,
        'note': arguments.note,
        'cases': summaries,
    }
    print_result('ros_loop', found, result, arguments.output)
    return 0 if len(summaries) == len(cases) else 1


if __name__ == '__main__':
    sys.exit(main())
