"""Behaviour cloning: cross-entropy on the seven action tokens and ``</s>``."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from openvla_ros.model.host_memory import keep_freed_memory
from openvla_ros.model.openvla import OpenVLA
from openvla_ros.training.batches import Batch, Demonstrations, pixel_values, vary_light
from openvla_ros.training.sentences import IGNORED, SentenceWriter
from openvla_ros.training.shared_prefix import sentence_logits
from openvla_ros.training.small_model import TOKEN_TABLES


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        steps: Optimiser steps in all.
        batch: Images per step.
        sentences: Sentences per image.
        find: Sentences per image that ask where a block is.
        peak_rate: Largest learning rate of AdamW, reached after ``warm_up`` steps.
        matrix_ratio: Muon's learning rate as a multiple of AdamW's.
        warm_up: Steps of linear warm-up.
        last_rate: Learning rate of the last step, as a part of the peak; a half cosine between.
        decay: Weight decay of the matrices of hidden layers; nothing else decays.
        average: Decay per step of the running average of the weights, which is what is kept.
        seed: Of order, tasks, phrasings and light.
        save_every: Steps between checkpoints.
    """

    steps: int = 12000
    batch: int = 32
    sentences: int = 3
    find: int = 2
    peak_rate: float = 1e-3
    matrix_ratio: float = 2.0
    warm_up: int = 100
    last_rate: float = 0.02
    decay: float = 0.01
    average: float = 0.998
    seed: int = 0
    save_every: int = 250

    def part(self, step: int) -> float:
        """Part of the peak rate that step ``step``, counted from 0, is made with."""
        if step < self.warm_up:
            return (step + 1) / self.warm_up
        done = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
        return self.last_rate + (1.0 - self.last_rate) * cosine


@dataclasses.dataclass
class TrainingState:
    """Everything a run needs to go on after a stop."""

    model: OpenVLA
    optimizers: list[torch.optim.Optimizer]
    average: dict[str, torch.Tensor]
    step: int = 0

    @classmethod
    def start(cls, model: OpenVLA, schedule: Schedule) -> 'TrainingState':
        """Begin with the model as it is."""
        optimizers = make_optimizers(model, schedule)
        average = {name: value.clone() for name, value in model.state_dict().items()}
        return cls(model, optimizers, average)

    def save(self, path: Path) -> None:
        """Write the state; the file is whole or the old one."""
        partial = path.with_suffix('.partial')
        content = {
            'model': self.model.state_dict(),
            'optimizers': [optimizer.state_dict() for optimizer in self.optimizers],
            'average': self.average,
            'step': self.step,
        }
        torch.save(content, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a file that ``save`` wrote.

        Raises:
            ValueError: it was written before Muon was used.
        """
        content = torch.load(path, weights_only=True)
        if 'optimizers' not in content:
            raise ValueError(
                f'{path} is of a version that trained with AdamW alone, this one cannot go on '
                'with it: take another folder, and --start CHECKPOINT to keep exported weights'
            )
        self.model.load_state_dict(content['model'])
        for optimizer, saved in zip(self.optimizers, content['optimizers'], strict=True):
            optimizer.load_state_dict(saved)
        self.average = content['average']
        self.step = content['step']


def make_optimizers(model: nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of hidden layers, AdamW for everything else.

    With AdamW alone the place of a named block was not learnt in 7000 steps from nothing; with
    Muon it begins to be after 400. A step that is orthogonal moves all directions of a matrix
    equally, also those whose gradient is weak, and which colour a patch has is such a one. Tables
    of tokens, the head and the patch filters are no hidden layers and stay with AdamW (Jordan et
    al. 2024). Steps are scaled as in Liu et al. 2025: at equal rates they are of AdamW's size.
    The towers' q, k and v are one matrix, as in the checkpoint, and are taken as one.
    """
    hidden, filters, rest = [], [], []
    for name, parameter in model.named_parameters():
        if 'patch_embed' in name:
            filters.append(parameter)
        elif parameter.ndim == 2 and not name.endswith(TOKEN_TABLES):
            hidden.append(parameter)
        else:
            rest.append(parameter)
    rate = schedule.peak_rate
    matrix_rate = schedule.matrix_ratio * rate
    # Neighbouring pixels are nearly equal, so equal steps of 588 weights add up.
    groups = [{'params': rest, 'lr': rate}, {'params': filters, 'lr': 0.1 * rate}]
    optimizers = [
        torch.optim.Muon(
            hidden, matrix_rate, schedule.decay, momentum=0.95, adjust_lr_fn='match_rms_adamw'
        ),
        torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group['peak'] = group['lr']
    return optimizers


@contextlib.contextmanager
def short_row_attention() -> Iterator[None]:
    """Attention by plain products in bf16: for rows this short twice the fused one's rate."""
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()  # type: ignore[no-untyped-call]
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel([SDPBackend.MATH]):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)


class Workers:
    """Computes the gradient of a batch in parts, one Python thread each.

    Every thread computes alone (torch's own threads meet after each operation, and on a machine
    that does other things too, each meeting waits for the slowest: a third of the rate).
    """

    def __init__(self, threads: int) -> None:
        """Take over the thread and memory settings of the process."""
        torch.set_num_threads(1)
        keep_freed_memory()
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads)

    def gradient(
        self, model: OpenVLA, batch: Batch, preprocessor: Mapping[str, Any]
    ) -> tuple[list[torch.Tensor], float, torch.Tensor]:
        """Gradient of the mean loss by parameter, the loss, and bool[B*K,D+1] what was right."""
        parameters = list(model.parameters())

        def one(part: Batch) -> tuple[tuple[torch.Tensor, ...], float, torch.Tensor]:
            loss, right = action_loss(model, part, preprocessor)
            return torch.autograd.grad(loss, parameters), float(loss.detach()), right

        with short_row_attention():
            results = list(self._pool.map(one, batch.split(self._threads)))
        share = 1.0 / len(results)
        total = [torch.stack(slopes).sum(0) * share for slopes in zip(*(r[0] for r in results))]
        return total, sum(r[1] for r in results) * share, torch.cat([r[2] for r in results])


def action_loss(
    model: OpenVLA, batch: Batch, preprocessor: Mapping[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy over the counted tokens, and bool[B*K,D+1] which would be written right."""
    wanted = batch.targets != IGNORED
    with torch.autocast(batch.images.device.type, torch.bfloat16):
        values = pixel_values(batch.images, preprocessor)
        logits = sentence_logits(model, values, batch.tokens, wanted)
    targets = batch.targets[wanted]
    loss = nn.functional.cross_entropy(logits.float(), targets)
    right = logits.detach().argmax(-1) == targets
    return loss, right.view(batch.targets.shape[0] * batch.targets.shape[1], -1)


def train(
    state: TrainingState,
    data: Demonstrations,
    writer: SentenceWriter,
    preprocessor: Mapping[str, Any],
    schedule: Schedule,
    checkpoint: Path,
    report: Callable[[str], None],
    *,
    until: int | None = None,
    threads: int = 2,
) -> None:
    """Train from where the state is to the schedule's end, saving as it goes.

    Args:
        state: Model, optimisers and average; changed in place.
        data: The demonstrations.
        writer: Writes the token rows.
        preprocessor: Content of preprocessor_config.json.
        schedule: How long and how fast.
        checkpoint: Where the state is saved.
        report: Called with a line of progress.
        until: Step to stop at before the schedule's end.
        threads: Parts a batch is computed in at the same time, on a CPU.

    Raises:
        ConfigError: there are fewer images than one batch.
    """
    model = state.model.train()
    workers = Workers(threads)
    per_epoch = data.num_batches(schedule.batch)
    losses: list[float] = []
    began, first = time.monotonic(), state.step
    last = schedule.steps if until is None else until
    while state.step < last:
        epoch, place = divmod(state.step, per_epoch)
        if place == 0 or state.step == first:
            order = data.order(epoch, schedule.seed)
        rows = order[place * schedule.batch : (place + 1) * schedule.batch]
        rng = np.random.default_rng([schedule.seed, 1, state.step])
        batch = data.batch(rows, schedule.sentences, schedule.find, writer, rng)
        light = torch.Generator().manual_seed(schedule.seed * 1_000_003 + state.step)
        batch = dataclasses.replace(batch, images=vary_light(batch.images, light))
        gradient, loss, right = workers.gradient(model, batch, preprocessor)
        _update(state, gradient, schedule)
        losses.append(loss)
        if state.step % 20 == 0:
            report(_progress(state, losses, right, schedule, began, first))
            losses.clear()
        if state.step % schedule.save_every == 0 or state.step == last:
            state.save(checkpoint)


def _update(state: TrainingState, gradient: list[torch.Tensor], schedule: Schedule) -> None:
    part = schedule.part(state.step)
    for optimizer in state.optimizers:
        for group in optimizer.param_groups:
            group['lr'] = part * group['peak']
    for parameter, slope in zip(state.model.parameters(), gradient):
        parameter.grad = slope
    nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
    for optimizer in state.optimizers:
        optimizer.step()
    state.step += 1
    keep = min(schedule.average, state.step / (state.step + 10))
    with torch.no_grad():
        for name, value in state.model.state_dict().items():
            state.average[name].lerp_(value, 1.0 - keep)


def _progress(
    state: TrainingState,
    losses: list[float],
    right: torch.Tensor,
    schedule: Schedule,
    began: float,
    first: int,
) -> str:
    rate = (time.monotonic() - began) / (state.step - first)
    left = rate * (schedule.steps - state.step) / 60
    per_dimension = right.float().mean(0)
    shares = ' '.join(f'{float(share):.2f}' for share in per_dimension)
    return (
        f'step {state.step}/{schedule.steps} loss {sum(losses) / len(losses):.3f} '
        f'tokens right {shares} {schedule.batch / rate:.0f} images/s, {left:.0f} min left'
    )
