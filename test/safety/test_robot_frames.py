import pytest

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.safety.robot_frames import RobotFrames, robot_frames


def test_the_profile_says_both_frames():
    expected = RobotFrames('wx250s/base_link', 'wx250s/ee_gripper_link')
    assert robot_frames('wx250s.example') == expected


def test_a_parameter_that_agrees_with_the_profile_is_accepted():
    assert robot_frames('sim', 'base_link', 'ee_link') == RobotFrames('base_link', 'ee_link')


@pytest.mark.parametrize(
    ('given', 'said'),
    [
        ({'base_frame': 'world'}, "base_frame: got 'world', expected 'wx250s/base_link'"),
        ({'ee_frame': 'tool0'}, "ee_frame: got 'tool0', expected 'wx250s/ee_gripper_link'"),
    ],
)
def test_a_parameter_that_contradicts_the_profile_is_refused_with_both_names(given, said):
    with pytest.raises(ConfigError, match=said):
        robot_frames('wx250s.example', **given)


def test_without_a_profile_both_names_are_needed():
    assert robot_frames('', 'a', 'b') == RobotFrames('a', 'b')
    for base_frame, ee_frame in (('', ''), ('a', ''), ('', 'b'), ('a', 'a')):
        with pytest.raises(ConfigError, match='robot: is not set'):
            robot_frames('', base_frame, ee_frame)
