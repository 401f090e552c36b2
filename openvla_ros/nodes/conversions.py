"""Between ROS messages and the types of `core`: the one file that knows both."""

import math
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration, Time
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from geometry_msgs.msg import Point, PoseStamped, Twist, TwistStamped
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker

from openvla_ros.core.admission import ActionInput
from openvla_ros.core.camera_projection import CameraProjection
from openvla_ros.core.clamp_status import ClampStatus
from openvla_ros.core.image_encoding import (
    LAYOUTS,
    MAX_BYTES,
    ImageRefused,
    decode_compressed,
    layout_refusal,
    rgb_view,
)
from openvla_ros.core.image_monitor import Arrival
from openvla_ros.core.policy import PolicyStep
from openvla_ros.core.pose_tracker import Pose
from openvla_ros.core.refusal import Refusal
from openvla_ros.core.safety_state import LATCHED, State
from openvla_ros.core.scene_markers import LIFETIME_S, Shape
from openvla_ros.core.situation import PoseView, SafetyView
from openvla_ros.msg import PolicyAction, SafetyStatus

# A frame name longer than this cannot be one of ours; it is cut before it is compared or logged.
_LONGEST_NAME = 256


def seconds_from_time(stamp: Time) -> float:
    """Return a ROS time in seconds; 0.1 us are lost at today's dates."""
    return float(stamp.sec) + 1e-9 * float(stamp.nanosec)


def twist_message(linear: Sequence[float], angular: Sequence[float]) -> Twist:
    """Return linear [m/s] and angular [rad/s] velocities as a message."""
    message = Twist()
    message.linear.x, message.linear.y, message.linear.z = map(float, linear)
    message.angular.x, message.angular.y, message.angular.z = map(float, angular)
    return message


def twist_stamped(twist: Sequence[float], frame_id: str, stamp: Time) -> TwistStamped:
    """Return a twist of six numbers (linear [m/s], angular [rad/s]) with its frame and time."""
    message = TwistStamped(twist=twist_message(twist[:3], twist[3:]))
    message.header.frame_id, message.header.stamp = frame_id, stamp
    return message


# Controller ------------------------------------------------------------------------------------


def action_input_from_message(message: PolicyAction, publisher_gid: str) -> ActionInput:
    """Return a received action; its source is the publisher's gid where rclpy tells it."""
    linear, angular = message.twist.linear, message.twist.angular
    return ActionInput(
        stamp_s=seconds_from_time(message.header.stamp),
        frame_id=message.header.frame_id[:_LONGEST_NAME],
        sequence=int(message.sequence),
        step_s=float(message.step_s),
        twist=(linear.x, linear.y, linear.z, angular.x, angular.y, angular.z),
        gripper=float(message.gripper),
        source_id=publisher_gid or message.source_id[:_LONGEST_NAME],
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
    positions: Sequence[float],
    velocities: Sequence[float],
    efforts: Sequence[float],
    stamp: Time,
) -> JointState:
    """Return joints [rad or m, rad/s or m/s, Nm or N] as joint_states."""
    message = JointState(name=list(names))
    message.header.stamp = stamp
    message.position = [float(value) for value in positions]
    message.velocity = [float(value) for value in velocities]
    message.effort = [float(value) for value in efforts]
    return message


# Markers and overlay ---------------------------------------------------------------------------


def twist_vector(twist: Twist) -> NDArray[np.float64]:
    """Return float64[6]: linear [m/s], then angular [rad/s]."""
    linear, angular = twist.linear, twist.angular
    return np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])


def pose_view(pose: Pose) -> PoseView:
    """Return a pose as the pictures take it."""
    return PoseView(np.array(pose.position_m), np.array(pose.quaternion_xyzw))


def safety_view_from_message(message: SafetyStatus) -> SafetyView:
    """Return what a picture shows of the controller's status."""
    commanded = twist_vector(message.commanded)
    return SafetyView(
        state=State(message.state).name,
        sentence=message.sentence[:300],
        linear_mps=commanded[:3],
        angular_radps=commanded[3:],
        gripper=message.gripper,
        wall_distance_m=message.wall_distance_m,
        box_lo_m=np.array(message.box_lo_m, np.float64),
        box_hi_m=np.array(message.box_hi_m, np.float64),
        frame_id=message.header.frame_id,
    )


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


# Policy ----------------------------------------------------------------------------------------


def arrival_from_message(message: Image | CompressedImage) -> Arrival:
    """Return what is known of an image before its pixels are touched."""
    if isinstance(message, CompressedImage):
        geometry = (0, 0, message.format[:_LONGEST_NAME])
    else:
        geometry = (message.width, message.height, message.encoding[:_LONGEST_NAME])
    return Arrival(
        stamp_s=seconds_from_time(message.header.stamp),
        frame_id=message.header.frame_id[:_LONGEST_NAME],
        geometry=geometry,
    )


def image_refusal(message: Image | CompressedImage) -> Refusal | None:
    """Say why an image cannot be used, from its fields alone, or None."""
    num_bytes = len(message.data)
    if isinstance(message, CompressedImage):
        kind = message.format[:_LONGEST_NAME]
        if 0 < num_bytes <= MAX_BYTES and 'depth' not in kind.lower():
            return None
        return Refusal(
            'IMAGE_MALFORMED',
            f'the compressed image has {num_bytes} bytes and format {kind[:40]!a}, expected '
            f'1 to {MAX_BYTES} bytes of JPEG or PNG colours',
        )
    return layout_refusal(
        width=message.width,
        height=message.height,
        step=message.step,
        num_bytes=num_bytes,
        encoding=message.encoding,
    )


def rgb_from_message(message: Image | CompressedImage) -> NDArray[np.uint8]:
    """Return the pixels uint8[H, W, 3], RGB, of an image that image_refusal found usable.

    Raw images of the common encodings are views of the message; others need cv_bridge.

    Raises:
        ImageRefused: the content cannot be decoded, or cv_bridge is needed and not installed.
    """
    if isinstance(message, CompressedImage):
        return decode_compressed(message.data)
    if message.encoding in LAYOUTS:
        return rgb_view(
            message.data,
            width=message.width,
            height=message.height,
            step=message.step,
            encoding=message.encoding,
            big_endian=bool(message.is_bigendian),
        )
    return _rgb_from_cv_bridge(message)


def policy_action_message(
    step: PolicyStep,
    *,
    stamp: Time,
    frame_id: str,
    sequence: int,
    source_id: str,
    instruction: str,
    unnorm_key: str,
) -> PolicyAction:
    """Return what the policy decided as a message.

    Args:
        step: The decision.
        stamp: Stamp of the image it was computed from.
        frame_id: The robot's name of the displacement's frame.
        sequence: Number of this action.
        source_id: This start of the policy.
        instruction: As the human wrote it.
        unnorm_key: The dataset.
    """
    delta, predicted = step.delta, step.predicted
    twist = delta.twist()
    tokens = predicted.action_tokens
    message = PolicyAction(
        sequence=sequence,
        step_s=delta.step_s,
        twist=twist_message(twist[:3], twist[3:]),
        gripper=float(delta.gripper),
        source_id=source_id,
        instruction=instruction,
        unnorm_key=unnorm_key,
        action_tokens=[] if tokens is None else [int(token) for token in tokens],
        action=[float(value) for value in predicted.action],
        inference_s=float(step.stage_s['inference']),
    )
    message.header.stamp, message.header.frame_id = stamp, frame_id
    return message


def is_moving(message: SafetyStatus) -> bool:
    """Say whether a controller's status tells of an arm that is commanded to move."""
    parts = (message.commanded.linear, message.commanded.angular)
    return bool(message.state == SafetyStatus.ACTIVE) and any(
        abs(value) > 1e-9 for part in parts for value in (part.x, part.y, part.z)
    )


def _rgb_from_cv_bridge(message: Image) -> NDArray[np.uint8]:
    try:
        from cv_bridge import CvBridge
    except ImportError as error:
        raise ImageRefused(
            Refusal(
                'IMAGE_ENCODING',
                f'the image encoding {message.encoding!r} needs cv_bridge, which is not installed '
                f'for this Python; install it or publish one of {", ".join(LAYOUTS)}',
            )
        ) from error
    try:
        rgb = np.asarray(CvBridge().imgmsg_to_cv2(message, desired_encoding='rgb8'))
    except Exception as error:  # OpenCV raises its own kinds for what a message claims
        raise ImageRefused(
            Refusal(
                'IMAGE_MALFORMED',
                f'cv_bridge cannot convert the {message.encoding} image: {str(error)[:120]}',
            )
        ) from error
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ImageRefused(
            Refusal(
                'IMAGE_MALFORMED',
                f'cv_bridge made {rgb.dtype}{list(rgb.shape)} of the {message.encoding} image, '
                'expected uint8[H, W, 3]',
            )
        )
    return rgb
