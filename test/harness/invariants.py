"""One judgement for every run: commands must be finite, bounded, smooth, in the box, and stop.

Limits are always judged. Times are judged only where the canary says that this machine ran its
processes; what was not judged is counted and reported, never dropped silently.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from harness import canary, recording
from harness.limits import ACTIVE, ESTOP, HOLD, SCHEDULING_ALLOWANCE_S, STATE_NAMES, Limits

RELATIVE_TOLERANCE = 1e-6  # float64 through float64 messages: only rounding
BOX_TOLERANCE_M = 1e-6
EXACTLY_ZERO = 0.0
BUSY_S = 0.3


@dataclass(frozen=True)
class Run:
    """Everything recorded in one run, each oldest first (see recording.py for the columns)."""

    twists: np.ndarray
    poses: np.ndarray
    statuses: np.ndarray
    actions: np.ndarray
    canary: np.ndarray

    @classmethod
    def load(cls, folder: str | Path, *, robot: str = 'robot.rec') -> 'Run':
        """Read the recordings of a folder: the robot's, every policy's and the canary's."""
        folder = Path(folder)
        records = recording.read(folder / robot)
        actions = [recording.read(path) for path in sorted(folder.glob('policy*.rec'))]
        actions.append(records[records['kind'] == recording.ACTION])
        merged = np.concatenate(actions)
        return cls(
            records[records['kind'] == recording.TWIST],
            records[records['kind'] == recording.POSE],
            records[records['kind'] == recording.STATUS],
            merged[np.argsort(merged['t_s'], kind='stable')],
            recording.read(folder / 'canary.rec'),
        )

    def between(self, since_s: float, until_s: float) -> 'Run':
        """The part of the run with since_s <= t <= until_s."""

        def cut(records: np.ndarray) -> np.ndarray:
            return records[(records['t_s'] >= since_s) & (records['t_s'] <= until_s)]

        return Run(
            cut(self.twists), cut(self.poses), cut(self.statuses), cut(self.actions), self.canary
        )


@dataclass(frozen=True)
class Violation:
    """One broken invariant at one sample."""

    invariant: str
    t_s: float
    detail: str


@dataclass
class Report:
    """What was checked and what was found."""

    samples: int = 0
    violations: list[Violation] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    def add(self, invariant: str, times: np.ndarray, details: list[str]) -> None:
        """Record violations of one invariant."""
        self.violations += [
            Violation(invariant, float(t), detail) for t, detail in zip(times, details)
        ]

    def kinds(self) -> set[str]:
        """Names of the broken invariants."""
        return {violation.invariant for violation in self.violations}

    def require_clean(self) -> None:
        """Raise AssertionError that names the first violation of each invariant."""
        if not self.violations:
            return
        first: dict[str, Violation] = {}
        for violation in self.violations:
            first.setdefault(violation.invariant, violation)
        count = Counter(violation.invariant for violation in self.violations)
        raise AssertionError(
            f'{len(self.violations)} violations in {self.samples} commands: '
            + '; '.join(
                f'{name} x{count[name]}, first at t={v.t_s:.3f} s: {v.detail}'
                for name, v in first.items()
            )
        )


@dataclass(frozen=True)
class Exemptions:
    """Windows (since_s, until_s) in which the scenario itself breaks what an invariant assumes."""

    restarts_s: tuple[float, ...] = ()  # the controller was started again: no |dv| across these
    box: tuple[tuple[float, float], ...] = ()  # the scenario put the robot outside
    accel: tuple[tuple[float, float], ...] = ()  # a pose jump: position beats acceleration
    stop: tuple[
        tuple[float, float], ...
    ] = ()  # times not judged at all (say why where it is used)


def check(run: Run, limits: Limits, exempt: Exemptions | None = None) -> Report:
    """Judge a whole run.

    Returns:
        A report whose violations name finite, frame, speed, axis_speed, turn, accel, turn_accel,
        box, moves_in_<STATE>, late_stop. Its notes count what was judged leniently or not at all.
    """
    exempt = exempt or Exemptions()
    report = Report(samples=len(run.twists))
    if report.samples == 0:
        return report
    _check_values(run, limits, report)
    _check_acceleration(run, limits, exempt, report)
    _check_box(run, limits, exempt, report)
    _check_rest_in_states(run, limits, report)
    _check_stop(run, limits, exempt, report)
    return report


def _check_values(run: Run, limits: Limits, report: Report) -> None:
    t_s, twist = run.twists['t_s'], run.twists['data'][:, :6]
    finite = np.all(np.isfinite(twist), axis=1)
    _flag(report, 'finite', t_s, ~finite, lambda i: f'twist {twist[i]}')
    framed = run.twists['data'][:, 7] == 1.0
    _flag(report, 'frame', t_s, ~framed, lambda i: 'twist is not in the base frame')
    speed, turn = _norms(twist)
    room = 1 + RELATIVE_TOLERANCE
    over = speed > limits.speed_mps * room
    _flag(report, 'speed', t_s, over, lambda i: f'{speed[i]:.6f} > {limits.speed_mps} m/s')
    axis = np.abs(twist[:, :3]) > np.array(limits.axis_speed_mps) * room
    _flag(report, 'axis_speed', t_s, axis.any(axis=1), lambda i: f'{twist[i, :3]} m/s')
    over = turn > limits.turn_radps * room
    _flag(report, 'turn', t_s, over, lambda i: f'{turn[i]:.6f} > {limits.turn_radps} rad/s')


def _check_acceleration(run: Run, limits: Limits, exempt: Exemptions, report: Report) -> None:
    t_s, twist = run.twists['t_s'], run.twists['data'][:, :6]
    if len(t_s) < 2:
        return
    dv, dw = _norms(np.diff(twist, axis=0))
    bound_v, bound_w, unknown = _acceleration_bounds(run, limits)
    ticks = _ticks_between(run, limits, report)
    report.notes['acceleration judged by the loosest state'] += int(unknown.sum())
    judged = ~_inside(t_s[1:], exempt.accel)
    for restart_s in exempt.restarts_s:
        judged &= ~((t_s[:-1] <= restart_s) & (t_s[1:] >= restart_s))
    report.notes['acceleration not judged (exempt)'] += int((~judged).sum())
    room = limits.tau_s * ticks * (1 + RELATIVE_TOLERANCE) + 1e-9
    _flag(
        report,
        'accel',
        t_s[1:],
        judged & (dv > bound_v[1:] * room),
        lambda i: f'|dv| = {dv[i]:.6f} > {bound_v[i + 1]} * {ticks[i]:.0f} tau',
    )
    _flag(
        report,
        'turn_accel',
        t_s[1:],
        judged & (dw > bound_w[1:] * room),
        lambda i: f'|dw| = {dw[i]:.6f} > {bound_w[i + 1]} * {ticks[i]:.0f} tau',
    )


def common_clock(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Times of commands and of statuses on one clock: the controller's own stamps.

    A recorder that was not scheduled reads what waited in an order of its own, so times of arrival
    mispair them. Where the stamps are no clock (simulated time that jumps), arrival has to do.
    """
    arrived = run.twists['t_s'], run.statuses['t_s']
    stamped = run.twists['data'][:, 6], run.statuses['data'][:, 16]
    for arrival, stamp in zip(arrived, stamped):
        if not len(stamp) or np.any(np.diff(stamp) < 0):
            return arrived
        if abs((stamp[-1] - stamp[0]) - (arrival[-1] - arrival[0])) > 0.5:
            return arrived
    if abs((stamped[1][0] - stamped[0][0]) - (arrived[1][0] - arrived[0][0])) > 0.5:
        return arrived
    return stamped


def _acceleration_bounds(run: Run, limits: Limits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bounds per sample by the published state; where it is ambiguous or unknown, the loosest.

    A status is kept until the next one only: on a machine that does not schedule its processes a
    HOLD of one tick may never arrive, so around a late canary a stop ramp is possible too.
    """
    busy = _busy(run)
    t_s, times = common_clock(run)
    states = run.statuses['data'][:, 0].astype(int)
    slack = 1.5 * limits.tau_s
    first = np.searchsorted(times, t_s - slack) - 1  # the state before the window
    last = np.searchsorted(times, t_s + slack, side='right')
    bound_v, bound_w = np.zeros(len(t_s)), np.zeros(len(t_s))
    unknown = np.zeros(len(t_s), bool)
    for i, (a, b) in enumerate(zip(first, last)):
        possible = set(states[max(a, 0) : b].tolist())
        if a < 0 or not possible:
            possible.add(ESTOP)
        if busy[i]:
            possible.add(HOLD)
        unknown[i] = a < 0 or len(possible) > 1
        pairs = [limits.accel_of(state) for state in possible]
        bound_v[i], bound_w[i] = max(p[0] for p in pairs), max(p[1] for p in pairs)
    return bound_v, bound_w, unknown


def _busy(run: Run) -> np.ndarray:
    """For each command, whether the canary was late within 0.3 s of it (or did not watch)."""
    if not len(run.canary):
        return np.ones(len(run.twists), bool)
    late = run.canary[run.canary['data'][:, 0] >= canary.VALID_GAP_S]
    starts = late['t_s'] - late['data'][:, 0] - BUSY_S
    ends = late['t_s'] + BUSY_S
    t_s = run.twists['t_s']
    busy = np.zeros(len(t_s), bool)
    for start_s, end_s in zip(starts, ends):
        busy |= (t_s >= start_s) & (t_s <= end_s)
    return busy


def _ticks_between(run: Run, limits: Limits, report: Report) -> np.ndarray:
    """Control ticks between samples: 1, or more where the tick counter shows a lost one."""
    t_s = run.twists['t_s']
    ticks = np.ones(len(t_s) - 1)
    times, counters = run.statuses['t_s'], run.statuses['data'][:, 1]
    received = np.searchsorted(t_s, times, side='right')
    lost = np.diff(counters) - np.diff(received)
    for i in np.flatnonzero((lost > 1) & (np.diff(counters) >= 0)):
        a, b = max(received[i] - 2, 0), min(received[i + 1] + 1, len(t_s) - 1)
        gaps = np.round(np.diff(t_s[a : b + 1]) / limits.tau_s)
        ticks[a:b] = np.maximum(ticks[a:b], np.minimum(gaps, lost[i] + 1))
        report.notes['samples lost on the way to the recorder'] += int(lost[i])
    return ticks


def _check_box(run: Run, limits: Limits, exempt: Exemptions, report: Report) -> None:
    for records, where in ((run.poses, slice(0, 3)), (run.twists, slice(8, 11))):
        t_s, position = records['t_s'], records['data'][:, where]
        wall = limits.wall_m(position)
        outside = ~(wall >= -BOX_TOLERANCE_M) & ~_inside(t_s, exempt.box)
        _flag(
            report,
            'box',
            t_s,
            outside,
            lambda i, p=position, w=wall: f'{p[i]} m is {-w[i] * 1e3:.3f} mm outside',
        )


def _check_rest_in_states(run: Run, limits: Limits, report: Report) -> None:
    """In every state but ACTIVE the arm ramps to zero and rests: counted in samples, not s."""
    speed, turn = _norms(run.twists['data'][:, :6])
    moving = (speed > EXACTLY_ZERO) | (turn > EXACTLY_ZERO)
    t_s, times = common_clock(run)
    states = run.statuses['data'][:, 0].astype(int)
    changes = np.flatnonzero(np.diff(states, prepend=-1) != 0)
    for k, i in enumerate(changes):
        state = states[i]
        if state == ACTIVE:
            continue
        end_s = times[changes[k + 1]] if k + 1 < len(changes) else np.inf
        inside = np.flatnonzero((t_s > times[i]) & (t_s < end_s - 1.5 * limits.tau_s))
        ramp = int(np.ceil(limits.ramp_s(2 if state == ESTOP else 1) / limits.tau_s)) + 3
        late = inside[ramp:]
        name = STATE_NAMES[state] if 0 <= state < len(STATE_NAMES) else str(state)
        bad = late[moving[late]]
        report.add(
            f'moves_in_{name}',
            run.twists['t_s'][bad],
            [f'{speed[j]:.6f} m/s, {turn[j]:.6f} rad/s after {ramp} samples' for j in bad],
        )


def _check_stop(run: Run, limits: Limits, exempt: Exemptions, report: Report) -> None:
    """Zero within t_stop of the last acceptable action, where the canary lets a time be judged."""
    t_s = run.twists['t_s']
    speed, turn = _norms(run.twists['data'][:, :6])
    good = run.actions[run.actions['data'][:, 10] == 1.0]
    index = np.searchsorted(good['t_s'], t_s, side='right') - 1
    age = (
        np.where(index >= 0, t_s - good['t_s'][np.maximum(index, 0)], np.inf)
        if len(good)
        else (np.full(len(t_s), np.inf))
    )
    step_s = good['data'][np.maximum(index, 0), 6] if len(good) else np.zeros(len(t_s))
    allowed = 1.25 * step_s + limits.ramp_s() + 2 * limits.tau_s + SCHEDULING_ALLOWANCE_S
    late = ((speed > EXACTLY_ZERO) | (turn > EXACTLY_ZERO)) & (age > allowed)
    late &= ~_inside(t_s, exempt.stop)
    for i in np.flatnonzero(late):
        since_s = t_s[i] - min(age[i], 2.0)
        if canary.max_gap_of(run.canary, since_s, t_s[i]) < canary.VALID_GAP_S:
            report.violations.append(
                Violation(
                    'late_stop',
                    float(t_s[i]),
                    f'{speed[i]:.4f} m/s {age[i]:.3f} s after the last acceptable action, '
                    f'allowed {allowed[i]:.3f} s',
                )
            )
        else:
            report.notes['late samples not judged (the canary was late too)'] += 1


def _norms(twist: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.linalg.norm(twist[:, :3], axis=1), np.linalg.norm(twist[:, 3:], axis=1)


def _inside(t_s: np.ndarray, windows: tuple[tuple[float, float], ...]) -> np.ndarray:
    inside = np.zeros(len(t_s), bool)
    for since_s, until_s in windows:
        inside |= (t_s >= since_s) & (t_s <= until_s)
    return inside


def _flag(report, invariant, t_s, bad, detail) -> None:  # type: ignore[no-untyped-def]
    where = np.flatnonzero(bad)
    report.add(invariant, t_s[where], [detail(i) for i in where])
