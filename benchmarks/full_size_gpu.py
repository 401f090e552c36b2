"""B4: openvla-7b's architecture, full size, on a GPU: three streams of actions.

Random weights, so nothing is downloaded. The streams differ in what the draft is worth: a static
scene (the previous action again: 1 pass), an adversarial one (nothing right: 7 passes), and a
moving one whose passes follow a given distribution (as a trained policy's do; drafts are made
right up to the row that gives that count). Every action is timed from the uint8 image on the host
to the tokens on the host. transformers' ``generate`` on the same weights is the baseline, in
alternating blocks.

    python -m benchmarks.full_size_gpu
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.conditions import conditions, output_argument, print_conditions, print_result
from benchmarks.full_size import PROMPT_IDS, build
from openvla_ros.model import OpenVLA
from openvla_ros.model.gpu_resize import DevicePreprocessor
from openvla_ros.model.graph_start import start_graphs
from openvla_ros.model.quantization import quantize

NUM_TOKENS = 7
WARM_RUNS = 10
#: Passes per action of the moving stream, repeated.
MOVING_PASSES = (2, 3, 3, 4, 3, 4, 2, 3)


class Streams:
    """Actions of one model on one image, with drafts of a wanted worth."""

    def __init__(self, model: OpenVLA) -> None:
        self._model = model
        self._preprocess = DevicePreprocessor(model.image_spec, model.device, model.dtype)
        self._image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
        self._ids = torch.tensor([PROMPT_IDS], device=model.device)
        self.tokens: list[int] = self.act(None).tokens.tolist()

    @torch.inference_mode()
    def act(self, draft: list[int] | None) -> Any:
        """One action from a host image to host tokens."""
        pixels = self._preprocess(self._image)
        embeds = self._model.embed(pixels, self._ids)
        return self._model.decode_embeds(embeds, NUM_TOKENS, draft=draft)

    def draft(self, right: int) -> list[int]:
        """A draft whose first ``right`` tokens agree."""
        return self.tokens[:right] + [(token + 1) % 32000 for token in self.tokens[right:]]


def percentiles(action: Callable[[int], Any], repeats: int) -> dict[str, Any]:
    """Milliseconds of ``action(i)``, p50 to max, and the passes it took."""
    for i in range(WARM_RUNS):
        action(i)
    times_ms, passes = [], []
    for i in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        outcome = action(i)
        times_ms.append(1e3 * (time.perf_counter() - start))
        passes.append(getattr(outcome, 'num_passes', NUM_TOKENS))
    p50, p90, p99 = np.percentile(times_ms, [50, 90, 99]).round(2).tolist()
    worst = round(max(times_ms), 2)
    mean = float(np.mean(passes))
    return {'p50_ms': p50, 'p90_ms': p90, 'p99_ms': p99, 'max_ms': worst, 'mean_passes': mean}


def make_baseline(model: OpenVLA, pixels: torch.Tensor) -> Callable[[], Any]:
    """LlamaForCausalLM of transformers on the very same weights, behind our towers run eagerly.

    Args:
        model: Whose weights are shared.
        pixels: [1, 6, S, S] on its device.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    text = model.config.text
    with torch.device('meta'):
        oracle = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=text.vocab_size,
                hidden_size=text.hidden_size,
                intermediate_size=text.intermediate_size,
                num_hidden_layers=text.num_hidden_layers,
                num_attention_heads=text.num_attention_heads,
                num_key_value_heads=text.num_key_value_heads,
                max_position_embeddings=text.max_position_embeddings,
                rms_norm_eps=text.rms_norm_eps,
                attn_implementation='sdpa',
            )
        ).to(model.dtype)
    oracle.load_state_dict(model.language_model.state_dict(), assign=True)
    rotary = type(oracle.model.rotary_emb)(oracle.config).to(model.device)
    oracle.model.rotary_emb = rotary
    oracle.eval()
    ids = torch.tensor([PROMPT_IDS], device=model.device)

    def act() -> Any:
        with torch.inference_mode():
            embeds = model.join(model.project(model.vision_features(pixels)), ids)
            tokens = oracle.generate(
                inputs_embeds=embeds,
                attention_mask=torch.ones(embeds.shape[:2], device=model.device),
                max_new_tokens=NUM_TOKENS,
                min_new_tokens=NUM_TOKENS,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=None,
            )
            return tokens.cpu()

    return act


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--repeats', type=int, default=30)
    parser.add_argument('--quantization', help='a scheme such as nf4')
    parser.add_argument('--eager', action='store_true', help='without CUDA graphs')
    output_argument(parser)
    arguments = parser.parse_args()
    found = conditions()
    print_conditions(found)
    if not torch.cuda.is_available():
        parser.exit(2, 'no CUDA device: this benchmark has not been run\n')
    started = time.perf_counter()
    model = build('cuda')
    baseline = None
    if not arguments.quantization:
        size = model.image_spec.size
        baseline = make_baseline(
            model, torch.zeros(1, 6, size, size).to(model.device, model.dtype)
        )
    if arguments.quantization:
        quantize(model, arguments.quantization)
    if not arguments.eager:
        start_graphs(model, NUM_TOKENS)
    result: dict[str, Any] = {
        'quantization': arguments.quantization or 'none',
        'execution': model.execution,
        'build_and_capture_s': round(time.perf_counter() - started, 1),
    }
    streams = Streams(model)
    actions: dict[str, Callable[[int], Any]] = {
        'static': lambda i: streams.act(streams.tokens),
        'adversarial': lambda i: streams.act(streams.draft(0)),
        'moving': lambda i: streams.act(
            streams.draft(NUM_TOKENS - MOVING_PASSES[i % len(MOVING_PASSES)])
        ),
        'greedy': lambda i: streams.act(None),
    }
    if baseline is not None:
        actions['transformers generate'] = lambda i: baseline()
    for name in [*actions, *reversed(actions)]:  # A B B A
        measured = percentiles(actions[name], arguments.repeats)
        result.setdefault(name, []).append(measured)
        print(name, measured, flush=True)
    result['peak_gb'] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    print_result('full_size_gpu', found, result, arguments.output)


if __name__ == '__main__':
    main()
