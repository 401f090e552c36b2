import math

from openvla_ros.safety.gripper import CLOSED, OPEN, GripperFilter
from openvla_ros.safety.robot_profile import GripperRules

RULES = GripperRules(close_below=0.4, open_above=0.6, decisions=2, dwell_s=0.6)


def decided(opening, at_s=0.0):
    gripper = GripperFilter(RULES)
    gripper.offer(opening)
    gripper.offer(opening)
    gripper.step(at_s)
    return gripper


def test_nothing_is_commanded_before_the_first_decision():
    assert math.isnan(GripperFilter(RULES).step(0.0))


def test_one_decision_is_not_enough():
    gripper = GripperFilter(RULES)
    gripper.offer(1.0)
    assert math.isnan(gripper.step(0.0))


def test_two_equal_decisions_open():
    assert decided(1.0).command == OPEN


def test_openings_between_the_thresholds_decide_nothing():
    gripper = decided(1.0)
    for _ in range(10):
        gripper.offer(0.5)
    assert gripper.step(10.0) == OPEN


def test_alternating_around_the_middle_never_changes_the_command():
    gripper = decided(1.0)
    for k in range(300):
        gripper.offer(0.49 if k % 2 else 0.51)
        assert gripper.step(k / 30.0) == OPEN


def test_alternating_wide_openings_change_nothing_because_no_two_are_equal():
    gripper = decided(1.0)
    for k in range(300):
        gripper.offer(0.0 if k % 2 else 1.0)
        assert gripper.step(k / 30.0) == OPEN


def test_a_change_waits_for_the_dwell_time():
    gripper = decided(1.0, at_s=0.0)
    gripper.offer(0.0)
    gripper.offer(0.0)
    assert gripper.step(0.59) == OPEN
    assert gripper.step(0.61) == CLOSED


def test_nan_is_ignored():
    gripper = GripperFilter(RULES)
    gripper.offer(0.0)
    gripper.offer(math.nan)
    gripper.offer(0.0)
    assert gripper.step(0.0) == CLOSED


def test_openings_beyond_the_range_count_as_its_ends():
    assert decided(1.7).command == OPEN
    assert decided(-0.3).command == CLOSED


def test_forgetting_drops_decisions_not_yet_carried_out():
    gripper = GripperFilter(RULES)
    gripper.offer(0.0)
    gripper.forget()
    gripper.offer(0.0)
    assert math.isnan(gripper.step(0.0))
