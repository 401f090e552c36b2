"""What one action means: a displacement of the end effector during one step, and the gripper."""

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import NDArray

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
