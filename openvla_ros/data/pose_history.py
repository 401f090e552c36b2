"""Poses over time, as recordings hold them: interpolated between samples, unknown in a gap."""

import bisect
import math
from collections.abc import Sequence

from openvla_ros.core import unit_quaternion
from openvla_ros.core.vector3 import add, norm, subtract
from openvla_ros.safety.pose_tracker import Pose

NEAR_S = 0.05
"""A sample this near stands for a time that no two samples enclose."""
MAX_GAP_S = 0.25
"""Between samples further apart than this nobody knows how the arm moved."""
_STILL_M, _STILL_RAD = 1e-4, 1e-3


class PoseHistory:
    """Samples of a pose; those that are not finite or not a rotation are ignored, as tf2 does.

    Attributes:
        span_s: Stamps of the first and the last sample [s].
    """

    def __init__(self, stamps_s: Sequence[float], poses: Sequence[Pose]) -> None:
        """Take samples in any order.

        Args:
            stamps_s: One stamp per pose [s].
            poses: Of equal number.
        """
        usable = [(float(t), pose) for t, pose in zip(stamps_s, poses) if is_rigid(pose)]
        usable.sort(key=lambda sample: sample[0])
        self._stamps_s = [stamp_s for stamp_s, _ in usable]
        self._poses = [pose for _, pose in usable]
        self.span_s = (self._stamps_s[0], self._stamps_s[-1]) if usable else (math.inf, -math.inf)

    def __bool__(self) -> bool:
        """Say whether any sample is usable."""
        return bool(self._poses)

    def at(self, stamp_s: float) -> Pose | None:
        """Return the pose at a time [s]; None in a gap and beyond the ends."""
        after = bisect.bisect_right(self._stamps_s, stamp_s)
        if 0 < after < len(self._poses):
            first, second = self._poses[after - 1], self._poses[after]
            start_s, end_s = self._stamps_s[after - 1], self._stamps_s[after]
            if end_s - start_s <= MAX_GAP_S or _still(first, second):
                return interpolate(first, second, (stamp_s - start_s) / (end_s - start_s))
        near = [
            (abs(self._stamps_s[index] - stamp_s), self._poses[index])
            for index in (after - 1, after)
            if 0 <= index < len(self._poses)
        ]
        distance_s, pose = min(near, key=lambda sample: sample[0], default=(math.inf, None))
        return pose if distance_s <= NEAR_S else None


def is_rigid(pose: Pose) -> bool:
    """Say whether all numbers are finite and the quaternion has length 1 (within 1 %)."""
    finite = all(map(math.isfinite, (*pose.position_m, *pose.quaternion_xyzw)))
    return finite and abs(math.hypot(*pose.quaternion_xyzw) - 1.0) < 1e-2


def interpolate(first: Pose, second: Pose, part: float) -> Pose:
    """Return the pose ``part`` (0..1) of the way: straight, and turning at a constant rate."""
    x, y, z = (a + part * (b - a) for a, b in zip(first.position_m, second.position_m))
    rx, ry, rz = _turn(first, second)
    turned = unit_quaternion.exp((part * rx, part * ry, part * rz))
    start = unit_quaternion.normalized(first.quaternion_xyzw)
    return Pose((x, y, z), unit_quaternion.multiply(turned, start))


def compose(a: Pose, b: Pose) -> Pose:
    """Return T_a T_b: with a = frame 1 in 0 and b = frame 2 in 1, frame 2 in 0."""
    quaternion = unit_quaternion.normalized(a.quaternion_xyzw)
    position = add(a.position_m, unit_quaternion.rotate(quaternion, b.position_m))
    turned = unit_quaternion.multiply(quaternion, b.quaternion_xyzw)
    return Pose(position, unit_quaternion.normalized(turned))


def inverse(pose: Pose) -> Pose:
    """Return the inverse of T: with frame 1 in 0, frame 0 in 1."""
    back = unit_quaternion.inverse(unit_quaternion.normalized(pose.quaternion_xyzw))
    x, y, z = unit_quaternion.rotate(back, pose.position_m)
    return Pose((-x, -y, -z), back)


def _turn(first: Pose, second: Pose) -> tuple[float, float, float]:
    """Return the rotation vector [rad] that leads from the first to the second orientation."""
    start = unit_quaternion.normalized(first.quaternion_xyzw)
    end = unit_quaternion.normalized(second.quaternion_xyzw)
    return unit_quaternion.log(unit_quaternion.multiply(end, unit_quaternion.inverse(start)))


def _still(first: Pose, second: Pose) -> bool:
    moved_m = norm(subtract(second.position_m, first.position_m))
    return moved_m < _STILL_M and norm(_turn(first, second)) < _STILL_RAD
