"""The 3-D view of a situation, as plain shapes that a node turns into RViz markers."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from openvla_ros.core.rotation import rotate_by_quaternion
from openvla_ros.visualization.overlay import (
    ALLOWED_COLOUR,
    STATE_COLOURS,
    UNKNOWN_COLOUR,
    WANTED_COLOUR,
    Colour,
)
from openvla_ros.visualization.situation import PoseView, SafetyView, Situation

DISPLACEMENT_GAIN = 5.0
"""Arrows are this much longer than the displacement of one step; at 1:1 they could not be seen."""
ROTATION_GAIN_M_PER_RAD = 0.5
LIFETIME_S = 0.6
"""A marker not renewed vanishes after this: nothing stale stays on the screen."""
NEAR_WALL_M = 0.05
LEAST_ARROW_M = 1e-3
HALF_GRIP_M = 0.03
TEXT_HEIGHT_M = 0.022

WANTED_ROTATION_COLOUR = (230, 120, 220)
ALLOWED_ROTATION_COLOUR = (120, 200, 250)
PATH_COLOUR = (90, 170, 255)
GRIPPER_COLOUR = (250, 230, 120)
WHITE = (255, 255, 255)

Vector = NDArray[np.float64]
Kind = Literal['arrow', 'line_list', 'line_strip', 'cube', 'sphere', 'text']


@dataclass(frozen=True, eq=False)
class Shape:
    """One shape in the robot's base frame.

    Attributes:
        namespace: What it shows; RViz lets people switch namespaces on and off.
        number: Its number within the namespace.
        kind: arrow (two points), lines (points), or cube, sphere and text at ``position_m``.
        colour: RGB, 0..255.
        opacity: 0..1.
        scale_m: As visualization_msgs/Marker defines it for the kind [m].
        points_m: float64[N, 3].
        position_m: float64[3].
        text: For kind text.
    """

    namespace: str
    number: int
    kind: Kind
    colour: Colour
    scale_m: tuple[float, float, float]
    opacity: float = 1.0
    points_m: Vector = field(default_factory=lambda: np.zeros((0, 3)))
    position_m: Vector = field(default_factory=lambda: np.zeros(3))
    text: str = ''


def scene_markers(situation: Situation, now_s: float) -> list[Shape]:
    """Return the shapes of a situation; what is stale is left out or grey."""
    shapes: list[Shape] = []
    pose, safety = situation.pose(now_s), situation.safety(now_s)
    if pose is not None:
        shapes += _policy_arrows(situation, pose, now_s)
        shapes += _gripper(situation, pose, now_s)
        if safety is not None:
            shapes += _allowed_arrows(situation, pose, safety, now_s)
    path = situation.path(now_s)
    if len(path) >= 2:
        line = (0.004, 0.0, 0.0)
        shapes.append(
            Shape('ee_path', 0, 'line_strip', PATH_COLOUR, line, points_m=np.array(path))
        )
    last = situation.last_safety()
    if last is not None:
        shapes += _workspace(last, pose, fresh=safety is not None)
    return shapes + _texts(situation, now_s)


def _policy_arrows(situation: Situation, pose: PoseView, now_s: float) -> list[Shape]:
    action = situation.action(now_s)
    if action is None:
        return []
    start = pose.position_m
    return [
        *_arrow('policy_displacement', start, DISPLACEMENT_GAIN * action.displacement_m,
                WANTED_COLOUR),
        *_arrow('policy_rotation', start, ROTATION_GAIN_M_PER_RAD * action.rotation_rad,
                WANTED_ROTATION_COLOUR),
    ]  # fmt: skip


def _allowed_arrows(
    situation: Situation, pose: PoseView, safety: SafetyView, now_s: float
) -> list[Shape]:
    action = situation.action(now_s)
    # Without an action there is no step to scale by; a ramp to rest is then shown per 0.2 s.
    step_s = 0.2 if action is None else action.step_s
    beside = pose.position_m + np.array([0.0, 0.0, 0.015])
    linear = DISPLACEMENT_GAIN * step_s * safety.linear_mps
    angular = ROTATION_GAIN_M_PER_RAD * step_s * safety.angular_radps
    return [
        *_arrow('allowed_twist', beside, linear, ALLOWED_COLOUR),
        *_arrow('allowed_rotation', beside, angular, ALLOWED_ROTATION_COLOUR),
    ]


def _arrow(namespace: str, start_m: Vector, along_m: Vector, colour: Colour) -> list[Shape]:
    if not np.linalg.norm(along_m) >= LEAST_ARROW_M:
        return []
    points = np.array([start_m, start_m + along_m])
    return [Shape(namespace, 0, 'arrow', colour, (0.008, 0.018, 0.02), points_m=points)]


def _gripper(situation: Situation, pose: PoseView, now_s: float) -> list[Shape]:
    """Two fingers as far apart, along the end effector's y axis, as the gripper is told to be."""
    safety = situation.safety(now_s)
    if safety is None or not np.isfinite(safety.gripper):
        return []
    apart = np.array([0.0, HALF_GRIP_M * (0.15 + 0.85 * safety.gripper), 0.0])
    offset = rotate_by_quaternion(pose.quaternion_xyzw, apart)
    size = (0.012, 0.012, 0.012)
    return [
        Shape(
            'gripper', n, 'sphere', GRIPPER_COLOUR, size, position_m=pose.position_m + s * offset
        )
        for n, s in enumerate((1.0, -1.0))
    ]


def _workspace(safety: SafetyView, pose: PoseView | None, *, fresh: bool) -> list[Shape]:
    lo, hi = safety.box_lo_m, safety.box_hi_m
    if not (np.isfinite(lo).all() and np.isfinite(hi).all()):
        return []
    near = safety.wall_distance_m < NEAR_WALL_M
    colour = UNKNOWN_COLOUR if not fresh else STATE_COLOURS['FAULT' if near else 'ACTIVE']
    edges = Shape(
        'workspace', 0, 'line_list', colour, (0.003, 0.0, 0.0), 0.8, points_m=_box_edges(lo, hi)
    )
    return [edges, *(_near_walls(lo, hi, pose) if fresh and pose is not None else [])]


def _box_edges(lo: Vector, hi: Vector) -> Vector:
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    pairs = [
        (a, b) for i, a in enumerate(corners) for b in corners[i + 1 :] if np.abs(a - b).sum() == 1
    ]
    return np.array([lo + corner * (hi - lo) for pair in pairs for corner in pair])


def _near_walls(lo: Vector, hi: Vector, pose: PoseView) -> list[Shape]:
    """The walls within reach of the end effector, the more opaque the nearer."""
    walls = []
    for axis in range(3):
        for side, wall in enumerate((lo[axis], hi[axis])):
            distance_m = abs(pose.position_m[axis] - wall)
            if distance_m < NEAR_WALL_M:
                centre, size = (lo + hi) / 2, hi - lo
                centre[axis], size[axis] = wall, 0.002
                opacity = 0.08 + 0.4 * (1.0 - distance_m / NEAR_WALL_M)
                walls.append(
                    Shape('walls', 2 * axis + side, 'cube', STATE_COLOURS['FAULT'],
                          (float(size[0]), float(size[1]), float(size[2])), float(opacity),
                          position_m=centre)
                )  # fmt: skip
    return walls


def _texts(situation: Situation, now_s: float) -> list[Shape]:
    last, safety = situation.last_safety(), situation.safety(now_s)
    if last is None:
        top, state, colour = np.array([0.3, 0.0, 0.5]), 'no controller', UNKNOWN_COLOUR
    else:
        top = np.array([*(last.box_lo_m + last.box_hi_m)[:2] / 2, last.box_hi_m[2] + 0.15])
        state, colour = _state_text(situation, safety, now_s)
    instruction = f'"{situation.instruction}"' if situation.instruction else 'no instruction'
    lines = (
        ('instruction', instruction, _instruction_colour(situation)),
        ('state', state, colour),
        ('policy', situation.policy_text() or 'no policy', _policy_colour(situation, now_s)),
    )
    spacing = np.array([0.0, 0.0, 1.5 * TEXT_HEIGHT_M])
    return [
        Shape(namespace, 0, 'text', shade, (0.0, 0.0, TEXT_HEIGHT_M),
              position_m=top - row * spacing, text=text)
        for row, (namespace, text, shade) in enumerate(lines)
    ]  # fmt: skip


def _state_text(
    situation: Situation, safety: SafetyView | None, now_s: float
) -> tuple[str, Colour]:
    if safety is None:
        return f'controller silent for {situation.safety_age_s(now_s):.1f} s', UNKNOWN_COLOUR
    text = safety.sentence if safety.sentence.startswith(safety.state) else (
        f'{safety.state}: {safety.sentence}')  # fmt: skip
    return text, STATE_COLOURS.get(safety.state, UNKNOWN_COLOUR)


def _instruction_colour(situation: Situation) -> Colour:
    in_force = situation.instruction and situation.policy_there
    return WHITE if in_force else UNKNOWN_COLOUR


def _policy_colour(situation: Situation, now_s: float) -> Colour:
    publishing = situation.policy_rate_hz(now_s) is not None
    return WHITE if publishing else UNKNOWN_COLOUR
