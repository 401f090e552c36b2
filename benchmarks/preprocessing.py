"""Image to pixel values: one resize and a table against the original recipe, bit for bit equal.

The original resizes once per tower, divides by 255, subtracts and divides per tower, and stacks.

    python -m benchmarks.preprocessing
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.conditions import conditions, output_argument, print_conditions, print_result
from openvla_ros.observation.image import ImageRecipe, ImageSpec, apply_recipe, preprocess_image

SPEC = ImageSpec.from_config(
    {
        'image_resize_strategy': 'resize-naive',
        'input_sizes': [[3, 224, 224], [3, 224, 224]],
        'interpolations': ['bicubic', 'bicubic'],
        'means': [[0.485, 0.456, 0.406], [0.5, 0.5, 0.5]],
        'stds': [[0.229, 0.224, 0.225], [0.5, 0.5, 0.5]],
    }
)


def original_recipe(image: NDArray[np.uint8]) -> torch.Tensor:
    """PrismaticImageProcessor's steps with PIL and torch, as torchvision runs them."""
    towers = []
    for tower in SPEC.towers:
        picture = Image.fromarray(image).convert('RGB')
        picture = picture.resize((224, 224), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
        pixels = pixels.to(torch.float32).div(255)
        mean = torch.tensor(tower.mean)[:, None, None]
        std = torch.tensor(tower.std)[:, None, None]
        towers.append(pixels.sub_(mean).div_(std))
    return torch.vstack(towers)[None]


def median_ms(action: Callable[[], Any], repeats: int = 100) -> float:
    """Median CPU milliseconds of the calling thread."""
    times = []
    for _ in range(repeats + 5):
        start = time.thread_time()
        action()
        times.append(1e3 * (time.thread_time() - start))
    return round(statistics.median(times[5:]), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    output_argument(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = conditions()
    print_conditions(found)
    result: dict[str, Any] = {}
    for height, width in ((480, 640), (720, 1280), (224, 224)):
        image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        equal = np.array_equal(original_recipe(image)[0].numpy(), preprocess_image(image, SPEC))
        result[f'{width}x{height}'] = {
            'original_ms': median_ms(partial(original_recipe, image)),
            'ours_ms': median_ms(partial(preprocess_image, image, SPEC)),
            'lanczos3_squash_ms': median_ms(
                partial(apply_recipe, image, ImageRecipe('lanczos3'), 224), 20
            ),
            'differing_values': 0 if equal else 'some',
        }
        print(f'{width}x{height}', result[f'{width}x{height}'], flush=True)
    print_result('preprocessing', found, result, arguments.output)


if __name__ == '__main__':
    main()
