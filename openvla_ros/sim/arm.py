"""The simulated arm: follows an end-effector twist, as the driver of a real one would."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openvla_ros.sim import camera
from openvla_ros.sim.inverse_kinematics import DampedLeastSquares
from openvla_ros.sim.scene import Scene, build_model

import mujoco  # isort: skip

Vector = NDArray[np.float64]

ARM_JOINTS = ('waist', 'shoulder', 'elbow', 'forearm_roll', 'wrist_angle', 'wrist_rotate')
FINGER_JOINTS = ('left_finger', 'right_finger')
CONTROL_PERIOD_S = 0.02
IK_ITERATIONS = 2
# The published joint speed limit.
MAX_JOINT_RADPS = np.pi
# A pose from which the whole workspace is reached without turning the elbow over.
READY_JOINTS_RAD = np.array([0.0, -0.6, 0.6, 0.0, 1.57, 0.0])
# Gripper straight down, fingers opening along the base's y axis: ee x = -z, ee y = y, ee z = x.
GRIPPER_DOWN = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
# The target runs ahead of the arm by at most this, so that nothing winds up against an obstacle.
LEASH_M = 0.03
# The fingers cross their 22 mm in 0.3 s.
GRIPPER_SPEED_PER_S = 1.0 / 0.3


@dataclass(frozen=True)
class EePose:
    """Pose of ee_link in base_link."""

    position_m: Vector
    quaternion_xyzw: Vector

    def rotation(self) -> Vector:
        """Return the rotation matrix, float64[3,3]."""
        return _matrix(self.quaternion_xyzw)


@dataclass(frozen=True)
class JointState:
    """Measured joints: the six of the arm [rad, rad/s], then the fingers [m, m/s]."""

    names: tuple[str, ...]
    positions: Vector
    velocities: Vector
    efforts: Vector


class SimArm:
    """An arm at a table with blocks. Deterministic: the same calls give the same numbers."""

    def __init__(
        self, scene: Scene, *, width: int = 256, height: int = 256, render: bool = True
    ) -> None:
        """Build the scene with the arm at rest at the scene's start position.

        Args:
            scene: What stands on the table and where the arm starts.
            width: Image width in pixels, up to 640.
            height: Image height in pixels, up to 640.
            render: Whether ``render()`` will be called; False needs no OpenGL.
        """
        self.scene = scene
        self.width = width
        self.height = height
        self.time_s = 0.0
        self.model = build_model(scene)
        self.data = mujoco.MjData(self.model)
        self._site = self.model.site('ee').id
        self._camera: camera.SceneCamera | None = None
        self._may_render = render
        self._substeps = round(CONTROL_PERIOD_S / self.model.opt.timestep)
        self._blocks = {b.colour: self.model.body(f'block_{b.colour}').id for b in scene.blocks}
        self._fingers = self.model.jnt_range[6].copy()
        self._kinematics = DampedLeastSquares(
            self.model,
            'ee',
            len(ARM_JOINTS),
            max_joint_step_rad=MAX_JOINT_RADPS * CONTROL_PERIOD_S / IK_ITERATIONS,
        )
        # A position servo lags a moving target by damping over stiffness; it is fed forward.
        self._lag_s = -self.model.actuator_biasprm[:6, 2] / self.model.actuator_gainprm[:6, 0]
        self._opening = 1.0
        self._place(np.array(scene.start_position_m))

    def _place(self, position_m: Vector) -> None:
        self._kinematics.set_joints(READY_JOINTS_RAD)
        joints = self._kinematics.solve(position_m, GRIPPER_DOWN, iterations=200)
        self.data.qpos[:6] = joints
        self.data.qpos[6:8] = [self._fingers[1], -self._fingers[1]]
        self.data.ctrl[:] = [*joints, self._fingers[1]]
        mujoco.mj_forward(self.model, self.data)
        self._target_position = self._kinematics.site_position()
        self._target_rotation = self._kinematics.site_rotation()

    def step(self, twist_base: ArrayLike, gripper_opening: float, dt_s: float) -> None:
        """Move with a twist for a time; the physics advances in periods of CONTROL_PERIOD_S.

        Args:
            twist_base: float64[6], m/s then rad/s, in base_link, about the end effector's point.
            gripper_opening: Wanted opening, 0 closed .. 1 open; NaN keeps the last one.
            dt_s: How long, a multiple of CONTROL_PERIOD_S.

        Raises:
            ValueError: a twist that is not six finite numbers, or a time that is no multiple.
        """
        twist = np.asarray(twist_base, dtype=np.float64)
        if twist.shape != (6,) or not np.all(np.isfinite(twist)):
            raise ValueError(
                f'SimArm.step: got twist {twist.tolist()}, expected 6 finite numbers (m/s, rad/s)'
            )
        periods = round(dt_s / CONTROL_PERIOD_S)
        if periods < 1 or abs(periods * CONTROL_PERIOD_S - dt_s) > 1e-6:
            raise ValueError(
                f'SimArm.step: got dt_s {dt_s}, expected a multiple of {CONTROL_PERIOD_S} s'
            )
        for _ in range(periods):
            self._advance(twist, gripper_opening)

    def _advance(self, twist: Vector, gripper_opening: float) -> None:
        before = self._kinematics.joints
        self._move_target(twist)
        joints = self._kinematics.solve(
            self._target_position, self._target_rotation, IK_ITERATIONS
        )
        self._keep_target_reachable()
        self._move_opening(gripper_opening)
        low, high = self._fingers
        self.data.ctrl[6] = low + self._opening * (high - low)
        lead = (joints - before) * (self._lag_s / CONTROL_PERIOD_S)
        for i in range(self._substeps):
            part = (i + 1) / self._substeps
            self.data.ctrl[:6] = before + (joints - before) * part + lead
            mujoco.mj_step(self.model, self.data)
        self.time_s += CONTROL_PERIOD_S

    def _move_target(self, twist: Vector) -> None:
        self._target_position = self._target_position + twist[:3] * CONTROL_PERIOD_S
        turn = np.zeros(4)
        angle = float(np.linalg.norm(twist[3:])) * CONTROL_PERIOD_S
        if angle > 0.0:
            mujoco.mju_axisAngle2Quat(turn, twist[3:] / np.linalg.norm(twist[3:]), angle)
            self._target_rotation = _matrix(np.roll(turn, -1)) @ self._target_rotation

    def _keep_target_reachable(self) -> None:
        """Pull the target back to what the joints can do and to a leash from the real arm."""
        reached = self._kinematics.site_position()
        if np.linalg.norm(self._target_position - reached) > 0.005:
            self._target_position = reached
            self._target_rotation = self._kinematics.site_rotation()
        lead = self._target_position - self.data.site_xpos[self._site]
        length = float(np.linalg.norm(lead))
        if length > LEASH_M:
            self._target_position = self._target_position - lead * (1.0 - LEASH_M / length)

    def _move_opening(self, wanted: float) -> None:
        if np.isfinite(wanted):
            limit = GRIPPER_SPEED_PER_S * CONTROL_PERIOD_S
            change = float(np.clip(np.clip(wanted, 0.0, 1.0) - self._opening, -limit, limit))
            self._opening += change

    def ee_pose(self) -> EePose:
        """Return the measured pose of ee_link in base_link."""
        quaternion = np.zeros(4)
        mujoco.mju_mat2Quat(quaternion, self.data.site_xmat[self._site])
        return EePose(np.array(self.data.site_xpos[self._site]), np.roll(quaternion, -1))

    def ee_velocity(self) -> Vector:
        """Return the measured twist of ee_link in base_link axes, float64[6], m/s then rad/s."""
        jacobian = np.zeros((6, self.model.nv))
        mujoco.mj_jacSite(self.model, self.data, jacobian[:3], jacobian[3:], self._site)
        return np.asarray(jacobian @ self.data.qvel, dtype=np.float64)

    def joint_state(self) -> JointState:
        """Return the measured joints."""
        return JointState(
            ARM_JOINTS + FINGER_JOINTS,
            np.array(self.data.qpos[:8]),
            np.array(self.data.qvel[:8]),
            np.array(self.data.qfrc_actuator[:8]),
        )

    def gripper_opening(self) -> float:
        """Return the measured opening, 0 closed .. 1 open."""
        low, high = self._fingers
        return float(np.clip((self.data.qpos[6] - low) / (high - low), 0.0, 1.0))

    def block_positions(self) -> dict[str, Vector]:
        """Return the centre of each block by its colour, base_link [m]."""
        return {colour: np.array(self.data.xpos[body]) for colour, body in self._blocks.items()}

    def render(self) -> NDArray[np.uint8]:
        """Return the camera's image, uint8[H,W,3] RGB.

        Raises:
            RuntimeError: the arm was made with render=False, or this machine has no offscreen GL.
        """
        if not self._may_render:
            raise RuntimeError('SimArm.render: the arm was made with render=False')
        if self._camera is None:
            self._camera = camera.SceneCamera(self.model, self.width, self.height)
        return self._camera.render(self.data)

    def camera_info(self) -> camera.PinholeIntrinsics:
        """Return the camera's intrinsics."""
        return camera.intrinsics(self.model, self.width, self.height)

    def camera_pose(self) -> EePose:
        """Return the pose of camera_optical_frame in base_link."""
        return EePose(*camera.optical_pose(self.data))

    def close(self) -> None:
        """Free the OpenGL context, if one was opened."""
        if self._camera is not None:
            self._camera.close()
            self._camera = None


def _matrix(quaternion_xyzw: Vector) -> Vector:
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, np.roll(quaternion_xyzw, 1))
    return matrix.reshape(3, 3)
