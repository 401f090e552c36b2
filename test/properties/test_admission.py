"""P17, P18, and what is refused: rate, replay, order, implausible size; refusals are no sign of
life."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import rig
from properties.strategies import any_float, between, directions, examples
from properties.test_stop import moving

RATE_BURST = 2  # actions that may come at once, as the clamp's documentation says


@given(
    st.lists(between(0.001, 0.3), min_size=5, max_size=60),
    st.sampled_from([0.1, 0.2, 1 / 3, 0.5]),
)
@examples(400)
def test_accepted_actions_never_exceed_twice_the_policy_rate(gaps: list, step_s: float) -> None:
    """P17, H37: in every window of t seconds at most 2 t / T + the burst."""
    r = rig.Rig()
    r.arm()
    r.ticks(200)
    accepted = []
    for gap_s in gaps:
        r.now_s, r.ros_s = r.now_s + gap_s, r.ros_s + gap_s
        verdict = r.act((0.0,) * 6, step_s=step_s)
        assert verdict.accepted or verdict.reason in ('RATE', 'FLOOD', 'POSE', 'LATCHED')
        if verdict.accepted:
            accepted.append(r.now_s)
        r._send_pose()
    for i, first_s in enumerate(accepted):
        for j in range(i, len(accepted)):
            window_s = accepted[j] - first_s
            assert j - i + 1 <= 2.0 * window_s / step_s + RATE_BURST + 1e-5


@given(between(0.9, 1.1), st.sampled_from([0.1, 0.2, 1 / 3]))
@examples(60)
def test_a_policy_at_its_own_rate_is_never_refused(jitter: float, step_s: float) -> None:
    """P17 must not bite a healthy policy."""
    r = rig.Rig()
    r.arm()
    for _ in range(15):
        r.ticks(max(1, round(step_s * jitter / r.bounds.tau)))
        assert r.act((0.0,) * 6, step_s=step_s).accepted


@given(st.integers(51, 200), st.sampled_from(['armed', 'not armed']))
@examples(60)
def test_more_than_50_messages_in_a_second_are_a_flood(count: int, when: str) -> None:
    """H37: FAULT_FLOOD, whoever sends and whatever it is."""
    r = moving() if when == 'armed' else rig.Rig()
    for i in range(count):
        r.now_s, r.ros_s = r.now_s + 0.9 / count, r.ros_s + 0.9 / count
        r.act((0.1, 0.0, 0.0, 0.0, 0.0, 0.0), frame_id='x' if i % 2 else r.profile.base_frame)
    r.judged = False
    r.tick()
    assert r.state == rig.FAULT
    assert 'FAULT_FLOOD' in r.out.status.reasons  # type: ignore[union-attr]


def test_45_messages_in_a_second_are_none() -> None:
    """H37: the bound is 50."""
    r = rig.Rig()
    for _ in range(90):
        r.now_s, r.ros_s = r.now_s + 1 / 45, r.ros_s + 1 / 45
        r.act((0.0,) * 6)
    r.tick()
    assert r.state == rig.DISARMED


@given(
    directions,
    st.lists(between(0.001, 0.03), min_size=2, max_size=6),
    st.lists(st.integers(0, 5), min_size=2, max_size=20),
)
@examples(500)
def test_a_replayed_or_shuffled_stream_moves_the_arm_no_farther_than_the_stream(
    direction: tuple, sizes: list, order: list
) -> None:
    """P18, H39, H40: any permutation and duplication; every message counts at most once."""
    r = rig.Rig()
    r.arm()
    messages = []
    for k, size in enumerate(sizes):
        r.ros_s += 0.001  # stamps increase along the stream
        twist = [size / 0.2 * x for x in direction] + [0.0] * 3
        messages.append(r.action(twist, stamp_s=r.ros_s, sequence=1000 + k))
    seen: list[int] = []
    for index in order:
        message = messages[index % len(messages)]
        if r.offer(message).accepted:
            seen.append(message.sequence)
        r.ticks(5)
    assert sorted(set(seen)) == seen, 'each at most once, and in order'
    r.ticks(60)
    assert r.path <= sum(sizes) * 1.01 + 1e-4


@given(directions, between(0.1001, 20.0), st.booleans())
@examples(300)
def test_an_implausible_displacement_is_refused_and_not_cut(
    direction: tuple, size: float, turn: bool
) -> None:
    """H22, H23, section 4.2: a unit error must not become steady full speed."""
    r = rig.Rig()
    r.arm()
    part = [size * (6.01 if turn else 1.0) / 0.2 * x for x in direction]
    verdict = r.act([0.0] * 3 + part if turn else part + [0.0] * 3)
    assert not verdict.accepted
    assert verdict.reason == 'IMPLAUSIBLE'
    r.ticks(5)
    assert not r.moving()


@given(directions, between(0.0, 0.0999), between(0.0, 0.599))
@examples(200)
def test_a_plausible_displacement_is_accepted(direction: tuple, size: float, angle: float) -> None:
    """The bound is 0.10 m and 0.60 rad per step, by the norm."""
    r = rig.Rig()
    r.arm()
    twist = [size / 0.2 * x for x in direction] + [angle / 0.2 * x for x in direction]
    assert r.act(twist).accepted


@pytest.mark.parametrize('field', range(7))
@given(value=st.sampled_from([math.nan, math.inf, -math.inf]))
@examples(6)
def test_nan_and_infinity_in_each_of_seven_fields_latch(field: int, value: float) -> None:
    """H20: a greedy decode cannot produce them, so something is corrupt."""
    r = moving()
    numbers = [0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    numbers[field] = value
    assert not r.act(numbers[:6], gripper=numbers[6]).accepted
    r.tick()
    assert r.state == rig.FAULT
    assert r.out is not None
    assert r.out.status.reasons[0] == 'FAULT_NON_FINITE'
    r.ticks(30)
    assert not r.moving()


@given(st.lists(any_float, min_size=6, max_size=6).filter(np.any))
@examples(300)
def test_huge_and_tiny_numbers_do_not_overflow_the_judgement(numbers: list) -> None:
    """P1: norms of 1e308 must not become infinite and slip through, nor raise."""
    r = rig.Rig()
    r.arm()
    verdict = r.act(numbers)
    plausible = all(map(math.isfinite, numbers)) and (
        math.hypot(*numbers[:3]) * 0.2 <= 0.1 and math.hypot(*numbers[3:]) * 0.2 <= 0.6
    )
    assert verdict.accepted == plausible


@pytest.mark.parametrize('count', [0, 1, 5, 7, 8, 100])
def test_not_exactly_six_numbers_are_refused(count: int) -> None:
    """Section 4.2."""
    r = rig.Rig()
    r.arm()
    assert not r.act([0.01] * count).accepted


def test_refusals_are_counted_by_reason_and_feed_no_watchdog() -> None:
    """H39: all others counted."""
    r = moving()
    for _ in range(5):
        r.act((0.1, 0.0, 0.0, 0.0, 0.0, 0.0), frame_id='camera')
        r.act((0.1, 0.0, 0.0, 0.0, 0.0, 0.0), stamp_s=r.ros_s - 5.0)
        r.act((9.0, 0.0, 0.0, 0.0, 0.0, 0.0))
        r.ticks(6)
    status = r.tick().status
    counts = dict(zip(status.reject_reasons, status.reject_counts))
    assert counts['FRAME'] == counts['STAMP_OLD'] == counts['IMPLAUSIBLE'] == 5
    assert status.rejected == sum(counts.values())
    assert not r.moving()


def test_an_action_of_another_source_is_refused() -> None:
    """H40: a relay in front of the armed policy is another source."""
    r = moving()
    assert not r.act((0.1, 0.0, 0.0, 0.0, 0.0, 0.0), source_id='b' * 32).accepted


@given(between(0.0, 0.5))
@examples(60)
def test_a_stamp_that_does_not_increase_is_refused_whatever_the_sequence(back_s: float) -> None:
    """H39: an older image cannot be the newer action."""
    r = moving()
    stamp_s = r.ros_s
    assert r.act((0.0,) * 6, stamp_s=stamp_s).accepted
    r.ticks(10)
    verdict = r.act((0.1, 0.0, 0.0, 0.0, 0.0, 0.0), stamp_s=stamp_s - back_s)
    assert verdict.reason == 'STAMP_ORDER'


def test_a_relay_that_stamps_the_last_action_anew_is_no_sign_of_life() -> None:
    """H40: new stamps, the old sequence number."""
    r = moving()
    last = r.action((0.2, 0.0, 0.0, 0.0, 0.0, 0.0))
    assert r.offer(last).accepted
    for _ in range(40):
        r.tick()
        assert r.offer(rig.replace(last, stamp_s=r.ros_s)).reason in ('SEQUENCE', 'RATE')
    assert not r.moving()
