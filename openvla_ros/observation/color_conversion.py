"""Bayer and YUV 4:2:2 images to RGB with OpenCV, which is optional."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla_ros.core.status import Status
from openvla_ros.observation.image_encoding import (
    BAYER_LAYOUTS,
    CONVERTED_LAYOUTS,
    LAYOUTS,
    ImageRefused,
)

# OpenCV names a mosaic by the second row's second and third pixel, ROS by its first two rows.
_CONVERSIONS = {
    'bayer_rggb': 'COLOR_BayerBG2RGB',
    'bayer_bggr': 'COLOR_BayerRG2RGB',
    'bayer_gbrg': 'COLOR_BayerGR2RGB',
    'bayer_grbg': 'COLOR_BayerGB2RGB',
    'yuv422': 'COLOR_YUV2RGB_UYVY',
    'uyvy': 'COLOR_YUV2RGB_UYVY',
    'yuv422_yuy2': 'COLOR_YUV2RGB_YUY2',
    'yuyv': 'COLOR_YUV2RGB_YUY2',
}


def converted_rgb(
    data: Any, *, width: int, height: int, step: int, encoding: str, big_endian: bool
) -> NDArray[np.uint8]:
    """Return the pixels of a Bayer or YUV 4:2:2 image as uint8[H, W, 3], RGB.

    Args:
        data: The bytes of the message; layout_refusal must have found nothing.
        width: Pixels per row.
        height: Rows.
        step: Bytes per row.
        encoding: One of NEEDS_LIBRARY.
        big_endian: Order of the bytes of a 16-bit channel; the more significant one is used.

    Raises:
        ImageRefused: OpenCV is not installed, or the encoding is not in CONVERTED_LAYOUTS.
    """
    layout = CONVERTED_LAYOUTS.get(encoding)
    if layout is None:
        raise ImageRefused(_refusal(encoding, 'cv_bridge'))
    try:
        import cv2
    except ImportError as error:
        raise ImageRefused(_refusal(encoding, 'cv_bridge or opencv-python-headless')) from error
    stored: NDArray[np.uint8] = np.ndarray(
        shape=(height, width, layout.channels),
        dtype=np.uint8,
        buffer=data,
        offset=0 if big_endian else layout.bytes_per_channel - 1,
        strides=(step, layout.bytes_per_pixel, layout.bytes_per_channel),
    )
    name = encoding.rstrip('0168') if encoding in BAYER_LAYOUTS else encoding
    rgb: NDArray[np.uint8] = cv2.cvtColor(
        np.ascontiguousarray(stored), getattr(cv2, _CONVERSIONS[name])
    )
    return rgb


def _refusal(encoding: str, libraries: str) -> Status:
    return Status(
        'IMAGE_ENCODING',
        f'the image encoding {encoding!r} needs {libraries}, which this Python does not have; '
        f'install it or publish one of {", ".join(LAYOUTS)}',
    )
