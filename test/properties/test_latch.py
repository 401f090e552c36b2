"""P12, P15: what latches stays latched until reset at rest; only arming afterwards allows
motion."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import rig
from properties.strategies import directions, examples, profiles
from properties.test_direction import FAR
from properties.test_stop import STOPS, moving

EVENTS = [
    'act', 'act', 'act', 'act', 'tick', 'tick', 'rest', 'arm', 'arm', 'disarm', 'reset', 'estop',
    'press', 'release', 'beat off', 'nan', 'fault', 'pose off', 'pose on', 'replay', 'stranger',
    'late tick', 'clock jump',
]  # fmt: skip


@given(st.lists(st.sampled_from(EVENTS), min_size=5, max_size=60))
@examples(1500)
def test_no_sequence_of_events_moves_the_arm_without_arming(events: list) -> None:
    """P12, P9, H46, H48: a model of the latch beside the clamp, over random sequences of events.

    Leaving FAULT or ESTOP needs a granted reset, which needs rest and leads to DISARMED; speeding
    up
    needs ACTIVE, which needs a granted arm and an action received after it.
    """
    r = rig.Rig(rig.profile(estop__required=True))
    r.arm()
    armed_s, state = r.now_s, r.state
    old = r.action((0.1, 0.0, 0.0, 0.0, 0.0, 0.0))
    for event in events:
        before, was_moving = r.state, r.moving()
        granted = happen(r, event, old)
        after = r.state
        if before in rig.LATCHED:
            allowed = {rig.ESTOP} | ({before})
            if event == 'reset' and granted:
                assert not was_moving
                allowed = {rig.DISARMED}
            assert after in allowed, (event, before, after)
        if before == rig.DISARMED and after in rig.ARMED:
            assert event == 'arm'
            assert granted
            armed_s = r.now_s
        if after == rig.ACTIVE and before == rig.HOLD:
            assert r.accepted_s >= armed_s
        speed = r.speed()
        r.tick()
        state = r.state
        if state != rig.ACTIVE:
            assert r.speed() <= speed
    assert state in range(5)


def happen(r: rig.Rig, event: str, old: rig.ActionInput) -> bool:
    """Let one event happen; answers whether a request was granted."""
    if event == 'act':
        r.act((0.15, 0.05, 0.0, 0.0, 0.0, 0.3))
    elif event == 'tick':
        r.ticks(3)
    elif event == 'rest':
        r.ticks(60)
    elif event == 'arm':
        for _ in range(3):
            r.act((0.0,) * 6)
            r.ticks(10)
        disarmed_and_moving = r.state == rig.DISARMED and r.moving()
        granted = r.clamp.arm(r.now_s).ok
        assert not (granted and disarmed_and_moving)
        return granted
    elif event == 'disarm':
        return r.clamp.disarm(r.now_s).ok
    elif event == 'reset':
        return r.clamp.reset(r.now_s).ok
    elif event == 'estop':
        r.clamp.estop(r.now_s)
    elif event in ('press', 'release'):
        r.heartbeat = event == 'press'
    elif event == 'beat off':
        r.heartbeat = None
    elif event == 'nan':
        r.act((math.nan,) * 6)
    elif event == 'fault':
        r.clamp.fault('FAULT_INTERNAL', r.now_s)
    elif event in ('pose off', 'pose on'):
        r.pose_on = event == 'pose on'
    elif event == 'replay':
        r.offer(old)
    elif event == 'stranger':
        r.act((0.1, 0.0, 0.0, 0.0, 0.0, 0.0), source_id='b' * 32)
    elif event == 'late tick':
        r.tick(0.3)
    elif event == 'clock jump':
        r.tick(None, 100.0)
    return False


@pytest.mark.parametrize('cause', [c for c in STOPS if c not in ('disarm', 'shutdown')])
def test_a_latched_stop_needs_reset_at_rest_then_arm_then_a_new_action(cause: str) -> None:
    """P12, H48: reset is refused while moving and while the cause is there, and never arms."""
    r = moving()
    waiting = r.action((0.2, 0.0, 0.0, 0.0, 0.0, 0.0))  # from before the reset
    stop, state = STOPS[cause]
    r.heartbeat = cause == 'estop button'
    stop(r)
    r.tick()
    assert r.state == state
    assert not r.clamp.reset(r.now_s).ok, 'still moving'
    r.ticks(100)
    if cause == 'estop button':
        assert not r.clamp.reset(r.now_s).ok, 'the button is still pressed'
        r.heartbeat = False
        r.ticks(100)
        assert r.state == rig.ESTOP, 'release does nothing'
    for _ in range(3):
        r.act((0.0,) * 6)
        r.ticks(10)
    assert not r.clamp.arm(r.now_s).ok, 'latched, though all else is ready'
    reply = r.clamp.reset(r.now_s)
    assert reply.ok, reply.sentence
    assert r.state == rig.DISARMED
    r.offer(waiting)
    r.act((0.2, 0.0, 0.0, 0.0, 0.0, 0.0))
    r.ticks(20)
    assert not r.moving(), 'reset never arms'
    r.arm()
    r.offer(waiting)
    r.ticks(20)
    assert not r.moving(), 'an action from before the reset never moves the arm'
    r.act((0.2, 0.0, 0.0, 0.0, 0.0, 0.0))
    r.ticks(5)
    assert r.moving()


def test_an_action_seen_before_arming_is_not_executed_after_it() -> None:
    """Section 5: arming clears what was heard; the first motion comes from an action after it."""
    r = rig.Rig()
    for _ in range(3):
        r.act((0.2, 0.0, 0.0, 0.0, 0.0, 0.0))
        r.ticks(10)
    assert r.clamp.arm(r.now_s).ok
    r.ticks(30)
    assert not r.moving()
    assert r.state == rig.HOLD


@given(profiles(**FAR), directions)
@examples(200)
def test_an_estop_is_at_zero_within_its_ramp_and_stays(
    p: rig.RobotProfile, direction: tuple
) -> None:
    """P15, H46: from full speed, zero in ceil(V / (A_e tau)) + 1 ticks, and never again."""
    r = rig.Rig(p)
    r.arm()
    b = r.bounds
    for _ in range(2 + math.ceil(b.v / (0.1 * b.a[rig.ACTIVE]))):
        r.act([0.49 * x for x in direction] + [2.9 * x for x in direction])
        r.ticks(round(0.1 / b.tau))
        r.act([0.49 * x for x in direction] + [2.9 * x for x in direction])
        r.ticks(round(0.1 / b.tau))
    r.heartbeat = True
    linear = math.ceil(b.v / (b.a[rig.ESTOP] * b.tau) - 1e-9) + 1
    angular = math.ceil(b.w / (b.alpha[rig.ESTOP] * b.tau) - 1e-9) + 1
    for i in range(max(linear, angular) + 20):
        r.act((0.2, 0.0, 0.0, 0.0, 0.0, 0.3))
        r.tick()
        assert r.state == rig.ESTOP
        if i + 1 >= linear:
            assert r.speed() == 0.0
        if i + 1 >= angular:
            assert not any(r.w)


def test_an_estop_brakes_harder_than_a_fault() -> None:
    """H46: 0.25 m/s is at rest in 50 ms by the e-stop, in 125 ms by a fault (default limits)."""
    ticks = []
    for stop in ('estop call', 'fault'):
        r = rig.Rig(rig.profile(**FAR))
        r.arm()
        for _ in range(4):
            r.act((0.25, 0.0, 0.0, 0.0, 0.0, 0.0))
            r.ticks(10)
        assert r.speed() > 0.24
        STOPS[stop][0](r)
        ticks.append(0)
        while r.moving():
            r.tick()
            ticks[-1] += 1
    assert ticks == [math.ceil(0.25 / (5.0 * 0.02)), math.ceil(0.25 / (2.0 * 0.02))]


@pytest.mark.parametrize('required', [True, False])
def test_a_lost_heartbeat_latches_only_where_it_is_required(required: bool) -> None:
    """H47: a gap of more than 0.3 s is ESTOP_LOST; a heartbeat that comes back changes nothing."""
    r = moving(rig.profile(estop__required=required))
    r.heartbeat = None
    for _ in range(4):
        r.act((0.1, 0.0, 0.0, 0.0, 0.0, 0.0))
        r.ticks(5)
    assert r.state == (rig.ESTOP if required else rig.ACTIVE)
    if not required:
        return
    assert 'ESTOP_LOST' in r.out.status.reasons  # type: ignore[union-attr]
    r.heartbeat = False
    r.ticks(60)
    assert r.state == rig.ESTOP
    assert r.clamp.reset(r.now_s).ok
    assert r.state == rig.DISARMED


def test_without_a_heartbeat_there_is_no_arming_where_it_is_required() -> None:
    """H47: never started, or started and gone."""
    r = rig.Rig(rig.profile(estop__required=True))
    r.heartbeat = None
    for _ in range(4):
        r.act((0.0,) * 6)
        r.ticks(10)
    assert not r.clamp.arm(r.now_s).ok
    r.heartbeat = False
    r.ticks(5)
    r.act((0.0,) * 6)
    assert r.clamp.arm(r.now_s).ok


def test_the_estop_dominates_a_fault_and_the_first_cause_is_kept() -> None:
    """Section 5: FAULT then e-stop is ESTOP; ESTOP then fault stays ESTOP; all causes are
    listed."""
    r = moving()
    r.act((math.nan,) * 6)
    r.tick()
    assert r.state == rig.FAULT
    r.heartbeat = True
    r.tick()
    assert r.state == rig.ESTOP
    r.clamp.fault('FAULT_INTERNAL', r.now_s)
    out = r.tick()
    assert out.status.state == rig.ESTOP
    assert {'FAULT_NON_FINITE', 'FAULT_INTERNAL'} <= set(out.status.reasons)
    assert any(reason.startswith('ESTOP') for reason in out.status.reasons)


@pytest.mark.parametrize(
    'shape', ['moving', 'stale pose', 'outside', 'one action', 'no policy', 'two']
)
def test_arming_is_refused_with_a_reason(shape: str) -> None:
    """Section 5: rest, a fresh pose inside the box, three valid actions of exactly one source."""
    r = rig.Rig()
    count = {'one action': 2, 'no policy': 0}.get(shape, 3)
    for _ in range(count):
        r.act((0.0,) * 6)
        r.ticks(5)
    if shape == 'two':
        r.act((0.0,) * 6, source_id='b' * 32)
    if shape == 'stale pose':
        r.pose_on = False
        r.ticks(12)
        r.act((0.0,) * 6)
    if shape == 'outside':
        r.box_judged = False
        r.clamp = rig.Clamp(r.profile)
        r.position = [0.46, 0.0, 0.1]
        r.ticks(100)
        for _ in range(3):
            r.act((0.0,) * 6)
            r.ticks(5)
    if shape == 'moving':
        r.arm()
        r.act((0.2, 0.0, 0.0, 0.0, 0.0, 0.0))
        r.ticks(6)
        r.clamp.disarm(r.now_s)
        r.tick()
        r.act((0.2, 0.0, 0.0, 0.0, 0.0, 0.0))
        assert r.moving()
    reply = r.clamp.arm(r.now_s)
    assert not reply.ok
    assert len(reply.sentence) > 10


def test_a_second_policy_latches_a_fault_and_a_successor_disarms() -> None:
    """H36, section "Sources": both alive is FAULT_TWO_SOURCES; a successor after 1 s is
    DISARMED."""
    r = moving()
    r.act((0.1, 0.0, 0.0, 0.0, 0.0, 0.0))
    r.tick()
    r.act((0.1, 0.0, 0.0, 0.0, 0.0, 0.0), source_id='b' * 32)
    r.tick()
    assert r.state == rig.FAULT
    assert 'FAULT_TWO_SOURCES' in r.out.status.reasons  # type: ignore[union-attr]
    r = moving()
    r.ticks(60)
    assert r.state == rig.HOLD
    r.act((0.1, 0.0, 0.0, 0.0, 0.0, 0.0), source_id='b' * 32)
    r.tick()
    assert r.state == rig.DISARMED
    for _ in range(3):
        r.act((0.1, 0.0, 0.0, 0.0, 0.0, 0.0), source_id='b' * 32)
        r.ticks(10)
        assert not r.moving()
    assert r.clamp.arm(r.now_s).ok, 're-arm, no reset'


def test_many_refusals_in_a_row_latch_a_fault() -> None:
    """Section 5: N rejects."""
    r = rig.Rig()
    r.arm()
    for _ in range(60):
        r.act((0.1, 0.0, 0.0, 0.0, 0.0, 0.0), frame_id='camera')
        r.ticks(5)
    assert r.state == rig.FAULT


def test_after_shutdown_nothing_arms_or_resets_any_more() -> None:
    """H34: the ramp of SIGTERM is not interrupted by an operator or a policy."""
    r = moving()
    r.clamp.shutdown(r.now_s)
    for _ in range(40):
        r.act((0.2, 0.0, 0.0, 0.0, 0.0, 0.0))
        r.clamp.reset(r.now_s)
        assert not r.clamp.arm(r.now_s).ok
        r.tick()
    assert not r.moving()


@pytest.mark.parametrize('cause', ['not a number', 'jumping pose'])
def test_reset_is_refused_while_the_cause_keeps_coming(cause: str) -> None:
    """P12: at rest is not enough; the cause must be gone (not seen for 1 s)."""
    r = moving()
    r.box_judged = False

    def harm(k: int) -> None:
        if cause == 'not a number':
            r.act((math.nan,) * 6)
        else:
            r.position[1] += 0.06 if k % 2 else -0.06

    for k in range(10):
        harm(k)
        r.ticks(10)
    assert r.state == rig.FAULT
    assert not r.moving()
    assert not r.clamp.reset(r.now_s).ok
    r.ticks(51)
    assert r.clamp.reset(r.now_s).ok
