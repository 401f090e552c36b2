import dataclasses
import math

import pytest

from openvla_ros.safety.admission import ActionInput, Admission
from openvla_ros.safety.robot_profile import load_robot_profile

SIM = load_robot_profile('sim')
ROS = 1000.0
GOOD = ActionInput(
    stamp_s=ROS - 0.1,
    frame_id='base_link',
    sequence=7,
    step_s=0.2,
    twist=(0.1, 0.0, 0.0, 0.0, 0.0, 0.2),
    gripper=1.0,
    source_id='a',
)


def judge(now_s=10.0, ros_now_s=ROS, admission=None, **changes):
    admission = admission or Admission(SIM)
    return admission.judge(dataclasses.replace(GOOD, **changes), now_s, ros_now_s)


def twist(**parts):
    names = ('x', 'y', 'z', 'rx', 'ry', 'rz')
    return tuple(parts.get(name, 0.0) for name in names)


def test_a_good_action_is_valid():
    assert judge() == ''


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize('field', range(7))
def test_a_non_finite_number_in_any_of_the_seven_fields_is_refused(field, bad):
    values = [0.1, 0.0, 0.0, 0.0, 0.0, 0.2, 1.0]
    values[field] = bad
    assert judge(twist=tuple(values[:6]), gripper=values[6]) == 'NON_FINITE'


@pytest.mark.parametrize('length', [0, 5, 7])
def test_a_twist_without_six_numbers_is_refused(length):
    assert judge(twist=(0.0,) * length) == 'MALFORMED'


@pytest.mark.parametrize(
    'parts',
    [
        {'x': 0.51},  # 0.102 m in 0.2 s, 0.10 are plausible
        {'x': 0.3, 'y': 0.3, 'z': 0.3},  # the norm counts, not the axis
        {'rz': 3.1},  # 0.62 rad, 0.60 are plausible
        {'x': 1e308},
    ],
)
def test_an_implausible_displacement_is_refused_and_not_cut(parts):
    assert judge(twist=twist(**parts)) == 'IMPLAUSIBLE'


def test_the_largest_plausible_displacement_is_valid():
    assert judge(twist=twist(x=0.499, rz=2.99)) == ''


@pytest.mark.parametrize('step_s', [0.0, -0.2, 0.039, 0.51, math.nan, math.inf])
def test_a_step_length_outside_the_range_is_refused(step_s):
    assert judge(step_s=step_s) == 'STEP_S'


@pytest.mark.parametrize('frame', ['', 'camera', 'base_link ', 'x' * 1_000_000])
def test_any_frame_but_the_two_of_the_robot_is_refused(frame):
    assert judge(frame_id=frame) == 'FRAME'


def test_the_end_effector_frame_is_valid():
    assert judge(frame_id='ee_link') == ''


@pytest.mark.parametrize(
    ('stamp_s', 'refusal'),
    [
        (0.0, 'STAMP_ZERO'),
        (ROS - 1.01, 'STAMP_OLD'),
        (ROS - 1e6, 'STAMP_OLD'),
        (ROS + 0.06, 'STAMP_FUTURE'),
        (ROS + 3600.0, 'STAMP_FUTURE'),
        (math.nan, 'STAMP_FUTURE'),
        (ROS - 0.99, ''),
        (ROS + 0.04, ''),
    ],
)
def test_the_age_of_the_stamp_is_bounded_on_both_sides(stamp_s, refusal):
    assert judge(stamp_s=stamp_s) == refusal


@pytest.mark.parametrize('later_s', [0.0, -0.05])
def test_a_stamp_that_does_not_increase_is_refused(later_s):
    admission = Admission(SIM)
    assert judge(admission=admission) == ''
    assert judge(11.0, admission=admission, stamp_s=GOOD.stamp_s + later_s) == 'STAMP_ORDER'


def test_an_action_that_does_not_say_who_sent_it_is_refused():
    assert judge(source_id='') == 'MALFORMED'


def test_a_refused_action_does_not_advance_the_stamp():
    admission = Admission(SIM)
    assert judge(admission=admission, stamp_s=ROS + 0.04, frame_id='camera') == 'FRAME'
    assert judge(admission=admission, stamp_s=ROS - 0.5) == ''


def test_a_held_action_with_new_stamps_is_refused_by_its_sequence():
    admission = Admission(SIM)
    assert judge(admission=admission) == ''
    assert judge(11.0, ROS + 1, admission, stamp_s=ROS + 0.9) == 'SEQUENCE'


def test_another_source_may_start_its_sequence_again():
    admission = Admission(SIM)
    judge(admission=admission)
    again = {'stamp_s': ROS + 0.9, 'sequence': 1, 'source_id': 'b'}
    assert judge(11.0, ROS + 1, admission, **again) == ''


def test_lost_actions_are_counted_by_their_sequence():
    admission = Admission(SIM)
    judge(admission=admission)
    judge(11.0, ROS + 1, admission, stamp_s=ROS + 0.9, sequence=10)
    assert admission.missed == 2


def stream(admission, period_s, seconds):
    """Offer valid actions at a period; return how many were accepted."""
    accepted = 0
    for k in range(round(seconds / period_s)):
        t = k * period_s
        refusal = judge(10.0 + t, ROS + t, admission, stamp_s=ROS + t - 0.05, sequence=k + 1)
        accepted += refusal == ''
    return accepted


def test_a_stream_at_the_policy_rate_is_accepted_whole():
    assert stream(Admission(SIM), 0.2, 20.0) == 100


def test_a_stream_faster_than_twice_the_policy_rate_is_thinned_to_that():
    accepted = stream(Admission(SIM), 0.025, 20.0)
    assert accepted <= 2 * 5 * 20 + 2
    assert accepted >= 2 * 5 * 20 - 2


def test_two_actions_delayed_to_one_moment_are_both_accepted():
    admission = Admission(SIM)
    assert judge(admission=admission, stamp_s=ROS - 0.3) == ''
    assert judge(admission=admission, stamp_s=ROS - 0.1, sequence=8) == ''


def test_a_source_is_forgotten_after_a_second_of_silence():
    admission = Admission(SIM)
    admission.hear('a', 10.0)
    admission.hear('b', 10.5)
    assert admission.sources(10.9) == ['a', 'b']
    assert admission.sources(11.2) == ['b']


def test_more_than_50_messages_in_a_second_are_a_flood():
    admission = Admission(SIM)
    assert not any(admission.hear('a', 10.0 + k / 60.0) for k in range(50))
    assert admission.hear('a', 10.0 + 50 / 60.0)


def test_49_messages_a_second_are_no_flood():
    admission = Admission(SIM)
    assert not any(admission.hear('a', 10.0 + k / 49.0) for k in range(500))


def test_many_sources_do_not_grow_the_memory():
    admission = Admission(SIM)
    for k in range(10_000):
        admission.hear(f'source {k}', 10.0)
    assert len(admission.sources(10.0)) <= 8


@pytest.mark.parametrize(('period_s', 'enough'), [(0.2, True), (0.3, True), (0.6, False)])
def test_three_valid_actions_must_be_recent(period_s, enough):
    admission = Admission(SIM)  # the window is max(1 s, 4 steps) = 1 s
    for k in range(3):
        t = k * period_s
        judge(10.0 + t, ROS + t, admission, stamp_s=ROS + t - 0.05, sequence=k)
    assert admission.enough_valid(10.0 + 2 * period_s) is enough


def test_three_valid_actions_of_different_sources_do_not_count():
    admission = Admission(SIM)
    for k, source in enumerate('aba'):
        t = 0.2 * k
        judge(10.0 + t, ROS + t, admission, stamp_s=ROS + t - 0.05, sequence=k, source_id=source)
    assert not admission.enough_valid(10.4)


def test_after_a_clock_jump_old_stamps_are_forgotten():
    admission = Admission(SIM)
    judge(admission=admission)
    admission.forget_time()
    assert judge(11.0, ROS - 500, admission, stamp_s=ROS - 500.1, sequence=8) == ''
