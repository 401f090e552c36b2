"""How far quantised weights move logits and tokens, on a given checkpoint.

Against the same checkpoint in bfloat16: relative error of the logits, tokens that stay the same,
and by how many bins the others move, over noise images. On a random-weight checkpoint (the golden
one) the logits are nearly flat, so tokens change at the least touch: that is the worst case. What
it costs a trained policy is its success rate, which only rollouts show.

    python -m benchmarks.quantization_agreement --checkpoint checkpoints/demo
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.conditions import conditions, output_argument, print_conditions, print_result
from openvla_ros.model import OpenVLA
from openvla_ros.model.decoding import DecodeResult
from openvla_ros.model.quantization import SCHEMES, model_bytes

_TINY = Path(__file__).resolve().parents[1] / 'test' / 'golden' / 'openvla_tiny'
PROMPT = [1, 512, 29901, 1724, 3158, 881, 278]
NUM_TOKENS = 7


def images(model: OpenVLA, count: int) -> torch.Tensor:
    """Coarse coloured patterns: more like pictures than white noise."""
    generator = torch.Generator().manual_seed(0)
    size = model.image_spec.size
    coarse = torch.randn(count, model.image_spec.channels, 8, 8, generator=generator)
    return torch.nn.functional.interpolate(coarse, (size, size), mode='bilinear')


@torch.inference_mode()
def run(model: OpenVLA, pixels: torch.Tensor) -> tuple[torch.Tensor, list[DecodeResult]]:
    """Logits behind the prompt [count, V], and the decoded actions."""
    model.language_model.fuse()
    ids = model.prompt_ids(PROMPT)
    logits = [model.logits(image[None], ids)[0, -1].float() for image in pixels]
    return torch.stack(logits), [model.decode(image, PROMPT, NUM_TOKENS) for image in pixels]


def compare(
    exact: tuple[torch.Tensor, list[DecodeResult]], other: tuple[torch.Tensor, list[DecodeResult]]
) -> dict[str, float]:
    """Relative logit error, share of equal tokens and actions, and the mean move in bins."""
    error = ((other[0] - exact[0]).norm() / exact[0].norm()).item()
    expected = np.stack([result.tokens for result in exact[1]])
    got = np.stack([result.tokens for result in other[1]])
    return {
        'relative_logit_error': round(error, 4),
        'first_token_same': round(float((expected[:, 0] == got[:, 0]).mean()), 3),
        'tokens_same': round(float((expected == got).mean()), 3),
        'actions_same': round(float((expected == got).all(1).mean()), 3),
        'mean_move_bins': round(float(np.abs(expected - got).mean()), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--checkpoint', type=Path, default=_TINY)
    parser.add_argument('--images', type=int, default=48)
    output_argument(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = conditions()
    print_conditions(found)

    def load(scheme: str | None, dtype: torch.dtype = torch.bfloat16) -> OpenVLA:
        return OpenVLA.from_pretrained(arguments.checkpoint, dtype=dtype, quantization=scheme)

    model = load(None)
    pixels = images(model, arguments.images)
    exact = run(model, pixels)
    result: dict[str, Any] = {
        'checkpoint': arguments.checkpoint.name,
        'images': arguments.images,
        'bfloat16': {'bytes': model_bytes(model)},
        'float32': compare(exact, run(load(None, torch.float32), pixels)),
    }
    print('float32', result['float32'], flush=True)
    for name in SCHEMES:
        model = load(name)
        result[name] = {**compare(exact, run(model, pixels)), 'bytes': model_bytes(model)}
        print(name, result[name], flush=True)
    print_result('quantization_agreement', found, result, arguments.output)


if __name__ == '__main__':
    main()
