"""A model that repeats itself or writes nonsense is not trusted."""

import numpy as np

from openvla_ros.action_space.eef_delta import EefDelta
from openvla_ros.policy.action_monitor import ActionMonitor


def delta(x=0.01, gripper=1.0):
    return EefDelta([x, 0.0, 0.0], np.zeros(3), gripper, 'base', 0.2)


def codes(monitor, deltas, moving=True):
    refusals = [monitor.judge(d, moving=moving) for d in deltas]
    return [refusal and refusal.code for refusal in refusals]


def test_the_same_motion_more_than_25_times_is_stuck():
    assert codes(ActionMonitor(), [delta()] * 30) == [None] * 25 + ['STUCK'] * 5


def test_resting_forever_is_fine():
    assert set(codes(ActionMonitor(), [delta(0.0)] * 300)) == {None}
    assert set(codes(ActionMonitor(), [delta(0.0003)] * 300)) == {None}


def test_the_count_rests_while_the_arm_does():
    monitor = ActionMonitor()
    assert set(codes(monitor, [delta()] * 100, moving=False)) == {None}
    assert set(codes(monitor, [delta()] * 25)) == {None}


def test_stuck_stays_until_the_motion_is_another():
    monitor = ActionMonitor()
    codes(monitor, [delta()] * 30)
    assert codes(monitor, [delta()] * 3, moving=False) == ['STUCK'] * 3
    assert codes(monitor, [delta(0.011)]) == [None]


def test_a_new_instruction_starts_anew():
    monitor = ActionMonitor()
    codes(monitor, [delta()] * 30)
    monitor.forget()
    assert codes(monitor, [delta()]) == [None]


def test_zero_switches_the_check_off():
    assert set(codes(ActionMonitor(stuck_after=0), [delta()] * 100)) == {None}


def test_three_bad_outputs_within_ten_seconds_are_too_many():
    monitor = ActionMonitor()
    assert [monitor.bad_output(t) for t in (0.0, 6.0, 10.5)] == [False, False, False]
    assert monitor.bad_output(11.0)


def test_reversals_are_counted_and_many_of_them_are_an_oscillation():
    monitor = ActionMonitor()
    for i in range(10):
        monitor.judge(delta(0.01 * (-1) ** i), moving=True)
    assert monitor.reversals == 9
    assert monitor.oscillating
    for _ in range(5):
        monitor.judge(delta(), moving=True)
    assert not monitor.oscillating


def test_stuck_says_what_happens_next():
    monitor = ActionMonitor(stuck_after=3)
    refusal = [monitor.judge(delta(), moving=True) for _ in range(4)][-1]
    assert 'nothing is published until it wants another motion' in refusal.sentence
    assert 'gets another instruction' in refusal.sentence
    assert 'disarms after its hold_timeout_s' in refusal.sentence
