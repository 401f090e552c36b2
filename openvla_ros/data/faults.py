"""What a preparation left out, and what looks wrong in a finished data set."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla_ros.action_space.dataset_profile import DatasetProfile

#: Still this long, an arm pauses [s].
_PAUSE_S = 1.0


@dataclasses.dataclass
class Faults:
    """Counts of steps by fate, over all recordings.

    Attributes:
        kept: Written.
        stale: Dropped: the newest image was older than half a step.
        repeated: Dropped: the image was the one before, to the bit, while the arm moved.
        no_motion: Dropped: no pose, command or gripper opening was recorded near the step's ends.
        idle: Neither motion nor a change of the gripper; dropped unless asked for.
        pauses: Times in which that lasted a second or more.
        unreadable: Images that cannot be decoded.
        short_episodes: Episodes dropped because fewer than two steps were left.
        failed_episodes: Recordings left out because their label says failure.
    """

    kept: int = 0
    stale: int = 0
    repeated: int = 0
    no_motion: int = 0
    idle: int = 0
    pauses: int = 0
    unreadable: int = 0
    short_episodes: int = 0
    failed_episodes: int = 0

    def count_idle(self, idle: NDArray[np.bool_], step_s: float) -> None:
        """Add an episode's idle steps, bool[N], and the pauses among them."""
        self.idle += int(idle.sum())
        edges = np.diff(np.concatenate([[0], idle.astype(int), [0]]))
        lengths = np.flatnonzero(edges < 0) - np.flatnonzero(edges > 0)
        self.pauses += int((lengths * step_s >= _PAUSE_S - 1e-9).sum())

    def sentences(self, *, keep_no_ops: bool) -> list[str]:
        """Say what was kept and what was not, a line each."""
        idle = 'kept as asked' if keep_no_ops else 'dropped'
        lines = [
            (self.stale, 'steps dropped: the newest image is older than half a step'),
            (self.repeated, 'steps dropped: the image is the same as before while the arm moves'),
            (self.no_motion, 'steps dropped: no pose, command or gripper opening near their ends'),
            (self.idle, f'steps without motion or change of the gripper, {idle}'),
            (self.pauses, 'pauses of a second or more'),
            (self.unreadable, 'images that cannot be decoded'),
            (self.short_episodes, 'episodes dropped: fewer than two steps are left'),
            (self.failed_episodes, 'recordings left out: their label says failure'),
        ]
        return [f'{self.kept} steps kept', *(f'{n} {text}' for n, text in lines if n)]


def suspicious(
    actions: NDArray[np.floating[Any]], states: NDArray[np.floating[Any]], profile: DatasetProfile
) -> list[str]:
    """Say what looks wrong in the actions of a data set, a sentence each; none where all is well.

    Args:
        actions: float[N,7] in the units of the profile.
        states: float[N,7]: position [m], rotation vector [rad], gripper opening; NaN if unknown.
        profile: Of the data set.
    """
    names = ('x', 'y', 'z', 'rotation 1', 'rotation 2', 'rotation 3')
    found = []
    q01, q99 = (np.quantile(actions[:, :6], q, axis=0) for q in (0.01, 0.99))
    constant = [name for name, low, high in zip(names, q01, q99) if low == high]
    if constant:
        found.append(
            f'{", ".join(constant)}: q01 equals q99, so a policy never moves there; right only '
            'where the robot never does'
        )
    gripper = actions[:, 6]
    if gripper.min() == gripper.max():
        found.append(f'the gripper is {gripper[0]:g} in every frame; is its command recorded?')
    limits = sorted((profile.gripper.open_value, profile.gripper.closed_value))
    outside = (gripper < limits[0] - 1e-6) | (gripper > limits[1] + 1e-6)
    if outside.any():
        found.append(
            f'{int(outside.sum())} gripper values are outside {limits[0]:g} to {limits[1]:g}, '
            'which the profile says'
        )
    return found + _flipped_axes(actions, states, profile)


def _flipped_axes(
    actions: NDArray[np.floating[Any]], states: NDArray[np.floating[Any]], profile: DatasetProfile
) -> list[str]:
    """Axes along which the arm goes the other way than its actions say, in the base frame."""
    if profile.frame != 'base' or len(actions) < 10 or not np.isfinite(states).all():
        return []
    moved = np.diff(states[:, :3], axis=0)
    said = actions[:-1, :3] * profile.translation_scale_m
    # Between episodes the arm jumps: such pairs say nothing about the axis.
    near = np.linalg.norm(moved - said, axis=1) < 3.0 * np.linalg.norm(said, axis=1) + 1e-3
    found = []
    for axis, name in enumerate('xyz'):
        a, b = said[near, axis], moved[near, axis]
        if len(a) > 9 and a.std() > 1e-6 and b.std() > 1e-6 and np.corrcoef(a, b)[0, 1] < -0.5:
            found.append(f'{name}: the arm moves the other way than its actions say; flipped?')
    return found
