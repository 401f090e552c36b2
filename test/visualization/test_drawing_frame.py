import pytest

from openvla_ros.visualization.drawing_frame import DrawingFrame


def test_the_controllers_frame_is_drawn_in_where_no_profile_is_given():
    frame = DrawingFrame()
    assert frame.base == ''
    assert frame.controller_works_in('arm/base') == ''
    assert frame.base == 'arm/base'


def test_a_pose_says_the_frame_until_the_controller_does():
    frame = DrawingFrame()
    frame.expect_base('base')
    frame.controller_works_in('arm/base')
    assert frame.base == 'arm/base'
    with pytest.raises(ValueError, match="'base', expected 'arm/base'"):
        frame.expect_base('base')


def test_a_controller_of_another_robot_is_a_warning_that_names_both_frames():
    frame = DrawingFrame('base_link', 'ee_link')
    warning = frame.controller_works_in('arm/base')
    assert "'arm/base'" in warning
    assert "'base_link'" in warning
    assert frame.base == 'arm/base'


@pytest.mark.parametrize('frame_id', ['', 'camera'])
def test_an_action_in_a_frame_of_nobody_is_refused(frame_id):
    with pytest.raises(ValueError, match=r'base_link.*ee_link'):
        DrawingFrame('base_link', 'ee_link').is_ee(frame_id)


def test_an_action_is_meant_in_one_of_the_robots_two_frames():
    frame = DrawingFrame('base_link', 'ee_link')
    assert frame.is_ee('ee_link')
    assert not frame.is_ee('base_link')


def test_a_status_without_a_frame_changes_nothing():
    frame = DrawingFrame('base_link', 'ee_link')
    with pytest.raises(ValueError, match='empty'):
        frame.controller_works_in('')
    assert frame.base == 'base_link'
