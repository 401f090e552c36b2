"""One run: the processes around a controller, and the questions a test asks about them."""

import itertools
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness import canary, invariants, recording
from harness.invariants import Exemptions, Report, Run
from harness.limits import (
    ACTIVE,
    DISARMED,
    ESTOP,
    FAULT,
    SCHEDULING_ALLOWANCE_S,
    STATE_NAMES,
    Limits,
)
from harness.processes import DeadlineError, Process, Processes

MOVING_MPS = 0.02
AWAY_FROM_WALLS_M = 0.04


class NotMovingError(AssertionError):
    """The arm did not move at the instant of injection, so the case proves nothing; repeat it."""


class NotJudgedError(AssertionError):
    """A time was missed while the canary was late too: nobody knows whose fault; repeat it."""


@dataclass(frozen=True)
class Injection:
    """A fault, and the proof that it met a moving arm."""

    t_s: float
    speed_mps: float
    wall_m: float


@dataclass(frozen=True)
class Timing:
    """One judged time."""

    what: str
    measured_s: float
    allowed_s: float
    canary_gap_s: float


class World:
    """Processes, recordings and judgements of one run; use as a context manager."""

    def __init__(self, folder: str | Path, limits: Limits, *, deadline_s: float = 120.0) -> None:
        self.folder = Path(folder)
        self.limits = limits
        self.processes = Processes(self.folder, deadline_s=deadline_s)
        self.exempt = Exemptions()
        self.timings: list[Timing] = []
        self._tail = recording.Tail(self.folder / 'robot.rec')
        self._lines = recording.LineTail(self.folder / 'robot.rec.jsonl')
        self._diagnostics = recording.LineTail(self.folder / 'robot.rec.diagnostics.jsonl')
        self._canary = recording.Tail(self.folder / 'canary.rec')
        self._policies = itertools.count()
        self._controller_argv: Sequence[str] = ()
        self._options: dict[str, tuple[str, ...]] = {}

    def __enter__(self) -> 'World':
        self.processes.__enter__()
        self.processes.start(
            'canary',
            [sys.executable, '-m', 'harness.canary', '--record', str(self.folder / 'canary.rec')],
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.processes.__exit__()

    # Processes

    @property
    def controller(self) -> Process:
        """The controller process."""
        return self.processes['controller']

    @property
    def robot(self) -> Process:
        """The robot and recorder (actor fake_robot.py)."""
        return self.processes['robot']

    @property
    def operator(self) -> Process:
        """E-stop heartbeat and service calls (actor operator.py)."""
        return self.processes['operator']

    @property
    def policy(self) -> Process:
        """The fake policy (actor fake_policy.py), or whatever was started under this name."""
        return self.processes['policy']

    @property
    def camera(self) -> Process:
        """The fake camera (actor fake_camera.py)."""
        return self.processes['camera']

    def start_controller(self, argv: Sequence[str] = (), **env: str) -> Process:
        """Start the controller under test, or start it again with the same command."""
        self._controller_argv = argv or self._controller_argv
        self.exempt = Exemptions(
            (*self.exempt.restarts_s, time.monotonic()),
            self.exempt.box,
            self.exempt.accel,
            self.exempt.stop,
        )
        return self.processes.start('controller', self._controller_argv, env=env)

    def start_robot(self, *options: str) -> Process:
        """Start the robot that records everything, or start it again with the same options."""
        options = self._remember('robot', options)
        return self.processes.start_actor(
            'robot', 'fake_robot', '--record', str(self.folder / 'robot.rec'), *options
        )

    def start_operator(self) -> Process:
        """Start the e-stop heartbeat."""
        return self.processes.start_actor('operator', 'operator')

    def start_policy(self, *options: str, name: str = 'policy') -> Process:
        """Start a fake policy (again with the same options when none are given)."""
        options = self._remember(name, options)
        record = self.folder / f'policy-{next(self._policies)}.rec'
        return self.processes.start_actor(name, 'fake_policy', '--record', str(record), *options)

    def start_camera(self, *options: str) -> Process:
        """Start a fake camera."""
        return self.processes.start_actor(
            'camera', 'fake_camera', *self._remember('camera', options)
        )

    def start_clock(self, *options: str) -> Process:
        """Start a fake /clock."""
        return self.processes.start_actor('clock', 'fake_clock', *options)

    def exempt_window(self, *kinds: str, since_s: float, until_s: float) -> None:
        """Exempt a window from 'box', 'accel' or 'stop': the scenario breaks what it assumes."""
        window = ((since_s, until_s),)
        old = self.exempt
        self.exempt = Exemptions(
            old.restarts_s,
            old.box + (window if 'box' in kinds else ()),
            old.accel + (window if 'accel' in kinds else ()),
            old.stop + (window if 'stop' in kinds else ()),
        )

    # What happens now

    def status(self) -> dict[str, Any]:
        """The newest SafetyStatus as a dict (see fake_robot.py); state -1 before the first."""
        lines = self._lines.all()
        return (
            lines[-1] if lines else {'state': -1, 'reasons': [], 'rejects': {}, 't_s': -math.inf}
        )

    def statuses(self, since_s: float) -> list[dict[str, Any]]:
        """Every SafetyStatus since then."""
        return [line for line in self._lines.all() if line['t_s'] >= since_s]

    def diagnostics(self, name: str, since_s: float = -math.inf) -> list[dict[str, Any]]:
        """Every /diagnostics report whose name holds ``name``, since then, values as text."""
        lines = self._diagnostics.all()
        return [line for line in lines if name in line['name'] and line['t_s'] >= since_s]

    def twists(self, since_s: float = -math.inf, until_s: float = math.inf) -> np.ndarray:
        """Recorded commands (TWIST records)."""
        return self._tail.of(recording.TWIST, since_s, until_s)

    def poses(self, since_s: float = -math.inf, until_s: float = math.inf) -> np.ndarray:
        """Recorded poses of the robot (POSE records)."""
        return self._tail.of(recording.POSE, since_s, until_s)

    def speed_mps(self) -> float:
        """Speed of the newest command; 0 when there is none in the last 0.1 s."""
        recent = self.twists(since_s=time.monotonic() - 0.1)
        return float(np.linalg.norm(recent['data'][-1, :3])) if len(recent) else 0.0

    def wall_m(self) -> float:
        """Distance of the robot to the nearest wall now."""
        return float(self.limits.wall_m(self.poses()['data'][-1, :3]))

    def wait_until(self, condition: Callable[[], Any], what: str, deadline_s: float = 10.0) -> Any:
        """Poll until the condition holds and return its value.

        Raises:
            DeadlineError: it does not in time; says what, and the newest status.
        """
        end_s = time.monotonic() + deadline_s
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() > end_s:
                raise DeadlineError(
                    f'not within {deadline_s} s: {what}; newest status: {self.status()}'
                )
            time.sleep(0.01)

    def wait_state(
        self, state: int, deadline_s: float = 5.0, since_s: float = -math.inf
    ) -> dict[str, Any]:
        """Wait for a status with this state, published since then."""

        def found() -> dict[str, Any] | None:
            status = self.status()
            return status if status['state'] == state and status['t_s'] >= since_s else None

        return self.wait_until(found, f'state {STATE_NAMES[state]}', deadline_s)

    # What the operator does

    def request(self, service: str, on: bool = True, deadline_s: float = 5.0) -> tuple[bool, str]:
        """Call arm (``on=False`` disarms), reset or estop; returns (success, sentence)."""
        end_s = time.monotonic() + deadline_s
        while True:
            number = self.operator.call('request', service=service, on=on)
            if number:
                try:
                    answer = self.wait_until(
                        lambda number=number: self.operator.call('answer', number=number),
                        f'an answer of {service}',
                        max(0.5, min(2.0, end_s - time.monotonic())),
                    )
                    return bool(answer[0]), str(answer[1])
                except DeadlineError:
                    # ROS 2 loses the answer of a server that has just been discovered: ask again.
                    if time.monotonic() > end_s:
                        raise
            elif time.monotonic() > end_s:
                raise DeadlineError(f'service {service!r} was not there within {deadline_s} s')

    def ask(self, do: str, deadline_s: float = 10.0, **arguments: Any) -> Any:
        """Let the operator make a call that answers later, and wait for the answer."""
        number = self.operator.call(do, **arguments)
        return self.wait_until(
            lambda: self.operator.call('answer', number=number), f'an answer of {do}', deadline_s
        )

    def arm(self, deadline_s: float = 10.0) -> None:
        """Call arm as an operator would until it is granted."""
        end_s = time.monotonic() + deadline_s
        while True:
            granted, sentence = self.request('arm')
            if granted:
                return
            if time.monotonic() > end_s:
                raise DeadlineError(f'arm was refused for {deadline_s} s: {sentence}')
            time.sleep(0.05)

    def recover(self, deadline_s: float = 15.0) -> None:
        """With healthy processes, from any state: reset if latched, arm, until the arm moves."""
        end_s = time.monotonic() + deadline_s
        while time.monotonic() < end_s:
            state = self.status()['state']
            if state in (FAULT, ESTOP):
                self.request('reset')
            elif state == DISARMED:
                self.request('arm')
            elif state == ACTIVE and self._far_and_moving():
                return
            time.sleep(0.05)
        raise DeadlineError(f'no motion again within {deadline_s} s; newest: {self.status()}')

    def _far_and_moving(self) -> bool:
        recent = self.twists(since_s=time.monotonic() - 0.06)
        if not len(recent):
            return False
        newest = recent['data'][-1]
        wall_m = float(self.limits.wall_m(newest[8:11]))
        return bool(np.linalg.norm(newest[:3]) > 2 * MOVING_MPS and wall_m > AWAY_FROM_WALLS_M)

    # Faults and judgements

    def inject(self, fault: Callable[[], float], deadline_s: float = 10.0) -> Injection:
        """Wait for motion away from walls, do harm, and prove from the record that it met motion.

        Args:
            fault: Does the harm and returns the steady time just before it, as actors do.

        Raises:
            NotMovingError: the arm had just stopped; repeat the case.
        """
        self.wait_until(self._far_and_moving, 'motion away from the walls', deadline_s)
        t_s = fault()
        before = self.twists(since_s=t_s - 0.1, until_s=t_s)
        if not len(before):
            raise NotMovingError('no command was recorded in the 0.1 s before the injection')
        newest = before['data'][-1]
        speed, wall_m = float(np.linalg.norm(newest[:3])), float(self.limits.wall_m(newest[8:11]))
        if speed <= MOVING_MPS or wall_m <= 0.0:
            raise NotMovingError(
                f'at the injection the arm moved at {speed:.3f} m/s, {wall_m:.3f} m from a wall'
            )
        return Injection(t_s, speed, wall_m)

    def time_to_zero(self, since_s: float, deadline_s: float = 3.0) -> float:
        """Seconds from ``since_s`` to the first of at least five exact zeros up to now.

        Silence counts as motion: zeros must have been received.
        """

        def found() -> float | None:
            records = self.twists(since_s=since_s)
            moving = np.any(records['data'][:, :6] != 0.0, axis=1)
            first = int(np.flatnonzero(moving)[-1]) + 1 if moving.any() else 0
            if len(records) - first < 5:
                return None
            return max(float(records['t_s'][first]) - since_s, 1e-9)

        return float(self.wait_until(found, 'five zero commands', deadline_s))

    def judge_time(self, what: str, measured_s: float, allowed_s: float, since_s: float) -> None:
        """Require measured <= allowed + the scheduling allowance, if this machine can show it.

        Raises:
            AssertionError: too late on a machine that ran its processes.
            NotJudgedError: too late, but so was the canary.
        """
        until_s = since_s + min(measured_s, allowed_s + 2 * SCHEDULING_ALLOWANCE_S)
        gap_s = self.canary_gap_s(since_s, until_s)
        timing = Timing(what, measured_s, allowed_s, gap_s)
        if measured_s > allowed_s + SCHEDULING_ALLOWANCE_S:
            late = (
                f'{what}: {measured_s:.3f} s, allowed {allowed_s:.3f} + {SCHEDULING_ALLOWANCE_S} s'
            )
            if gap_s < canary.VALID_GAP_S:
                raise AssertionError(late)
            raise NotJudgedError(f'{late}; the canary was {gap_s:.3f} s late too')
        self.timings.append(timing)

    def canary_gap_s(self, since_s: float, until_s: float) -> float:
        """The canary's longest gap in a past window (waits for the canary's next wake)."""
        end_s = time.monotonic() + 1.0
        while time.monotonic() < end_s:
            ticks = self._canary.all()
            if len(ticks) and ticks['t_s'][-1] >= until_s:
                break
            time.sleep(0.02)
        return canary.max_gap_of(self._canary.all(), since_s, until_s)

    def canary_gaps(self, since_s: float, until_s: float) -> np.ndarray:
        """Every gap between the canary's wakes in a past window, s."""
        ticks = self._canary.of(recording.TICK, since_s, until_s)
        return ticks['data'][:, 0]

    def require_stays_still(self, seconds: float) -> None:
        """Require that zeros, and only zeros, are published for this long from now."""
        since_s = time.monotonic()
        time.sleep(seconds)
        records = self.twists(since_s=since_s)
        assert len(records) >= 0.5 * seconds / self.limits.tau_s, 'the controller fell silent'
        assert not np.any(records['data'][:, :6]), 'the arm moved without being asked to'

    def run(self) -> Run:
        """Everything recorded so far."""
        return Run.load(self.folder)

    def check(self) -> Report:
        """Judge everything recorded so far by the invariants (does not raise)."""
        return invariants.check(self.run(), self.limits, self.exempt)

    def _remember(self, name: str, options: tuple[str, ...]) -> tuple[str, ...]:
        if options:
            self._options[name] = options
        return self._options.get(name, ())


def repeated(case: Callable[[], Any], attempts: int = 3) -> tuple[Any, list[str]]:
    """Run a case until it could be judged, at most ``attempts`` times.

    Returns:
        Its value (None: it never could be judged) and why each attempt was repeated: report it.
    """
    why: list[str] = []
    for _ in range(attempts):
        try:
            return case(), why
        except (NotMovingError, NotJudgedError) as error:
            why.append(str(error))
    return None, why
