"""Raw and compressed camera images as RGB pixels: views where possible, refusals where not.

Nothing here trusts a number of the message: a wrong one must neither raise in an executor nor
allocate. Encoding names are those of sensor_msgs/image_encodings.hpp.
"""

import dataclasses
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from openvla_ros.core.status import Status
from openvla_ros.observation.instruction import quoted

MIN_SIDE, MAX_SIDE = 16, 8192
MAX_BYTES = 64 * 2**20


class ImageRefused(ValueError):  # noqa: N818  it says what is the case
    """An image that cannot be used; ``refusal`` says why."""

    def __init__(self, refusal: Status) -> None:
        """Carry the refusal."""
        super().__init__(refusal.sentence)
        self.refusal = refusal


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the pixels of an encoding lie in memory.

    Attributes:
        channels: Interleaved channels.
        bytes_per_channel: 1 or 2; of two the more significant byte is used.
        reversed_colour: Whether blue comes first.
    """

    channels: int
    bytes_per_channel: int = 1
    reversed_colour: bool = False

    @property
    def bytes_per_pixel(self) -> int:
        """Size of one pixel."""
        return self.channels * self.bytes_per_channel


LAYOUTS = {
    'rgb8': Layout(3),
    'bgr8': Layout(3, reversed_colour=True),
    'rgba8': Layout(4),
    'bgra8': Layout(4, reversed_colour=True),
    'mono8': Layout(1),
    'rgb16': Layout(3, 2),
    'bgr16': Layout(3, 2, reversed_colour=True),
    'rgba16': Layout(4, 2),
    'bgra16': Layout(4, 2, reversed_colour=True),
    'mono16': Layout(1, 2),
}
"""Encodings that need no library; their channels say red, green, blue or brightness."""

BAYER_LAYOUTS = {
    f'bayer_{order}{8 * size}': Layout(1, size)
    for order in ('rggb', 'bggr', 'gbrg', 'grbg')
    for size in (1, 2)
}
"""One color per pixel; the others are interpolated."""

YUV422_LAYOUTS = {name: Layout(2) for name in ('yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv')}
"""Brightness of every pixel and color of every second one."""

CONVERTED_LAYOUTS = BAYER_LAYOUTS | YUV422_LAYOUTS
"""Encodings that color_conversion.py turns into RGB, where OpenCV is installed."""

NEEDS_LIBRARY = frozenset([*CONVERTED_LAYOUTS, 'nv21', 'nv24'])
"""Encodings that cv_bridge turns into RGB; they have to be interpolated or converted."""

_MEANINGLESS = ('16UC', '32FC', '32SC', '16SC', '64FC', '8UC', '8SC')


def layout_refusal(
    *, width: int, height: int, step: int, num_bytes: int, encoding: str
) -> Status | None:
    """Say why an Image message cannot be used, from its numbers alone; None if it can.

    Args:
        width: Pixels per row.
        height: Rows.
        step: Bytes per row.
        num_bytes: Length of the data.
        encoding: Name of the encoding.
    """
    layout = LAYOUTS.get(encoding) or CONVERTED_LAYOUTS.get(encoding)
    if layout is None and encoding not in NEEDS_LIBRARY:
        return _encoding_refusal(encoding)
    if not (MIN_SIDE <= width <= MAX_SIDE and MIN_SIDE <= height <= MAX_SIDE):
        return Status(
            'IMAGE_MALFORMED',
            f'the image claims to be {width}x{height}, expected {MIN_SIDE} to {MAX_SIDE} pixels '
            'per side',
        )
    if num_bytes > MAX_BYTES:
        return Status(
            'IMAGE_MALFORMED', f'the image has {num_bytes} bytes, expected at most {MAX_BYTES}'
        )
    if layout is None:
        return None
    if step < width * layout.bytes_per_pixel or num_bytes != step * height:
        return Status(
            'IMAGE_MALFORMED',
            f'the image of {width}x{height} {encoding} has {num_bytes} bytes in rows of {step}, '
            f'expected rows of at least {width * layout.bytes_per_pixel} and rows times height '
            'bytes',
        )
    if encoding in YUV422_LAYOUTS and width % 2:
        return Status(
            'IMAGE_MALFORMED',
            f'the {encoding} image is {width} pixels wide, expected an even number: two pixels '
            'share their color',
        )
    return None


def compressed_refusal(*, num_bytes: int, image_format: str) -> Status | None:
    """Say why a CompressedImage message cannot be used, from its fields alone; None if it can.

    Args:
        num_bytes: Length of the data.
        image_format: image_transport's '<encoding of the camera>; <codec> ...', or a codec alone.
    """
    if not 0 < num_bytes <= MAX_BYTES or 'depth' in image_format.lower():
        return Status(
            'IMAGE_MALFORMED',
            f'the compressed image has {num_bytes} bytes and format {quoted(image_format, 40)}, '
            f'expected 1 to {MAX_BYTES} bytes of JPEG or PNG colours',
        )
    encoding, _, codec = (part.strip() for part in image_format.partition(';'))
    if encoding.startswith(_MEANINGLESS):
        return _encoding_refusal(encoding)
    return _colorless_refusal(encoding, codec, image_format)


def _colorless_refusal(encoding: str, codec: str, image_format: str) -> Status | None:
    """Refuse what image_transport compresses without its colors.

    It converts the encodings it takes for color images to bgr8 and says so at the end of the
    format; a Bayer mosaic, and in older releases YUV, it compresses as if it were gray.
    """
    to_color = codec.rpartition(' ')[2].startswith(('bgr', 'rgb'))
    if encoding.startswith('bayer_'):
        kind = 'a Bayer mosaic, not the colors'
    elif encoding.startswith('mono'):
        kind = 'brightness without color'
    elif (encoding in NEEDS_LIBRARY or encoding.startswith(('yuv', 'nv1'))) and not to_color:
        kind = 'the brightness of a YUV image, not its colors'
    else:
        return None
    return Status(
        'IMAGE_ENCODING',
        f'the compressed image of format {quoted(image_format, 60)} holds {kind}, and the model '
        'was trained on color; set image_transport to raw, or let the driver or image_proc '
        'publish rgb8 or bgr8 and compress that',
    )


def rgb_view(
    data: Any, *, width: int, height: int, step: int, encoding: str, big_endian: bool
) -> NDArray[np.uint8]:
    """Return the pixels as uint8[H, W, 3], RGB, without copying.

    Args:
        data: The bytes of the message; layout_refusal must have found nothing.
        width: Pixels per row.
        height: Rows.
        step: Bytes per row.
        encoding: A key of LAYOUTS.
        big_endian: Order of the bytes of a 16-bit channel.

    Returns:
        A view with strides: reversed for blue first, without alpha, the one channel three times
        for monochrome, the more significant byte of 16 bits.
    """
    layout = LAYOUTS[encoding]
    most_significant = 0 if big_endian else layout.bytes_per_channel - 1
    pixels: NDArray[np.uint8] = np.ndarray(
        shape=(height, width, layout.channels),
        dtype=np.uint8,
        buffer=data,
        offset=most_significant,
        strides=(step, layout.bytes_per_pixel, layout.bytes_per_channel),
    )
    if layout.channels == 1:
        return np.broadcast_to(pixels, (height, width, 3))
    return pixels[..., 2::-1] if layout.reversed_colour else pixels[..., :3]


def decode_compressed(data: Any) -> NDArray[np.uint8]:
    """Decode JPEG or PNG to uint8[H, W, 3], RGB; what it is, the bytes say.

    Raises:
        ImageRefused: another format, damaged, or too small or large.
    """
    content = bytes(data)
    if len(content) > MAX_BYTES:
        raise _malformed(f'has {len(content)} bytes, expected at most {MAX_BYTES}')
    try:
        picture = Image.open(io.BytesIO(content), formats=('JPEG', 'PNG'))
        width, height = picture.size
        if not (MIN_SIDE <= width <= MAX_SIDE and MIN_SIDE <= height <= MAX_SIDE):
            raise _malformed(
                f'is {width}x{height}, expected {MIN_SIDE} to {MAX_SIDE} pixels per side'
            )
        return _as_rgb(picture)
    except ImageRefused:
        raise
    except UnidentifiedImageError as error:
        raise _malformed('is neither JPEG nor PNG') from error
    except Exception as error:  # decoders raise whatever a damaged file makes them raise
        raise _malformed(f'cannot be decoded as JPEG or PNG: {str(error)[:120]}') from error


def _as_rgb(picture: Image.Image) -> NDArray[np.uint8]:
    if picture.mode.startswith('I'):
        # 16-bit monochrome: PIL's own conversion saturates instead of scaling.
        levels: NDArray[Any] = np.asarray(picture).astype(np.uint32) >> 8
        return np.broadcast_to(
            np.clip(levels, 0, 255).astype(np.uint8)[..., None], (*levels.shape, 3)
        )
    return np.asarray(picture.convert('RGB'))


def _encoding_refusal(encoding: str) -> Status:
    shown = quoted(encoding, 40)
    if encoding.startswith(_MEANINGLESS):
        meaning = 'does not say what its channels mean (often a depth image or unknown colours)'
    else:
        meaning = 'is unknown'
    return Status(
        'IMAGE_ENCODING',
        f'the image encoding {shown} {meaning}; publish one of {", ".join(LAYOUTS)}',
    )


def _malformed(what: str) -> ImageRefused:
    return ImageRefused(Status('IMAGE_MALFORMED', f'the compressed image {what}'))
