"""Where ROS time is simulated: displacement and rate follow it, stops and limits do not."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import rig
from properties.strategies import between, directions, examples, gentle_streams, profiles, streams
from properties.test_direction import FAR

factors = st.sampled_from([0.25, 0.5, 1.0, 2.0]) | between(0.15, 3.0)


def simulated(factor: float, p: rig.RobotProfile | None = None, lump_s: float = 0.0) -> rig.Rig:
    r = rig.Rig(p or rig.profile(**FAR), ros_s=12.0)
    r.factor, r.lump_s = factor, lump_s
    r.ticks(50)
    r.arm()
    return r


def rest(r: rig.Rig) -> None:
    for _ in range(100):
        r.act((0.0,) * 6)
        r.ticks(r.step_ticks(0.2))
        if not r.moving():
            return
    raise AssertionError(f'the arm does not come to rest: {r.out}')


@pytest.mark.parametrize('lump_s', [0.0, 0.001, 1 / 60])
@pytest.mark.parametrize('factor', [0.25, 2.0])
def test_an_action_moves_what_it_says_at_any_real_time_factor(
    factor: float, lump_s: float
) -> None:
    """20 mm in 0.2 s of simulated time are 20 mm of the simulated arm, eight times over."""
    r = simulated(factor, lump_s=lump_s)
    for _ in range(8):
        assert r.act((0.1, 0.0, 0.0, 0.0, 0.0, 0.0)).accepted
        r.ticks(r.step_ticks(0.2))
    rest(r)
    assert r.travel[0] == pytest.approx(0.16, abs=2e-3)
    assert r.travel[1:] == pytest.approx([0.0, 0.0], abs=1e-9)


@given(gentle_streams, factors)
@examples(200)
def test_a_stream_integrates_over_simulated_time_to_the_sum_of_its_displacements(
    stream: list, factor: float
) -> None:
    """P21 with the integral over ROS time; what was dropped, if anything, was reported."""
    r = simulated(factor)
    travel, way = np.zeros(3), 0.0
    for twist, gap in stream:
        if r.act(twist).accepted:
            travel += np.array(twist[:3]) * 0.2
            way += math.dist(twist[:3], (0.0,) * 3) * 0.2
        r.ticks(r.step_ticks(gap * 0.2))
    rest(r)
    assert r.out is not None
    missed = float(np.linalg.norm(np.array(r.travel) - travel))
    assert missed <= r.out.status.dropped_m + max(0.01 * way, 2e-4)


@given(profiles(), streams, factors)
@examples(300)
def test_every_limit_and_the_time_to_rest_hold_on_the_steady_clock(
    p: rig.RobotProfile, stream: list, factor: float
) -> None:
    """The rig judges speed, acceleration (steady time), box and time to rest at every tick."""
    r = simulated(factor, p)
    for twist, step_s, gap in stream:
        r.act([x * 0.2 / step_s for x in twist], step_s=step_s)
        r.ticks(r.step_ticks(gap * step_s))
    r.ticks(r.step_ticks(2.0) + 50)
    assert not r.moving()


@given(directions, factors, st.sampled_from(['stands', 'backwards']))
@examples(100)
def test_a_clock_that_stands_still_is_a_stop_in_steady_time(
    direction: tuple, factor: float, kind: str
) -> None:
    """0.3 s and the ramp at the latest, however slow the simulation was before."""
    r = simulated(factor)
    for _ in range(4):
        r.act([0.2 * x for x in direction] + [0.0] * 3)
        r.ticks(r.step_ticks(0.2))
    r.act([0.2 * x for x in direction] + [0.0] * 3)
    r.ticks(2)
    assert r.moving()
    speeds = [r.speed()]
    if kind == 'backwards':
        r.tick(None, -5.0)
    allowed_s = min(0.3, r.bounds.hold_s(0.2) * r.slowdown() * 1.05) + r.bounds.ramp_s()
    for _ in range(math.ceil(allowed_s / r.bounds.tau) + 2):
        r.tick(None, 0.0)
        speeds.append(r.speed())
    assert not r.moving()
    assert r.state == rig.HOLD
    ramp = speeds[-math.ceil(r.bounds.ramp_s() / r.bounds.tau) :]
    assert all(b <= a for a, b in pairwise(ramp))
    r.ticks(30)
    r.tick(None, 0.0)
    blocked = r.out.status.reasons if r.out else ()
    assert {'CLOCK_STOPPED', 'CLOCK_JUMP', 'ACTION_STALE'} & set(blocked)


@pytest.mark.parametrize('factor', [0.1, 0.25])
def test_an_action_that_holds_long_in_a_slow_simulation_does_not_outlive_the_clock(
    factor: float,
) -> None:
    """At a quarter of real time an action holds for 1 s; a clock that stops ends it in 0.3 s.

    A measured pose goes stale with the clock that stamps it; an integrated one does not.
    """
    integrated = rig.profile(pose__source='integrated', pose__start_position_m=[0.275, 0.0, 0.175])
    r = simulated(factor, integrated)
    r.act((0.2, 0.0, 0.0, 0.0, 0.0, 0.0))
    r.ticks(5)
    assert r.moving()
    for _ in range(math.ceil((0.3 + r.bounds.ramp_s()) / r.bounds.tau) + 2):
        r.tick(None, 0.0)
    assert not r.moving()


@pytest.mark.parametrize('factor', [2.0, 3.0])
def test_a_fast_arm_brakes_before_the_wall(factor: float) -> None:
    """It covers two or three times as much per second as it is told; the rig judges the box."""
    r = simulated(factor, rig.profile(workspace__margin_m=0.0))
    before_x = r.position[0]
    for _ in range(40):
        r.act((0.25, 0.0, 0.0, 0.0, 0.0, 0.0))
        r.ticks(r.step_ticks(0.2))
        assert r.out is not None
        assert 'ACCEL_WAIVED' not in r.out.status.reasons
    assert r.position[0] > before_x + 0.1
    assert r.bounds.hi[0] - 0.02 < r.position[0] <= r.bounds.hi[0]


@pytest.mark.parametrize('factor', [0.25, 2.0])
def test_the_arm_does_not_go_beyond_and_come_back(factor: float) -> None:
    """The braking is planned with the acceleration that there is, by either clock."""
    r = simulated(factor)
    for displacement_m in (0.02, 0.02, 0.0, 0.0, 0.0, 0.0):
        r.act((displacement_m / 0.2, 0.0, 0.0, 0.0, 0.0, 0.0))
        for _ in range(r.step_ticks(0.2)):
            r.tick()
            assert r.v[0] >= -1e-3
            assert r.travel[0] <= 0.0405
    assert r.travel[0] == pytest.approx(0.04, abs=5e-4)


def test_a_clock_that_stands_still_is_named_and_nothing_arms_on_it() -> None:
    r = simulated(1.0)
    for _ in range(40):
        r.tick(None, 0.0)
    assert r.out is not None
    assert 'CLOCK_STOPPED' in r.out.status.reasons
    assert '/clock is paused or nothing publishes it' in r.out.status.sentence
    r.clamp.disarm(r.now_s)
    reply = r.clamp.arm(r.now_s)
    assert not reply.ok
    assert '/clock' in reply.sentence


@pytest.mark.parametrize('factor', [0.25, 2.0])
def test_a_policy_that_keeps_its_rate_by_the_steady_clock_is_refused_some_actions(
    factor: float,
) -> None:
    """Five a second at a quarter of real time are 20 in a simulated second: half are too many."""
    r = simulated(factor)
    verdicts = []
    for _ in range(40):
        verdicts.append(r.act((0.05, 0.0, 0.0, 0.0, 0.0, 0.0)))
        r.ticks(10)
    refused = sum(v.reason == 'RATE' for v in verdicts)
    assert (refused > 15) == (factor < 1.0)


def test_a_racing_clock_never_makes_the_arm_accelerate_harder() -> None:
    """A topic must not raise a limit: at 50 times real time the rig's limits still hold."""
    r = simulated(1.0)
    for factor in (5.0, 20.0, 0.1, 50.0, 1.0):
        r.factor = factor
        for _ in range(30):
            r.act((0.2, 0.0, 0.0, 0.0, 0.0, 0.5))
            r.accepted_s = r.now_s  # the judge's time to rest is not what this is about
            r.tick()
