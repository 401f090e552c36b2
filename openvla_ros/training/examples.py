"""One training example: an image, a prompt, and the ids that are to be written after it.

An action of a robot and the answer to a question about an image are the same to the network, so
they are one type here.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from openvla_ros.action_space.action_tokens import encode_action
from openvla_ros.observation.image import ImageSpec, preprocess_image

#: What the loss passes over.
IGNORED = -100


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """One example.

    Attributes:
        image: uint8[S,S,3], RGB, as the processor takes it.
        prompt: Ids of the prompt, BOS first, the lone space last.
        answer: Ids to be written, ``</s>`` last.
    """

    image: NDArray[np.uint8]
    prompt: tuple[int, ...]
    answer: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Batch:
    """Examples as tensors.

    Attributes:
        pixel_values: float32[B,C,S,S].
        input_ids: int64[B,T], prompt and answer, padded on the right.
        labels: int64[B,T], the id at each place where it is part of an answer, else IGNORED.
    """

    pixel_values: Tensor
    input_ids: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.input_ids)

    def to(self, device: torch.device | str) -> 'Batch':
        """The same on a device."""
        tensors = (self.pixel_values, self.input_ids, self.labels)
        return Batch(*(tensor.to(device) for tensor in tensors))


def action_answer(action_norm: ArrayLike, vocab_size: int, end_id: int) -> tuple[int, ...]:
    """Return the ids of a normalized action, one per dimension, and ``</s>``.

    Args:
        action_norm: float[D] on [-1, 1]; values outside are clipped, as in training upstream.
        vocab_size: V, the vocabulary without its padding rows.
        end_id: Of ``</s>``.
    """
    return (*(int(token) for token in encode_action(action_norm, vocab_size)), end_id)


def token_rows(
    examples: Sequence[Example], pad_id: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return input_ids and labels int64[B,T]; T is that of the longest example."""
    rows = [(*example.prompt, *example.answer) for example in examples]
    length = max(map(len, rows))
    input_ids = np.full((len(rows), length), pad_id, np.int64)
    labels = np.full((len(rows), length), IGNORED, np.int64)
    for i, (example, row) in enumerate(zip(examples, rows)):
        input_ids[i, : len(row)] = row
        labels[i, len(example.prompt) : len(row)] = example.answer
    return input_ids, labels


def make_batch(examples: Sequence[Example], spec: ImageSpec, pad_id: int) -> Batch:
    """Put examples together.

    Args:
        examples: At least one.
        spec: The checkpoint's image specification.
        pad_id: Fills rows that are shorter than the longest; changes nothing to its left.
    """
    input_ids, labels = token_rows(examples, pad_id)
    pixels = np.stack([preprocess_image(example.image, spec) for example in examples])
    return Batch(*(torch.from_numpy(a) for a in (pixels, input_ids, labels)))


def answer_logits(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits [M,W] that predict the M labelled ids of a batch, and those ids int64[M]."""
    labels = batch.labels[:, 1:]
    embeds = model.embed(batch.pixel_values, batch.input_ids)
    # Row 0 is BOS, then the patches; id i >= 1 stands in row P + i and is predicted one before.
    patches = embeds.shape[1] - batch.input_ids.shape[1]
    wanted = torch.zeros(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
    wanted[:, patches:-1] = labels != IGNORED
    return model.language_model.logits_at(embeds, wanted), labels[labels != IGNORED]
