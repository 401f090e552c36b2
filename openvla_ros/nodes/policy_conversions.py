"""Between ROS messages and the policy's types: camera images in, actions out.

Apart from `conversions.py` because images need Pillow, and the controller, which must start in a
blink, does not.
"""

import numpy as np
from builtin_interfaces.msg import Time
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image

from openvla_ros.core.status import Status
from openvla_ros.msg import PolicyAction, SafetyStatus
from openvla_ros.nodes.conversions import LONGEST_NAME, seconds_from_time, twist_message
from openvla_ros.observation.color_conversion import converted_rgb
from openvla_ros.observation.image_encoding import (
    LAYOUTS,
    ImageRefused,
    compressed_refusal,
    decode_compressed,
    layout_refusal,
    rgb_view,
)
from openvla_ros.observation.image_monitor import Arrival
from openvla_ros.policy.policy import PolicyStep


def arrival_from_message(message: Image | CompressedImage) -> Arrival:
    """Return what is known of an image before its pixels are touched."""
    if isinstance(message, CompressedImage):
        geometry = (0, 0, message.format[:LONGEST_NAME])
    else:
        geometry = (message.width, message.height, message.encoding[:LONGEST_NAME])
    return Arrival(
        stamp_s=seconds_from_time(message.header.stamp),
        frame_id=message.header.frame_id[:LONGEST_NAME],
        geometry=geometry,
    )


def image_refusal(message: Image | CompressedImage) -> Status | None:
    """Say why an image cannot be used, from its fields alone, or None."""
    num_bytes = len(message.data)
    if isinstance(message, CompressedImage):
        return compressed_refusal(num_bytes=num_bytes, image_format=message.format[:LONGEST_NAME])
    return layout_refusal(
        width=message.width,
        height=message.height,
        step=message.step,
        num_bytes=num_bytes,
        encoding=message.encoding,
    )


def rgb_from_message(message: Image | CompressedImage) -> NDArray[np.uint8]:
    """Return the pixels uint8[H, W, 3], RGB, of an image that image_refusal found usable.

    Raw images of the common encodings are views of the message; Bayer and YUV images are converted
    by cv_bridge, or by OpenCV alone where cv_bridge is not installed.

    Raises:
        ImageRefused: the content cannot be decoded, or a library is needed and not installed.
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
    return _converted_rgb(message)


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


def _converted_rgb(message: Image) -> NDArray[np.uint8]:
    try:
        from cv_bridge import CvBridge
    except ImportError:
        return converted_rgb(
            message.data,
            width=message.width,
            height=message.height,
            step=message.step,
            encoding=message.encoding,
            big_endian=bool(message.is_bigendian),
        )
    try:
        rgb = np.asarray(CvBridge().imgmsg_to_cv2(message, desired_encoding='rgb8'))
    except Exception as error:  # OpenCV raises its own kinds for what a message claims
        raise ImageRefused(
            Status(
                'IMAGE_MALFORMED',
                f'cv_bridge cannot convert the {message.encoding} image: {str(error)[:120]}',
            )
        ) from error
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ImageRefused(
            Status(
                'IMAGE_MALFORMED',
                f'cv_bridge made {rgb.dtype}{list(rgb.shape)} of the {message.encoding} image, '
                'expected uint8[H, W, 3]',
            )
        )
    return rgb
