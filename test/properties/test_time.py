"""P14: any time argument is safe: backward, standing still, 1e18, NaN, infinite; in every call."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import rig
from properties.strategies import examples
from properties.test_stop import moving

times = st.floats() | st.sampled_from(
    [math.nan, math.inf, -math.inf, 1e18, -1e18, 0.0, 99.0, 100.5, 1.7e9]
)
calls = st.tuples(
    st.sampled_from(['step', 'offer', 'pose', 'beat', 'arm', 'disarm', 'reset', 'estop', 'fault']),
    times,
    times,
)


@given(st.lists(calls, min_size=1, max_size=12))
@examples(1500)
def test_no_time_in_no_call_breaks_a_limit(wrong: list) -> None:
    """P14: after each call with a wild time, ordinary ticks are judged as ever."""
    r = moving()
    r.box_judged = False
    for name, a, b in wrong:
        r.accepted_s = -math.inf if name != 'offer' else r.accepted_s
        call(r, name, a, b)
        r.judged = False  # how long ago the last action was is no longer a fact
        for _ in range(2):
            before = (r.v, r.w)
            out = r.tick()
            check(r, before, out)


def call(r: rig.Rig, name: str, a: float, b: float) -> None:
    """Make one call with times a (steady) and b (ROS)."""
    c = r.clamp
    if name == 'step':
        before = (r.v, r.w)
        out = c.step(a, b)
        check(r, before, out)
        r.v, r.w = tuple(out.twist[:3]), tuple(out.twist[3:])
    elif name == 'offer':
        c.offer(r.action((0.2, 0.1, 0.0, 0.0, 0.0, 0.3), stamp_s=b), now_s=a, ros_now_s=b)
    elif name == 'pose':
        pose = rig.Pose(tuple(r.position), r.quaternion)
        c.set_pose(pose, stamp_s=b, now_s=a, ros_now_s=b)
    elif name == 'beat':
        c.heartbeat(False, now_s=a)
    elif name == 'fault':
        c.fault('FAULT_INTERNAL', a)
    else:
        getattr(c, name)(a)


def check(r: rig.Rig, before: tuple, out: rig.ClampOutput) -> None:
    """The limits that need no clock."""
    b, state = r.bounds, int(out.status.state)
    v, w = out.twist[:3].tolist(), out.twist[3:].tolist()
    assert all(map(math.isfinite, v + w))
    assert math.hypot(*v) <= b.v * rig.ROOM
    assert math.hypot(*w) <= b.w * rig.ROOM
    dv = math.dist(v, before[0])
    assert dv <= b.a[state] * b.tau * rig.ROOM + 1e-12 or 'ACCEL_WAIVED' in out.status.reasons
    assert math.dist(w, before[1]) <= b.alpha[state] * b.tau * rig.ROOM + 1e-12
    if state != rig.ACTIVE:
        assert math.hypot(*v) <= math.hypot(*before[0]) * rig.ROOM


@pytest.mark.parametrize('now_s', [math.nan, math.inf, -math.inf, 1.0])
def test_a_steady_clock_that_is_none_is_a_latched_fault(now_s: float) -> None:
    """P14, H49: without a clock nothing can be judged, so nothing may move."""
    r = moving()
    out = r.clamp.step(now_s, r.ros_s)
    assert out.status.state == rig.FAULT
    r.v, r.w = tuple(out.twist[:3]), tuple(out.twist[3:])
    r.judged = False
    r.ticks(20)
    assert not r.moving()


@pytest.mark.parametrize('jump_s', [-500.0, 500.0, -0.6, 0.6, -1e9, 1e9])
def test_a_jump_of_ros_time_is_a_hold_until_three_fresh_actions(jump_s: float) -> None:
    """H49, H51: ROS against steady increments; more than 0.5 s is HOLD, three fresh actions
    resume."""
    r = moving()
    r.tick(None, jump_s)
    assert r.state == rig.HOLD
    assert 'CLOCK_JUMP' in r.out.status.reasons  # type: ignore[union-attr]
    r.ticks(12)
    for i in range(3):
        assert r.state == rig.HOLD, f'{i} fresh actions are not enough'
        assert not r.moving()
        r.act((0.1, 0.0, 0.0, 0.0, 0.0, 0.0))
        r.ticks(6)
    assert r.state == rig.ACTIVE
    assert r.moving()


@pytest.mark.parametrize('rate', [0.0, 0.1, 10.0])
def test_ros_time_that_stands_crawls_or_races_never_keeps_the_arm_moving(rate: float) -> None:
    """H50: the watchdog runs on the steady clock; stamps that do not advance are refused."""
    r = moving()
    tau = r.bounds.tau
    stamp_s = r.ros_s
    for _ in range(round(2.0 / tau)):
        r.tick(tau, tau * rate)
        if rate == 0.0:
            r.act((0.1, 0.0, 0.0, 0.0, 0.0, 0.0), stamp_s=stamp_s)
    r.ticks(30)
    assert not r.moving()


@given(st.floats(-3.0, 3.0))
@examples(300)
def test_only_stamps_from_the_recent_past_are_accepted(age_s: float) -> None:
    """H39: -0.05 <= now - stamp <= max_age (1 s in this profile)."""
    r = rig.Rig()
    r.arm()
    r.ticks(200)
    verdict = r.act((0.1, 0.0, 0.0, 0.0, 0.0, 0.0), stamp_s=r.ros_s - age_s)
    if -0.049 < age_s < 0.999:
        assert verdict.accepted, verdict
    elif age_s < -0.051 or age_s > 1.001:
        assert not verdict.accepted


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('stamp_s', 0.0),
        ('stamp_s', math.nan),
        ('stamp_s', math.inf),
        ('stamp_s', -1.0),
        ('step_s', 0.0),
        ('step_s', -0.2),
        ('step_s', math.nan),
        ('step_s', math.inf),
        ('step_s', 0.039),
        ('step_s', 0.51),
    ],
)
def test_a_wrong_stamp_or_step_length_is_refused_and_no_sign_of_life(
    field: str, value: float
) -> None:
    """H39: refused actions do not feed the watchdog."""
    r = moving()
    last_s = r.accepted_s
    for _ in range(60):
        assert not r.act((0.1, 0.0, 0.0, 0.0, 0.0, 0.0), **{field: value}).accepted
        r.tick()
    assert r.accepted_s == last_s
    assert not r.moving()


@pytest.mark.parametrize('ahead_s', [0.1, 0.19, 1.0, 100.0, 1e18])
def test_an_action_received_in_the_future_is_not_fresh(ahead_s: float) -> None:
    """P14: 0 <= t - t_a on both sides; else one wild time keeps the arm moving for ever."""
    r = moving()
    r.clamp.offer(
        r.action((0.2, 0.0, 0.0, 0.0, 0.0, 0.0)), now_s=r.now_s + ahead_s, ros_now_s=r.ros_s
    )
    r.accepted_s = r.now_s
    if ahead_s < 0.2:  # later than that it is refused, because the pose is not fresh by then
        r.tick()
        assert r.state == rig.HOLD
    r.ticks(40)
    assert not r.moving()
    assert r.state != rig.ACTIVE
