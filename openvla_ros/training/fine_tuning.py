"""Optimizer steps of a fine-tuning: upstream's loss and AdamW, on whatever a strategy trains."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from openvla_ros.model.openvla import OpenVLA
from openvla_ros.training.examples import IGNORED, Batch, answer_logits
from openvla_ros.training.processes import Processes


@dataclasses.dataclass(frozen=True)
class Optimization:
    """How weights are changed; the defaults are upstream's finetune.py but for the clipping.

    Attributes:
        rate: Learning rate, the same at every step.
        decay: AdamW's weight decay.
        clip: Largest norm of a step's gradient; 0 leaves gradients as they are.
        bfloat16: Compute in bfloat16 (autocast); what is trained stays float32.
        recompute: Keep only the inputs of the transformers' blocks for the way back.
    """

    rate: float = 5e-4
    decay: float = 0.01
    clip: float = 1.0
    bfloat16: bool = True
    recompute: bool = True


@dataclasses.dataclass(frozen=True)
class StepReport:
    """What one step saw, before it changed the weights.

    Attributes:
        loss: Mean cross-entropy over the labelled ids of the whole batch.
        accuracy: Part of the labelled ids that greedy writing would have got right.
        gradient_norm: Of all trained weights, before clipping.
    """

    loss: float
    accuracy: float
    gradient_norm: float


class DivergedError(RuntimeError):
    """The gradient is not finite: there is nothing to go on with."""


class FineTuning:
    """A network, what of it is trained, and the optimizer's memory."""

    def __init__(
        self,
        model: OpenVLA,
        trained: Mapping[str, nn.Parameter],
        settings: Optimization,
        processes: Processes | None = None,
    ) -> None:
        """Take over a network.

        Args:
            model: Its frozen weights stay as they are.
            trained: From ``select_trained``.
            settings: How to change them.
            processes: Those that train together; each step's parts are then this one's share.
        """
        # In evaluation mode bitsandbytes repacks 4-bit weights on a CPU at the first pass without
        # gradients, and its kernel for those passes no gradient on.
        self.model = model.train()
        self.trained = dict(trained)
        self.settings = settings
        self.processes = processes or Processes()
        self.step_number = 0
        self._optimizer = torch.optim.AdamW(
            self.trained.values(), lr=settings.rate, weight_decay=settings.decay
        )
        if settings.recompute:
            recompute_blocks(model)

    def step(self, parts: Sequence[Batch]) -> StepReport:
        """Change the weights once.

        Args:
            parts: The batch, in as many parts as memory asks for; they count as one.

        Raises:
            DivergedError: the gradient is not finite; the weights stay as they were.
        """
        loss, accuracy = self.gradients(parts)
        most = self.settings.clip or float('inf')
        norm = float(nn.utils.clip_grad_norm_(self.trained.values(), most))
        if not math.isfinite(norm):
            raise DivergedError(
                f'step {self.step_number + 1}: the loss is {loss:g} and its gradient {norm:g}; '
                f'begin again with a --rate below {self.settings.rate:g}'
            )
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.step_number += 1
        return StepReport(loss, accuracy, norm)

    def gradients(self, parts: Sequence[Batch]) -> tuple[float, float]:
        """Set the gradient of the whole batch's mean loss; return its loss and accuracy."""
        count = self._over_all(sum(int((p.labels[:, 1:] != IGNORED).sum()) for p in parts))
        loss, right = 0.0, 0
        for part in parts:
            with self.arithmetic():
                logits, targets = answer_logits(self.model, part.to(self.model.device))
            summed = nn.functional.cross_entropy(logits.float(), targets, reduction='sum') / count
            summed.backward()  # type: ignore[no-untyped-call]
            loss += float(summed.detach())
            right += int((logits.detach().argmax(-1) == targets).sum())
        self.processes.add_up(p.grad for p in self.trained.values() if p.grad is not None)
        return self._over_all(loss), self._over_all(right) / count

    def _over_all(self, value: float) -> float:
        """Sum of a number over all processes."""
        total = torch.tensor(value, dtype=torch.float64, device=self.model.device)
        self.processes.add_up([total])
        return float(total)

    @contextlib.contextmanager
    def arithmetic(self) -> Iterator[None]:
        """The number format of the passes."""
        with torch.autocast(
            self.model.device.type, torch.bfloat16, enabled=self.settings.bfloat16
        ):
            yield

    def state(self) -> dict[str, Any]:
        """Everything that a later process needs to go on with the same result."""
        return {
            'step': self.step_number,
            'trained': {name: value.detach().cpu() for name, value in self.trained.items()},
            'optimizer': self._optimizer.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state`` returned.

        Raises:
            ValueError: it is of other weights.
        """
        saved: Mapping[str, Tensor] = state['trained']
        if {n: v.shape for n, v in saved.items()} != {n: p.shape for n, p in self.trained.items()}:
            raise ValueError(
                f'the state holds {len(saved)} trained tensors, expected the {len(self.trained)} '
                'of this strategy and rank'
            )
        with torch.no_grad():
            for name, value in saved.items():
                self.trained[name].copy_(value)
        self._optimizer.load_state_dict(state['optimizer'])
        self.step_number = state['step']


def recompute_blocks(model: OpenVLA) -> None:
    """Keep only each block's input for the way back, and compute the rest again.

    Costs a third more time for a fraction of the memory (Chen et al. 2016).
    """
    for group in block_groups(model):
        for block in group:
            # On the object, so that names and weights stay as they are.
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def block_groups(model: OpenVLA) -> list[list[nn.Module]]:
    """The blocks of the language model, then of each tower; those of a group are alike."""
    backbone = model.vision_backbone
    towers = [tower for tower in (backbone.featurizer, backbone.fused_featurizer) if tower]
    return [list(model.language_model.layers), *(list(tower.blocks) for tower in towers)]
