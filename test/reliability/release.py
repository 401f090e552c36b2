"""The release-sized reliability run, and the page that says what it showed.

    python -m reliability.release                  # about an hour on two quiet cores
    python -m reliability.release --scale 0.04     # a short one, which says so on its page

Every part writes its figures as soon as it has them; a part that fails does not stop the others.
Exit
status 1 if anything was not as it must be.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from harness.processes import REPOSITORY, TEST_FOLDER
from harness.world import World
from properties.fuzz import fuzz
from reliability import faults
from reliability.message_fuzz import fuzz_messages
from reliability.report import write_page
from reliability.runner import Result, run_fault, start_main_world, start_sim_time_world
from reliability.soak import soak
from reliability.test_controller_process import start_in_random_order

FAULTS, MESSAGES, SOAK_S, TICKS, STARTS = 250, 100_000, 600.0, 10_000_000, 20
PARTS = ('properties', 'ticks', 'mutation', 'faults', 'starts', 'messages', 'soak')


def run_properties(_: Path, scale: float) -> dict[str, Any]:
    """The property tests with as many examples as in `make test`, or three times as many."""
    effort = max(0.05, min(3.0, 3.0 * scale))
    arguments = ['-q', '-p', 'no:cacheprovider', '--hypothesis-show-statistics', '--timeout=3600']
    result = subprocess.run(
        [sys.executable, '-m', 'pytest', *arguments, 'test/properties', '-k', 'not million'],
        cwd=REPOSITORY,
        env={**os.environ, 'OPENVLA_ROS_PROPERTY_EFFORT': str(effort)},
        capture_output=True,
        text=True,
    )
    examples = sum(map(int, re.findall(r'(\d+) passing', result.stdout)))
    summary = (result.stdout.strip().splitlines() or ['no output'])[-1]
    return {'examples': examples, 'summary': summary, 'ok': result.returncode == 0}


def run_ticks(_: Path, scale: float) -> dict[str, Any]:
    """Judged ticks of hostile input."""
    ticks, seeds = max(100_000, round(TICKS * scale)), 16
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        tallies = list(pool.map(fuzz, range(1000, 1000 + seeds), [ticks // seeds] * seeds))
    return {
        'ticks': sum(t.ticks for t in tallies),
        'moving': sum(t.moving for t in tallies),
        'offered': sum(t.offered for t in tallies),
        'accepted': sum(t.accepted for t in tallies),
        'ok': True,
    }


def run_mutation(folder: Path, _: float) -> dict[str, Any]:
    """The mutation job; it has one size."""
    counts = folder / 'mutation.json'
    script = TEST_FOLDER / 'mutation' / 'run.py'
    result = subprocess.run(
        [sys.executable, script, '--json', counts], capture_output=True, text=True
    )
    found = json.loads(counts.read_text()) if counts.exists() else {'error': result.stderr[-500:]}
    return {**found, 'ok': result.returncode == 0}


def run_faults(folder: Path, scale: float) -> dict[str, Any]:
    """Process faults in shuffled rounds, each round on new processes."""
    wanted = max(10, round(FAULTS * scale))
    book = FaultBook()
    for number in range(1000):
        if book.count >= wanted:
            break
        for catalogue, start in (
            (faults.MAIN, start_main_world),
            (faults.SIM_TIME, start_sim_time_world),
        ):
            cases = faults.shuffled(catalogue, number)[: max(0, wanted - book.count)]
            if cases:
                book.run_round(cases, start, folder / f'{start.__name__}-{number}')
    return book.figures()


class FaultBook:
    """Collects what the faults did."""

    def __init__(self) -> None:
        self.stops: dict[str, list[float]] = defaultdict(list)
        self.rows: dict[str, set[str]] = defaultdict(set)
        self.counts: Counter[str] = Counter()
        self.errors: list[str] = []
        self.repeated: list[str] = []
        self.not_judged: list[str] = []
        self.commands = 0
        self.notes: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """Faults injected."""
        return self.counts.total()

    def run_round(
        self, cases: list[faults.Fault], start: Callable[..., Any], folder: Path
    ) -> None:
        """Run cases one after another; after an error the rest of them on new processes."""
        rest = list(cases)
        attempt = 0
        while rest:
            attempt += 1
            with start(folder / str(attempt), deadline_s=60.0 + 20.0 * len(rest)) as world:
                while rest:
                    fault = rest.pop(0)
                    if not self._run(world, fault):
                        break
                self._judge(world)
            # Killed processes leave shared memory of Fast DDS behind; hundreds of them fill it.
            subprocess.run(['fastdds', 'shm', 'clean'], capture_output=True)

    def _run(self, world: World, fault: faults.Fault) -> bool:
        kind = fault.name.split(' ')[0]
        self.counts[kind] += 1
        self.rows[kind] |= set(fault.rows)
        try:
            result: Result = run_fault(world, fault)
        except Exception as error:
            self.errors.append(f'{fault.name}: {type(error).__name__}: {str(error)[:300]}')
            return False
        if result.stop_s is not None:
            self.stops[kind].append(result.stop_s)
        self.repeated += [f'{fault.name}: {why}' for why in result.repeated]
        if not result.judged:
            self.not_judged.append(fault.name)
        print(f'{self.count}: {fault.name}: {result.stop_s}', flush=True)
        return True

    def _judge(self, world: World) -> None:
        report = world.check()
        self.commands += report.samples
        self.notes += report.notes
        try:
            report.require_clean()
        except AssertionError as error:
            self.errors.append(str(error))

    def figures(self) -> dict[str, Any]:
        """Everything, for the page."""
        kinds = {
            kind: {
                'rows': sorted(self.rows[kind]),
                'count': self.counts[kind],
                'median_s': float(np.median(self.stops[kind])) if self.stops[kind] else None,
                'max_s': max(self.stops[kind], default=None),
            }
            for kind in sorted(self.counts)
        }
        return {
            'faults': self.count,
            'commands': self.commands,
            'kinds': kinds,
            'errors': self.errors,
            'repeated': self.repeated,
            'not_judged': self.not_judged,
            'notes': dict(self.notes),
            'ok': not self.errors,
        }


def run_starts(folder: Path, scale: float) -> dict[str, Any]:
    """All processes started in random orders."""
    count = max(2, round(STARTS * scale))
    for seed in range(count):
        start_in_random_order(folder / f'start-{seed}', 100 + seed)
    return {'starts': count, 'ok': True}


def run_messages(folder: Path, scale: float) -> dict[str, Any]:
    """Fuzzed messages over DDS."""
    result = fuzz_messages(folder, max(1000, round(MESSAGES * scale)))
    return {**dataclasses.asdict(result), 'total': result.total, 'ok': True}


def run_soak(folder: Path, scale: float) -> dict[str, Any]:
    """Everything together."""
    result = soak(folder, max(15.0, SOAK_S * scale))
    problems = result.problems()
    return {**dataclasses.asdict(result), 'problems': problems, 'ok': not problems}


def run_part(part: str, folder: Path, scale: float) -> dict[str, Any]:
    """Run one part; what it raises becomes its figure."""
    start_s, load = time.monotonic(), os.getloadavg()[0]
    print(f'== {part}', flush=True)
    (folder / part).mkdir()
    try:
        figures = globals()[f'run_{part}'](folder / part, scale)
    except Exception as error:
        figures = {'ok': False, 'error': f'{type(error).__name__}: {str(error)[:1000]}'}
    figures['seconds'] = time.monotonic() - start_s
    figures['load'] = [load, os.getloadavg()[0]]
    print(f'   {"ok" if figures["ok"] else "NOT OK"}, {figures["seconds"]:.0f} s', flush=True)
    return figures


def _earlier(path: Path, scale: float) -> dict[str, Any]:
    """Figures an earlier run of the same size has left, so that it can go in parts."""
    results = json.loads(path.read_text()) if path.exists() else {}
    return results if results.get('scale') == scale else {'scale': scale}


def main() -> int:
    """Run all parts and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--scale', type=float, default=1.0, help='1 is the size of a release')
    parser.add_argument('--only', nargs='+', choices=PARTS, default=PARTS)
    parser.add_argument('--page', type=Path, default=REPOSITORY / 'docs' / 'reliability.md')
    options = parser.parse_args()
    out = REPOSITORY / 'out'
    out.mkdir(exist_ok=True)
    results = _earlier(out / 'reliability.json', options.scale)
    with tempfile.TemporaryDirectory(prefix='openvla_ros_reliability_') as folder:
        for part in options.only:
            results[part] = run_part(part, Path(folder), options.scale)
            (out / 'reliability.json').write_text(json.dumps(results, indent=1))
    write_page(results, options.page)
    wrong = [part for part in options.only if not results[part]['ok']]
    print(f'{options.page}: {wrong or "everything is as it must be"}')
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
