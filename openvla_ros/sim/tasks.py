"""Tasks: a sentence, a start and a success predicate."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from openvla_ros.sim.arm import SimArm
from openvla_ros.sim.scene import COLOURS, Scene
from openvla_ros.sim.scene_sampling import sample_scene

Kind = Literal['reach', 'push', 'pick']
Split = Literal['train', 'test']

KINDS: tuple[Kind, ...] = ('reach', 'push', 'pick')
# Where reach goes, from the block's centre: the finger tips then are 18 mm above the block.
REACH_ABOVE_M = 0.05
REACH_TOLERANCE_M = 0.03
REACH_HELD_S = 0.4
PUSH_DISTANCE_M = 0.04
PICK_HEIGHT_M = 0.05
PICK_HELD_S = 0.4

PHRASINGS: dict[Kind, tuple[str, ...]] = {
    'reach': (
        'reach the {} block',
        'move to the {} block',
        'go to the {} cube',
        'hover over the {} block',
        'move the gripper over the {} block',
    ),
    'push': (
        'push the {} block',
        'push the {} block away',
        'push the {} cube over the line',
        'slide the {} block forward',
        'shove the {} block away',
    ),
    'pick': (
        'pick up the {} block',
        'lift the {} block',
        'grab the {} cube',
        'pick the {} block up',
        'take the {} block',
    ),
}

_VERBS: dict[Kind, frozenset[str]] = {
    'reach': frozenset(('reach', 'move', 'go', 'hover', 'touch', 'approach')),
    'push': frozenset(('push', 'slide', 'shove')),
    'pick': frozenset(('pick', 'lift', 'grab', 'take', 'grasp', 'raise')),
}
_KIND_SALT: dict[Kind, int] = {'reach': 1, 'push': 2, 'pick': 3}
_SPLIT_SALT: dict[Split, int] = {'train': 101, 'test': 202}


@dataclass(frozen=True)
class Task:
    """What to do with which block, as a machine and as a human says it."""

    kind: Kind
    colour: str
    instruction: str


@dataclass(frozen=True)
class Episode:
    """One task in one scene; the same kind, seed and split give the same episode for ever."""

    task: Task
    scene: Scene
    seed: int


def sample_episode(kind: Kind, seed: int, split: Split = 'train') -> Episode:
    """Return an episode. The splits share no random stream, so no test scene is ever trained on.

    Args:
        kind: 'reach', 'push' or 'pick'.
        seed: 0 or more.
        split: 'train' or 'test'.

    Raises:
        ValueError: an unknown kind or split, or a negative seed.
    """
    if kind not in _KIND_SALT or split not in _SPLIT_SALT or seed < 0:
        raise ValueError(
            f'sample_episode: got kind {kind!r}, seed {seed}, split {split!r}; expected kind '
            f'{"|".join(_KIND_SALT)}, seed 0 or more, split {"|".join(_SPLIT_SALT)}'
        )
    rng = np.random.default_rng([_SPLIT_SALT[split], _KIND_SALT[kind], seed])
    count = int(rng.integers(2, 5))
    colours = [str(c) for c in rng.permutation(list(COLOURS))[:count]]
    phrasing = PHRASINGS[kind][rng.integers(len(PHRASINGS[kind]))]
    scene = sample_scene(rng, colours, keep_lane=kind == 'push')
    return Episode(Task(kind, colours[0], phrasing.format(colours[0])), scene, seed)


def understand(instruction: str) -> tuple[Kind, str] | None:
    """Return kind and colour an instruction means; None if it is not one of our tasks.

    This is for judging success of a sentence somebody wrote; the policy reads it by itself.
    """
    words = instruction.lower().replace('.', ' ').split()
    kinds = [kind for kind in KINDS if not _VERBS[kind].isdisjoint(words)]
    colours = [colour for colour in COLOURS if colour in words]
    return (kinds[0], colours[0]) if len(kinds) == 1 and len(colours) == 1 else None


def find_episode(instruction: str, seed: int, split: Split = 'test') -> Episode:
    """Return the first episode from ``seed`` on whose scene and task fit an instruction.

    Raises:
        ValueError: the instruction is not one of our tasks.
    """
    meant = understand(instruction)
    if meant is None:
        raise ValueError(
            f'find_episode: got {instruction!r}, expected a task (reach, push, pick up) and one '
            f'colour of {", ".join(COLOURS)}, such as {PHRASINGS["pick"][0].format("red")!r}'
        )
    kind, colour = meant
    while (episode := sample_episode(kind, seed, split)).task.colour != colour:
        seed += 1
    return replace(episode, task=Task(kind, colour, instruction))


class Success:
    """Whether a task has been done; call it after every step, it latches."""

    def __init__(self, task: Task, arm: SimArm) -> None:
        """Remember where the blocks are now, at the start of the episode."""
        self._task = task
        self._start = arm.block_positions()
        self._since_s: float | None = None
        self.done = False
        self.touched_wrong = False

    def update(self, arm: SimArm) -> bool:
        """Look at the arm and return whether the task is or was done."""
        if self._holds(arm):
            since = arm.time_s if self._since_s is None else self._since_s
            self._since_s = since
            self.done |= arm.time_s - since >= self._held_s() - 1e-9
        else:
            self._since_s = None
        self.touched_wrong |= self._other_block_moved(arm)
        return self.done

    def _holds(self, arm: SimArm) -> bool:
        block = arm.block_positions()[self._task.colour]
        moved = block - self._start[self._task.colour]
        if self._task.kind == 'reach':
            return distance_to_reach(block, arm) <= REACH_TOLERANCE_M
        if self._task.kind == 'push':
            return bool(moved[0] >= PUSH_DISTANCE_M and abs(moved[2]) < 0.01)
        return bool(moved[2] >= PICK_HEIGHT_M)

    def _held_s(self) -> float:
        return {'reach': REACH_HELD_S, 'push': 0.0, 'pick': PICK_HELD_S}[self._task.kind]

    def _other_block_moved(self, arm: SimArm) -> bool:
        return any(
            np.linalg.norm(position - self._start[colour]) > 0.02
            for colour, position in arm.block_positions().items()
            if colour != self._task.colour
        )


def distance_to_reach(block_m: NDArray[np.float64], arm: SimArm) -> float:
    """Return how far the end effector is from the point reach asks for [m]."""
    goal = block_m + np.array([0.0, 0.0, REACH_ABOVE_M])
    return float(np.linalg.norm(arm.ee_pose().position_m - goal))
