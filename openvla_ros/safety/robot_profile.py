"""What a robot may do, as its owner wrote it down: `config/robots/<name>.yaml`, parsed strictly.

A limit has no default: a profile that lacks one is refused, so that nobody drives an arm with a
number that nobody chose.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from openvla_ros.core.resources import resource_path
from openvla_ros.core.strict_config import ConfigError, did_you_mean, parse_file

Triple = tuple[float, float, float]


def _bounds(lo: float, hi: float) -> dict[str, float]:
    return {'lo': lo, 'hi': hi}


@dataclass(frozen=True)
class Limits:
    """Bounds of the commanded twist, base frame; the norms are Euclidean.

    The three accelerations are those of normal motion, of a stop (stale, fault, disarm) and of
    the software e-stop.
    """

    speed_mps: float = field(metadata=_bounds(1e-3, 2.0))
    axis_speed_mps: Triple = field(metadata=_bounds(1e-3, 2.0))
    angular_speed_radps: float = field(metadata=_bounds(1e-3, 6.0))
    acceleration_mps2: float = field(metadata=_bounds(1e-2, 20.0))
    angular_acceleration_radps2: float = field(metadata=_bounds(1e-2, 100.0))
    stop_acceleration_mps2: float = field(metadata=_bounds(1e-2, 50.0))
    stop_angular_acceleration_radps2: float = field(metadata=_bounds(1e-2, 200.0))
    estop_acceleration_mps2: float = field(metadata=_bounds(1e-2, 100.0))
    estop_angular_acceleration_radps2: float = field(metadata=_bounds(1e-2, 400.0))

    def __post_init__(self) -> None:
        for kind in ('acceleration_mps2', 'angular_acceleration_radps2'):
            normal = getattr(self, kind)
            stop = getattr(self, f'stop_{kind}')
            estop = getattr(self, f'estop_{kind}')
            if not normal <= stop <= estop:
                raise ValueError(
                    f'{kind} {normal}, stop_{kind} {stop}, estop_{kind} {estop} must not decrease '
                    'in this order; a stop may not be gentler than normal motion'
                )


@dataclass(frozen=True)
class Plausible:
    """The largest displacement of one step that is believed; a larger one is refused, not cut."""

    translation_m: float = field(metadata=_bounds(1e-3, 0.5))
    rotation_rad: float = field(metadata=_bounds(1e-3, 1.5))


@dataclass(frozen=True)
class HalfSpace:
    """Keeps the end effector where ``normal . position <= offset_m``, base frame."""

    name: str
    normal: Triple
    offset_m: float = field(metadata=_bounds(-100.0, 100.0))

    def __post_init__(self) -> None:
        length = math.hypot(*self.normal)
        if abs(length - 1.0) > 1e-3:
            raise ValueError(
                f'half-space {self.name!r}: normal has length {length:.4g}, expected 1'
            )
        object.__setattr__(self, 'normal', tuple(x / length for x in self.normal))


@dataclass(frozen=True)
class OrientationCone:
    """Keeps the orientation within ``half_angle_rad`` of ``centre_quaternion_xyzw`` (any axis)."""

    centre_quaternion_xyzw: tuple[float, float, float, float]
    half_angle_rad: float = field(metadata=_bounds(0.05, 3.0))

    def __post_init__(self) -> None:
        length = math.hypot(*self.centre_quaternion_xyzw)
        if abs(length - 1.0) > 1e-2:
            raise ValueError(f'centre_quaternion_xyzw has length {length:.4g}, expected 1')
        unit = tuple(x / length for x in self.centre_quaternion_xyzw)
        object.__setattr__(self, 'centre_quaternion_xyzw', unit)


@dataclass(frozen=True)
class WorkspaceLimits:
    """Where the end effector may be: a box in the base frame, and optionally less than the box."""

    box_lo_m: Triple = field(metadata=_bounds(-100.0, 100.0))
    box_hi_m: Triple = field(metadata=_bounds(-100.0, 100.0))
    margin_m: float = field(metadata=_bounds(0.0, 0.1))
    half_spaces: tuple[HalfSpace, ...] = ()
    orientation_cone: OrientationCone | None = None

    def __post_init__(self) -> None:
        for axis, lo, hi in zip('xyz', self.box_lo_m, self.box_hi_m):
            if not hi - lo > 2.0 * self.margin_m + 0.01:
                raise ValueError(
                    f'box_lo_m to box_hi_m on axis {axis}, {lo} to {hi} m, is not 10 mm wider '
                    f'than twice margin_m {self.margin_m}'
                )


@dataclass(frozen=True)
class PoseSettings:
    """How the controller knows where the end effector is.

    ``latency_s`` is how old a measured pose is when it arrives, ``leash_*`` how far the commanded
    pose may run ahead of the measured one. ``integrated`` trusts its own commands from the start
    pose on; it is for tests and for simulations without a pose.
    """

    source: Literal['topic', 'tf', 'integrated']
    timeout_s: float = field(metadata=_bounds(0.02, 1.0))
    latency_s: float = field(metadata=_bounds(0.0, 0.5))
    leash_m: float = field(metadata=_bounds(0.005, 0.2))
    leash_rad: float = field(metadata=_bounds(0.02, 1.0))
    start_position_m: Triple | None = None
    start_quaternion_xyzw: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        if (self.source == 'integrated') != (self.start_position_m is not None):
            raise ValueError(
                f'source {self.source!r} with start_position_m {self.start_position_m}: an '
                'integrated pose needs a start, a measured one must not have it'
            )
        if abs(math.hypot(*self.start_quaternion_xyzw) - 1.0) > 1e-2:
            raise ValueError(
                f'start_quaternion_xyzw {self.start_quaternion_xyzw} has not length 1'
            )


@dataclass(frozen=True)
class ActionRules:
    """Which actions are admitted; ages are ROS time against the stamp of the image."""

    max_age_s: float = field(metadata=_bounds(0.05, 5.0))
    max_future_s: float = field(metadata=_bounds(0.0, 0.2))
    max_refused_in_a_row: int = field(metadata=_bounds(5, 1000))
    step_s_range: tuple[float, float] = field(default=(0.04, 0.5), metadata=_bounds(0.02, 2.0))
    leash_steps: float = field(default=2.0, metadata=_bounds(1.0, 4.0))

    def __post_init__(self) -> None:
        if not self.step_s_range[0] < self.step_s_range[1]:
            raise ValueError(f'step_s_range {list(self.step_s_range)} does not increase')


@dataclass(frozen=True)
class EstopSettings:
    """The e-stop heartbeat (``Bool false``, 10 Hz or more); silence of ``timeout_s`` is a stop."""

    timeout_s: float = field(metadata=_bounds(0.05, 1.0))
    required: bool = True


@dataclass(frozen=True)
class GripperAction:
    """A gripper's action server (control_msgs); positions in the server's own unit (usually m).

    Attributes:
        name: Of the action, relative to the controller's namespace.
        open_position: Position of opening 1.
        closed_position: Position of opening 0.
        max_effort: Of every goal [N or Nm]; 0 leaves the effort to the server.
        type: GripperCommand, or ParallelGripperCommand (ros2_control on Kilted and later).
        joint: The joint that a ParallelGripperCommand moves; GripperCommand names none.
        required: Whether arming is refused while the server is not available.
    """

    name: str
    open_position: float
    closed_position: float
    max_effort: float = field(metadata=_bounds(0.0, 1000.0))
    type: Literal['GripperCommand', 'ParallelGripperCommand'] = 'GripperCommand'
    joint: str = ''
    required: bool = False

    def __post_init__(self) -> None:
        if self.open_position == self.closed_position:
            raise ValueError(
                f'open_position and closed_position are both {self.open_position:g}, expected two '
                'positions'
            )
        if (self.type == 'ParallelGripperCommand') != bool(self.joint):
            expected = 'the name of the joint' if not self.joint else 'no joint'
            raise ValueError(f'type {self.type} with joint {self.joint!r}, expected {expected}')

    def position(self, opening: float) -> float:
        """Return the server's position of an opening (0 closed .. 1 open)."""
        return self.closed_position + opening * (self.open_position - self.closed_position)


@dataclass(frozen=True)
class GripperRules:
    """When a wanted opening (0 closed, 1 open) becomes a command to close or to open."""

    close_below: float = field(metadata=_bounds(0.0, 1.0))
    open_above: float = field(metadata=_bounds(0.0, 1.0))
    decisions: int = field(metadata=_bounds(1, 10))
    dwell_s: float = field(metadata=_bounds(0.0, 5.0))
    action: GripperAction | None = None

    def __post_init__(self) -> None:
        if not self.close_below < self.open_above:
            raise ValueError(
                f'close_below {self.close_below} is not below open_above {self.open_above}'
            )


@dataclass(frozen=True)
class RobotProfile:
    """Everything the controller must know about one robot; see `config/robots/`."""

    name: str
    description: str
    mode: Literal['active', 'shadow']
    base_frame: str
    ee_frame: str
    control_rate_hz: float = field(metadata=_bounds(20.0, 500.0))
    action_scale: float = field(metadata=_bounds(0.01, 1.0))
    hold_timeout_s: float = field(metadata=_bounds(1.0, 300.0))
    limits: Limits
    plausible: Plausible
    workspace: WorkspaceLimits
    pose: PoseSettings
    actions: ActionRules
    estop: EstopSettings
    gripper: GripperRules

    def __post_init__(self) -> None:
        if not self.base_frame or not self.ee_frame or self.base_frame == self.ee_frame:
            raise ValueError(
                f'base_frame {self.base_frame!r} and ee_frame {self.ee_frame!r} must be two names'
            )
        leash_rad = self.actions.leash_steps * self.plausible.rotation_rad
        if leash_rad > 3.0:
            raise ValueError(
                f'actions.leash_steps * plausible.rotation_rad is {leash_rad:.3g} rad, expected 3 '
                'or less: beyond pi a rotation left to do is ambiguous'
            )

    @property
    def period_s(self) -> float:
        """Control period tau [s]."""
        return 1.0 / self.control_rate_hz

    def hold_s(self, step_s: float) -> float:
        """Return how long an action of this step length stays valid after receipt [s]."""
        return 1.25 * step_s

    def stop_time_s(self, step_s: float) -> float:
        """Return the time from the last accepted action to zero [s]: hold + ramp + two periods."""
        limits = self.limits
        ramp_s = max(
            limits.speed_mps / limits.stop_acceleration_mps2,
            limits.angular_speed_radps / limits.stop_angular_acceleration_radps2,
        )
        return self.hold_s(step_s) + ramp_s + 2.0 * self.period_s

    def stop_distance_m(self, step_s: float) -> float:
        """Return the longest path after the last accepted action [m]."""
        v, tau = self.limits.speed_mps, self.period_s
        braking_m = v * v / (2.0 * self.limits.stop_acceleration_mps2)
        return v * (self.hold_s(step_s) + tau) + braking_m + v * tau


def list_robot_profiles() -> list[str]:
    """Return the names of the profiles that come with the package."""
    return sorted(path.stem for path in resource_path('config/robots').glob('*.yaml'))


def load_robot_profile(robot: str | Path) -> RobotProfile:
    """Read a profile of the package by name, or any profile by path (ends in .yaml).

    Raises:
        ConfigError: there is no such profile, or it is incomplete, misspelt or out of range.
    """
    text = str(robot)
    if text.endswith(('.yaml', '.yml')):
        return parse_file(RobotProfile, text)
    known = list_robot_profiles()
    if text not in known:
        raise ConfigError(
            f'robot {text!r} is not a profile of this package{did_you_mean(text, known)}; there '
            f'are {", ".join(known)}, or give the path of your own .yaml'
        )
    return parse_file(RobotProfile, resource_path(f'config/robots/{text}.yaml'))
