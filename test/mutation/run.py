"""Plants every mutant of mutants.py into a copy of the clamp and sees which quick tests notice.

    python test/mutation/run.py [words of a mutant]

Exit status 1 if a mutant survives that is not listed as equivalent, if an equivalent one is
killed, if a
mutant's text is not found exactly once, or if the unchanged clamp fails the same tests.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

# Imported here once: each mutant runs in a fork, which then need not import them again.
import hypothesis  # noqa: F401
import numpy  # noqa: F401
import pytest
import scipy.spatial.transform  # noqa: F401
import yaml  # noqa: F401

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).resolve().parent))
from mutants import MUTANTS, Mutant  # noqa: E402

EFFORT = '0.1'
SKIPPED = 'million or reaches_face_or_corner'  # long, and their shorter relatives see the same
PYTEST = [
    *('-x', '-q', '--no-header', '--tb=line', '-p', 'no:cacheprovider', '-p', 'no:xdist'),
    *('-k', f'not ({SKIPPED})', '--timeout=300'),
]


@dataclass(frozen=True)
class Outcome:
    """What became of one mutant: killed, survived or stale (its text is not there)."""

    mutant: Mutant | None
    fate: str
    seconds: float
    detail: str = ''


def plant(mutant: Mutant | None, folder: Path) -> str:
    """Copy what the tests need into ``folder`` with the mutant in it; returns what is wrong, or
    ''."""
    for room in ('core', 'safety'):
        shutil.copytree(
            REPOSITORY / 'openvla_ros' / room,
            folder / 'openvla_ros' / room,
            ignore=shutil.ignore_patterns('*.pyc'),
        )
    shutil.copy(REPOSITORY / 'openvla_ros' / '__init__.py', folder / 'openvla_ros')
    shutil.copytree(REPOSITORY / 'test' / 'properties', folder / 'test' / 'properties')
    (folder / 'config').symlink_to(REPOSITORY / 'config')
    shutil.copy(REPOSITORY / 'setup.cfg', folder)
    if mutant is None:
        return ''
    rooms = (folder / 'openvla_ros' / room / mutant.file for room in ('safety', 'core'))
    target = next(path for path in rooms if path.is_file())
    text = target.read_text()
    if text.count(mutant.old) != 1:
        return f'{text.count(mutant.old)} times in {mutant.file}'
    target.write_text(text.replace(mutant.old, mutant.new))
    return ''


def tests_of(mutant: Mutant | None) -> list[list[str]]:
    """The test that is likely to kill it, then, if it does not, the whole files."""
    if mutant is None:
        return [sorted({tests_of(each)[0][0] for each in MUTANTS if each.killer})]
    files = [f'test/properties/test_{word}.py' for word in mutant.tests.split()]
    return [[f'{files[0]}::{mutant.killer}'], files] if mutant.killer else [files]


def run_one(mutant: Mutant | None) -> Outcome:
    """Run the quick tests against one mutant (None: the clamp as it is) in this process."""
    start_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix='openvla_ros_mutant_') as name:
        folder = Path(name)
        stale = plant(mutant, folder)
        if stale:
            return Outcome(mutant, 'stale', 0.0, stale)
        stages = tests_of(mutant)
        output = io.StringIO()
        os.chdir(folder)
        os.environ['OPENVLA_ROS_PROPERTY_EFFORT'] = EFFORT
        os.environ['PYTHONDONTWRITEBYTECODE'] = '1'
        sys.path[:0] = [str(folder), str(folder / 'test')]
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            for tests in stages:
                status = pytest.main([*PYTEST, *tests])
                if status != 0:
                    break
        if status not in (0, 1):
            return Outcome(mutant, 'broken', time.monotonic() - start_s, output.getvalue())
        import openvla_ros.safety.clamp as used

        assert Path(used.__file__).is_relative_to(folder), f'tested {used.__file__}'
        failed = [line for line in output.getvalue().splitlines() if line.startswith('FAILED')]
        return Outcome(
            mutant,
            'survived' if status == 0 else 'killed',
            time.monotonic() - start_s,
            failed[0].split(' - ')[0].split('::')[-1] if failed else _last_line(output),
        )


def _last_line(output: io.StringIO) -> str:
    return (output.getvalue().strip().splitlines() or [''])[-1]


def is_fine(outcome: Outcome) -> bool:
    """Tell whether this is the outcome that should be."""
    if outcome.mutant is None or outcome.mutant.equivalent:
        return outcome.fate == 'survived'
    return outcome.fate == 'killed'


def describe(outcome: Outcome) -> str:
    """One line for the log."""
    if outcome.mutant is None:
        return f'{outcome.fate}: the clamp as it is ({outcome.seconds:.1f} s)'
    old, new = (' '.join(text.split())[:50] for text in (outcome.mutant.old, outcome.mutant.new))
    reason = outcome.mutant.equivalent or outcome.detail
    return (
        f'{outcome.fate:8} {outcome.mutant.file}: {old!r} -> {new!r}: {reason} '
        f'({outcome.seconds:.1f} s)'
    )


def run_all(mutants: list[Mutant], processes: int) -> list[Outcome]:
    """Run the unchanged clamp and every mutant, each in a fork of its own."""
    context = multiprocessing.get_context('fork')
    outcomes = []
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        futures = [pool.submit(in_fork, mutant) for mutant in (None, *mutants)]
        for future in futures:
            outcomes.append(future.result())
            print(describe(outcomes[-1]), flush=True)
    return outcomes


def in_fork(mutant: Mutant | None) -> Outcome:
    """Run one mutant in a child: modules once imported would hide the next mutant."""
    context = multiprocessing.get_context('fork')
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sender.send(run_one(mutant)))
    child.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        return Outcome(mutant, 'broken', 0.0, f'its process ended with {child.exitcode}')
    finally:
        child.join()


def main() -> int:
    """Run the job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('words', nargs='?', default='', help='only mutants that hold this text')
    parser.add_argument('--processes', type=int, default=2)
    parser.add_argument('--json', help='write the counts here')
    options = parser.parse_args()
    mutants = [m for m in MUTANTS if options.words in f'{m.file} {m.old} {m.new}']
    start_s = time.monotonic()
    outcomes = run_all(mutants, options.processes)
    wrong = [outcome for outcome in outcomes if not is_fine(outcome)]
    killed = sum(outcome.fate == 'killed' for outcome in outcomes)
    equivalent = sum(bool(m.equivalent) for m in mutants)
    print(
        f'{len(mutants)} mutants: {killed} killed, {equivalent} listed as equivalent, '
        f'{len(wrong)} wrong, {time.monotonic() - start_s:.0f} s'
    )
    if options.json:
        counts = {'mutants': len(mutants), 'killed': killed, 'equivalent': equivalent}
        Path(options.json).write_text(json.dumps({**counts, 'wrong': len(wrong)}))
    for outcome in wrong:
        print(f'WRONG: {describe(outcome)}', file=sys.stderr)
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
