"""Between ROS messages and the types of `core`: what every node needs.

`policy_conversions.py` and `marker_conversions.py` hold what needs more than NumPy; no other file
knows messages and core types both.
"""

import math
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from geometry_msgs.msg import PoseStamped, Twist, TwistStamped
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, Image, JointState

from openvla_ros.msg import PolicyAction, SafetyStatus
from openvla_ros.safety.admission import ActionInput
from openvla_ros.safety.clamp_status import ClampStatus
from openvla_ros.safety.gripper_goals import GripperGoals
from openvla_ros.safety.pose_tracker import Pose
from openvla_ros.safety.safety_state import LATCHED, State

Vector = Sequence[float] | NDArray[np.float64]
# A frame name longer than this cannot be one of ours; it is cut before it is compared or logged.
LONGEST_NAME = 256


def seconds_from_time(stamp: Time) -> float:
    """Return a ROS time in seconds; 0.1 us are lost at today's dates."""
    return float(stamp.sec) + 1e-9 * float(stamp.nanosec)


def twist_message(linear: Vector, angular: Vector) -> Twist:
    """Return linear [m/s] and angular [rad/s] velocities as a message."""
    message = Twist()
    message.linear.x, message.linear.y, message.linear.z = map(float, linear)
    message.angular.x, message.angular.y, message.angular.z = map(float, angular)
    return message


def twist_stamped(twist: Vector, frame_id: str, stamp: Time) -> TwistStamped:
    """Return a twist of six numbers (linear [m/s], angular [rad/s]) with its frame and time."""
    message = TwistStamped(twist=twist_message(twist[:3], twist[3:]))
    message.header.frame_id, message.header.stamp = frame_id, stamp
    return message


# Controller ------------------------------------------------------------------------------------


def action_input_from_message(message: PolicyAction, publisher_gid: str) -> ActionInput:
    """Return a received action; its source is the publisher's gid where rclpy tells it.

    Jazzy's rclpy does not: there the random id counts that each start of a policy writes into its
    messages, and an action without one is refused (safety/admission.py).
    """
    linear, angular = message.twist.linear, message.twist.angular
    return ActionInput(
        stamp_s=seconds_from_time(message.header.stamp),
        frame_id=message.header.frame_id[:LONGEST_NAME],
        sequence=int(message.sequence),
        step_s=float(message.step_s),
        twist=(linear.x, linear.y, linear.z, angular.x, angular.y, angular.z),
        gripper=float(message.gripper),
        source_id=publisher_gid or message.source_id[:LONGEST_NAME],
    )


def publisher_gid_from_info(info: Any) -> str:
    """Return the gid in a subscription's message info as hex; '' where rclpy does not give it."""
    gid = info.get('publisher_gid') if isinstance(info, dict) else None
    data = gid.get('data') if isinstance(gid, dict) else None
    return bytes(data).hex() if data else ''


def pose_from_message(message: PoseStamped) -> Pose:
    """Return position [m] and quaternion (x, y, z, w) of a pose message."""
    p, q = message.pose.position, message.pose.orientation
    return Pose.of((p.x, p.y, p.z), (q.x, q.y, q.z, q.w))


def pose_from_transform(transform: Any) -> Pose:
    """Return the pose a geometry_msgs/Transform describes: its child seen from its parent."""
    p, q = transform.translation, transform.rotation
    return Pose.of((p.x, p.y, p.z), (q.x, q.y, q.z, q.w))


def pose_stamped(pose: Pose, frame_id: str, stamp: Time) -> PoseStamped:
    """Return a pose with its frame and time."""
    message = PoseStamped()
    message.header.frame_id, message.header.stamp = frame_id, stamp
    p, q = message.pose.position, message.pose.orientation
    p.x, p.y, p.z = pose.position_m
    q.x, q.y, q.z, q.w = pose.quaternion_xyzw
    return message


def safety_status_message(
    status: ClampStatus, notes: Sequence[str], frame_id: str, stamp: Time
) -> SafetyStatus:
    """Return the clamp's report; ``notes`` (whole sentences) end its sentence."""
    message = SafetyStatus(
        state=int(status.state),
        mode=status.mode,
        sentence=' '.join((status.sentence, *notes)),
        reasons=list(status.reasons),
        desired=twist_message(*status.desired),
        commanded=twist_message(*status.commanded),
        reject_reasons=list(status.reject_reasons),
        reject_counts=list(status.reject_counts),
        armed_source=status.armed_source,
        box_lo_m=[float(x) for x in status.box_lo_m],
        box_hi_m=[float(x) for x in status.box_hi_m],
    )
    message.header.frame_id, message.header.stamp = frame_id, stamp
    for name in _PLAIN_STATUS_FIELDS:
        setattr(message, name, getattr(status, name))
    return message


_PLAIN_STATUS_FIELDS = (
    'gripper',
    'scale',
    'box_scale',
    'action_age_s',
    'pose_age_s',
    'estop_age_s',
    'remaining_m',
    'remaining_rad',
    'dropped_m',
    'dropped_rad',
    'wall_distance_m',
    'accepted',
    'rejected',
    'ticks',
    'overruns',
)


def diagnostic_status(
    status: ClampStatus, notes: Sequence[str], name: str, timing: dict[str, float]
) -> DiagnosticStatus:
    """Return the clamp's report for robot monitors: level, sentence, every number by name."""
    values = {key: getattr(status, key) for key in (*_PLAIN_STATUS_FIELDS, 'missed')}
    values |= {
        f'rejected {code}': n for code, n in zip(status.reject_reasons, status.reject_counts)
    }
    values |= timing
    shown = {'state': status.state.name, 'mode': status.mode, 'reasons': ' '.join(status.reasons)}
    shown |= {key: f'{value:.6g}' for key, value in values.items()}
    shown['armed_source'] = status.armed_source
    return DiagnosticStatus(
        level=_diagnostic_level(status, bool(notes)),
        name=name,
        message=' '.join((status.sentence, *notes)),
        hardware_id='',
        values=[KeyValue(key=key, value=value) for key, value in shown.items()],
    )


def _diagnostic_level(status: ClampStatus, has_notes: bool) -> bytes:
    if status.state in LATCHED or has_notes:
        return DiagnosticStatus.ERROR
    troubled = status.state == State.HOLD and status.reasons[:1] != ('WAITING',)
    return DiagnosticStatus.WARN if troubled else DiagnosticStatus.OK


def gripper_diagnostic_status(server: str, goals: GripperGoals, name: str) -> DiagnosticStatus:
    """Return the state of the gripper's action server for robot monitors: WARN with a problem."""
    shown = {
        'server': server,
        'available': str(goals.available).lower(),
        'goals_sent': str(goals.num_sent),
        'goals_failed': str(goals.num_failed),
    }
    return DiagnosticStatus(
        level=DiagnosticStatus.WARN if goals.problem else DiagnosticStatus.OK,
        name=name,
        message=goals.problem or f'gripper action server {server!r}: no problem',
        hardware_id='',
        values=[KeyValue(key=key, value=value) for key, value in shown.items()],
    )


def is_known(value: float) -> bool:
    """Tell whether an opening has been decided: before the first decision it is NaN."""
    return not math.isnan(value)


# Simulated arm ---------------------------------------------------------------------------------


def twist_from_stamped(message: TwistStamped) -> list[float]:
    """Return the six numbers of a twist: linear [m/s], angular [rad/s]."""
    linear, angular = message.twist.linear, message.twist.angular
    return [linear.x, linear.y, linear.z, angular.x, angular.y, angular.z]


def rgb_image_message(pixels: NDArray[np.uint8], frame_id: str, stamp: Time) -> Image:
    """Return uint8[H,W,3] RGB as an rgb8 image."""
    height, width, channels = pixels.shape
    message = Image(
        height=height, width=width, encoding='rgb8', is_bigendian=0, step=width * channels
    )
    message.header.frame_id, message.header.stamp = frame_id, stamp
    # An array('B') is taken as it is; anything else rclpy checks byte by byte (20 ms a picture).
    message.data = array('B', np.ascontiguousarray(pixels).tobytes())
    return message


def pinhole_camera_info(
    matrix: NDArray[np.float64], width: int, height: int, frame_id: str, stamp: Time
) -> CameraInfo:
    """Return K float64[3,3] of a camera without distortion as camera_info."""
    message = CameraInfo(width=width, height=height, distortion_model='plumb_bob')
    message.header.frame_id, message.header.stamp = frame_id, stamp
    message.d = [0.0] * 5
    message.k = [float(value) for value in matrix.reshape(9)]
    message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    message.p = [float(value) for value in np.hstack([matrix, np.zeros((3, 1))]).reshape(12)]
    return message


def joint_state_message(
    names: Sequence[str],
    positions: Vector,
    velocities: Vector,
    efforts: Vector,
    stamp: Time,
) -> JointState:
    """Return joints [rad or m, rad/s or m/s, Nm or N] as joint_states."""
    message = JointState(name=list(names))
    message.header.stamp = stamp
    message.position = [float(value) for value in positions]
    message.velocity = [float(value) for value in velocities]
    message.effort = [float(value) for value in efforts]
    return message
