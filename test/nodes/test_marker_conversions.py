import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is missing')

from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo
from visualization_msgs.msg import Marker

from openvla_ros.msg import SafetyStatus
from openvla_ros.nodes.marker_conversions import (
    camera_projection_from_messages,
    marker_message,
    pose_view,
    safety_view_from_message,
)
from openvla_ros.safety.pose_tracker import Pose
from openvla_ros.visualization.scene_markers import Shape


def test_an_arrow_keeps_its_points_colour_and_frame_and_vanishes():
    points = np.array([[0.0, 0.1, 0.2], [0.3, 0.4, 0.5]])
    shape = Shape('wanted', 3, 'arrow', (255, 0, 51), (0.01, 0.02, 0.03), 0.5, points)
    marker = marker_message(shape, 'base_link', Time(sec=7))
    assert (marker.ns, marker.id, marker.type) == ('wanted', 3, Marker.ARROW)
    assert marker.header.frame_id == 'base_link'
    assert [(p.x, p.y, p.z) for p in marker.points] == [(0.0, 0.1, 0.2), (0.3, 0.4, 0.5)]
    assert (marker.color.r, marker.color.g, marker.color.a) == pytest.approx((1.0, 0.0, 0.5))
    assert marker.color.b == pytest.approx(0.2)
    assert 0.0 < marker.lifetime.sec + 1e-9 * marker.lifetime.nanosec < 2.0
    assert marker.pose.orientation.w == 1.0


def test_the_state_of_the_controller_is_shown_by_name():
    message = SafetyStatus(state=SafetyStatus.ESTOP, sentence='stopped')
    message.commanded.linear.x = 0.1
    message.commanded.angular.z = 0.2
    view = safety_view_from_message(message)
    assert view.state == 'ESTOP'
    assert view.linear_mps.tolist() == [0.1, 0.0, 0.0]
    assert view.angular_radps.tolist() == [0.0, 0.0, 0.2]


def test_camera_info_and_pose_make_a_projection():
    info = CameraInfo(width=200, height=100, k=[100.0, 0, 100.0, 0, 100.0, 50.0, 0, 0, 1.0])
    # Half a turn about x: looking down from 1 m.
    projection = camera_projection_from_messages(info, Pose.of((0, 0, 1), (1, 0, 0, 0)))
    assert projection.pixel((0.5, 0.0, 0.0)) == pytest.approx((150.0, 50.0))


def test_an_uncalibrated_camera_is_refused():
    with pytest.raises(ValueError, match='camera_info'):
        camera_projection_from_messages(CameraInfo(), Pose.of((0, 0, 1), (1, 0, 0, 0)))


def test_a_state_of_another_version_of_the_controller_is_shown_by_its_number():
    assert safety_view_from_message(SafetyStatus(state=77)).state == 'UNKNOWN STATE 77'


@pytest.mark.parametrize(
    ('position_m', 'quaternion'),
    [((0, 0, 0), (0, 0, 0, 0)), ((0, 0, 0), (0, 0, 0, 2)), ((float('nan'), 0, 0), (0, 0, 0, 1))],
)
def test_a_pose_that_cannot_be_drawn_is_refused(position_m, quaternion):
    with pytest.raises(ValueError, match='expected finite numbers and length 1'):
        pose_view(Pose.of(position_m, quaternion))
