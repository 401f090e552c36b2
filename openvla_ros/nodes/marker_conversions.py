"""Between ROS messages and what is drawn: the part of the conversions only marker_node needs.

Apart from `conversions.py` because drawing needs scipy and Pillow, and the controller, which must
start in a blink, neither.
"""

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point, Twist
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker

from openvla_ros.msg import SafetyStatus
from openvla_ros.safety.pose_tracker import Pose
from openvla_ros.safety.safety_state import State
from openvla_ros.visualization.camera_projection import CameraProjection
from openvla_ros.visualization.scene_markers import LIFETIME_S, Shape
from openvla_ros.visualization.situation import PoseView, SafetyView


def twist_vector(twist: Twist) -> NDArray[np.float64]:
    """Return float64[6]: linear [m/s], then angular [rad/s]."""
    linear, angular = twist.linear, twist.angular
    return np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])


def pose_view(pose: Pose) -> PoseView:
    """Return a pose as the pictures take it.

    Raises:
        ValueError: it is not finite, or its quaternion is not of unit length (a driver that
            fills in no orientation sends zeros).
    """
    position_m, quaternion = np.array(pose.position_m), np.array(pose.quaternion_xyzw)
    length = float(np.linalg.norm(quaternion))
    if not np.isfinite(position_m).all() or not abs(length - 1.0) < 1e-2:
        raise ValueError(
            f'position {position_m.tolist()} m, quaternion of length {length:.3g}; expected '
            'finite numbers and length 1'
        )
    return PoseView(position_m, quaternion)


def safety_view_from_message(message: SafetyStatus) -> SafetyView:
    """Return what a picture shows of the controller's status."""
    commanded = twist_vector(message.commanded)
    return SafetyView(
        state=_state_name(message.state),
        sentence=message.sentence[:300],
        linear_mps=commanded[:3],
        angular_radps=commanded[3:],
        gripper=message.gripper,
        wall_distance_m=message.wall_distance_m,
        box_lo_m=np.array(message.box_lo_m, np.float64),
        box_hi_m=np.array(message.box_hi_m, np.float64),
        frame_id=message.header.frame_id,
    )


def _state_name(number: int) -> str:
    """Return the name of a state; a controller newer than this package may have more of them."""
    return State(number).name if number in set(State) else f'UNKNOWN STATE {number}'


def camera_projection_from_messages(info: CameraInfo, pose: Pose) -> CameraProjection:
    """Return the projection of a camera at a pose in the base frame, or raise ValueError."""
    return CameraProjection(
        np.array(info.k, np.float64).reshape(3, 3),
        np.array(pose.position_m),
        np.array(pose.quaternion_xyzw),
        int(info.width),
        int(info.height),
    )


_MARKER_KINDS = {
    'arrow': Marker.ARROW,
    'line_list': Marker.LINE_LIST,
    'line_strip': Marker.LINE_STRIP,
    'cube': Marker.CUBE,
    'sphere': Marker.SPHERE,
    'text': Marker.TEXT_VIEW_FACING,
}


def marker_message(shape: Shape, frame_id: str, stamp: Time) -> Marker:
    """Return a shape as a marker that vanishes when it is not renewed."""
    marker = Marker(
        ns=shape.namespace, id=shape.number, type=_MARKER_KINDS[shape.kind], action=Marker.ADD
    )
    marker.header.frame_id, marker.header.stamp = frame_id, stamp
    marker.pose.orientation.w = 1.0
    place, scale = marker.pose.position, marker.scale
    place.x, place.y, place.z = (float(x) for x in shape.position_m)
    scale.x, scale.y, scale.z = shape.scale_m
    red, green, blue = (channel / 255.0 for channel in shape.colour)
    marker.color = ColorRGBA(r=red, g=green, b=blue, a=shape.opacity)
    marker.points = [Point(x=float(x), y=float(y), z=float(z)) for x, y, z in shape.points_m]
    marker.text = shape.text
    marker.lifetime = Duration(nanosec=int(LIFETIME_S * 1e9))
    return marker
