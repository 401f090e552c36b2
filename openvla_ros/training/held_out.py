"""How well a network answers examples that it is not trained on."""

import dataclasses
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from openvla_ros.action_space.action_tokens import decode_action_tokens
from openvla_ros.training.examples import Batch, answer_logits
from openvla_ros.training.fine_tuning import FineTuning


@dataclasses.dataclass(frozen=True)
class Metrics:
    """Means over examples, each token predicted from the true ones before it.

    Attributes:
        loss: Cross-entropy over action tokens and ``</s>``.
        token_accuracy: Part of the action tokens that are right.
        l1: Distance of the decoded actions on [-1, 1], per number.
        gripper_accuracy: Part of the examples whose gripper number is nearer to the true one than
            half of the way from open to closed.
    """

    loss: float
    token_accuracy: float
    l1: float
    gripper_accuracy: float

    def __str__(self) -> str:
        """All four, in a line."""
        return (
            f'loss {self.loss:.4f}, tokens right {100 * self.token_accuracy:.1f} %, L1 '
            f'{self.l1:.4f}, gripper right {100 * self.gripper_accuracy:.1f} %'
        )


@torch.no_grad()
def predicted_tokens(
    tuning: FineTuning, batch: Batch
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokens int64[B,D] predicted after the true ones before each, and the true ones."""
    logits, targets = _answers(tuning, batch)
    # The last of each row is </s>.
    rows = [t.view(len(batch), -1)[:, :-1].cpu().numpy() for t in (logits.argmax(-1), targets)]
    return rows[0], rows[1]


@torch.no_grad()
def evaluate(tuning: FineTuning, batches: Iterable[tuple[Batch, float]]) -> Metrics:
    """Judge the network on batches of action examples.

    Args:
        tuning: With the network.
        batches: Each with the distance of the gripper's numbers for open and closed.
    """
    losses, right, distances, gripper = [], [], [], []
    vocab_size = tuning.model.config.vocab_size
    for batch, gripper_span in batches:
        logits, targets = _answers(tuning, batch)
        each = nn.functional.cross_entropy(logits, targets, reduction='none')
        losses.append(each.view(len(batch), -1).mean(1).cpu().numpy())
        # The last of each row is </s>.
        predicted = logits.argmax(-1).view(len(batch), -1)[:, :-1].cpu().numpy()
        wanted = targets.view(len(batch), -1)[:, :-1].cpu().numpy()
        values = [decode_action_tokens(t, vocab_size, clip=True) for t in (predicted, wanted)]
        distance = np.abs(values[0] - values[1])
        right.append((predicted == wanted).mean(1))
        distances.append(distance.mean(1))
        gripper.append(distance[:, -1] < 0.5 * gripper_span)
    means = (float(np.concatenate(part).mean()) for part in (losses, right, distances, gripper))
    return Metrics(*means)


def _answers(tuning: FineTuning, batch: Batch) -> tuple[Tensor, Tensor]:
    with tuning.arithmetic():
        logits, targets = answer_logits(tuning.model, batch.to(tuning.model.device))
    return logits.float(), targets
