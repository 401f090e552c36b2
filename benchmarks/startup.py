"""B6: from nothing to the first action: imports, load, warm-up, first and second action.

Each run is a process of its own, so that imports and allocations are paid for. The checkpoint may
be any folder; without one the golden one of the tests is used.

    python -m benchmarks.startup --checkpoint checkpoints/demo
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.conditions import conditions, output_argument, print_conditions, print_result

_ROOT = Path(__file__).resolve().parents[1]
_TINY = _ROOT / 'test' / 'golden' / 'openvla_tiny'


def start_once(checkpoint: Path, device: str) -> dict[str, float]:
    """Seconds of each phase, in this process."""
    marks = [('imports', time.perf_counter())]
    import torch

    from openvla_ros.model import OpenVLA
    from openvla_ros.model.graph_start import start_graphs
    from openvla_ros.model.self_test import run_self_test

    marks.append(('load', time.perf_counter()))
    model = OpenVLA.from_pretrained(checkpoint, device=device)
    model.language_model.fuse()
    marks.append(('capture', time.perf_counter()))
    if device != 'cpu':
        start_graphs(model, 7)
    marks.append(('self_test', time.perf_counter()))
    run_self_test(model)
    size = model.image_spec.size
    pixels = torch.zeros(model.image_spec.channels, size, size)
    marks.append(('first_action', time.perf_counter()))
    first = model.decode(pixels, [1, 512, 29901], 7)
    marks.append(('second_action', time.perf_counter()))
    model.decode(pixels, [1, 512, 29901], 7, draft=first.tokens)
    marks.append(('end', time.perf_counter()))
    return {name: after - start for (name, start), (_, after) in pairwise(marks)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--checkpoint', type=Path, default=_TINY)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--runs', type=int, default=5)
    parser.add_argument('--child', action='store_true', help=argparse.SUPPRESS)
    output_argument(parser)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(start_once(arguments.checkpoint, arguments.device)))
        return
    found = conditions()
    print_conditions(found)
    command = [sys.executable, '-m', 'benchmarks.startup', '--child']
    command += ['--checkpoint', str(arguments.checkpoint), '--device', arguments.device]
    runs: list[dict[str, Any]] = []
    for _ in range(arguments.runs):
        start = time.perf_counter()
        done = subprocess.run(command, cwd=_ROOT, check=True, capture_output=True, text=True)
        phases = json.loads(done.stdout.splitlines()[-1])
        phases['whole_process'] = time.perf_counter() - start
        runs.append(phases)
    result: dict[str, Any] = {'checkpoint': arguments.checkpoint.name, 'runs': len(runs)}
    for phase in runs[0]:
        result[f'{phase}_s'] = round(statistics.median(run[phase] for run in runs), 3)
        print(phase, result[f'{phase}_s'])
    print_result('startup', found, result, arguments.output)


if __name__ == '__main__':
    main()
