"""A scripted expert: what to do next, from what is now.

It has no memory: the action depends on the arm and the blocks alone, so that a policy that sees
one image can imitate it, and so that any state a policy gets into can be relabelled with it.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from openvla_ros.action_space.eef_delta import EefDelta
from openvla_ros.sim.arm import GRIPPER_DOWN, SimArm
from openvla_ros.sim.scene import BLOCK_HALF_M, LINE_X_M
from openvla_ros.sim.tasks import REACH_ABOVE_M, Task

import mujoco  # isort: skip

Vector = NDArray[np.float64]

STEP_S = 0.2
MAX_STEP_M = 0.024
MAX_STEP_RAD = 0.06
# Part of the remaining way taken in one step, so that it arrives smoothly.
GAIN = 0.6
# Height of the end effector's point at which the fingers hold a block (tips 7 mm over the table).
GRASP_Z_M = 0.019
PUSH_Z_M = 0.022
TRAVEL_Z_M = 0.085
# Here the finger tips are 8 mm over the blocks.
CLEAR_Z_M = 0.060
LIFT_Z_M = 0.14
# This far below its way it only rises.
RISE_FIRST_M = 0.04
# Beyond the line by this, so that a push has clearly ended.
PUSH_BEYOND_M = 0.01
# It comes down onto a place when it is over it within this.
GRASP_WITHIN_M = 0.010
PUSH_WITHIN_M = 0.015
# How far behind a block's centre the closed fingers come down before a push.
PUSH_BEHIND_M = 0.055
# Opening of the gripper around a block is (20 - 15) / 22 = 0.23: below the first number it holds
# one, below the second it has closed on nothing, below the third it is not fully open.
HOLDING_OPENING = 0.40
EMPTY_OPENING = 0.12
CLOSING_OPENING = 0.85
# It rises a little while it closes, so that a policy unsure whether it holds the block finds out.
CLOSING_RISE_M = 0.009


class ScriptedExpert:
    """Solves one task; ``act`` is a pure function of the arm's state."""

    def __init__(self, task: Task) -> None:
        """Choose what to do."""
        self._task = task
        self._policy = {'reach': self._reach, 'push': self._push, 'pick': self._pick}[task.kind]

    def act(self, arm: SimArm) -> EefDelta:
        """Return the displacement of the end effector for the next STEP_S, in the base frame."""
        blocks = arm.block_positions()
        block = blocks[self._task.colour]
        position = arm.ee_pose().position_m
        target, gripper = self._policy(position, block, arm.gripper_opening())
        if gripper == 0.0 and self._task.kind == 'push' and _around_one(position, blocks):
            target, gripper = np.array([*position[:2], TRAVEL_Z_M]), 1.0
        return EefDelta(
            translation_m=_limited(GAIN * (target - position), MAX_STEP_M),
            rotation_rad=_limited(GAIN * _rotation_to_down(arm), MAX_STEP_RAD),
            gripper=gripper,
            frame='base',
            step_s=STEP_S,
        )

    def _reach(self, position: Vector, block: Vector, opening: float) -> tuple[Vector, float]:
        del opening
        goal = block + np.array([0.0, 0.0, REACH_ABOVE_M])
        return _over(goal, position, goal[2]), 1.0

    def _push(self, position: Vector, block: Vector, opening: float) -> tuple[Vector, float]:
        del opening
        remaining = LINE_X_M + PUSH_BEYOND_M - block[0]
        if remaining <= 0.0:
            return position, 0.0
        behind = np.array([block[0] - PUSH_BEHIND_M, block[1], PUSH_Z_M])
        low_behind = position[0] < block[0] - BLOCK_HALF_M and position[2] < 2 * BLOCK_HALF_M
        if low_behind and abs(position[1] - block[1]) < 0.014:
            return np.array([position[0] + remaining + 0.01, block[1], PUSH_Z_M]), 0.0
        return _over(behind, position, PUSH_Z_M, PUSH_WITHIN_M), 0.0

    def _pick(self, position: Vector, block: Vector, opening: float) -> tuple[Vector, float]:
        grasp = np.array([block[0], block[1], GRASP_Z_M])
        along, across, above = np.abs(position - block)
        closing = opening < CLOSING_OPENING
        # Once the fingers close around the block they go on, though the arm has begun to rise.
        if closing and along < 0.018 and across < 0.014 and above < 0.025:
            if opening > HOLDING_OPENING:
                return position + np.array([0.0, 0.0, CLOSING_RISE_M]), 0.0
            if opening > EMPTY_OPENING:
                return np.array([*position[:2], LIFT_Z_M]), 0.0
        if along < 0.014 and across < 0.010 and above < 0.010 and not opening < EMPTY_OPENING:
            return position + np.array([0.0, 0.0, CLOSING_RISE_M]), 0.0
        return _over(grasp, position, GRASP_Z_M), 1.0


def _around_one(position: Vector, blocks: Mapping[str, Vector]) -> bool:
    """Return whether the fingers are at both sides of a block, which would be taken along."""
    return any(
        np.hypot(*(position - block)[:2]) < BLOCK_HALF_M and abs(position[2] - block[2]) < 0.030
        for block in blocks.values()
    )


def _over(
    goal: Vector, position: Vector, floor_m: float, within_m: float = GRASP_WITHIN_M
) -> Vector:
    """Return a target that comes down onto a goal inside a funnel.

    Over the blocks it goes sideways at the height it has; only below their tops it rises first, so
    that it does not sweep them away. Whether to go up or down so never hangs on a millimetre,
    which a policy cannot see.
    """
    across = (goal - position)[:2]
    apart = float(np.hypot(*across))
    highest = max(position[2], CLEAR_Z_M, floor_m)
    wanted = min(floor_m + 4.0 * max(apart - within_m, 0.0), TRAVEL_Z_M, highest)
    height = max(wanted, floor_m)
    below = min(height, CLEAR_Z_M) - position[2]
    part = float(np.clip(1.0 - below / RISE_FIRST_M, 0.0, 1.0))
    return np.array([*(position[:2] + part * across), height])


def _limited(vector: Vector, length: float) -> Vector:
    norm = float(np.linalg.norm(vector))
    return vector if norm <= length else vector * (length / norm)


def _rotation_to_down(arm: SimArm) -> Vector:
    """Return the rotation vector in base axes that turns the gripper straight down."""
    quaternion = np.zeros(4)
    vector = np.zeros(3)
    rotation = GRIPPER_DOWN @ arm.ee_pose().rotation().T
    mujoco.mju_mat2Quat(quaternion, rotation.reshape(9))
    mujoco.mju_quat2Vel(vector, quaternion, 1.0)
    return vector
