"""Fine-tune a checkpoint on data sets: ``python -m openvla_ros.training.finetune``.

Started again with the same arguments it goes on where it stopped, with the same result.
"""

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.model.checkpoint import CheckpointError
from openvla_ros.model.config import load_config, named_device
from openvla_ros.model.hub import checkpoint_folder
from openvla_ros.model.openvla import OpenVLA, default_preprocessor
from openvla_ros.model.precision import free_memory_bytes
from openvla_ros.policy.inference import is_out_of_memory
from openvla_ros.training.fine_tuning import DivergedError, FineTuning, Optimization
from openvla_ros.training.fine_tuning_settings import Settings, check_folder
from openvla_ros.training.memory import Plan, training_memory
from openvla_ros.training.new_adapter import new_adapter
from openvla_ros.training.processes import join_processes
from openvla_ros.training.strategies import STRATEGIES, check_strategy, select_trained

#: Upstream's for adapters; for whole weights the rate that OpenVLA was trained with.
_RATE_LORA, _RATE_WEIGHTS = 5e-4, 2e-5


def main(argv: Sequence[str] | None = None) -> int:
    """Fine-tune; 1 where it went wrong or the policy does worse than training says, 2 refused."""
    arguments = _arguments(argv)
    try:
        return _run(arguments)
    except (ConfigError, CheckpointError) as error:
        print(error, file=sys.stderr)
    except DivergedError as error:
        print(error, file=sys.stderr)
        return 1
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        print(
            f'memory ran out ({" ".join(str(error).split())[:120]}); the same command with a '
            'smaller --micro-batch goes on from the last saved step',
            file=sys.stderr,
        )
        return 1
    except ModuleNotFoundError as error:
        print(
            f'{error.name} is not installed; pip install -r requirements/data.txt -r '
            'requirements/evaluation.txt',
            file=sys.stderr,
        )
    return 2


def _run(arguments: argparse.Namespace) -> int:
    # pyarrow and matplotlib are extras: what is missing is a sentence, see main.
    from openvla_ros.data.data_set import DataSet
    from openvla_ros.data.question_set import QUESTIONS_FILE, QuestionSet
    from openvla_ros.training.fine_tuning_run import LAST, FineTuningRun
    from openvla_ros.training.inference_check import check_inference
    from openvla_ros.training.mixture import ExampleMaker, Mixture, robot_sources, split_source

    settings = _settings(arguments)
    check_folder(arguments.out, settings)
    sources = [
        split_source(
            QuestionSet(folder) if (folder / QUESTIONS_FILE).is_file() else DataSet(folder),
            weight,
            settings.held_out,
            settings.seed,
        )
        for folder, weight in map(_weighted, settings.data)
    ]
    mixture = Mixture(sources, settings.seed)
    if len(mixture) < settings.batch:
        raise ConfigError(
            f'--data: {len(mixture)} frames to train on, expected at least the batch of '
            f'{settings.batch}; record more, or set --batch'
        )
    base = checkpoint_folder(arguments.checkpoint)
    device = named_device(arguments.device)
    processes = join_processes(settings.batch, device)
    say = _say if processes.first else _keep_silent
    recompute = _plan_memory(base, settings, device, say)
    model = _load(base, settings, device)
    maker = ExampleMaker(model, sources, augment=settings.augment)
    optimization = Optimization(
        rate=settings.rate,
        decay=settings.decay,
        clip=settings.clip,
        bfloat16=settings.bfloat16,
        recompute=recompute,
    )
    trained = select_trained(model, check_strategy(settings.strategy))
    tuning = FineTuning(model, trained, optimization, processes)
    run = FineTuningRun(arguments.out, settings, tuning, mixture, maker, base, say)
    say(
        f'training {sum(p.numel() for p in trained.values()) / 1e6:.2f} million parameters on '
        f'{len(mixture)} frames and questions, '
        f'{settings.steps * settings.batch / len(mixture):.1f} epochs'
    )
    run.train()
    processes.leave()
    say(f'wrote {arguments.out}')
    if not arguments.check_frames or not processes.first:
        return 0
    # The first data set's conventions are those of the folder's profile.
    source, data = robot_sources(sources)[0]
    places = np.linspace(0, len(source.train) - 1, min(arguments.check_frames, len(source.train)))
    frames = [int(frame) for frame in source.train[np.unique(np.rint(places).astype(int))]]
    predicted, wanted = run.predict(source, frames)
    model.to('meta')  # the policy loads its own weights
    checked = check_inference(
        base, arguments.out / LAST, data, frames, predicted, wanted, device=str(device)
    )
    _say(str(checked))
    run.add_to_report(str(checked))
    return 0 if checked.passed else 1


def _plan_memory(
    base: Path, settings: Settings, device: torch.device, say: Callable[[str], None]
) -> bool:
    """Say what it takes; return whether blocks must be computed again to fit.

    Raises:
        ConfigError: it does not fit either way; what would is named.
    """
    config = load_config(base)
    meta = OpenVLA(config, default_preprocessor(config), dtype=torch.float32, device='meta')
    plan = Plan(
        strategy=check_strategy(settings.strategy),
        rank=settings.rank,
        micro_batch=settings.micro_batch,
        bfloat16=settings.bfloat16,
        quantization=settings.quantization,
        recompute=False,
        device=device.type,
    )
    free = free_memory_bytes(device)
    for recompute in (False, True):
        need = training_memory(meta, dataclasses.replace(plan, recompute=recompute))
        if need.total <= free:
            again = ', blocks computed again on the way back' if recompute else ''
            say(f'memory: needs {need} of {free / 1e9:.1f} GB free on {device}{again}')
            return recompute
    least = dataclasses.replace(plan, recompute=True)
    others = {
        '--micro-batch 1': dataclasses.replace(least, micro_batch=1),
        '--strategy lora --micro-batch 1': dataclasses.replace(
            least, strategy='lora', micro_batch=1
        ),
        '--strategy lora --quantization nf4 --micro-batch 1': dataclasses.replace(
            least, strategy='lora', micro_batch=1, quantization='nf4'
        ),
    }
    needs = {name: training_memory(meta, other).total for name, other in others.items()}
    fitting = [f'{name} ({n / 1e9:.1f} GB)' for name, n in needs.items() if n <= free]
    advice = f'{fitting[0]} would fit' if fitting else 'nothing of it fits here: use a larger GPU'
    raise ConfigError(
        f'--strategy {settings.strategy} with a micro-batch of {settings.micro_batch} needs '
        f'{need}, {free / 1e9:.1f} GB are free on {device}; {advice}'
    )


def _load(base: Path, settings: Settings, device: torch.device) -> OpenVLA:
    """The network with adapters beside its layers where they are what is trained."""
    model = OpenVLA.from_pretrained(
        base,
        dtype='bfloat16' if settings.bfloat16 else 'float32',
        device=device,
        quantization=settings.quantization,
        merge_adapter=False,
    )
    if settings.strategy == 'lora':
        adapter = new_adapter(model, settings.rank, settings.alpha, settings.seed)
        adapter.attach(model, torch.float32, device)
    return model


def _settings(arguments: argparse.Namespace) -> Settings:
    strategy = check_strategy(arguments.strategy)
    lora = strategy == 'lora'
    if arguments.quantization and not lora:
        raise ConfigError(
            f'--quantization {arguments.quantization}: only with --strategy lora, got {strategy}: '
            'weights in fewer bits cannot be trained'
        )
    for name in ('steps', 'batch', 'rank', 'evaluate_every', 'save_every', 'held_out_frames'):
        if getattr(arguments, name) < 1:
            raise ConfigError(
                f'--{name.replace("_", "-")}: got {getattr(arguments, name)}, expected 1 or more'
            )
    if not 0.0 <= arguments.held_out < 1.0:
        raise ConfigError(f'--held-out: got {arguments.held_out}, expected 0 to below 1')
    rate = arguments.rate or (_RATE_LORA if lora else _RATE_WEIGHTS)
    return Settings(
        checkpoint=str(arguments.checkpoint),
        data=tuple(arguments.data),
        strategy=strategy,
        steps=arguments.steps,
        batch=arguments.batch,
        micro_batch=min(arguments.micro_batch or arguments.batch, arguments.batch),
        rate=rate,
        decay=arguments.decay,
        clip=arguments.clip,
        rank=arguments.rank,
        alpha=arguments.alpha or min(arguments.rank, 16),
        seed=arguments.seed,
        augment=not arguments.no_augment,
        bfloat16=not arguments.float32,
        quantization=arguments.quantization,
        held_out=arguments.held_out,
        held_out_frames=arguments.held_out_frames,
        evaluate_every=arguments.evaluate_every,
        save_every=arguments.save_every,
    )


def _weighted(text: str) -> tuple[Path, float]:
    """A data set with its weight, 'SET' or 'SET:2.5'."""
    folder, colon, weight = text.rpartition(':')
    if not colon or Path(text).is_dir():
        return Path(text), 1.0
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise ConfigError(f'--data {text}: got the weight {weight!r}, expected a positive number')
    return Path(folder), value


def _say(line: str) -> None:
    print(time.strftime('%H:%M:%S'), line, flush=True)


def _keep_silent(line: str) -> None:
    """Of several processes one speaks."""


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='python -m openvla_ros.training.finetune')
    parser.add_argument('--checkpoint', required=True, help='folder or hub id of the base')
    parser.add_argument(
        '--data', nargs='+', required=True, metavar='SET[:WEIGHT]',
        help='data sets and folders of questions; a weight of 2 shows each frame twice as often',
    )  # fmt: skip
    parser.add_argument('--out', type=Path, required=True, help='folder of the run')
    parser.add_argument('--strategy', default='lora', help=f'one of {", ".join(STRATEGIES)}')
    parser.add_argument('--steps', type=int, default=5000, help='optimizer steps in all')
    parser.add_argument('--batch', type=int, default=16, help='examples of a step')
    parser.add_argument('--micro-batch', type=int, help='examples of a pass (default: the batch)')
    parser.add_argument(
        '--rate', type=float,
        help=f'learning rate (default: {_RATE_LORA:g} for lora, {_RATE_WEIGHTS:g} otherwise)',
    )  # fmt: skip
    parser.add_argument('--decay', type=float, default=0.01, help='weight decay')
    parser.add_argument('--clip', type=float, default=1.0, help='norm of gradients; 0: unclipped')
    parser.add_argument('--rank', type=int, default=32, help='of the adapter')
    parser.add_argument('--alpha', type=int, help='of its scale (default: the rank, 16 at most)')
    parser.add_argument('--quantization', help='of the frozen weights, such as nf4')
    parser.add_argument('--float32', action='store_true', help='compute in float32, not bfloat16')
    parser.add_argument('--no-augment', action='store_true', help='train on images as they are')
    parser.add_argument('--held-out', type=float, default=0.1, help='part of the episodes')
    parser.add_argument('--held-out-frames', type=int, default=256, help='judged at most')
    parser.add_argument('--evaluate-every', type=int, default=250, help='steps')
    parser.add_argument('--save-every', type=int, default=250, help='steps')
    parser.add_argument(
        '--check-frames', type=int, default=32,
        help="training frames through the policy's own way at the end; 0 for none",
    )  # fmt: skip
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda')
    parser.add_argument('--seed', type=int, default=0, help='of everything that is drawn')
    return parser.parse_args(argv)


if __name__ == '__main__':
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        _say('stopped; the same command goes on from here')
        sys.exit(130)
