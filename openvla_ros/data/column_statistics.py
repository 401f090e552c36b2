"""Statistics of a data set's columns as LeRobot writes them: meta/stats.json and per episode."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla_ros.data.episode import decode_image

_QUANTILES = {'q01': 0.01, 'q10': 0.1, 'q50': 0.5, 'q90': 0.9, 'q99': 0.99}
#: Images of an episode that are looked at, evenly spread.
_IMAGES = 8

Histogram = NDArray[np.int64]


def number_statistics(values: NDArray[Any]) -> dict[str, list[float] | list[int]]:
    """Statistics of numbers [N,D], by name; D values each, and the count."""
    rows = np.asarray(values, np.float64).reshape(len(values), -1)
    found: dict[str, list[float] | list[int]] = {
        'min': rows.min(0).tolist(),
        'max': rows.max(0).tolist(),
        'mean': rows.mean(0).tolist(),
        'std': rows.std(0).tolist(),
        'count': [len(rows)],
    }
    return found | {
        name: np.quantile(rows, part, axis=0).tolist() for name, part in _QUANTILES.items()
    }


def image_histogram(images: Sequence[bytes], where: str) -> tuple[Histogram, int]:
    """How often each level occurs, int64[3,256], in some of the images; and in how many."""
    chosen = sorted({round(i) for i in np.linspace(0, len(images) - 1, _IMAGES)})
    counts = np.zeros((3, 256), np.int64)
    for index in chosen:
        pixels = decode_image(images[index], where)
        for channel in range(3):
            counts[channel] += np.bincount(pixels[..., channel].ravel(), minlength=256)
    return counts, len(chosen)


def image_statistics(counts: Histogram, num_images: int) -> dict[str, Any]:
    """Statistics of the levels on [0, 1], [3,1,1] each, and the number of images."""
    levels = np.arange(256) / 255.0
    parts = counts / counts.sum(1, keepdims=True)
    mean = parts @ levels
    std = np.sqrt(np.maximum(parts @ levels**2 - mean**2, 0.0))
    cumulated = np.cumsum(parts, axis=1)
    found = {
        'min': levels[(counts > 0).argmax(1)],
        'max': levels[255 - (counts[:, ::-1] > 0).argmax(1)],
        'mean': mean,
        'std': std,
    }
    found |= {name: levels[(cumulated >= q).argmax(1)] for name, q in _QUANTILES.items()}
    shaped = {name: values.reshape(3, 1, 1).tolist() for name, values in found.items()}
    return {**shaped, 'count': [num_images]}
