"""From a point in the robot's base frame to a pixel of the camera picture."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

NEAREST_M = 0.01
"""Points nearer to the lens than this, or behind it, have no pixel."""


@dataclass(frozen=True, eq=False)
class CameraProjection:
    """A pinhole camera without distortion, at a place.

    Attributes:
        intrinsics: K, float64[3, 3]: pixel ~ K @ point in the optical frame (REP-104).
        position_m: float64[3], the optical centre in the base frame.
        quaternion_xyzw: float64[4], orientation of the optical frame (x right, y down, z forward)
            in the base frame.
        width_px: Width of the picture that K is for.
        height_px: Its height.
    """

    intrinsics: NDArray[np.float64]
    position_m: NDArray[np.float64]
    quaternion_xyzw: NDArray[np.float64]
    width_px: int
    height_px: int

    def __post_init__(self) -> None:
        """Refuse what would draw at a wrong place.

        Raises:
            ValueError: K is not calibrated (all zeros, as an uncalibrated driver sends it), a
                number is not finite, or the quaternion is not of unit length.
        """
        matrix = np.asarray(self.intrinsics, np.float64).reshape(3, 3)
        if not np.isfinite(matrix).all() or matrix[0, 0] <= 0.0 or matrix[1, 1] <= 0.0:
            raise ValueError('camera_info: K has no positive focal length; calibrate the camera')
        if self.width_px < 1 or self.height_px < 1:
            raise ValueError(f'camera_info: got {self.width_px} x {self.height_px} pixels')
        norm = np.linalg.norm(self.quaternion_xyzw)
        if not np.isfinite(self.position_m).all() or not abs(norm - 1.0) < 1e-2:
            raise ValueError('camera pose: not finite, or its quaternion is not of unit length')
        object.__setattr__(self, 'intrinsics', matrix)

    def pixel(self, point_m: ArrayLike) -> tuple[float, float] | None:
        """Return (column, row) of a point float[3] of the base frame; None if it has none."""
        offset = np.asarray(point_m, np.float64) - self.position_m
        if not np.isfinite(offset).all():
            return None
        in_optical = Rotation.from_quat(self.quaternion_xyzw).inv().apply(offset)
        if not in_optical[2] > NEAREST_M:
            return None
        column, row, _ = self.intrinsics @ (in_optical / in_optical[2])
        return float(column), float(row)
