"""Batches: images with several sentences each, drawn from the shards."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.observation.image import ImageSpec
from openvla_ros.sim.tasks import KINDS, PHRASINGS
from openvla_ros.training.demonstrations import COLOUR_NAMES, Frames, read_shards
from openvla_ros.training.sentences import SentenceWriter
from openvla_ros.training.sightings import question


def all_instructions() -> list[str]:
    """Every sentence of the tasks, in a fixed order."""
    return [
        phrasing.format(colour)
        for kind in KINDS
        for phrasing in PHRASINGS[kind]
        for colour in COLOUR_NAMES
    ]


@dataclasses.dataclass(frozen=True)
class Batch:
    """Images [B,S,S,3] uint8, tokens and targets int64[B,K,T]."""

    images: Tensor
    tokens: Tensor
    targets: Tensor

    def split(self, parts: int) -> list['Batch']:
        """Cut it into ``parts`` of equal size, whole images each."""
        arrays = (self.images, self.tokens, self.targets)
        size = -(-len(self.images) // parts)
        starts = range(0, len(self.images), size)
        return [Batch(*(array[at : at + size] for array in arrays)) for at in starts]


class Demonstrations:
    """All shards; an example is one image with K tasks, the one being done first."""

    def __init__(self, folders: Sequence[Path], repeat: Mapping[str, int] | None = None) -> None:
        """Open the shards.

        Args:
            folders: Shards.
            repeat: How many times a pass visits the shards whose name starts with the key (1).

        Raises:
            ConfigError: there is no shard.
        """
        if not folders:
            raise ConfigError('got 0 shards of demonstrations, expected 1 or more; set --shards')
        self._shards: list[Frames] = list(read_shards(folders))
        weight = [
            next((n for key, n in (repeat or {}).items() if folder.name.startswith(key)), 1)
            for folder in folders
        ]
        rows = [
            np.stack([np.full(len(shard), i), np.arange(len(shard))], 1)
            for i, shard in enumerate(self._shards)
            for _ in range(weight[i])
        ]
        self._index = np.concatenate(rows)

    def __len__(self) -> int:
        return len(self._index)

    def num_batches(self, size: int) -> int:
        """Return how many whole batches of ``size`` images a pass has; at least one.

        Raises:
            ConfigError: there are fewer images than one batch, or ``size`` is less than 1.
        """
        if not 1 <= size <= len(self):
            raise ConfigError(
                f'got {len(self)} images for batches of {size}, expected a batch of 1 to '
                f'{len(self)} images; record more demonstrations (--shards) or change --batch'
            )
        return len(self) // size

    def num_episodes(self) -> int:
        """Episodes recorded, over all shards."""
        return sum(shard.num_episodes for shard in self._shards)

    def actions(self) -> NDArray[np.float32]:
        """All actions of all tasks, float32[N,7]."""
        stacked = np.concatenate([shard.actions.reshape(-1, 7) for shard in self._shards])
        return np.asarray(stacked[~np.isnan(stacked[:, 0])])

    def order(self, epoch: int, seed: int) -> NDArray[np.int64]:
        """The rows of one pass in random order; the same for the same seed and epoch."""
        return np.random.default_rng([seed, epoch]).permutation(len(self._index))

    def batch(
        self,
        rows: NDArray[np.int64],
        sentences_per_image: int,
        find: int,
        writer: SentenceWriter,
        rng: np.random.Generator,
    ) -> Batch:
        """Put one batch together: tasks and phrasings are drawn anew each time.

        Args:
            rows: Which examples.
            sentences_per_image: Sentences that ask for an action.
            find: Sentences that ask where a block is, see ``sightings``.
            writer: Writes the token rows.
            rng: Where tasks and phrasings are drawn from.
        """
        images: list[NDArray[np.uint8]] = []
        instructions: list[str] = []
        answers: list[NDArray[np.float64]] = []
        for shard_number, frame in self._index[rows]:
            shard = self._shards[shard_number]
            images.append(shard.images[frame])
            for kind, colour in _choose(shard, frame, sentences_per_image, rng):
                phrasings = PHRASINGS[KINDS[kind]]
                text = phrasings[rng.integers(len(phrasings))]
                instructions.append(text.format(COLOUR_NAMES[colour]))
                answers.append(writer.normalize(shard.actions[frame, kind, colour]))
            for n, (colour, place) in enumerate(_visible(shard, frame, find, rng)):
                text, answer = question(COLOUR_NAMES[colour], place, n and int(rng.integers(1, 3)))
                instructions.append(text)
                answers.append(answer)
        written = writer.write(instructions, np.array(answers))
        shape = (len(rows), sentences_per_image + find, -1)
        return Batch(
            torch.from_numpy(np.stack(images)),
            torch.from_numpy(written.tokens).view(shape),
            torch.from_numpy(written.targets).view(shape),
        )


def _choose(
    shard: Frames, frame: int, count: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """The task being done, then others that the scene allows, each once while there are enough."""
    doing = (int(shard.doing[frame, 0]), int(shard.doing[frame, 1]))
    possible = np.argwhere(~np.isnan(shard.actions[frame, :, :, 0]))
    others = [(int(k), int(c)) for k, c in rng.permutation(possible) if (k, c) != doing]
    return [doing, *others, *others][:count]


def _visible(
    shard: Frames, frame: int, count: int, rng: np.random.Generator
) -> list[tuple[int, NDArray[np.float32]]]:
    """``count`` colours with their places; where none is to be seen, the middle for any."""
    assert shard.sightings is not None
    places = shard.sightings[frame]
    seen = [int(c) for c in rng.permutation(np.flatnonzero(~np.isnan(places[:, 0])))]
    chosen = (seen * count)[:count]
    if not chosen:
        return [(0, np.zeros(2, np.float32))] * count
    return [(c, places[c]) for c in chosen]


def pixel_values(images: Tensor, preprocessor: Mapping[str, Any]) -> Tensor:
    """uint8[B,S,S,3] of the network's size to float32[B,C,S,S], as preprocess_image does."""
    levels = images.permute(0, 3, 1, 2).float() / 255.0
    towers = [
        (levels - torch.tensor(tower.mean).view(1, 3, 1, 1))
        / torch.tensor(tower.std).view(1, 3, 1, 1)
        for tower in ImageSpec.from_config(preprocessor).towers
    ]
    return torch.cat(towers, 1)


def vary_light(images: Tensor, generator: torch.Generator) -> Tensor:
    """Change brightness and contrast of uint8[B,S,S,3] a little, each image by its own amount."""
    B = images.shape[0]
    gain = 1.0 + 0.1 * (2.0 * torch.rand(B, 1, 1, 3, generator=generator) - 1.0)
    shift = 12.0 * (2.0 * torch.rand(B, 1, 1, 1, generator=generator) - 1.0)
    return (images.float() * gain + shift).clamp(0.0, 255.0).to(torch.uint8)
