"""What is known of policy, controller and arm right now, and how old it is; for pictures only."""

from collections import deque
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from openvla_ros.core.rotation import rotate_by_quaternion
from openvla_ros.visualization.overlay import OverlayState

STALE_S = 1.0
"""Data older than this is not drawn as if it were now."""
PATH_S = 15.0
PATH_STEP_M = 0.002
MAX_PATH_POINTS = 1000
PLAUSIBLE_STEP_M = 0.05
PLAUSIBLE_STEP_RAD = 0.25
"""A full bar of the overlay: Bridge robots are limited to these per step."""
RATE_WINDOW = 20

Vector = NDArray[np.float64]
T = TypeVar('T')


@dataclass(frozen=True, eq=False)
class ActionView:
    """What a picture needs of one action of the policy.

    Attributes:
        displacement_m: float64[3], of one step, in the base frame.
        rotation_rad: float64[3], rotation vector of one step, in the base frame.
        gripper: Wanted opening, 0..1.
        step_s: Length of the step [s].
        latency_s: Camera stamp to arrival here [s].
    """

    displacement_m: Vector
    rotation_rad: Vector
    gripper: float
    step_s: float
    latency_s: float


@dataclass(frozen=True, eq=False)
class SafetyView:
    """What a picture needs of the controller's status.

    Attributes:
        state: 'ACTIVE', 'HOLD', 'DISARMED', 'FAULT' or 'ESTOP'.
        sentence: Why it is (not) moving.
        linear_mps: float64[3], commanded, base frame.
        angular_radps: float64[3], commanded, base frame.
        gripper: Opening sent, 0..1, or NaN.
        wall_distance_m: To the nearest wall; negative outside, NaN without a pose.
        box_lo_m: float64[3], lower corner of the workspace.
        box_hi_m: float64[3], upper corner of the workspace.
        frame_id: The robot's base frame.
    """

    state: str
    sentence: str
    linear_mps: Vector
    angular_radps: Vector
    gripper: float
    wall_distance_m: float
    box_lo_m: Vector
    box_hi_m: Vector
    frame_id: str


@dataclass(frozen=True, eq=False)
class PoseView:
    """The end effector in the base frame: position float64[3] [m], quaternion float64[4] xyzw."""

    position_m: Vector
    quaternion_xyzw: Vector


class Situation:
    """Keeps the newest of everything with the time it came; steady time is passed in."""

    def __init__(self) -> None:
        """Know nothing."""
        self.instruction = ''
        self.policy_sentence = ''
        self.policy_there = True
        self._action: tuple[float, ActionView] | None = None
        self._safety: tuple[float, SafetyView] | None = None
        self._pose: tuple[float, PoseView] | None = None
        self._arrivals_s: deque[float] = deque(maxlen=RATE_WINDOW)
        self._path: deque[tuple[float, Vector]] = deque(maxlen=MAX_PATH_POINTS)

    def saw_action(
        self, twist: Vector, frame_is_ee: bool, gripper: float, step_s: float, latency_s: float,
        now_s: float,
    ) -> None:  # fmt: skip
        """Take one action: twist float64[6] [m/s, rad/s] in the base or the end-effector frame.

        An action in the end-effector frame cannot be drawn before a pose is known.
        """
        if self._arrivals_s and now_s - self._arrivals_s[-1] > STALE_S:
            self._arrivals_s.clear()  # a pause is not a slow rate
        self._arrivals_s.append(now_s)
        linear, angular = twist[:3], twist[3:]
        if frame_is_ee:
            pose = self.pose(now_s)
            if pose is None:
                return
            linear = rotate_by_quaternion(pose.quaternion_xyzw, linear)
            angular = rotate_by_quaternion(pose.quaternion_xyzw, angular)
        view = ActionView(linear * step_s, angular * step_s, gripper, step_s, latency_s)
        self._action = (now_s, view)

    def saw_safety(self, safety: SafetyView, now_s: float) -> None:
        """Take one status of the controller."""
        self._safety = (now_s, safety)

    def saw_pose(self, pose: PoseView, now_s: float) -> None:
        """Take one end-effector pose, and a point of the path when it moved."""
        self._pose = (now_s, pose)
        moved = not self._path or (
            np.linalg.norm(pose.position_m - self._path[-1][1]) >= PATH_STEP_M
        )
        if moved:
            self._path.append((now_s, pose.position_m))

    def action(self, now_s: float) -> ActionView | None:
        """Return the newest action, or None when there is none fresh."""
        return _fresh(self._action, now_s)

    def safety(self, now_s: float) -> SafetyView | None:
        """Return the controller's newest status, or None when there is none fresh."""
        return _fresh(self._safety, now_s)

    def last_safety(self) -> SafetyView | None:
        """Return the controller's newest status however old: the box does not move."""
        return None if self._safety is None else self._safety[1]

    def safety_age_s(self, now_s: float) -> float | None:
        """Return how long the controller has been silent, or None before its first word."""
        return None if self._safety is None else now_s - self._safety[0]

    def pose(self, now_s: float) -> PoseView | None:
        """Return the end effector's newest pose, or None when there is none fresh."""
        return _fresh(self._pose, now_s)

    def path(self, now_s: float) -> list[Vector]:
        """Return the end effector's way of the last seconds, oldest first."""
        return [point for at_s, point in self._path if 0.0 <= now_s - at_s <= PATH_S]

    def policy_rate_hz(self, now_s: float) -> float | None:
        """Return the rate of the last actions, or None when none comes."""
        arrivals = self._arrivals_s
        if len(arrivals) < 2 or not 0.0 <= now_s - arrivals[-1] <= STALE_S:
            return None
        elapsed_s = arrivals[-1] - arrivals[0]
        return (len(arrivals) - 1) / elapsed_s if elapsed_s > 0.0 else None

    def allowed_m(self, now_s: float) -> Vector | None:
        """Return the displacement of one step at the speed that the controller sends now."""
        action, safety = self.action(now_s), self.safety(now_s)
        if action is None or safety is None:
            return None
        return safety.linear_mps * action.step_s

    def policy_text(self) -> str:
        """Return what the policy says of itself, or that it is gone."""
        if self.policy_there or not self.policy_sentence:
            return self.policy_sentence
        return f'policy gone, its last word: {self.policy_sentence}'

    def overlay_state(self, now_s: float) -> OverlayState:
        """Return what the camera overlay shows."""
        action, safety, pose = self.action(now_s), self.safety(now_s), self.pose(now_s)
        return OverlayState(
            instruction=self.instruction if self.policy_there else '',
            safety_state=None if safety is None else safety.state,
            sentence='' if safety is None else safety.sentence,
            policy_sentence=self.policy_text(),
            policy_rate_hz=self.policy_rate_hz(now_s),
            latency_s=None if action is None else action.latency_s,
            ee_position_m=None if pose is None else pose.position_m,
            wanted_m=None if action is None else action.displacement_m,
            allowed_m=self.allowed_m(now_s),
            bars=None if action is None else _bars(action),
        )


def _bars(action: ActionView) -> Vector:
    return np.array(
        [
            *action.displacement_m / PLAUSIBLE_STEP_M,
            *action.rotation_rad / PLAUSIBLE_STEP_RAD,
            action.gripper,
        ]
    )


def _fresh(seen: tuple[float, T] | None, now_s: float) -> T | None:
    if seen is None or not 0.0 <= now_s - seen[0] <= STALE_S:
        return None
    return seen[1]
