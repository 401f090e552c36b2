"""B2: openvla-7b's architecture, full size, random bfloat16 weights, on a CPU.

Needs 17 GB of free memory. Greedy decoding, a draft that is right, and one that is useless; then
the stages alone. Logits of random weights are flat, so where two of them are nearly tied a pass of
another number of rows may round to the other one: the draft that is right is the one that the
verifying pass itself confirms, and where it leaves greedy decoding the margin is printed in units
in the last place (ulp) of the logit. All is timed as torch has it first; then weights are packed
(``model/packed_linear.py``) and freed memory is kept (``model/host_memory.py``; the page faults
show it), as ``LocalBackend.load`` does on a CPU.

Every row is the median of three, with the best. Wall times hold only on an idle machine, which the
conditions show; CPU time over the number of threads is given beside them, and is near the idle
machine's wall time where waiting threads sleep:

    OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0 python -m benchmarks.full_size_cpu
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.conditions import conditions, output_argument, print_conditions, print_result
from benchmarks.draft_identity import largest_logit, ulp
from benchmarks.full_size import PROMPT_IDS, build
from openvla_ros.model import OpenVLA
from openvla_ros.model.host_memory import keep_freed_memory
from openvla_ros.model.llama import Llama
from openvla_ros.model.packed_linear import pack_weights
from openvla_ros.model.quantization import quantize
from openvla_ros.observation.image import preprocess_image

_NEEDED_GIB = 16.5
_REPEATS = 3


def timed(action: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Result, seconds, and seconds of CPU time of all threads over their number."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = action()
    wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    return result, {'s': round(wall_s, 3), 'cpu_s': round(cpu_s / torch.get_num_threads(), 3)}


def page_faults() -> int:
    """How many pages this process has touched for the first time."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def products_alone(llama: Llama, rows: int) -> None:
    """The matrix products of a pass of ``rows`` rows and nothing else: this machine's bound."""
    dtype = llama.model.norm.weight.dtype
    wide = torch.randn(rows, llama.config.hidden_size, dtype=dtype)
    hidden = torch.randn(rows, llama.config.intermediate_size, dtype=dtype)
    for layer in llama.layers:
        attention, mlp = layer.self_attn, layer.mlp
        assert attention.qkv is not None
        assert mlp.gate_up is not None
        attention.qkv(wide)
        attention.o_proj(wide)
        mlp.gate_up(wide)
        mlp.down_proj(hidden)


def confirmed_draft(passes: Any, embeds: torch.Tensor, tokens: list[int]) -> list[int]:
    """The draft that a pass over prompt and draft confirms, from ``tokens``; 7 passes at most."""
    for _ in range(len(tokens)):
        chosen = [int(token) for token in passes.prefill(embeds, tokens[:-1], len(tokens))[0]]
        if chosen == tokens:
            break
        tokens = chosen
    return tokens


def repeated(label: str, action: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """First result, and the times of a few runs."""
    before = page_faults()
    outcomes, times = zip(*(timed(action) for _ in range(_REPEATS)), strict=True)
    summary = {
        's': statistics.median(time['s'] for time in times),
        'best_s': min(time['s'] for time in times),
        'cpu_s': statistics.median(time['cpu_s'] for time in times),
        'page_faults': (page_faults() - before) // _REPEATS,
    }
    print(label, summary, flush=True)
    return outcomes[0], summary


def measure(model: OpenVLA, pixels: torch.Tensor, label: str) -> dict[str, Any]:
    """Time the stages and whole actions of a network as it is."""
    ids = torch.tensor([PROMPT_IDS])
    llama, passes = model.language_model, model.passes
    result: dict[str, Any] = {}

    def keep(name: str, action: Callable[[], Any]) -> Any:
        outcome, result[name] = repeated(label + name, action)
        return outcome

    with torch.inference_mode():
        embeds = model.join(model.project(model.vision_features(pixels)), ids)
        N = embeds.shape[1]
        result['prompt_rows'] = N
        passes.prefill(embeds, [7] * 6, 7)  # every weight has been touched once
        keep('vision', lambda: model.project(model.vision_features(pixels)))
        keep('prefill', lambda: passes.prefill(embeds, (), 7))
        keep('its products alone', lambda: products_alone(llama, N))
        keep('step of 1 row', lambda: passes.advance([7], N))
        keep('step of 6 rows', lambda: passes.advance([7] * 6, N))
        keep('its products alone, 6 rows', lambda: products_alone(llama, 6))
    greedy = keep('greedy, 7 passes', lambda: model.decode(pixels, ids, 7))
    result['greedy, 7 passes']['tokens'] = greedy.tokens.tolist()
    draft = confirmed_draft(passes, embeds, greedy.tokens.tolist())
    for name, tokens in (('draft accepted, 1 pass', draft), ('draft useless', [7] * 7)):
        drafted = keep(name, partial(model.decode, pixels, ids, 7, draft=tokens))
        result[name]['passes'] = drafted.num_passes
        result[name]['tokens as greedy'] = first_difference(model, embeds, greedy, drafted)
        print(label + name, result[name], flush=True)
    return result


@torch.inference_mode()
def first_difference(model: Any, embeds: torch.Tensor, greedy: Any, drafted: Any) -> str:
    """Where the tokens part, and by how little greedy decoding preferred its own."""
    unequal = drafted.tokens != greedy.tokens
    if not unequal.any():
        return 'all'
    first = int(unequal.argmax())
    scale = largest_logit(model.language_model, embeds, greedy.tokens[:first])
    margin = float(greedy.margins[first]) / ulp(scale)
    return f'{first} of {len(unequal)}, then a margin of {margin:g} ulp'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--threads', type=int, default=os.cpu_count())
    parser.add_argument('--quantization', help='a scheme such as int8')
    output_argument(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found = conditions()
    print_conditions(found)
    if found['memory_available_gib'] < _NEEDED_GIB:
        sys.exit(f'needs {_NEEDED_GIB} GiB, {found["memory_available_gib"]} GiB are available')
    # Should memory run short all the same, this process goes before any other.
    Path('/proc/self/oom_score_adj').write_text('1000')
    result: dict[str, Any] = {}
    model, result['build'] = timed(lambda: build('cpu'))
    parameters = sum(p.numel() for p in model.parameters())
    if arguments.quantization:
        result['quantization'] = arguments.quantization
        _, result['quantize'] = timed(lambda: quantize(model, arguments.quantization))
    result['parameters'] = parameters
    print(f'built {parameters} parameters: {result["build"]}', flush=True)

    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    array, result['preprocess'] = timed(lambda: preprocess_image(image, model.image_spec))
    pixels = torch.from_numpy(array)[None]
    result['as torch has it'] = measure(model, pixels, 'as torch has it: ')
    result['packed'], result['pack'] = timed(lambda: pack_weights(model))
    result['freed memory kept'] = keep_freed_memory()
    print(f'packed {result["packed"]} matrices: {result["pack"]}', flush=True)
    result |= measure(model, pixels, '')
    plain, packed = (
        at['greedy, 7 passes']['tokens'] for at in (result['as torch has it'], result)
    )
    result['greedy tokens as before packing'] = packed == plain
    print(f'greedy tokens before packing {plain}, packed {packed}', flush=True)
    result['peak_gib'] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    print_result('full_size_cpu', found, result, arguments.output)


if __name__ == '__main__':
    main()
