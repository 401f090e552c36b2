"""Where the end effector is: the last measured pose, and where the commands should have led.

Neither alone is safe to bound motion with: the measurement is late, the commands may not have
been followed. The workspace limits hold for both.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from openvla_ros.core import unit_quaternion
from openvla_ros.core.unit_quaternion import Quaternion
from openvla_ros.core.vector3 import ZERO, Vector3, add, add_scaled, limit_norm, norm, subtract
from openvla_ros.safety.robot_profile import RobotProfile

# A pose may move this much faster than the speed limit, plus this much, before it is a jump.
JUMP_SPEED_FACTOR = 3.0
JUMP_SLACK_M = 0.02
_FUTURE_S = 0.05
_PLACE_LIMIT_M = 100.0


class Pose(NamedTuple):
    """Pose of the end effector in the base frame: p_base = R(quaternion) p_ee + position."""

    position_m: Vector3
    quaternion_xyzw: Quaternion

    @staticmethod
    def of(position_m: Sequence[float], quaternion_xyzw: Sequence[float]) -> 'Pose':
        """Build a pose of plain floats from any two sequences (arrays, messages)."""
        x, y, z = (float(value) for value in position_m)
        qx, qy, qz, qw = (float(value) for value in quaternion_xyzw)
        return Pose((x, y, z), (qx, qy, qz, qw))


class PoseTracker:
    """Keeps the measured and the commanded pose and judges both."""

    def __init__(self, profile: RobotProfile) -> None:
        settings = profile.pose
        self._settings = settings
        self._speed = profile.limits.speed_mps
        self.integrated = settings.source == 'integrated'
        self.refused = 0
        self.refusal = ''
        self.measured: Pose | None = None
        self.commanded: Pose | None = None
        self._received_s = -math.inf
        self._stamp_s = -math.inf
        self.jumped_s = -math.inf
        if settings.start_position_m is not None:
            start = unit_quaternion.normalized(settings.start_quaternion_xyzw)
            self.measured = self.commanded = Pose(settings.start_position_m, start)

    def offer(self, pose: Pose, stamp_s: float, now_s: float, ros_now_s: float) -> bool:
        """Take a measured pose; False if it is not believed (it then changes nothing)."""
        if self.integrated:
            return False
        why = self._why_refused(pose, stamp_s, now_s, ros_now_s)
        if why:
            self.refuse(why)
            return False
        self.refusal = ''
        quaternion = unit_quaternion.normalized(pose.quaternion_xyzw)
        if self.measured is not None:
            moved = norm(subtract(pose.position_m, self.measured.position_m))
            dt_s = max(0.0, now_s - self._received_s)
            if moved > JUMP_SPEED_FACTOR * self._speed * dt_s + JUMP_SLACK_M:
                self.jumped_s = now_s
        self.measured = Pose(pose.position_m, quaternion)
        self._received_s, self._stamp_s = now_s, stamp_s
        if self.commanded is None:
            self.commanded = self.measured
        else:
            self._pull_on_leash(self.measured)
        return True

    def refuse(self, why: str) -> None:
        """Count a pose that is not believed and remember why."""
        self.refused += 1
        self.refusal = why

    def forget_time(self) -> None:
        """Forget the last stamp: ROS time is not what it was."""
        self._stamp_s = -math.inf

    def age_s(self, now_s: float) -> float:
        """Return the steady time since the last pose; -1 before the first [s]."""
        if self.integrated:
            return 0.0
        return now_s - self._received_s if self.measured is not None else -1.0

    def is_fresh(self, now_s: float) -> bool:
        """Tell whether a pose arrived within the timeout, by the steady clock."""
        if self.measured is None:
            return False
        return self.integrated or 0.0 <= now_s - self._received_s <= self._settings.timeout_s

    def hold_s(self, now_s: float, period_s: float) -> float:
        """Return how long the arm may move before the measured pose shows it [s]."""
        if self.integrated:
            return period_s
        return period_s + self._settings.latency_s + max(0.0, now_s - self._received_s)

    def move(self, v: Vector3, w: Vector3, dt_s: float) -> None:
        """Move the commanded pose by the twist (v, w) held for ``dt_s``."""
        if self.commanded is None:
            return
        position, quaternion = self.commanded
        if v != ZERO:
            position = add_scaled(position, v, dt_s)
        if w != ZERO:
            turn = unit_quaternion.exp((w[0] * dt_s, w[1] * dt_s, w[2] * dt_s))
            quaternion = unit_quaternion.normalized(unit_quaternion.multiply(turn, quaternion))
        self.commanded = Pose(position, quaternion)
        if self.integrated:
            self.measured = self.commanded
        elif self.measured is not None:
            self._pull_on_leash(self.measured)

    def settle(self) -> None:
        """Let the commanded pose be the measured one: the arm rests and nobody is armed."""
        self.commanded = self.measured

    def _why_refused(self, pose: Pose, stamp_s: float, now_s: float, ros_now_s: float) -> str:
        """Return why a pose is not believed, or ''."""
        numbers = (*pose.position_m, *pose.quaternion_xyzw, stamp_s, now_s, ros_now_s)
        if not all(map(math.isfinite, numbers)):
            return 'it is not finite'
        length = math.hypot(*pose.quaternion_xyzw)
        if abs(length - 1.0) > 0.05:
            return f'its quaternion has length {length:.3g}'
        if max(map(abs, pose.position_m)) > _PLACE_LIMIT_M:
            return f'it is more than {_PLACE_LIMIT_M:g} m from the base'
        if now_s < self._received_s:
            return 'the steady clock went backwards'
        age_s = ros_now_s - stamp_s
        if not -_FUTURE_S <= age_s <= self._settings.timeout_s:
            return f'its stamp is {age_s:.3g} s old, expected 0 to {self._settings.timeout_s:g} s'
        if stamp_s <= self._stamp_s:
            return 'its stamp does not increase'
        return ''

    def _pull_on_leash(self, measured: Pose) -> None:
        assert self.commanded is not None
        position, quaternion = self.commanded
        ahead = subtract(position, measured.position_m)
        if norm(ahead) > self._settings.leash_m:
            position = add(measured.position_m, limit_norm(ahead, self._settings.leash_m))
        if quaternion != measured.quaternion_xyzw:
            turn = unit_quaternion.log(
                unit_quaternion.multiply(
                    quaternion, unit_quaternion.inverse(measured.quaternion_xyzw)
                )
            )
            if norm(turn) > self._settings.leash_rad:
                quaternion = unit_quaternion.multiply(
                    unit_quaternion.exp(limit_norm(turn, self._settings.leash_rad)),
                    measured.quaternion_xyzw,
                )
        self.commanded = Pose(position, quaternion)
