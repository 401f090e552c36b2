"""Where the end effector may go: a box, half-spaces and an orientation cone as speed limits.

A wall at distance d allows the largest speed u towards it from which the arm can still stop
before it, counting the period during which u is held: u^2 / (2 A) + u * hold <= d. One period
later the limit has fallen by at most A * tau, so an arm that obeys it can always obey it again.
On three axes at once that needs A = acceleration / sqrt(3) per axis.
"""

import math
from typing import NamedTuple

from openvla_ros.core import unit_quaternion
from openvla_ros.core.unit_quaternion import Quaternion
from openvla_ros.core.vector3 import Vector3, add_scaled, dot, norm, scale, subtract
from openvla_ros.safety.robot_profile import RobotProfile

# Outside the box the arm may only creep back in; further out than this something is wrong.
CREEP_SPEED_MPS = 0.05
FAR_OUTSIDE_M = 0.05


def braking_speed(distance: float, deceleration: float, hold_s: float) -> float:
    """Return the largest speed from which one stops within ``distance``.

    Args:
        distance: Way left, m or rad; zero or less gives 0.
        deceleration: m/s^2 or rad/s^2, positive.
        hold_s: Time for which the speed is held before braking starts [s].
    """
    if not distance > 0.0:
        return 0.0
    b = deceleration * hold_s
    # Written so that nothing cancels for a small distance, and rounded down.
    speed = 2.0 * deceleration * distance / (b + math.sqrt(b * b + 2.0 * deceleration * distance))
    return speed * (1.0 - 1e-12)


class Wall(NamedTuple):
    """A limit on the speed along ``normal``: ``normal . velocity <= speed``, speed >= 0."""

    normal: Vector3
    speed: float


class SpeedLimits(NamedTuple):
    """A convex set of velocities that contains zero: an interval per axis, and walls."""

    lo: Vector3
    hi: Vector3
    walls: tuple[Wall, ...]

    def clip(self, v: Vector3) -> Vector3:
        """Return ``v`` without what leads out of the set; never longer than ``v``."""
        lo, hi = self.lo, self.hi
        v = (
            min(max(v[0], lo[0]), hi[0]),
            min(max(v[1], lo[1]), hi[1]),
            min(max(v[2], lo[2]), hi[2]),
        )
        return _clip_to_walls(v, self) if self.walls else v

    def contains(self, v: Vector3, tolerance: float = 1e-12) -> bool:
        """Tell whether ``v`` is in the set."""
        return all(
            self.lo[i] - tolerance <= v[i] <= self.hi[i] + tolerance for i in range(3)
        ) and all(dot(wall.normal, v) <= wall.speed + tolerance for wall in self.walls)


def clip_rotation(w: Vector3, walls: tuple[Wall, ...]) -> Vector3:
    """Return the angular velocity ``w`` without what the walls forbid."""
    for wall in walls:
        excess = dot(wall.normal, w) - wall.speed
        if excess > 0.0:
            w = add_scaled(w, wall.normal, -excess)
    return w


def _clip_to_walls(v: Vector3, limits: SpeedLimits) -> Vector3:
    for wall in limits.walls:
        excess = dot(wall.normal, v) - wall.speed
        if excess > 0.0:
            v = add_scaled(v, wall.normal, -excess)
    # Removing one excess can create another; zero is always allowed, so shrinking helps.
    share = 1.0
    for i in range(3):
        if v[i] > limits.hi[i]:
            share = min(share, limits.hi[i] / v[i])
        elif v[i] < limits.lo[i]:
            share = min(share, limits.lo[i] / v[i])
    for wall in limits.walls:
        along = dot(wall.normal, v)
        if along > wall.speed:
            share = min(share, wall.speed / along)
    return v if share == 1.0 else scale(v, share)


class Workspace:
    """The places one robot profile allows, and what they mean for speeds and displacements."""

    def __init__(self, profile: RobotProfile) -> None:
        settings, limits = profile.workspace, profile.limits
        margin = settings.margin_m
        self.box_lo: Vector3 = settings.box_lo_m
        self.box_hi: Vector3 = settings.box_hi_m
        self._lo: Vector3 = tuple(x + margin for x in settings.box_lo_m)  # type: ignore[assignment]
        self._hi: Vector3 = tuple(x - margin for x in settings.box_hi_m)  # type: ignore[assignment]
        self._half_spaces = [(h.normal, h.offset_m - margin) for h in settings.half_spaces]
        self._tau = profile.period_s
        # The box alone: one part in sqrt(3) per axis. Half-spaces may all bind with it.
        parts = math.sqrt(3.0) + len(self._half_spaces)
        self._deceleration = limits.acceleration_mps2 / parts
        self._angular_deceleration = limits.angular_acceleration_radps2
        cone = settings.orientation_cone
        self.has_cone = cone is not None
        self._cone_centre: Quaternion = cone.centre_quaternion_xyzw if cone else (0, 0, 0, 1)
        self._cone_rad = cone.half_angle_rad if cone else math.inf

    def wall_distance_m(self, p: Vector3) -> float:
        """Return the distance from ``p`` to the nearest wall; negative outside [m]."""
        lo, hi = self.box_lo, self.box_hi
        nearest = min(
            p[0] - lo[0], hi[0] - p[0], p[1] - lo[1], hi[1] - p[1], p[2] - lo[2], hi[2] - p[2]
        )
        for normal, offset in self._half_spaces:
            nearest = min(nearest, offset - dot(normal, p))
        return nearest

    def contains(self, p: Vector3) -> bool:
        """Tell whether ``p`` is inside the box and the half-spaces (the margin included)."""
        return self.wall_distance_m(p) >= 0.0

    def speed_limits(self, commanded: Vector3, measured: Vector3, hold_s: float) -> SpeedLimits:
        """Return the velocities from which the arm can stop inside, whichever position is true.

        Args:
            commanded: Position if the arm did exactly what it was told [m].
            measured: Last measured position [m].
            hold_s: Time the arm may still move before the measurement can show it [s].
        """
        a, tau, lo, hi = self._deceleration, self._tau, self._lo, self._hi
        lows, highs = [], []
        for i in range(3):
            up = braking_speed(hi[i] - commanded[i], a, tau)
            down = braking_speed(commanded[i] - lo[i], a, tau)
            up = min(up, braking_speed(hi[i] - measured[i], a, hold_s))
            down = min(down, braking_speed(measured[i] - lo[i], a, hold_s))
            lows.append(-down)
            highs.append(up)
        walls = tuple(
            Wall(
                normal,
                min(
                    braking_speed(offset - dot(normal, commanded), a, tau),
                    braking_speed(offset - dot(normal, measured), a, hold_s),
                ),
            )
            for normal, offset in self._half_spaces
        )
        return SpeedLimits((lows[0], lows[1], lows[2]), (highs[0], highs[1], highs[2]), walls)

    def confine_displacement(self, p: Vector3, displacement: Vector3) -> Vector3:
        """Return the part of ``displacement`` from ``p`` that ends inside; inward is never cut."""
        lo, hi = self._lo, self._hi
        x, y, z = displacement
        d: Vector3 = (
            min(max(x, min(lo[0] - p[0], 0.0)), max(hi[0] - p[0], 0.0)),
            min(max(y, min(lo[1] - p[1], 0.0)), max(hi[1] - p[1], 0.0)),
            min(max(z, min(lo[2] - p[2], 0.0)), max(hi[2] - p[2], 0.0)),
        )
        for normal, offset in self._half_spaces:
            excess = dot(normal, d) - max(offset - dot(normal, p), 0.0)
            if excess > 0.0:
                d = add_scaled(d, normal, -excess)
        return d

    def rotation_walls(
        self, commanded: Quaternion, measured: Quaternion, hold_s: float
    ) -> tuple[Wall, ...]:
        """Return the limits the orientation cone puts on the angular velocity (base axes)."""
        if not self.has_cone:
            return ()
        walls = []
        for orientation, hold in ((commanded, self._tau), (measured, hold_s)):
            tilt = self._tilt(orientation)
            angle = norm(tilt)
            if angle > 1e-6:
                speed = braking_speed(self._cone_rad - angle, self._angular_deceleration, hold)
                walls.append(Wall(scale(tilt, 1.0 / angle), speed))
        return tuple(walls)

    def confine_rotation(self, orientation: Quaternion, rotation: Vector3) -> Vector3:
        """Return the part of ``rotation`` (rotation vector, base axes) that ends in the cone."""
        if not self.has_cone:
            return rotation
        target = unit_quaternion.multiply(unit_quaternion.exp(rotation), orientation)
        tilt = self._tilt(target)
        allowed = max(self._cone_rad, norm(self._tilt(orientation)))
        angle = norm(tilt)
        if angle <= allowed:
            return rotation
        edge = unit_quaternion.multiply(
            unit_quaternion.exp(scale(tilt, self._cone_rad / angle)), self._cone_centre
        )
        return unit_quaternion.log(
            unit_quaternion.multiply(edge, unit_quaternion.inverse(orientation))
        )

    def keep_in_cone(self, orientation: Quaternion, w: Vector3) -> Vector3:
        """Return ``w`` corrected so that one period of it does not end outside the cone.

        The walls of the cone bend: turning along one leaves it by a second-order amount.
        """
        if not self.has_cone:
            return w
        before = norm(self._tilt(orientation))
        for _ in range(2):
            turned = unit_quaternion.multiply(
                unit_quaternion.exp(scale(w, self._tau)), orientation
            )
            tilt = self._tilt(turned)
            after = norm(tilt)
            excess = after - max(before, self._cone_rad)
            if excess <= 0.0:
                return w
            w = add_scaled(w, tilt, -excess / (after * self._tau))
        return w

    def _tilt(self, orientation: Quaternion) -> Vector3:
        """Return the rotation vector, base axes, from the cone's centre to ``orientation``."""
        return unit_quaternion.log(
            unit_quaternion.multiply(orientation, unit_quaternion.inverse(self._cone_centre))
        )


class Step(NamedTuple):
    """How far one period can go from a velocity towards another within a set of speeds."""

    start: Vector3  # the present velocity without what has become forbidden
    way: Vector3  # from there to the wanted velocity, inside the set
    share: float  # the largest part of the way that the acceleration allows: 0..1
    waived: bool  # even ``start`` needs more acceleration than allowed: position goes first

    def at(self, share: float) -> Vector3:
        """Return the velocity after ``share`` of the way."""
        if share >= 1.0:
            # Exactly the wanted velocity: rest must be exactly zero.
            return (
                self.start[0] + self.way[0],
                self.start[1] + self.way[1],
                self.start[2] + self.way[2],
            )
        return add_scaled(self.start, self.way, share)


def plan_step(present: Vector3, allowed: Vector3, wanted: Vector3, max_change: float) -> Step:
    """Find the largest allowed step towards ``wanted``.

    ``allowed`` (the present velocity clipped to the set) and ``wanted`` (clipped too) are in a
    convex set, so every velocity between them is.

    Args:
        present: Velocity of the last period.
        allowed: ``present`` clipped to the set of allowed velocities.
        wanted: Wanted velocity, clipped to the set.
        max_change: Largest change of velocity in one period, Euclidean.
    """
    way = subtract(wanted, allowed)
    back = subtract(allowed, present)
    room = max_change * max_change - dot(back, back)
    if room < 0.0:
        return Step(allowed, way, 0.0, room < -1e-9 * max_change * max_change)
    length2 = dot(way, way)
    if length2 == 0.0:
        return Step(allowed, way, 1.0, False)
    along = dot(back, way)
    share = (math.sqrt(along * along + length2 * room) - along) / length2
    return Step(allowed, way, min(max(share, 0.0), 1.0), False)
