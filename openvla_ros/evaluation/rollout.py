"""Success over held-out scenes: ``python -m openvla_ros.evaluation.rollout``.

Every scene is tried in every precision, so that precisions are compared pair by pair. Results are
kept one line per episode as they come; started again, it goes on where it was.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openvla_ros.action_space.dataset_profile import load_dataset_profile
from openvla_ros.core.resources import resource_path
from openvla_ros.core.strict_config import ConfigError
from openvla_ros.core.worker_processes import worker_processes
from openvla_ros.evaluation.contact_sheet import Strip, contact_sheet
from openvla_ros.evaluation.episodes import Outcome, run_episode
from openvla_ros.evaluation.intervals import paired_difference, proportion
from openvla_ros.model.config import named_device
from openvla_ros.model.graph_start import graphs_wanted
from openvla_ros.model.local_backend import LocalBackend
from openvla_ros.policy.inference import GRAPH_MODES
from openvla_ros.policy.policy import Policy
from openvla_ros.safety.robot_profile import load_robot_profile
from openvla_ros.sim.tasks import KINDS, Kind, sample_episode

UNNORM_KEY = 'openvla_ros_demo'
PRECISIONS = ('bf16', 'fp32', 'nf4', 'int8')


class Trial(NamedTuple):
    """One scene in one precision."""

    precision: str
    kind: Kind
    seed: int


def load_policy(
    checkpoint: str | Path, precision: str, *, device: str = 'cpu', cuda_graphs: str = 'auto'
) -> Policy:
    """Load the demonstration policy in one of PRECISIONS.

    Raises:
        ValueError: an unknown precision.
        ConfigError: a device that is not supported or not there, or has no CUDA graphs.
    """
    if precision not in PRECISIONS:
        raise ValueError(f'precision: got {precision!r}, expected one of {", ".join(PRECISIONS)}')
    dtype = 'float32' if precision == 'fp32' else 'bfloat16'
    quantization = precision if precision in ('nf4', 'int8') else None
    backend = LocalBackend.load(
        checkpoint,
        UNNORM_KEY,
        dtype=dtype,
        device=device,
        quantization=quantization,
        cuda_graphs=cuda_graphs,
    )
    return Policy(backend, load_dataset_profile(UNNORM_KEY))


class Worker:
    """Runs trials in one process; keeps the policy of the last precision."""

    def __init__(
        self, checkpoint: str, max_steps: int, device: str = 'cpu', cuda_graphs: str = 'auto'
    ) -> None:
        """Load nothing yet."""
        self._checkpoint = checkpoint
        self._max_steps = max_steps
        self._device, self._cuda_graphs = device, cuda_graphs
        self._robot = load_robot_profile('sim')
        self._policy: tuple[str, Policy] | None = None

    def run(self, trial: Trial, pictures: list[NDArray[np.uint8]] | None = None) -> Outcome:
        """Run one trial."""
        if self._policy is None or self._policy[0] != trial.precision:
            policy = load_policy(
                self._checkpoint,
                trial.precision,
                device=self._device,
                cuda_graphs=self._cuda_graphs,
            )
            self._policy = (trial.precision, policy)
        episode = sample_episode(trial.kind, trial.seed, 'test')
        return run_episode(
            self._policy[1],
            episode,
            self._robot,
            max_steps=self._max_steps,
            pictures=pictures,
        )


_worker: Worker | None = None


def _start_worker(checkpoint: str, max_steps: int, device: str, cuda_graphs: str) -> None:
    import torch

    global _worker
    torch.set_num_threads(1)
    _worker = Worker(checkpoint, max_steps, device, cuda_graphs)


def _run_in_worker(trial: Trial) -> tuple[Trial, Outcome]:
    assert _worker is not None
    return trial, _worker.run(trial)


class Results:
    """Outcomes by trial, kept in a file of one JSON line each."""

    def __init__(self, path: Path) -> None:
        """Read what is already there."""
        self._path = path
        self.outcomes: dict[Trial, Outcome] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                content = json.loads(line)
                precision = content.pop('precision')
                outcome = Outcome(**content)
                self.outcomes[Trial(precision, outcome.kind, outcome.seed)] = outcome  # type: ignore[arg-type]

    def add(self, trial: Trial, outcome: Outcome) -> None:
        """Keep one more."""
        self.outcomes[trial] = outcome
        with self._path.open('a') as file:
            file.write(json.dumps({'precision': trial.precision, **outcome.record()}) + '\n')

    def of(self, precision: str, kind: str | None = None) -> dict[tuple[str, int], Outcome]:
        """Outcomes of a precision, by kind and seed."""
        return {
            (trial.kind, trial.seed): outcome
            for trial, outcome in sorted(self.outcomes.items())
            if trial.precision == precision and kind in (None, trial.kind)
        }


def summarize(results: Results, precisions: Sequence[str], kinds: Sequence[str]) -> dict[str, Any]:
    """Rates with their intervals, by precision and kind, and paired differences to bf16."""
    summary: dict[str, Any] = {'rates': {}, 'paired_to_bf16': {}}
    for precision in precisions:
        rows = {kind: _rates(results.of(precision, kind).values()) for kind in kinds}
        rows['all'] = _rates(results.of(precision).values())
        summary['rates'][precision] = {kind: row for kind, row in rows.items() if row}
    reference = results.of('bf16')
    for precision in precisions:
        other = results.of(precision)
        both = sorted(reference.keys() & other.keys())
        if precision != 'bf16' and both:
            difference = paired_difference(
                [reference[key].success for key in both], [other[key].success for key in both]
            )
            summary['paired_to_bf16'][precision] = {'pairs': len(both), **difference._asdict()}
    return summary


def _rates(outcomes: Iterable[Outcome]) -> dict[str, Any] | None:
    found = list(outcomes)
    if not found:
        return None
    several = [o for o in found if o.blocks > 1]
    return {
        'episodes': len(found),
        'success': proportion(sum(o.success for o in found), len(found))._asdict(),
        'went_to_named': proportion(sum(o.went_to_named for o in several), len(several))._asdict(),
        'touched_wrong': sum(o.touched_wrong for o in found),
        'median_steps': float(np.median([float(o.steps) for o in found if o.success] or [np.nan])),
    }


def table(summary: dict[str, Any]) -> str:
    """The summary as Markdown."""
    lines = [
        '| precision | task | episodes | success (95 %) | arm at the named block (95 %) |',
        '|---|---|---|---|---|',
    ]
    for precision, rows in summary['rates'].items():
        for kind, row in rows.items():
            cells = (row['episodes'], _percent(row['success']), _percent(row['went_to_named']))
            lines.append(f'| {precision} | {kind} | ' + ' | '.join(map(str, cells)) + ' |')
    for precision, row in summary['paired_to_bf16'].items():
        lines.append(
            f'\n{precision} minus bf16 on the same {row["pairs"]} scenes: '
            f'{100 * row["value"]:+.1f} points (95 %: {100 * row["low"]:+.1f} to '
            f'{100 * row["high"]:+.1f})'
        )
    return '\n'.join(lines)


def _percent(interval: dict[str, float]) -> str:
    return (
        f'{100 * interval["value"]:.1f} % '
        f'({100 * interval["low"]:.1f} to {100 * interval["high"]:.1f})'
    )


def _run_all(trials: Sequence[Trial], arguments: argparse.Namespace, results: Results) -> None:
    began_s = time.monotonic()
    started_with = _worker_arguments(arguments)
    with worker_processes(arguments.workers, _start_worker, *started_with) as pool:
        for done, (trial, outcome) in enumerate(pool.map(_run_in_worker, trials), 1):
            results.add(trial, outcome)
            left_s = (time.monotonic() - began_s) / done * (len(trials) - done)
            print(
                f'{done}/{len(trials)} {trial.precision} {trial.kind} {trial.seed}: '
                f'{outcome.ended} in {outcome.steps} steps, at {outcome.went_to} '
                f'({outcome.instruction}), {left_s / 60:.1f} min left',
                flush=True,
            )


def _worker_arguments(arguments: argparse.Namespace) -> tuple[str, int, str, str]:
    return (
        str(arguments.checkpoint),
        arguments.max_steps,
        arguments.device,
        arguments.cuda_graphs,
    )


def _draw_sheet(arguments: argparse.Namespace, kinds: Sequence[Kind], path: Path) -> None:
    worker = Worker(*_worker_arguments(arguments))
    strips = []
    for kind in kinds:
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.sheet_rows):
            pictures: list[NDArray[np.uint8]] = []
            outcome = worker.run(Trial(arguments.precision[0], kind, seed), pictures)
            strips.append(Strip(pictures, f'{seed} {outcome.instruction}', outcome.success))
    contact_sheet(strips).save(path)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='python -m openvla_ros.evaluation.rollout')
    parser.add_argument('--checkpoint', type=Path, help='folder; default: the shipped one')
    parser.add_argument('--episodes', type=int, default=100, help='held-out scenes per task')
    parser.add_argument('--first-seed', type=int, default=0, help='seed of the first scene')
    parser.add_argument('--precision', nargs='+', default=['bf16'], choices=PRECISIONS)
    parser.add_argument('--device', default='cpu', help='torch device (default: cpu)')
    parser.add_argument(
        '--cuda-graphs',
        choices=GRAPH_MODES,
        default='auto',
        help='run the network as CUDA graphs (default: on a CUDA device, if they give the same '
        'tokens)',
    )
    parser.add_argument('--task', nargs='+', default=list(KINDS), choices=KINDS)
    parser.add_argument('--max-steps', type=int, default=50, help='policy steps per episode')
    parser.add_argument('--workers', type=int, default=1, help='processes')
    parser.add_argument('--sheet-rows', type=int, default=4, help='rows per task on the sheet')
    parser.add_argument('--out', type=Path, default=Path('rollouts'), help='folder for results')
    arguments = parser.parse_args(argv)
    if arguments.checkpoint is None:
        arguments.checkpoint = resource_path('checkpoints/demo')
    try:
        graphs_wanted(arguments.cuda_graphs, named_device(arguments.device))
    except ConfigError as error:
        parser.error(str(error))
    return arguments


def _missing(arguments: argparse.Namespace, results: Results) -> Iterator[Trial]:
    for precision in arguments.precision:
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.episodes):
            for kind in arguments.task:
                trial = Trial(precision, kind, seed)
                if trial not in results.outcomes:
                    yield trial


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, print the table, write summary and contact sheet."""
    arguments = _arguments(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = Results(arguments.out / 'episodes.jsonl')
    trials = list(_missing(arguments, results))
    if trials:
        _run_all(trials, arguments, results)
    summary = summarize(results, arguments.precision, arguments.task)
    summary['checkpoint'] = str(arguments.checkpoint)
    (arguments.out / 'summary.json').write_text(json.dumps(summary, indent=1) + '\n')
    print(table(summary))
    if arguments.sheet_rows:
        _draw_sheet(arguments, arguments.task, arguments.out / 'contact_sheet.png')
    return 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print('stopped; the same command goes on from here', flush=True)
        sys.exit(130)
