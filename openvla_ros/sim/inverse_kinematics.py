"""Inverse kinematics of the simulated arm: damped least squares with joint limits.

Method: Nakamura and Hanafusa 1986 / Wampler 1986, dq = J^T (J J^T + lambda^2 I)^-1 e; a joint
that would leave its range is held there and the others are solved again.
"""

import numpy as np
from numpy.typing import NDArray

from openvla_ros.sim import offscreen  # noqa: F401  (chooses OpenGL before mujoco is imported)

import mujoco  # isort: skip

Vector = NDArray[np.float64]


class DampedLeastSquares:
    """Follows a pose of one site with the first ``num_joints`` joints of a model.

    It keeps a kinematic state of its own: measured joints never enter, so that servo lag does
    not accumulate into the command.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        site: str,
        num_joints: int,
        *,
        damping: float = 0.02,
        rotation_weight_m: float = 0.15,
        max_joint_step_rad: float = 0.15,
    ) -> None:
        """Prepare for a model.

        Args:
            model: Its first ``num_joints`` joints are hinges with limits, in qpos order.
            site: Name of the site to place.
            num_joints: How many joints may move.
            damping: lambda, in metres: how much joint motion a metre of error may cost.
            rotation_weight_m: How many metres of error one radian of error counts as.
            max_joint_step_rad: Largest motion of one joint in one iteration.
        """
        self._model = model
        self._data = mujoco.MjData(model)
        self._site = model.site(site).id
        self._count = num_joints
        self._damping = damping
        self._weight = np.array([1.0] * 3 + [rotation_weight_m] * 3)
        self._max_step = max_joint_step_rad
        self._lower = model.jnt_range[:num_joints, 0].copy()
        self._upper = model.jnt_range[:num_joints, 1].copy()
        self._jacobian = np.zeros((6, model.nv))

    @property
    def joints(self) -> Vector:
        """Joint positions of the kinematic state [rad]."""
        return np.array(self._data.qpos[: self._count])

    def set_joints(self, joints_rad: Vector) -> None:
        """Put the kinematic state there, within the joint limits."""
        self._data.qpos[: self._count] = np.clip(joints_rad, self._lower, self._upper)
        self._forward()

    def site_position(self) -> Vector:
        """Position of the site in the world [m]."""
        return np.array(self._data.site_xpos[self._site])

    def site_rotation(self) -> Vector:
        """Rotation of the site in the world, float64[3,3]."""
        return np.array(self._data.site_xmat[self._site]).reshape(3, 3)

    def solve(self, position_m: Vector, rotation: Vector, iterations: int) -> Vector:
        """Move the kinematic state towards a pose and return its joints.

        Args:
            position_m: Wanted position of the site, float64[3], world.
            rotation: Wanted rotation of the site, float64[3,3], world.
            iterations: Newton steps; 2 suffice to follow a moving target at 50 Hz.

        Returns:
            Joint positions float64[num_joints], always within the limits.
        """
        for _ in range(iterations):
            error = self._error(position_m, rotation)
            if np.linalg.norm(error) < 1e-7:
                break
            mujoco.mj_jacSite(
                self._model, self._data, self._jacobian[:3], self._jacobian[3:], self._site
            )
            jacobian = self._weight[:, None] * self._jacobian[:, : self._count]
            self.set_joints(self.joints + self._limited_step(jacobian, self._weight * error))
        return self.joints

    def _error(self, position_m: Vector, rotation: Vector) -> Vector:
        quaternion = np.zeros(4)
        rotation_vector = np.zeros(3)
        mujoco.mju_mat2Quat(quaternion, (rotation @ self.site_rotation().T).reshape(9))
        mujoco.mju_quat2Vel(rotation_vector, quaternion, 1.0)
        return np.concatenate([position_m - self.site_position(), rotation_vector])

    def _limited_step(self, jacobian: Vector, error: Vector) -> Vector:
        free = np.ones(self._count, dtype=bool)
        joints = self.joints
        for _ in range(3):
            active = jacobian * free
            gram = active @ active.T + self._damping**2 * np.eye(6)
            step: Vector = active.T @ np.linalg.solve(gram, error)
            step *= min(1.0, self._max_step / (float(np.abs(step).max()) + 1e-12))
            leaves = (joints + step < self._lower) | (joints + step > self._upper)
            if not np.any(leaves & free):
                break
            free &= ~leaves
        return step

    def _forward(self) -> None:
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
