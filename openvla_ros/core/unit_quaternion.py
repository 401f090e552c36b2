"""Rotations as unit quaternions (x, y, z, w) in plain floats, for the control tick.

`scipy.spatial.transform.Rotation` does the same in about 50 us per composition; a control tick
has to cost less than that altogether. The tests hold every function against scipy.
"""

import math

from openvla_ros.core.vector3 import Vector3

Quaternion = tuple[float, float, float, float]

IDENTITY: Quaternion = (0.0, 0.0, 0.0, 1.0)


def exp(rotvec: Vector3) -> Quaternion:
    """Return the quaternion of a rotation vector [rad]."""
    x, y, z = rotvec
    angle = math.hypot(x, y, z)
    factor = math.sin(0.5 * angle) / angle if angle > 1e-8 else 0.5
    return (x * factor, y * factor, z * factor, math.cos(0.5 * angle))


def log(q: Quaternion) -> Vector3:
    """Return the shortest rotation vector [rad] of a unit quaternion; its length is at most pi."""
    x, y, z, w = q
    if w < 0.0:
        x, y, z, w = -x, -y, -z, -w
    sine = math.hypot(x, y, z)
    factor = 2.0 * math.atan2(sine, w) / sine if sine > 1e-12 else 2.0
    return (x * factor, y * factor, z * factor)


def multiply(a: Quaternion, b: Quaternion) -> Quaternion:
    """Return the rotation that applies ``b`` first and ``a`` after it, about fixed axes."""
    ax, ay, az, aw = a
    bx, by, bz, bw = b
    return (
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    )


def inverse(q: Quaternion) -> Quaternion:
    """Return the opposite rotation."""
    return (-q[0], -q[1], -q[2], q[3])


def normalized(q: Quaternion) -> Quaternion:
    """Return q at unit length."""
    length = math.hypot(*q)
    return (q[0] / length, q[1] / length, q[2] / length, q[3] / length)


def rotate(q: Quaternion, v: Vector3) -> Vector3:
    """Return the vector ``v`` turned by ``q``."""
    x, y, z, w = q
    tx = 2.0 * (y * v[2] - z * v[1])
    ty = 2.0 * (z * v[0] - x * v[2])
    tz = 2.0 * (x * v[1] - y * v[0])
    return (
        v[0] + w * tx + y * tz - z * ty,
        v[1] + w * ty + z * tx - x * tz,
        v[2] + w * tz + x * ty - y * tx,
    )
