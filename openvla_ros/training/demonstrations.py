"""Demonstrations: camera images of scenes, each with what the expert would do for every task.

One image serves many sentences. In a scene with three blocks there are nine things one could be
told to do, and the expert, which has no memory, says what to do next for each. So every image is
stored with an action for each kind of task and each colour in view, and a policy trained on it can
tell them apart only by reading the sentence.

A shard is a folder of four arrays with one row per image:
``images.npy`` uint8[N,S,S,3], after the dataset's image recipe, as the network will see it;
``actions.npy`` float32[N,KINDS,COLOURS,7], in dataset units, NaN where the colour is not in view;
``doing.npy`` int8[N,2], kind and colour of the task the arm was busy with;
``sightings.npy`` float32[N,COLOURS,2], where in the image each block is, see ``sightings``.
"""

import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openvla_ros.action_space.dataset_profile import DatasetProfile, from_eef_delta
from openvla_ros.action_space.eef_delta import EefDelta
from openvla_ros.observation.image import apply_recipe
from openvla_ros.sim.arm import SimArm
from openvla_ros.sim.expert import ScriptedExpert
from openvla_ros.sim.scene import COLOURS
from openvla_ros.sim.tasks import KINDS, Kind, Success, Task, sample_episode
from openvla_ros.training.sightings import sightings

COLOUR_NAMES = tuple(COLOURS)
ACTION_DIM = 7


@dataclasses.dataclass(frozen=True)
class Disturbance:
    """What pushes the demonstrating arm off the expert's path, so that corrections are seen.

    Attributes:
        translation_m: Standard deviation of the random displacement added to a step.
        persistence: Correlation of the disturbance from one step to the next.
        switch: Probability, per step, of going on with another task.
        gripper: Probability, per step, that the gripper does the opposite.
        far_start: Probability of starting anywhere in the workspace instead of near its middle.
    """

    translation_m: float = 0.008
    persistence: float = 0.5
    switch: float = 0.06
    gripper: float = 0.01
    far_start: float = 0.3


FAR_START_M = ((0.15, 0.40), (-0.18, 0.18), (0.10, 0.24))


@dataclasses.dataclass(frozen=True)
class Frames:
    """Images with the expert's actions; see the module's text."""

    images: NDArray[np.uint8]
    actions: NDArray[np.float32]
    doing: NDArray[np.int8]
    num_episodes: int = 1
    sightings: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.images)


def expert_actions(arm: SimArm, profile: DatasetProfile) -> NDArray[np.float32]:
    """Return float32[KINDS,COLOURS,7]: the expert's action for every task this scene allows."""
    actions = np.full((len(KINDS), len(COLOUR_NAMES), ACTION_DIM), np.nan, np.float32)
    for block in arm.scene.blocks:
        for k, kind in enumerate(KINDS):
            delta = without_rotation(ScriptedExpert(Task(kind, block.colour, '')).act(arm))
            actions[k, COLOUR_NAMES.index(block.colour)] = from_eef_delta(delta, profile)
    return actions


def without_rotation(delta: EefDelta) -> EefDelta:
    """Drop what the expert does about tilts of a thousandth of a radian.

    The gripper points down in all of these tasks and nothing turns it; the arm's tracking error is
    not visible in an image, and as a target it would be noise in three of seven tokens.
    """
    return dataclasses.replace(delta, rotation_rad=np.zeros(3))


def record_episode(
    kind: Kind,
    seed: int,
    profile: DatasetProfile,
    size: int,
    *,
    max_steps: int,
    every: int,
    disturbance: Disturbance,
) -> Frames:
    """Let the disturbed expert work in one training scene and record what it sees.

    Args:
        kind: The task it starts with.
        seed: Of the scene and of everything random here.
        profile: How actions are written and images are prepared.
        size: Side of the stored images in pixels.
        max_steps: Policy steps at most; the episode ends 2 steps after the task is done.
        every: One image is kept per this many steps, from a random first one.
        disturbance: What pushes the arm off its path.
    """
    rng = np.random.default_rng([7, KINDS.index(kind), seed])
    episode = sample_episode(kind, seed, 'train')
    scene = episode.scene
    if rng.random() < disturbance.far_start:
        x, y, z = (float(rng.uniform(lo, hi)) for lo, hi in FAR_START_M)
        scene = dataclasses.replace(scene, start_position_m=(x, y, z))
    arm = SimArm(scene)
    try:
        return _record(arm, episode.task, rng, profile, size, max_steps, every, disturbance)
    finally:
        arm.close()


def _record(
    arm: SimArm,
    task: Task,
    rng: np.random.Generator,
    profile: DatasetProfile,
    size: int,
    max_steps: int,
    every: int,
    disturbance: Disturbance,
) -> Frames:
    images, actions, doing = [], [], []
    success = Success(task, arm)
    first = int(rng.integers(every))
    push: NDArray[np.float64] = np.zeros(3)
    strength = float(rng.uniform(0.0, 1.5))
    last_step = max_steps
    for step in range(max_steps):
        if rng.random() < disturbance.switch:
            task = _other_task(rng, arm)
            success = Success(task, arm)
        if (step - first) % every == 0:
            images.append(apply_recipe(arm.render(), profile.image, size))
            actions.append(expert_actions(arm, profile))
            doing.append((KINDS.index(task.kind), COLOUR_NAMES.index(task.colour)))
        push = _next_push(rng, push, strength, disturbance)
        delta = without_rotation(ScriptedExpert(task).act(arm))
        _move(arm, delta, push, bool(rng.random() < disturbance.gripper))
        if success.update(arm):
            last_step = min(last_step, step + 2)
        if step >= last_step:
            break
    return Frames(np.array(images), np.array(actions), np.array(doing, np.int8))


def _other_task(rng: np.random.Generator, arm: SimArm) -> Task:
    block = arm.scene.blocks[rng.integers(len(arm.scene.blocks))]
    return Task(KINDS[rng.integers(len(KINDS))], block.colour, '')


def _next_push(
    rng: np.random.Generator, push: NDArray[np.float64], strength: float, limits: Disturbance
) -> NDArray[np.float64]:
    """First-order noise whose standard deviation is ``strength`` times the limit."""
    sigma = strength * limits.translation_m
    fresh = np.sqrt(1.0 - limits.persistence**2) * sigma * rng.standard_normal(3)
    return np.asarray(limits.persistence * push + fresh)


def _move(arm: SimArm, delta: EefDelta, push: NDArray[np.float64], flip_gripper: bool) -> None:
    """Do the expert's step plus the disturbance, not through the table and not far over."""
    twist = delta.twist()
    twist[:3] += push / delta.step_s
    height = float(arm.ee_pose().position_m[2])
    twist[2] = max(twist[2], min(delta.twist()[2], (0.018 - height) / delta.step_s))
    gripper = 1.0 - delta.gripper if flip_gripper else delta.gripper
    arm.step(twist, gripper, delta.step_s)


def write_shard(folder: Path, episodes: Sequence[Frames]) -> None:
    """Write one shard; it appears under its name only when it is whole."""
    partial = folder.with_name(folder.name + '.partial')
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in ('images', 'actions', 'doing'):
        np.save(partial / f'{name}.npy', np.concatenate([getattr(e, name) for e in episodes]))
    images = np.load(partial / 'images.npy')
    np.save(partial / 'sightings.npy', sightings(images))
    np.save(partial / 'num_episodes.npy', sum(episode.num_episodes for episode in episodes))
    partial.rename(folder)


def read_shards(folders: Sequence[Path]) -> Iterator[Frames]:
    """Open shards without reading the images into memory."""
    for folder in folders:
        yield Frames(
            np.load(folder / 'images.npy', mmap_mode='r'),
            np.load(folder / 'actions.npy'),
            np.load(folder / 'doing.npy'),
            int(np.load(folder / 'num_episodes.npy')),
            np.load(folder / 'sightings.npy'),
        )
