"""Data, training and evaluation of the demonstration policy: ``python -m openvla_ros.training``.

Started again with the same arguments it goes on where it stopped. What is random has fixed seeds;
the order in which a sum over threads is made does not, so weights repeat up to rounding.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.training.batches import Demonstrations
from openvla_ros.training.cloning import Schedule, train
from openvla_ros.training.recording import record_corrections, record_demonstrations
from openvla_ros.training.run import UNNORM_KEY, Run
from openvla_ros.training.small_model import SmallModel


def main(argv: Sequence[str] | None = None) -> int:
    """Run all stages that are not done yet."""
    arguments = _arguments(argv)
    run = Run(arguments.out, SmallModel(), arguments.start)
    schedule = Schedule(
        steps=arguments.steps,
        batch=arguments.batch,
        peak_rate=arguments.rate,
        seed=arguments.seed,
    )
    record_demonstrations(
        run.data, arguments.shards, UNNORM_KEY, run.sizes.image_size, arguments.workers, _say
    )
    run.prepare(_demonstrations(run, schedule))
    for number, until in enumerate(_rounds(arguments.steps, arguments.rounds)):
        if number:
            _correct(run, number, until, arguments)
        _train(run, schedule, until, arguments.workers)
    checkpoint = run.export(arguments.out / 'checkpoint')
    _say(f'wrote {checkpoint}')
    return _evaluate(checkpoint, arguments)


def _demonstrations(run: Run, schedule: Schedule) -> Demonstrations:
    try:
        data = Demonstrations(run.shards())
        data.num_batches(schedule.batch)
    except ConfigError as error:
        sys.exit(f'{run.data}: {error}')
    return data


def _train(run: Run, schedule: Schedule, until: int, workers: int) -> None:
    try:
        state = run.state(schedule)
    except ValueError as error:
        sys.exit(str(error))
    data = Demonstrations(run.shards(), {'policy': 2})
    if state.step < until:
        _say(f'training on {len(data)} images from step {state.step} to {until}')
        train(
            state,
            data,
            run.writer(),
            run.sizes.preprocessor_config(),
            schedule,
            run.state_path,
            _say,
            until=until,
            threads=workers,
        )


def _correct(run: Run, number: int, until: int, arguments: argparse.Namespace) -> None:
    """Record what the policy gets into, with the weights it has before round ``number``."""
    if run.step() >= until:
        return
    checkpoint = run.folder / f'round_{number}'
    if not checkpoint.exists():
        run.export(checkpoint)
    shards = arguments.correction_shards
    record_corrections(
        run.data, (number - 1) * shards, shards, checkpoint, UNNORM_KEY, arguments.workers, _say
    )


def _rounds(steps: int, rounds: int) -> list[int]:
    """Steps at which each round ends, equally far apart; the first is plain cloning."""
    return [steps * (i + 1) // (rounds + 1) for i in range(rounds + 1)]


def _evaluate(checkpoint: Path, arguments: argparse.Namespace) -> int:
    """Measure success in a process of its own, as the evaluation stands above the training."""
    command = [sys.executable, '-m', 'openvla_ros.evaluation.rollout']
    command += ['--checkpoint', str(checkpoint), '--episodes', str(arguments.episodes)]
    command += ['--workers', str(arguments.workers), '--out', str(arguments.out / 'rollouts')]
    return subprocess.run(command, check=False).returncode


def _say(line: str) -> None:
    print(time.strftime('%H:%M:%S'), line, flush=True)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='python -m openvla_ros.training')
    parser.add_argument('--out', type=Path, default=Path('runs/demo'), help='folder of the run')
    parser.add_argument('--start', type=Path, help='checkpoint to go on from (default: nothing)')
    parser.add_argument('--shards', type=int, default=76, help='shards of 48 demonstrations')
    parser.add_argument('--steps', type=int, default=Schedule.steps, help='optimiser steps in all')
    parser.add_argument('--batch', type=int, default=Schedule.batch, help='images per step')
    parser.add_argument(
        '--rate',
        type=float,
        default=Schedule.peak_rate,
        help=f'largest learning rate of AdamW; of Muon {Schedule.matrix_ratio:g} times that',
    )
    parser.add_argument('--rounds', type=int, default=2, help='rounds of corrections')
    parser.add_argument('--correction-shards', type=int, default=12, help='shards per round')
    parser.add_argument('--episodes', type=int, default=50, help='scenes per task at the end')
    parser.add_argument('--workers', type=int, default=2, help='processes, and training threads')
    parser.add_argument('--seed', type=int, default=0, help='of weights, order and light')
    return parser.parse_args(argv)


if __name__ == '__main__':
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        _say('stopped; the same command goes on from here')
        sys.exit(130)
