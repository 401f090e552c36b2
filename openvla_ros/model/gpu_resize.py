"""Preprocessing on the device, bit for bit the CPU's: upload uint8, resize there, look up.

Pillow resizes 8-bit images in two separable passes, here across and then down, each a sum of pixel
times integer weight (22 fractional bits), rounded to uint8 in between. Sums of such integers are
exact in float64 in whatever order, so two float64 matrix products give the same pixels on any
device. Normalising is a table of 256 values per channel, rounded to the model's dtype once per
value instead of per pixel.

A 640x480 frame is 0.9 MB on its way to the GPU, a finished float32 tensor of two towers 1.2 MB;
a frame that is already of the network's size is 0.15 MB.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openvla_ros.observation.image import (
    ImageSpec,
    check_rgb_image,
    preprocess_image,
    resize_image,
)

_FRACTION = 22
_Filter = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic with a = -0.5, in Pillow's order of operations."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _bilinear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1.0 - np.abs(x), 0.0)


#: Filter and its support at scale one.
_FILTERS: dict[str, tuple[_Filter, float]] = {
    'bicubic': (_bicubic, 2.0),
    'bilinear': (_bilinear, 1.0),
}


def resample_weights(length: int, size: int, interpolation: str) -> NDArray[np.float64]:
    """Pillow's integer weights for resampling ``length`` samples to ``size``.

    Returns:
        float64[size, length] of integers, 2**22 standing for one.
    """
    kernel, reach = _FILTERS[interpolation]
    step = length / size
    scale = max(step, 1.0)
    support = reach * scale
    weights = np.zeros((size, length))
    for i in range(size):
        center = (i + 0.5) * step
        first = max(int(center - support + 0.5), 0)
        last = min(int(center + support + 0.5), length)
        position = np.arange(first, last, dtype=np.float64)
        taps = kernel((position - center + 0.5) * (1.0 / scale))
        # Summed from left to right as in Pillow; numpy's sum would add in pairs.
        total = np.cumsum(taps)[-1]
        scaled = taps / total * (1 << _FRACTION)
        weights[i, first:last] = np.trunc(scaled + np.where(scaled < 0, -0.5, 0.5))
    return weights


def _rounded(sums: Tensor) -> Tensor:
    """Sums of pixel times weight to levels 0 to 255, as Pillow's clip8."""
    half = float(1 << (_FRACTION - 1))
    return ((sums + half) * 2.0**-_FRACTION).floor_().clamp_(0.0, 255.0)


def resize_like_pillow(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Resize uint8[H, W, 3] to float64[3, S, S] holding Pillow's levels.

    Args:
        image: On the device.
        rows: float64[S, H] of ``resample_weights``.
        columns: float64[S, W].
    """
    channels = image.permute(2, 0, 1).double()
    # Pillow leaves a pass out where the size does not change; the weights are then one.
    across = _rounded(channels @ columns.T)
    return _rounded(rows @ across)


class DevicePreprocessor:
    """``core.image.preprocess_image`` with its output, and most of its work, on a device.

    Args:
        spec: The checkpoint's image specification.
        device: Where the pixel values are wanted.
        dtype: Of the pixel values, the vision towers'.
    """

    def __init__(self, spec: ImageSpec, device: torch.device | str, dtype: torch.dtype) -> None:
        self._spec = spec
        self._device = torch.device(device)
        self._table = normalisation_table(spec).to(self._device, dtype)
        self._weights: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._pinned: dict[tuple[int, ...], Tensor] = {}
        filters = {tower.interpolation for tower in spec.towers}
        self._resizes_here = (
            spec.resize_strategy == 'resize-naive'
            and spec.letterbox_fill is None
            and len(filters) == 1
            and filters <= set(_FILTERS)
        )
        self._filter = spec.towers[0].interpolation

    def __call__(self, image: NDArray[np.uint8]) -> Tensor:
        """Turn uint8[H, W, 3] into pixel values [1, C, S, S] on the device.

        Raises:
            ValueError: the image has another shape or dtype.
        """
        check_rgb_image(image)
        size = self._spec.size
        if image.shape[:2] != (size, size) and not self._resizes_here:
            filters = {tower.interpolation for tower in self._spec.towers}
            if len(filters) > 1:
                pixels = torch.from_numpy(preprocess_image(image, self._spec))
                return pixels[None].to(self._device, self._table.dtype)
            image = resize_image(image, self._spec)
        uploaded = self._upload(image)
        if image.shape[:2] == (size, size):
            return self.look_up(uploaded.permute(2, 0, 1))
        return self.look_up(resize_like_pillow(uploaded, *self._weights_for(image)))

    def look_up(self, levels: Tensor) -> Tensor:
        """Levels [3, S, S] of any dtype to pixel values [1, C, S, S]."""
        towers = len(self._spec.towers)
        index = levels.reshape(1, 3, -1).long().expand(towers, -1, -1)
        values = self._table.gather(2, index)
        return values.view(1, 3 * towers, *levels.shape[1:])

    def _upload(self, image: NDArray[np.uint8]) -> Tensor:
        if self._device.type == 'cpu':
            return torch.from_numpy(image.copy())
        if image.shape not in self._pinned:
            self._pinned[image.shape] = torch.empty(
                image.shape, dtype=torch.uint8, pin_memory=True
            )
        pinned = self._pinned[image.shape]
        # The copy before this one has long arrived: its action has been computed.
        pinned.numpy()[...] = image
        return pinned.to(self._device, non_blocking=True)

    def _weights_for(self, image: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        height, width = image.shape[:2]
        if (height, width) not in self._weights:
            size = self._spec.size
            rows, columns = (
                torch.from_numpy(resample_weights(length, size, self._filter)).to(self._device)
                for length in (height, width)
            )
            self._weights[height, width] = rows, columns
        return self._weights[height, width]


def normalisation_table(spec: ImageSpec) -> Tensor:
    """Pixel value of every level, by ``preprocess_image`` itself: float32[towers, 3, 256]."""
    side = spec.size
    count = math.ceil(256 / side**2)
    levels = np.resize(np.arange(256, dtype=np.uint8), count * side**2)
    values = [
        preprocess_image(np.repeat(part[:, None], 3, 1).reshape(side, side, 3), spec)
        for part in levels.reshape(count, side**2)
    ]
    table = np.concatenate([value.reshape(spec.channels, -1) for value in values], axis=1)
    return torch.from_numpy(np.ascontiguousarray(table[:, :256])).view(-1, 3, 256)
