"""P6, P7, P8, P9: a silent policy, a fault or a disarm is a stop, soon and within a short way."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import rig
from properties.strategies import between, directions, examples, play, profiles, steps_s, streams


@given(profiles(), streams, steps_s)
@examples(500)
def test_after_the_last_action_the_arm_rests_in_time_and_within_the_distance(
    p: rig.RobotProfile, stream: list, step_s: float
) -> None:
    """P6, P7, P8: |v| = 0 after t_stop, path at most d_stop, and once stale no speeding up."""
    r = rig.Rig(p)
    r.arm()
    play(r, [(twist, step_s, min(gap, 1.2)) for twist, _, gap in stream])
    verdict = r.act([x * 0.2 / step_s for x in stream[0][0]], step_s=step_s)
    assert verdict.accepted or verdict.reason == 'RATE'
    path, last_s = r.path, r.accepted_s
    speeds = []
    while r.now_s - last_s <= r.bounds.t_stop(step_s) + 5 * r.bounds.tau:
        out = r.tick()
        if r.now_s - last_s > r.bounds.hold_s(step_s):
            assert out.status.state == rig.HOLD
            speeds.append(r.speed())
    assert all(b <= a * rig.ROOM for a, b in pairwise(speeds))
    assert not r.moving()
    assert r.path - path <= r.bounds.d_stop(step_s) * rig.ROOM


def test_the_numbers_of_the_default_limits_are_those_of_the_specification() -> None:
    """t_stop 0.415 s and 88 mm for Bridge's step at V = 0.25 m/s, A_s = 2 m/s^2; 0.582 s at 3
    Hz."""
    bounds = rig.Bounds.of(rig.profile())
    assert bounds.t_stop(0.2) == pytest.approx(0.415)
    assert bounds.t_stop(1 / 3) == pytest.approx(0.5817, abs=1e-4)
    assert bounds.d_stop(0.2) == pytest.approx(0.088, abs=5e-4)
    p = rig.profile()
    assert p.stop_time_s(0.2) == pytest.approx(bounds.t_stop(0.2))
    assert p.stop_distance_m(0.2) == pytest.approx(bounds.d_stop(0.2))


def moving(p: rig.RobotProfile | None = None, direction: tuple = (1.0, 0.0, 0.0)) -> rig.Rig:
    r = rig.Rig(p or rig.profile())
    r.arm()
    for _ in range(2):
        r.act([0.2 * x for x in direction] + [0.0, 0.0, 0.5])
        r.ticks(10)
    r.act([0.2 * x for x in direction] + [0.0, 0.0, 0.5])
    r.ticks(5)
    assert r.speed() > 0.1
    return r


STOPS: dict[str, tuple[Callable[[rig.Rig], object], int]] = {
    'fault': (lambda r: r.clamp.fault('FAULT_INTERNAL', r.now_s), rig.FAULT),
    'disarm': (lambda r: r.clamp.disarm(r.now_s), rig.DISARMED),
    'estop call': (lambda r: r.clamp.estop(r.now_s), rig.ESTOP),
    'estop button': (lambda r: r.clamp.heartbeat(True, now_s=r.now_s), rig.ESTOP),
    'shutdown': (lambda r: r.clamp.shutdown(r.now_s), rig.DISARMED),
    'not a number': (lambda r: r.act((math.nan,) * 6), rig.FAULT),
}


@pytest.mark.parametrize('cause', STOPS)
@given(direction=directions, after=st.integers(0, 30))
@examples(60)
def test_no_stop_is_outrun_by_actions_that_keep_coming(
    cause: str, direction: tuple, after: int
) -> None:
    """P9: in FAULT, ESTOP and DISARMED speed only falls, whatever the policy sends."""
    r = moving(direction=direction)
    stop, state = STOPS[cause]
    stop(r)
    r.accepted_s = -math.inf  # nothing excuses motion from here on but the ramp
    r.judged = False
    speeds = [r.speed()]
    ramp = math.ceil(r.bounds.ramp_s(state) / r.bounds.tau) + 1
    for i in range(ramp + after):
        r.act([0.2 * x for x in direction] + [0.0, 0.0, 0.5])
        r.tick()
        assert r.state == state
        speeds.append(r.speed())
        if i >= ramp:
            assert not r.moving()
    assert all(b <= a for a, b in pairwise(speeds))


@given(between(0.061, 0.49), st.integers(0, 9))
@examples(150)
def test_a_late_tick_is_treated_as_stale_before_anything_is_computed(
    gap_s: float, phase: int
) -> None:
    """H58: a gap of more than 3 tau: the tick after it already ramps, and no fault is latched."""
    r = moving()
    r.ticks(phase)
    before = r.speed()
    r.act((0.2, 0.0, 0.0, 0.0, 0.0, 0.5))
    out = r.tick(gap_s)
    assert out.status.state == rig.HOLD
    assert 'OVERRUN' in out.status.reasons
    assert r.speed() <= before
    assert out.status.overruns == 1
    r.ticks(10)
    assert not r.moving()
    r.act((0.1, 0.0, 0.0, 0.0, 0.0, 0.0))
    r.ticks(2)
    assert r.state == rig.ACTIVE, 'a short stall heals itself with the next action'


@given(between(0.501, 100.0))
@examples(60)
def test_a_long_stall_is_a_latched_fault(gap_s: float) -> None:
    """H58: more than 0.5 s."""
    r = moving()
    r.tick(gap_s)
    assert r.state == rig.FAULT
    assert 'FAULT_OVERRUN' in r.out.status.reasons  # type: ignore[union-attr]


@given(st.integers(1, 20))
@examples(40)
def test_a_stale_pose_is_a_hold_that_heals(extra: int) -> None:
    """H54: pose older than 0.2 s: HOLD with POSE_STALE; a fresh pose and action resume it."""
    r = moving()
    r.pose_on = False
    for _ in range(10 + extra):
        r.act((0.2, 0.0, 0.0, 0.0, 0.0, 0.5))
        r.ticks(1)
    r.ticks(12)
    assert r.state == rig.HOLD
    assert 'POSE_STALE' in r.out.status.reasons  # type: ignore[union-attr]
    assert not r.moving()
    r.pose_on = True
    r.tick()
    r.act((0.1, 0.0, 0.0, 0.0, 0.0, 0.0))
    r.ticks(3)
    assert r.state == rig.ACTIVE
    assert r.moving()


@pytest.mark.parametrize(
    ('stamp_offset_s', 'believed'),
    [(0.0, True), (-0.15, True), (-0.3, False), (-500.0, False), (1.0, False), (3600.0, False)],
)
def test_a_pose_from_the_past_or_the_future_is_not_believed(
    stamp_offset_s: float, believed: bool
) -> None:
    """H54: TF from the future."""
    r = moving()
    r.pose_on = False
    for _ in range(30):
        r.now_s += 1e-4
        r.clamp.set_pose(
            rig.Pose(tuple(r.position), r.quaternion),
            stamp_s=r.ros_s + stamp_offset_s,
            now_s=r.now_s,
            ros_now_s=r.ros_s,
        )
        r.act((0.1, 0.0, 0.0, 0.0, 0.0, 0.0))
        r.tick()
    assert (r.state == rig.ACTIVE) == believed


@given(between(0.06, 10.0), directions)
@examples(100)
def test_a_pose_that_jumps_is_a_latched_fault(jump_m: float, direction: tuple) -> None:
    """H55: |dp| > 3 V dt + 0.02 m between two poses."""
    r = moving()
    r.box_judged = False
    r.position = [p + jump_m * x for p, x in zip(r.position, direction)]
    r.tick()
    assert r.state == rig.FAULT
    assert not r.clamp.reset(r.now_s).ok


@given(directions)
@examples(30)
def test_a_step_of_the_pose_within_the_noise_is_no_fault(direction: tuple) -> None:
    """H55: the bound is 3 V dt + 0.02 m, so 0.02 m of noise is none."""
    r = moving()
    r.position = [p + 0.02 * x for p, x in zip(r.position, direction)]
    r.tick()
    assert r.state == rig.ACTIVE


def test_an_armed_arm_without_actions_disarms_after_30_s() -> None:
    """Section 5: the dead-man of HOLD; a policy that comes back later does not move the arm."""
    r = rig.Rig()
    r.arm()
    r.ticks(round(29.9 / r.bounds.tau))
    assert r.state == rig.HOLD
    r.ticks(round(0.3 / r.bounds.tau))
    assert r.state == rig.DISARMED
    for _ in range(5):
        r.act((0.1, 0.0, 0.0, 0.0, 0.0, 0.0))
        r.ticks(10)
        assert not r.moving()


def test_a_policy_that_pauses_less_than_30_s_resumes_without_arming_again() -> None:
    """An empty instruction is silence; a new sentence within 30 s resumes."""
    r = moving()
    r.ticks(round(25.0 / r.bounds.tau))
    assert r.state == rig.HOLD
    r.act((0.1, 0.0, 0.0, 0.0, 0.0, 0.0))
    r.ticks(3)
    assert r.state == rig.ACTIVE
    assert r.moving()
