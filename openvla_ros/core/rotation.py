"""Rotations: fixed-axis Euler angles, rotation vectors, quaternions, and how they compose.

A rotation vector is axis times angle [rad]. Quaternions are (x, y, z, w), as in ROS messages.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

Vector = NDArray[np.float64]


def rotvec_from_euler_xyz(euler_rad: ArrayLike) -> Vector:
    """Return the rotation vector of roll, pitch, yaw about fixed axes: R = Rz(y) Ry(p) Rx(r).

    Args:
        euler_rad: float[3], (roll, pitch, yaw) [rad].

    Returns:
        float64[3], rotation vector [rad] of at most pi.
    """
    return rotvec_from_rotation(Rotation.from_euler('xyz', np.array(euler_rad, np.float64)))


def euler_xyz_from_rotvec(rotvec_rad: ArrayLike) -> Vector:
    """Return (roll, pitch, yaw) [rad] about fixed axes; the inverse of rotvec_from_euler_xyz.

    Where pitch is +-pi/2 roll and yaw are not unique; one of the solutions is returned.
    """
    rotation = rotation_from_rotvec(rotvec_rad)
    return np.asarray(rotation.as_euler('xyz'), np.float64)


def rotation_from_rotvec(rotvec_rad: ArrayLike) -> Rotation:
    """Return Exp of a rotation vector float[3] [rad]."""
    return Rotation.from_rotvec(np.array(rotvec_rad, np.float64))


def rotvec_from_rotation(rotation: Rotation) -> Vector:
    """Return Log of a rotation: the rotation vector float64[3] [rad] of at most pi."""
    return np.asarray(rotation.as_rotvec(), np.float64)


def rotate_by_quaternion(quaternion_xyzw: ArrayLike, vector: ArrayLike) -> Vector:
    """Return R v float64[3]: with R = R_base_ee, a vector of the end-effector frame in base."""
    rotation = Rotation.from_quat(np.array(quaternion_xyzw, np.float64))
    return np.asarray(rotation.apply(np.array(vector, np.float64)), np.float64)


def integrate_quaternion(
    quaternion_xyzw: ArrayLike, angular_radps: ArrayLike, dt_s: float
) -> Vector:
    """Return the quaternion after turning at a constant rate about fixed axes of the base frame.

    R(t + dt) = Exp(omega dt) R(t): the increment is multiplied from the left.

    Args:
        quaternion_xyzw: float[4], orientation of the end effector in the base frame.
        angular_radps: float[3], angular velocity in the base frame [rad/s].
        dt_s: Duration [s].
    """
    increment = rotation_from_rotvec(np.asarray(angular_radps, np.float64) * dt_s)
    turned = increment * Rotation.from_quat(np.array(quaternion_xyzw, np.float64))
    return np.asarray(turned.as_quat(), np.float64)
