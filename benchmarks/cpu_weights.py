"""Products of decoder layers of Llama-2-7B's widths on a CPU, by how the weights are stored.

bfloat16 as torch has it and packed, int8 in bitsandbytes and packed (``model/packed_linear.py``),
in turn within one run. Two layers, so that the weights come from memory as in the whole network.
``benchmarks.full_size_cpu`` has whole actions.

    python -m benchmarks.cpu_weights
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

import torch

from benchmarks.conditions import conditions, output_argument, print_conditions, print_result
from benchmarks.full_size_cpu import products_alone
from openvla_ros.model.host_memory import keep_freed_memory
from openvla_ros.model.llama import Llama, LlamaConfig
from openvla_ros.model.packed_linear import pack_weights
from openvla_ros.model.quantization import quantize

#: A picture, a sentence and a draft; a draft alone; a token.
ROWS = (286, 6, 1)
LAYERS = 2
CONFIG = LlamaConfig.from_dict(
    {
        'vocab_size': 256,
        'hidden_size': 4096,
        'intermediate_size': 11008,
        'num_hidden_layers': LAYERS,
        'num_attention_heads': 32,
    }
)


def networks() -> dict[str, Llama]:
    """The same random weights, stored in four ways."""
    found = {}
    for name in ('bfloat16', 'bfloat16, packed', 'int8, bitsandbytes', 'int8, packed'):
        llama = Llama(CONFIG, dtype=torch.bfloat16).eval()
        llama.reset_parameters(seed=0)
        if name.startswith('int8'):
            quantize(llama, 'int8')
        else:
            llama.fuse()
        if name.endswith('packed') and not pack_weights(llama):
            print(f'{name}: left out, since this CPU or torch does not pack them')
            continue
        found[name] = llama
    return found


@torch.inference_mode()
def layer_ms(llama: Llama, rows: int) -> float:
    """Milliseconds of the products of one layer."""
    start = time.perf_counter()
    products_alone(llama, rows)
    return 1e3 * (time.perf_counter() - start) / LAYERS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--threads', type=int, default=os.cpu_count())
    parser.add_argument('--repeats', type=int, default=7)
    output_argument(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found = conditions()
    print_conditions(found)
    stored = networks()
    keep_freed_memory()
    result: dict[str, Any] = {}
    for rows in ROWS:
        times: dict[str, list[float]] = {name: [] for name in stored}
        for _ in range(arguments.repeats + 1):
            for name, llama in stored.items():
                times[name].append(layer_ms(llama, rows))
        for name, measured in times.items():
            counted = measured[1:]
            result[f'{rows} rows, {name}'] = summary = {
                'ms': round(statistics.median(counted), 2),
                'best_ms': round(min(counted), 2),
            }
            print(f'{rows} rows, {name}', summary, flush=True)
    print_result('cpu_weights', found, result, arguments.output)


if __name__ == '__main__':
    main()
