"""B1: what the framework costs per action, without a GPU and without large matrices.

A decoder of 32 layers, as deep as Llama-2-7B, but 64 wide: its arithmetic is next to nothing, so
the CPU time of one action is mostly the time Python and torch need to issue it. On a GPU faster
than that, this is the time per action. The same is done with transformers' ``generate`` beside
it. Counted are the operations that start work (on a GPU: kernels), not views and allocations; the
count is exact and repeatable, the times are not.

At 32 prompt rows the time is the framework's; at 292, OpenVLA's, even this narrow a network has
much arithmetic in its prefill on one core. The line 'arithmetic' is that prefill's matrix products
and attention alone, the same kernels on tensors that are there already: what no framework saves.

    python -m benchmarks.framework_cost
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig as HfLlamaConfig
from transformers import LlamaForCausalLM

from benchmarks.conditions import conditions, output_argument, print_conditions, print_result
from openvla_ros.model.decoding import EagerPasses, greedy_decode, jacobi_decode
from openvla_ros.model.llama import Llama, LlamaConfig

PROMPT_ROWS = (32, 292)
NUM_TOKENS = 7
TEXT_CONFIG = {
    'vocab_size': 32064,
    'hidden_size': 64,
    'intermediate_size': 172,
    'num_hidden_layers': 32,
    'num_attention_heads': 4,
}
#: Operations that return without computing anything.
_NO_WORK = frozenset(
    f'aten::{name}'
    for line in (
        'view _unsafe_view _reshape_alias reshape transpose t permute movedim numpy_T flatten',
        'unflatten expand expand_as view_as unsqueeze squeeze select slice narrow as_strided',
        'chunk split split_with_sizes unbind detach alias lift_fresh contiguous to',
        'empty empty_like empty_strided new_empty resize_ set_ item _local_scalar_dense',
        'is_nonzero resolve_conj resolve_neg result_type can_cast is_same_size',
    )
    for name in line.split()
)


def count_operations(action: Callable[[], Any]) -> tuple[int, int]:
    """Operations that start work themselves, and all dispatched ones, of one call."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        action()
    events = [event for event in profiler.events() if event.name.startswith('aten::')]
    working = sum(_works(event) and not any(map(_works, _below(event))) for event in events)
    return working, len(events)


def _works(event: Any) -> bool:
    return event.name.startswith('aten::') and event.name not in _NO_WORK


def _below(event: Any) -> Iterator[Any]:
    for child in event.cpu_children:
        yield child
        yield from _below(child)


def measure(action: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Counts and median milliseconds of CPU and wall time of one call."""
    for _ in range(3):
        action()
    kernels, dispatches = count_operations(action)
    cpu_ms, wall_ms = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.thread_time()
        action()
        cpu_ms.append(1e3 * (time.thread_time() - cpu))
        wall_ms.append(1e3 * (time.perf_counter() - wall))
    return {
        'kernels': kernels,
        'dispatches': dispatches,
        'cpu_ms': round(statistics.median(cpu_ms), 2),
        'cpu_ms_min': round(min(cpu_ms), 2),
        'wall_ms': round(statistics.median(wall_ms), 2),
    }


def make_llama(dtype: torch.dtype) -> Llama:
    """32 layers of tiny width, random weights, products joined."""
    llama = Llama(LlamaConfig.from_dict(TEXT_CONFIG), dtype=dtype).eval()
    llama.reset_parameters(seed=1)
    llama.fuse()
    return llama


def prompt(llama: Llama, rows: int) -> torch.Tensor:
    """An embedded prompt [1, rows, d]."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 32000, (1, rows), generator=generator)
    return llama.embed(ids).detach()


def our_actions(llama: Llama, rows: int) -> dict[str, Callable[[], Any]]:
    """Greedy decoding, and a draft that is right."""
    embeds, passes = prompt(llama, rows), EagerPasses(llama)
    tokens = greedy_decode(passes, embeds, NUM_TOKENS).tokens.tolist()
    return {
        'greedy, 7 passes': lambda: greedy_decode(passes, embeds, NUM_TOKENS),
        'draft accepted, 1 pass': lambda: jacobi_decode(passes, embeds, NUM_TOKENS, tokens),
    }


def transformers_action(llama: Llama, rows: int) -> Callable[[], Any]:
    """The same by transformers' ``generate``, on the same weights."""
    oracle = LlamaForCausalLM(HfLlamaConfig(**TEXT_CONFIG, attn_implementation='sdpa'))
    inv_freq = oracle.model.rotary_emb.inv_freq.clone()
    oracle.to(llama.lm_head.weight.dtype).load_state_dict(llama.state_dict())
    oracle.model.rotary_emb.inv_freq = inv_freq
    oracle.eval()
    embeds = prompt(llama, rows)

    def generate() -> torch.Tensor:
        with torch.inference_mode():
            tokens: torch.Tensor = oracle.generate(
                inputs_embeds=embeds,
                max_new_tokens=NUM_TOKENS,
                min_new_tokens=NUM_TOKENS,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=None,
            )
        return tokens

    return generate


def bare_arithmetic(llama: Llama, rows: int) -> Callable[[], Any]:
    """The prefill's matrix products and attention of all layers, and nothing else."""
    config, dtype = llama.config, llama.lm_head.weight.dtype
    d, f = config.hidden_size, config.intermediate_size
    shapes = [(d, 3 * d), (d, d), (d, 2 * f), (f, d)]
    products = [
        (torch.randn(rows, m, dtype=dtype), torch.randn(m, n, dtype=dtype)) for m, n in shapes
    ]
    outs = [torch.empty(rows, n, dtype=dtype) for _, n in shapes]
    q, k, v = torch.randn(3, 1, config.num_attention_heads, rows, config.head_dim, dtype=dtype)

    @torch.inference_mode()
    def run() -> None:
        for _ in range(config.num_hidden_layers):
            for (x, weight), out in zip(products, outs, strict=True):
                torch.mm(x, weight, out=out)
            torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--repeats', type=int, default=15)
    parser.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32')
    output_argument(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = conditions()
    print_conditions(found)
    result: dict[str, Any] = {'dtype': arguments.dtype}
    llama = make_llama(getattr(torch, arguments.dtype))
    for rows in PROMPT_ROWS:
        actions = {'transformers generate, 7 passes': transformers_action(llama, rows)}
        actions |= our_actions(llama, rows)
        actions['arithmetic of the prefill'] = bare_arithmetic(llama, rows)
        for name, action in actions.items():
            measured = measure(action, arguments.repeats)
            result[f'{name}, {rows} rows'] = measured
            print(f'{name}, {rows} rows', measured, flush=True)
    print_result('framework_cost', found, result, arguments.output)


if __name__ == '__main__':
    main()
