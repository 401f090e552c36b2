"""Decoding from drafts against greedy decoding, over thousands of actions.

In float32 the tokens must be equal everywhere. In bfloat16 a pass of several rows is another
matrix kernel than a pass of one, so ties may fall the other way: every difference is listed with
its margin in units in the last place (ulp) of the larger logit.

    python -m benchmarks.draft_identity
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.conditions import conditions, output_argument, print_conditions, print_result
from openvla_ros.model.decoding import EagerPasses, greedy_decode, jacobi_decode, neutral_draft
from openvla_ros.model.llama import Llama, LlamaConfig

NUM_TOKENS = 7
VOCAB = 512
STREAMS = ('random', 'smooth', 'static', 'adversarial')
CONFIG = LlamaConfig.from_dict(
    {
        'vocab_size': VOCAB,
        'hidden_size': 64,
        'intermediate_size': 172,
        'num_hidden_layers': 4,
        'num_attention_heads': 4,
    }
)


def make_llama(seed: int, dtype: torch.dtype) -> Llama:
    """Random weights, three times the usual size so that tokens depend on what precedes them."""
    llama = Llama(CONFIG, dtype=torch.float32)
    llama.reset_parameters(seed)
    with torch.no_grad():
        for parameter in llama.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3.0)
    llama.to(dtype).fuse()
    return llama.eval()


def prompts(stream: str, count: int, seed: int, dtype: torch.dtype) -> Iterator[Tensor]:
    """Embedded prompts [1, 24, d] as a camera would make them."""
    generator = torch.Generator().manual_seed(seed)
    state = torch.randn(1, 24, CONFIG.hidden_size, generator=generator)
    for _ in range(count):
        noise = torch.randn(state.shape, generator=generator)
        if stream in ('random', 'adversarial'):
            state = noise
        elif stream == 'smooth':
            state = math.sqrt(1 - 0.05**2) * state + 0.05 * noise
        yield state.to(dtype)


def ulp(value: float) -> float:
    """Distance of neighbouring bfloat16 numbers at ``value``."""
    return 2.0 ** (math.floor(math.log2(abs(value))) - 7)


@torch.inference_mode()
def largest_logit(llama: Llama, embeds: Tensor, tokens: NDArray[np.int64]) -> float:
    """The logit of the token greedy decoding chose after ``tokens``."""
    ids = torch.tensor([tokens.tolist()], dtype=torch.int64)
    logits = llama(torch.cat([embeds, llama.embed(ids)], 1), rows=slice(-1, None))
    return float(logits.float().max())


def compare(stream: str, dtype: torch.dtype, models: int, actions: int) -> dict[str, Any]:
    """Decode ``models * actions`` actions both ways."""
    generator = np.random.default_rng(0)
    passes_taken: list[int] = []
    differences: list[float] = []
    for seed in range(models):
        llama = make_llama(seed, dtype)
        passes = EagerPasses(llama)
        draft = np.array(neutral_draft(NUM_TOKENS, VOCAB))
        for embeds in prompts(stream, actions, seed, dtype):
            greedy = greedy_decode(passes, embeds, NUM_TOKENS)
            if stream == 'adversarial':
                right = generator.integers(0, NUM_TOKENS)
                draft = np.where(np.arange(NUM_TOKENS) < right, greedy.tokens, (draft + 1) % VOCAB)
            result = jacobi_decode(passes, embeds, NUM_TOKENS, draft.tolist())
            draft = result.tokens
            passes_taken.append(result.num_passes)
            unequal = result.tokens != greedy.tokens
            if unequal.any():
                first = int(unequal.argmax())
                scale = largest_logit(llama, embeds, greedy.tokens[:first])
                differences.append(float(greedy.margins[first]) / ulp(scale))
    return {
        'actions': len(passes_taken),
        'mean_passes': round(float(np.mean(passes_taken)), 3),
        'max_passes': max(passes_taken),
        'different_actions': len(differences),
        'margins_ulp': sorted(differences),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--models', type=int, default=5)
    parser.add_argument('--actions', type=int, default=300, help='per model and stream')
    output_argument(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = conditions()
    print_conditions(found)
    result: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16):
        for stream in STREAMS:
            name = f'{stream}, {str(dtype).removeprefix("torch.")}'
            result[name] = compare(stream, dtype, arguments.models, arguments.actions)
            print(name, result[name], flush=True)
    print_result('draft_identity', found, result, arguments.output)


if __name__ == '__main__':
    main()
