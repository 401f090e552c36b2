"""The sentence about a stamp names the clocks that disagree and the cure."""

import pytest

from openvla_ros.core.clock_diagnosis import StampAges, explain_stamp, spoken_duration

NOW = 1_790_000_000.0


@pytest.mark.parametrize(
    ('stamp_s', 'ros_now_s', 'simulated', 'said'),
    [
        (NOW - 86_400.0, NOW, False, 'ros2 bag play --clock'),
        (NOW - 86_400.0, NOW, False, 'use_sim_time:=true'),
        (NOW, 12.5, True, 'set use_sim_time for the camera too'),
        (NOW, NOW - 86_400.0, True, 'does not take its time from /clock'),
        (12.5, NOW, False, 'a simulator (set use_sim_time to true)'),
        (12.5, NOW, False, "a camera's own clock"),
        (NOW + 3600.0, NOW, False, 'the clock of the camera or of this computer is wrong'),
        (NOW - 0.8, NOW, False, 'a slow driver, a slow network'),
        (NOW + 0.8, NOW, False, 'synchronize the clocks'),
    ],
)
def test_each_pair_of_clocks_has_its_cure(stamp_s, ros_now_s, simulated, said):
    assert said in explain_stamp('the camera', stamp_s, ros_now_s, simulated=simulated)


@pytest.mark.parametrize('offset_s', [3.2, -3.2])
def test_stamps_that_are_all_off_by_the_same_time_are_those_of_another_computer(offset_s):
    ages = StampAges()
    for index in range(10):
        assert not ages.are_constant
        ages.add(offset_s + 0.004 * (index % 3))
    sentence = explain_stamp(
        'the camera', NOW - offset_s, NOW, simulated=False, constant=ages.are_constant
    )
    assert 'the clock of the computer of the camera differs' in sentence
    assert 'chrony or PTP' in sentence


def test_stamps_that_get_older_are_a_delay_and_no_offset():
    ages = StampAges()
    for index in range(10):
        ages.add(0.6 + 0.02 * index)
    assert not ages.are_constant


@pytest.mark.parametrize(
    ('seconds', 'spoken'),
    [
        (0.534, '0.53 s'),
        (-3.2, '3.20 s'),
        (720.0, '12 min'),
        (11_520.0, '3.2 h'),
        (3.6e6, '42 days'),
    ],
)
def test_durations_are_spoken_in_the_unit_that_fits(seconds, spoken):
    assert spoken_duration(seconds) == spoken
