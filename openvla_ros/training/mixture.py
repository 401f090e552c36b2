"""Frames of one or several data sets in random order, and what becomes of them in a batch."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla_ros.core.dataset_profile import DatasetProfile
from openvla_ros.core.image import ImageRecipe, apply_recipe
from openvla_ros.core.normalization import ActionStats, normalize_action, parse_norm_stats
from openvla_ros.core.prompt import build_prompt
from openvla_ros.core.strict_config import ConfigError
from openvla_ros.data.data_set import DataSet
from openvla_ros.model.openvla import OpenVLA
from openvla_ros.training.augmentation import Augmentation
from openvla_ros.training.examples import Example, action_answer
from openvla_ros.training.statistics import dataset_statistics


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """One data set of a mixture.

    Attributes:
        data: The data set.
        weight: How many times an epoch visits each of its frames, on average.
        train: int64[N], the frames that are trained on.
        held_out: int64[M], those of whole episodes that are not.
    """

    data: DataSet
    weight: float
    train: NDArray[np.int64]
    held_out: NDArray[np.int64]


def split_source(data: DataSet, weight: float, held_out: float, seed: int) -> Source:
    """Set a part of a data set's episodes aside.

    Args:
        data: The data set.
        weight: Of its frames.
        held_out: Part of the episodes, 0 to 1; at least one where it is above 0 and there are two.
        seed: Of the choice.
    """
    count = min(int(np.ceil(held_out * data.num_episodes)), data.num_episodes - 1)
    aside = np.random.default_rng([seed, 1]).permutation(data.num_episodes)[:count]
    is_aside = np.isin(data.episode_index, aside)
    return Source(data, weight, np.flatnonzero(~is_aside), np.flatnonzero(is_aside))


class Mixture:
    """The order of training: which frame of which source is the i-th example.

    It depends on the seed and i alone, so that a run goes on after a stop with what it would
    have seen.
    """

    def __init__(self, sources: Sequence[Source], seed: int) -> None:
        """Mix sources; weights are taken relative to each other within an epoch."""
        self.sources = list(sources)
        self._seed = seed
        self._counts = [max(1, round(s.weight * len(s.train))) for s in self.sources]
        self._epoch: tuple[int, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        """Examples of an epoch."""
        return sum(self._counts)

    def rows(self, start: int, stop: int) -> NDArray[np.int64]:
        """Source and frame of examples ``start`` to ``stop - 1``, int64[stop - start, 2]."""
        return np.stack([self._order(i // len(self))[i % len(self)] for i in range(start, stop)])

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if self._epoch is None or self._epoch[0] != epoch:
            rng = np.random.default_rng([self._seed, 2, epoch])
            parts = []
            for number, (source, count) in enumerate(zip(self.sources, self._counts)):
                frames = _repeated(source.train, count, rng)
                parts.append(np.stack([np.full(count, number), frames], 1))
            self._epoch = epoch, rng.permutation(np.concatenate(parts))
        return self._epoch[1]


class ExampleMaker:
    """Turns frames into examples, as the policy will see them or augmented.

    Attributes:
        norm_stats: By unnorm_key, as dataset_statistics.json has them.
        profiles: By unnorm_key, with the image recipe that the policy must use.
    """

    def __init__(self, model: OpenVLA, sources: Sequence[Source], *, augment: bool) -> None:
        """Take statistics of whole data sets, held-out episodes included, as upstream does.

        Args:
            model: Its tokenizer and configuration are used.
            sources: The data sets.
            augment: Whether training images are augmented; the policy then crops their middle.

        Raises:
            ConfigError: the checkpoint has no tokenizer, or two data sets of one name mean
                different things.
        """
        if model.tokenizer is None:
            raise ConfigError('the checkpoint has no tokenizer.json, without which no prompt is')
        self._tokenizer = model.tokenizer
        self._model = model
        self._end_id = model.tokenizer.end_id
        self._augment = augment
        self._size = model.image_spec.size
        self.profiles = _profiles(sources, augment)
        self.norm_stats = _norm_stats(sources)
        self._stats = parse_norm_stats(self.norm_stats, 'the statistics of the data')
        for source in sources:
            self._check_lengths(source)

    def _check_lengths(self, source: Source) -> None:
        """Refuse a sentence that does not fit beside image and action, before any training."""
        config = self._model.config
        room = config.text.max_position_embeddings - config.num_patches - 8
        for text in dict.fromkeys(source.data.instructions):
            length = len(self._tokenizer(build_prompt(text, config.prompt_family)))
            if length > room:
                raise ConfigError(
                    f'{source.data.folder}: the sentence {text[:60]!r}... takes {length} tokens, '
                    f'expected at most {room} beside image and action; shorten it'
                )

    def stats_of(self, source: Source) -> ActionStats:
        """The statistics that a source's actions are normalized with."""
        return self._stats[source.data.profile.unnorm_key]

    def training(self, source: Source, frame: int, rng: np.random.Generator) -> Example:
        """One example to train on."""
        return self._example(source, frame, rng if self._augment else None)

    def plain(self, source: Source, frame: int) -> Example:
        """One example as the policy will see it."""
        return self._example(source, frame, None)

    def _example(self, source: Source, frame: int, rng: np.random.Generator | None) -> Example:
        seen = source.data.frame(frame)
        recipe = self.profiles[source.data.profile.unnorm_key].image
        if rng is not None:
            recipe = dataclasses.replace(recipe, center_crop=False)
        image = apply_recipe(seen.image, recipe, self._size)
        if rng is not None:
            image = Augmentation.draw(rng).apply(image)
        config = self._model.config
        prompt = self._tokenizer(build_prompt(seen.instruction, config.prompt_family))
        action_norm = normalize_action(seen.action, self.stats_of(source))
        answer = action_answer(action_norm, config.vocab_size, self._end_id)
        return Example(image, tuple(prompt), answer)


def _repeated(
    frames: NDArray[np.int64], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """``count`` of the frames: each as often as the others, give or take one."""
    whole, rest = divmod(count, len(frames))
    chosen = rng.permutation(frames)[:rest]
    return np.concatenate([*([frames] * whole), chosen])


def _profiles(sources: Sequence[Source], augment: bool) -> dict[str, DatasetProfile]:
    """The profile of each data set's policy: the data's, with the image as it is trained here."""
    profiles: dict[str, DatasetProfile] = {}
    for source in sources:
        profile = source.data.profile
        recipe: ImageRecipe = dataclasses.replace(
            profile.image, resize='lanczos3', center_crop=augment
        )
        said = f'openvla_ros.training.finetune, {"with" if augment else "without"} augmentation.'
        trained = dataclasses.replace(
            profile, image=recipe, sources={**profile.sources, 'image': said}
        )
        known = profiles.setdefault(profile.unnorm_key, trained)
        if known != trained:
            raise ConfigError(
                f'{source.data.folder}: its conventions differ from those of another data set '
                f'of the same unnorm_key {profile.unnorm_key!r}; give one of them another name '
                'in its meta/dataset_profile.yaml'
            )
    return profiles


def _norm_stats(sources: Sequence[Source]) -> Mapping[str, Any]:
    """Statistics by unnorm_key; data sets of one key count as one."""
    found = {}
    for key in dict.fromkeys(source.data.profile.unnorm_key for source in sources):
        members = [s.data for s in sources if s.data.profile.unnorm_key == key]
        actions = np.concatenate([data.actions for data in members])
        if np.abs(actions[:, 6]).max() > 1.0 + 1e-6:
            raise ConfigError(
                f'{members[0].folder}: gripper values from {actions[:, 6].min():g} to '
                f'{actions[:, 6].max():g}, expected -1 to 1, as they are not normalized; set '
                'gripper.open_value and closed_value of the profile to 1 and 0 and prepare again'
            )
        found[key] = dataset_statistics(actions, sum(data.num_episodes for data in members))
    return found
