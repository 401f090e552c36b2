"""What the policy asked for and the arm has not done yet, and the speed that uses it up.

An action is a displacement, not a velocity to hold. Accepted displacements add up here; each
control period takes away what the arm was told during it. The speed is planned so that the arm
cruises to the end of the present step and can then brake to rest exactly where the displacements
end. In a steady stream the next action arrives before the braking starts and the motion is
smooth; if it does not arrive, the arm comes to rest without anything having been lost.
"""

import math

from openvla_ros.core import unit_quaternion
from openvla_ros.core.vector3 import ZERO, Vector3, add, add_scaled, norm, scale
from openvla_ros.safety.robot_profile import RobotProfile

# An action a little late must not brake the arm, so cruising lasts a little longer than the step:
# a period for the one in which the action arrived, and one for the jitter of a 5 Hz policy.
CRUISE_STEPS = 1.15
# Less than this is rest; it stays in the budget.
REST_M = 1e-7
REST_RAD = 1e-6


def cruise_speed(distance: float, cruise_ticks: int, max_change: float, period_s: float) -> float:
    """Return the speed that covers ``distance`` exactly: cruise, then brake to rest.

    The speed u is held for ``cruise_ticks`` periods and falls by ``max_change`` per period after
    the next one: tau * (m u + u + (u - c) + (u - 2 c) + ...) = distance.

    Args:
        distance: m or rad, not negative.
        cruise_ticks: m, periods at this speed before the one braking starts from.
        max_change: c, largest change of speed per period, m/s or rad/s.
        period_s: tau [s].
    """
    m = float(cruise_ticks)
    ticks_at_change = distance / (max_change * period_s)
    half = m + 0.5
    n = max(1.0, math.ceil(math.sqrt(half * half + 2.0 * ticks_at_change) - half))
    return max_change * (ticks_at_change + 0.5 * n * (n - 1.0)) / (m + n)


def stopping_distance(speed: float, max_change: float, period_s: float) -> float:
    """Return how far the arm goes if it brakes from ``speed`` beginning with this period."""
    n = max(0.0, math.ceil(speed / max_change) - 1.0)
    return period_s * (n * speed - 0.5 * max_change * n * (n + 1.0))


class DisplacementBudget:
    """Translation [m] and rotation (rotation vector [rad], base axes) left to do."""

    def __init__(self, profile: RobotProfile) -> None:
        limits = profile.limits
        self._period_s = profile.period_s
        self._full_change = limits.acceleration_mps2 * self._period_s
        self._full_angular_change = limits.angular_acceleration_radps2 * self._period_s
        self.set_pace(1.0)
        self._speed = limits.speed_mps
        self._axis_speed = limits.axis_speed_mps
        self._angular_speed = limits.angular_speed_radps
        self._leash_m = profile.actions.leash_steps * profile.plausible.translation_m
        self._leash_rad = profile.actions.leash_steps * profile.plausible.rotation_rad
        self._cruise_until_s = -math.inf
        self.translation: Vector3 = ZERO
        self.rotation: Vector3 = ZERO
        self.dropped_m = 0.0
        self.dropped_rad = 0.0

    def set_pace(self, factor: float) -> None:
        """Plan for an arm whose time runs ``factor`` (above 0) times as fast as the periods'.

        The velocity may change by as much as the acceleration allows in a period, by the arm's
        time and by that of the periods.
        """
        self._tau = factor * self._period_s
        self._change = min(1.0, factor) * self._full_change
        self._angular_change = min(1.0, factor) * self._full_angular_change

    def add(self, translation: Vector3, rotation: Vector3, step_s: float, now_s: float) -> bool:
        """Add one accepted displacement; True if the leash dropped a part of the sum.

        The rotation is applied after what is left, about base axes.
        """
        self._cruise_until_s = now_s + CRUISE_STEPS * step_s
        before_m, before_rad = self.dropped_m, self.dropped_rad
        self._keep_translation(add(self.translation, translation), self._leash_m)
        if rotation != ZERO:
            self._keep_rotation(_after(rotation, self.rotation), self._leash_rad)
        return self.dropped_m > before_m or self.dropped_rad > before_rad

    def consume(self, v: Vector3, w: Vector3, dt_s: float) -> None:
        """Take away what the arm did during ``dt_s`` at the twist (v [m/s], w [rad/s])."""
        if v != ZERO:
            self.translation = add_scaled(self.translation, v, -dt_s)
        if w != ZERO:
            # What is left, L, followed what was done, D: exp(L') exp(D) = exp(L).
            self.rotation = _after(self.rotation, scale(w, -dt_s))

    def replace(self, translation: Vector3, rotation: Vector3) -> None:
        """Keep only a part of what is left; the difference counts as dropped."""
        if translation != self.translation:
            self.dropped_m += norm(add_scaled(self.translation, translation, -1.0))
            self.translation = translation
        if rotation != self.rotation:
            self.dropped_rad += norm(_after(scale(rotation, -1.0), self.rotation))
            self.rotation = rotation

    def keep_ramp(self, v: Vector3, w: Vector3, change: float, angular_change: float) -> None:
        """Drop what is left, except what the ramp to rest from the twist (v, w) still does.

        That is taken away as the arm does it, and what an interrupted ramp leaves over belongs to
        the next action, so that not a millimetre is unaccounted for.
        """
        self.replace(
            _ramp_displacement(v, change, self._tau),
            _ramp_displacement(w, angular_change, self._tau),
        )
        self._cruise_until_s = -math.inf

    def clear(self) -> None:
        """Drop everything that is left."""
        self.replace(ZERO, ZERO)
        self._cruise_until_s = -math.inf

    def twist(self, now_s: float) -> tuple[Vector3, Vector3]:
        """Return the wanted velocities (v [m/s], w [rad/s]) within the speed limits.

        Both parts get the same time to finish, so that from rest they move in proportion: the
        path is the one the policy meant.
        """
        distance, angle = norm(self.translation), norm(self.rotation)
        if distance < REST_M:
            distance = 0.0
        if angle < REST_RAD:
            angle = 0.0
        if distance == 0.0 and angle == 0.0:
            return ZERO, ZERO
        left = (self._cruise_until_s - now_s) / self._tau
        ticks = max(0, math.ceil(left - 1e-6) - 1) if left < 1e4 else 10_000
        rate = math.inf
        if distance > 0.0:
            speed = cruise_speed(distance, ticks, self._change, self._tau)
            rate = min(speed, self._speed) / distance
            for part, limit in zip(self.translation, self._axis_speed):
                if abs(part) * rate > limit:
                    rate = limit / abs(part)
        if angle > 0.0:
            speed = cruise_speed(angle, ticks, self._angular_change, self._tau)
            rate = min(rate, min(speed, self._angular_speed) / angle)
        v = scale(self.translation, rate) if distance > 0.0 else ZERO
        w = scale(self.rotation, rate) if angle > 0.0 else ZERO
        return v, w

    def _keep_translation(self, wanted: Vector3, longest: float) -> None:
        length = norm(wanted)
        if length > longest:
            self.dropped_m += length - longest
            wanted = scale(wanted, longest / length)
        self.translation = wanted

    def _keep_rotation(self, wanted: Vector3, longest: float) -> None:
        angle = norm(wanted)
        if angle > longest:
            self.dropped_rad += angle - longest
            wanted = scale(wanted, longest / angle)
        self.rotation = wanted


def _after(second: Vector3, first: Vector3) -> Vector3:
    """Return the rotation vector of ``first`` followed by ``second``, about base axes."""
    return unit_quaternion.log(
        unit_quaternion.multiply(unit_quaternion.exp(second), unit_quaternion.exp(first))
    )


def _ramp_displacement(velocity: Vector3, change: float, period_s: float) -> Vector3:
    speed = norm(velocity)
    if speed == 0.0:
        return ZERO
    return scale(velocity, stopping_distance(speed, change, period_s) / speed)
