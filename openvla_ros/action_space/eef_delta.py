"""What one action means: a displacement of the end effector during one step, and the gripper."""

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from openvla_ros.core.rotation import rotation_from_rotvec, rotvec_from_rotation

Frame = Literal['base', 'ee']


@dataclasses.dataclass(frozen=True, eq=False)
class EefDelta:
    """Displacement of the end effector during one step of the policy.

    In frame 'base' the translation is along the axes of the robot's base and the rotation is
    about them, through the end-effector point: p += translation, R = Exp(rotation) R. In frame
    'ee' both are along the axes of the end effector: p += R translation, R = R Exp(rotation).

    Attributes:
        translation_m: float64[3] [m].
        rotation_rad: float64[3], rotation vector (axis times angle) [rad].
        gripper: Wanted opening: 0 closed .. 1 open.
        frame: 'base' or 'ee'.
        step_s: Duration of the step the displacement is meant for [s].
    """

    translation_m: NDArray[np.float64]
    rotation_rad: NDArray[np.float64]
    gripper: float
    frame: Frame
    step_s: float

    def __post_init__(self) -> None:
        """Refuse what could not be executed, and freeze the arrays.

        Raises:
            ValueError: a non-finite number, a wrong shape, frame, step or gripper opening.
        """
        for name in ('translation_m', 'rotation_rad'):
            values = np.array(getattr(self, name), np.float64)
            if values.shape != (3,) or not np.isfinite(values).all():
                raise ValueError(f'{name}: got {values.tolist()}, expected three finite numbers')
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        if not 0.0 <= self.gripper <= 1.0:
            raise ValueError(f'gripper: got {self.gripper}, expected 0 (closed) to 1 (open)')
        if self.frame not in ('base', 'ee'):
            raise ValueError(f"frame: got {self.frame!r}, expected 'base' or 'ee'")
        if not 0.0 < self.step_s < 60.0:
            raise ValueError(f'step_s: got {self.step_s}, expected a positive duration in seconds')

    def twist(self) -> NDArray[np.float64]:
        """Return displacement / step_s: float64[6], linear [m/s] then angular [rad/s]."""
        return np.concatenate([self.translation_m, self.rotation_rad]) / self.step_s

    def is_motion(self, *, least_m: float = 1e-3, least_rad: float = 5e-3) -> bool:
        """Say whether it moves the arm: more than what a model at rest writes as zero.

        The bins nearest to zero are up to half a bin away from it; for Bridge that is at most
        0.25 mm and 1 mrad.
        """
        return bool(
            np.linalg.norm(self.translation_m) > least_m
            or np.linalg.norm(self.rotation_rad) > least_rad
        )


def pose_after(pose: ArrayLike, delta: EefDelta) -> NDArray[np.float64]:
    """Return the pose that a displacement leads to; the inverse is ``delta_between``.

    Args:
        pose: float[7], position [m] and quaternion xyzw of the end effector in the base frame.
        delta: In either frame.

    Returns:
        float64[7].
    """
    position, turn = _parts(pose)
    step = rotation_from_rotvec(delta.rotation_rad)
    if delta.frame == 'base':
        moved, turned = position + delta.translation_m, step * turn
    else:
        along = turn.apply(np.array(delta.translation_m))  # SciPy refuses frozen arrays
        moved, turned = position + along, turn * step
    return np.concatenate([moved, turned.as_quat()])


def delta_between(
    before: ArrayLike, after: ArrayLike, *, gripper: float, frame: Frame, step_s: float
) -> EefDelta:
    """Return the displacement that leads from one pose to another; inverse of ``pose_after``.

    Args:
        before: float[7], position [m] and quaternion xyzw of the end effector in the base frame.
        after: float[7], one step later.
        gripper: Wanted opening during the step, 0 closed .. 1 open.
        frame: Whose axes the displacement is written along.
        step_s: Duration of the step [s].

    Raises:
        ValueError: as ``EefDelta``.
    """
    (start, turn), (end, turned) = _parts(before), _parts(after)
    if frame == 'base':
        translation, step = end - start, turned * turn.inv()
    else:
        translation, step = turn.inv().apply(end - start), turn.inv() * turned
    return EefDelta(translation, rotvec_from_rotation(step), gripper, frame, step_s)


def _parts(pose: ArrayLike) -> tuple[NDArray[np.float64], Rotation]:
    values = np.asarray(pose, np.float64)
    return values[:3], Rotation.from_quat(values[3:])
