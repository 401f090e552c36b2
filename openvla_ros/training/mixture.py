"""Frames and questions of several sets in random order, and what becomes of them in a batch."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla_ros.action_space.dataset_profile import DatasetProfile
from openvla_ros.action_space.normalization import normalize_action, parse_norm_stats
from openvla_ros.core.strict_config import ConfigError
from openvla_ros.data.data_set import DataSet
from openvla_ros.data.question_set import QuestionSet
from openvla_ros.model.openvla import OpenVLA
from openvla_ros.observation.image import ImageRecipe, apply_recipe
from openvla_ros.observation.prompt import build_prompt, build_question_prompt
from openvla_ros.training.augmentation import Augmentation
from openvla_ros.training.examples import Example, action_answer
from openvla_ros.training.statistics import dataset_statistics


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """One set of a mixture.

    Attributes:
        data: Robot data, or questions about images.
        weight: How many times an epoch visits each of its frames, on average.
        train: int64[N], the frames that are trained on.
        held_out: int64[M], those of whole episodes that are not.
    """

    data: DataSet | QuestionSet
    weight: float
    train: NDArray[np.int64]
    held_out: NDArray[np.int64]


def robot_sources(sources: Sequence[Source]) -> list[tuple[Source, DataSet]]:
    """The sources of robot data, with their data sets."""
    return [(source, source.data) for source in sources if isinstance(source.data, DataSet)]


def split_source(data: DataSet | QuestionSet, weight: float, held_out: float, seed: int) -> Source:
    """Set a part of a data set's episodes aside; of questions nothing.

    Args:
        data: The data set.
        weight: Of its frames.
        held_out: Part of the episodes, 0 to 1; at least one where it is above 0 and there are two.
        seed: Of the choice.
    """
    if isinstance(data, QuestionSet):
        return Source(data, weight, np.arange(len(data)), np.arange(0))
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
            ConfigError: the checkpoint has no tokenizer, there is no robot data, two data sets
                of one name mean different things, or a text is too long.
        """
        if model.tokenizer is None:
            raise ConfigError('the checkpoint has no tokenizer.json, without which no prompt is')
        self._tokenizer = model.tokenizer
        self._model = model
        self._end_id = model.tokenizer.end_id
        self._augment = augment
        self._size = model.image_spec.size
        robot = [data for _, data in robot_sources(sources)]
        if not robot:
            raise ConfigError('--data: only questions, expected at least one robot data set')
        self.profiles = _profiles(robot, augment)
        #: Questions are seen through the first data set's image recipe.
        self._recipe = next(iter(self.profiles.values())).image
        self.norm_stats = _norm_stats(robot)
        self._stats = parse_norm_stats(self.norm_stats, 'the statistics of the data')
        for source in sources:
            self._check_lengths(source)

    def _check_lengths(self, source: Source) -> None:
        """Refuse a text that does not fit beside the image, before any training."""
        config = self._model.config
        room = config.text.max_position_embeddings - config.num_patches
        if isinstance(source.data, DataSet):
            answer = [self._end_id] * 8
            texts = [(self._action_prompt(text), answer) for text in source.data.instructions]
        else:
            texts = [self._question_ids(source.data, i) for i in range(len(source.data))]
        longest = max(len(prompt) + len(after) for prompt, after in texts)
        if longest > room:
            raise ConfigError(
                f'{source.data.folder}: the longest text takes {longest} tokens with its answer, '
                f'expected at most {room} beside the image; shorten it'
            )

    def training(self, source: Source, index: int, rng: np.random.Generator) -> Example:
        """One example to train on."""
        return self._example(source, index, rng if self._augment else None)

    def plain(self, source: Source, index: int) -> Example:
        """One example as the policy will see it."""
        return self._example(source, index, None)

    def _example(self, source: Source, index: int, rng: np.random.Generator | None) -> Example:
        data = source.data
        if isinstance(data, QuestionSet):
            prompt, answer = self._question_ids(data, index)
            image = self._prepared(data.image(index), self._recipe, rng)
            return Example(image, tuple(prompt), tuple(answer))
        frame, key = data.frame(index), data.profile.unnorm_key
        stats = self._stats[key]
        # A gripper that never moves would become 0 as every constant number does upstream, and
        # as it passes un-normalized, an arm whose data are all open would close it.
        action_norm = np.where(
            stats.mask, normalize_action(frame.action, stats), np.clip(frame.action, -1.0, 1.0)
        )
        tokens = action_answer(action_norm, self._model.config.vocab_size, self._end_id)
        image = self._prepared(frame.image, self.profiles[key].image, rng)
        return Example(image, tuple(self._action_prompt(frame.instruction)), tokens)

    def _prepared(
        self, image: NDArray[np.uint8], recipe: ImageRecipe, rng: np.random.Generator | None
    ) -> NDArray[np.uint8]:
        """An image as the processor takes it: the policy's, or augmented instead of cropped."""
        if rng is None:
            return apply_recipe(image, recipe, self._size)
        whole = apply_recipe(image, dataclasses.replace(recipe, center_crop=False), self._size)
        return Augmentation.draw(rng).apply(whole)

    def _action_prompt(self, instruction: str) -> list[int]:
        return self._tokenizer(build_prompt(instruction, self._model.config.prompt_family))

    def _question_ids(self, data: QuestionSet, index: int) -> tuple[list[int], list[int]]:
        """Prompt and answer, tokenized apart as upstream does it with the turns of a talk."""
        asked = data.questions[index]
        prompt = build_question_prompt(asked.question, self._model.config.prompt_family)
        return self._tokenizer(prompt), [*self._tokenizer.text_ids(asked.answer), self._end_id]


def _repeated(
    frames: NDArray[np.int64], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """``count`` of the frames: each as often as the others, give or take one."""
    whole, rest = divmod(count, len(frames))
    chosen = rng.permutation(frames)[:rest]
    return np.concatenate([*([frames] * whole), chosen])


def _profiles(robot: Sequence[DataSet], augment: bool) -> dict[str, DatasetProfile]:
    """The profile of each data set's policy: the data's, with the image as it is trained here."""
    profiles: dict[str, DatasetProfile] = {}
    for data in robot:
        profile = data.profile
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
                f'{data.folder}: its conventions differ from those of another data set '
                f'of the same unnorm_key {profile.unnorm_key!r}; give one of them another name '
                'in its meta/dataset_profile.yaml'
            )
    return profiles


def _norm_stats(robot: Sequence[DataSet]) -> Mapping[str, Any]:
    """Statistics by unnorm_key; data sets of one key count as one."""
    found = {}
    for key in dict.fromkeys(data.profile.unnorm_key for data in robot):
        members = [data for data in robot if data.profile.unnorm_key == key]
        actions = np.concatenate([data.actions for data in members])
        if np.abs(actions[:, 6]).max() > 1.0 + 1e-6:
            raise ConfigError(
                f'{members[0].folder}: gripper values from {actions[:, 6].min():g} to '
                f'{actions[:, 6].max():g}, expected -1 to 1, as they are not normalized; set '
                'gripper.open_value and closed_value of the profile to 1 and 0 and prepare again'
            )
        found[key] = dataset_statistics(actions, sum(data.num_episodes for data in members))
    return found
