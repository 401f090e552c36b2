"""What a measurement was taken on and with: printed first, and kept in the JSON line."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ('torch', 'transformers', 'bitsandbytes', 'numpy', 'Pillow')


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return 'absent'


def _cpu_name() -> str:
    for line in Path('/proc/cpuinfo').read_text().splitlines():
        if line.startswith('model name'):
            return line.split(':', 1)[1].strip()
    return platform.processor()


def _memory_gib() -> tuple[float, float]:
    """Total and available memory in GiB."""
    lines = Path('/proc/meminfo').read_text().splitlines()
    fields = dict(line.split(':', 1) for line in lines if ':' in line)
    kib = [int(fields[name].split()[0]) for name in ('MemTotal', 'MemAvailable')]
    return round(kib[0] / 2**20, 1), round(kib[1] / 2**20, 1)


def _commit() -> str:
    root = Path(__file__).resolve().parent
    git = ['git', '-C', str(root)]
    found = subprocess.run([*git, 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True)
    if found.returncode:
        return 'unknown'
    package = [*git, 'status', '--porcelain', '--', '../openvla_ros', '.']
    changed = subprocess.run(package, capture_output=True, text=True).stdout.strip()
    return found.stdout.strip() + ('+changes' if changed else '')


def conditions() -> dict[str, Any]:
    """Hardware, versions and load of this run."""
    total, available = _memory_gib()
    found: dict[str, Any] = {
        'commit': _commit(),
        'cpu': _cpu_name(),
        'cores': os.cpu_count(),
        'threads': torch.get_num_threads(),
        'load_1min': round(os.getloadavg()[0], 2),
        'memory_gib': total,
        'memory_available_gib': available,
        'gpu': torch.cuda.get_device_name() if torch.cuda.is_available() else 'none',
        'python': platform.python_version(),
        **{package.lower(): _version(package) for package in _PACKAGES},
    }
    return found


def print_conditions(found: dict[str, Any]) -> None:
    """One line per condition."""
    for name, value in found.items():
        print(f'# {name}: {value}')


def output_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--output``, a file that the JSON line is appended to."""
    parser.add_argument('--output', type=Path, help='append the JSON line to this file')


def print_result(
    benchmark: str, found: dict[str, Any], result: dict[str, Any], output: Path | None
) -> None:
    """The last line of every benchmark: everything as JSON."""
    line = json.dumps({'benchmark': benchmark, 'conditions': found, 'result': result})
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open('a') as file:
            file.write(line + '\n')
    print(line)
