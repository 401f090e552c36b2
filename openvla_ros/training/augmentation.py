"""OpenVLA's image augmentation: crop, brightness, contrast, saturation and hue, in that order.

The formulas are those of ``tf.image``, in float32 on [0, 1], clipped after every step. Unlike
upstream's, whose two offsets come from one seed and are equal, the crop's are drawn independently.
"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Part of the area that the crop keeps.
CROP_AREA = 0.9
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = 0.2, 0.2, 0.2, 0.05

Levels = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to one image.

    Attributes:
        top: Upper edge of the crop, as a part of the image's height.
        left: Left edge of the crop, as a part of the image's width.
        side: Height and width of the crop, as a part of the image's.
        brightness: Added to every level on [0, 1].
        contrast: Factor of the distance to the channel's mean.
        saturation: Factor of the saturation in HSV.
        hue: Added to the hue, in turns.
    """

    top: float
    left: float
    side: float
    brightness: float
    contrast: float
    saturation: float
    hue: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> 'Augmentation':
        """Draw one from upstream's ranges."""
        side = CROP_AREA**0.5
        top, left = rng.uniform(0.0, 1.0 - side, 2)
        return cls(
            top=float(top),
            left=float(left),
            side=side,
            brightness=float(rng.uniform(-_BRIGHTNESS, _BRIGHTNESS)),
            contrast=float(rng.uniform(1.0 - _CONTRAST, 1.0 + _CONTRAST)),
            saturation=float(rng.uniform(1.0 - _SATURATION, 1.0 + _SATURATION)),
            hue=float(rng.uniform(-_HUE, _HUE)),
        )

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Change an image.

        Args:
            image: uint8[S,S,3], RGB, already of the network's size.

        Returns:
            uint8[S,S,3].
        """
        levels = crop(image.astype(np.float32) / np.float32(255.0), self)
        levels = shift_brightness(levels, self.brightness)
        levels = scale_contrast(levels, self.contrast)
        levels = scale_saturation(levels, self.saturation)
        levels = shift_hue(levels, self.hue)
        return np.asarray(np.floor(levels * np.float32(255.5)), np.uint8)


def crop(levels: Levels, augmentation: Augmentation) -> Levels:
    """Cut a square out of float32[S,S,3] and resize it bilinearly to [S,S,3]."""
    size = levels.shape[0]
    above, below, down = _taps(size, augmentation.top, augmentation.side)
    left, right, along = _taps(size, augmentation.left, augmentation.side)
    along = along[None, :, None]

    def across(rows: NDArray[np.intp]) -> Levels:
        first = levels[rows][:, left]
        return np.asarray(first + (levels[rows][:, right] - first) * along)

    upper = across(above)
    return _clipped(upper + (across(below) - upper) * down[:, None, None])


def shift_brightness(levels: Levels, shift: float) -> Levels:
    """Add ``shift`` to every level."""
    return _clipped(levels + np.float32(shift))


def scale_contrast(levels: Levels, factor: float) -> Levels:
    """Multiply the distance to each channel's mean by ``factor``."""
    mean = levels.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
    return _clipped((levels - mean) * np.float32(factor) + mean)


def scale_saturation(levels: Levels, factor: float) -> Levels:
    """Multiply the saturation in HSV by ``factor``; hue and value stay.

    With hue and value fixed, every channel's distance from the value is proportional to the
    saturation.
    """
    value = levels.max(axis=2, keepdims=True)
    chroma = value - levels.min(axis=2, keepdims=True)
    saturation = np.divide(chroma, value, out=np.zeros_like(value), where=value > 0.0)
    wanted = np.clip(saturation * np.float32(factor), 0.0, 1.0)
    ratio = np.divide(wanted, saturation, out=np.ones_like(value), where=saturation > 0.0)
    return _clipped(value - (value - levels) * ratio)


def shift_hue(levels: Levels, turns: float) -> Levels:
    """Add ``turns`` to the hue in HSV; saturation and value stay."""
    value, chroma, hue = _value_chroma_hue(levels)
    sixths = np.mod(hue + np.float32(6.0 * turns), 6.0)[..., None]
    # Red, green and blue fall from the value by the chroma while the hue is away from them.
    k = np.mod(np.array([5.0, 3.0, 1.0], np.float32) + sixths, 6.0)
    away = np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0)
    return _clipped(value[..., None] - chroma[..., None] * away)


def _value_chroma_hue(levels: Levels) -> tuple[Levels, Levels, Levels]:
    """Value, chroma and hue in sixths of a turn, float32[S,S] each."""
    red, green, blue = levels[..., 0], levels[..., 1], levels[..., 2]
    value = levels.max(axis=2)
    chroma = value - levels.min(axis=2)
    divisor = np.where(chroma > 0.0, chroma, np.float32(1.0))
    hue = np.where(
        value == red,
        (green - blue) / divisor,
        np.where(value == green, 2.0 + (blue - red) / divisor, 4.0 + (red - green) / divisor),
    )
    return value, chroma, np.asarray(hue, np.float32)


def _taps(
    size: int, start: float, side: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Rows before and after each sample of ``tf.image.crop_and_resize``, and how far between."""
    first, last = np.float32(start), np.float32(size - 1)
    # Both edges are rounded to float32, and the side is what lies between them.
    stop = np.float32(start + side)
    step = (stop - first) * last / np.float32(max(size - 1, 1))
    position = first * last + np.arange(size, dtype=np.float32) * step
    position = np.minimum(position, last)
    before = np.floor(position)
    after = np.minimum(np.ceil(position), last)
    return before.astype(np.intp), after.astype(np.intp), (position - before).astype(np.float32)


def _clipped(levels: NDArray[np.floating[Any]]) -> Levels:
    return np.asarray(np.clip(levels, 0.0, 1.0), np.float32)
