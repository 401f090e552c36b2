"""Which actions are believed: finite, plausible, in a known frame, fresh, in order, not too many.

An implausible action is refused and not cut: cutting a unit error makes it steady full speed.
A refused action never counts as a sign of life.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from openvla_ros.safety.robot_profile import RobotProfile

# Refusals, code to meaning; a code is stable.
REFUSALS = {
    'TIME': 'the receipt time is not a number',
    'MALFORMED': 'the twist does not have six numbers, or nothing says who sent it',
    'NON_FINITE': 'a field is NaN or infinite',
    'STEP_S': 'the step length is outside step_s_range',
    'IMPLAUSIBLE': 'the displacement is larger than a step can be',
    'FRAME': 'frame_id is neither the base nor the end-effector frame',
    'STAMP_ZERO': 'the stamp is zero',
    'STAMP_OLD': 'the stamp is too old',
    'STAMP_FUTURE': 'the stamp is in the future',
    'STAMP_ORDER': 'the stamp does not increase',
    'SEQUENCE': 'the sequence number does not increase',
    'RATE': 'actions come faster than twice the policy rate',
    'FLOOD': 'more than 50 messages per second',
    'SOURCE': 'not from the armed policy',
    'NOT_ARMED': 'the controller is not armed',
    'LATCHED': 'the controller is in FAULT or ESTOP',
    'POSE': 'no fresh end-effector pose',
    'CLOCK_JUMP': 'ROS time jumped, 3 fresh actions are needed',
}

HEARD_S = 1.0  # a source is alive if it was heard within this time
FLOOD_MESSAGES = 50  # more than this within one second is a flood
RATE_FACTOR = 2.0  # times the policy rate 1 / step_s may be accepted on average
RATE_BURST = 2.0  # actions that may come at once
VALID_NEEDED = 3  # valid actions before arming and after a clock jump
_SOURCES_KEPT = 8


def frame_refusal(frame_id: str, profile: RobotProfile) -> str:
    """Say which frame an action had, which ones it may have, and what to do."""
    return (
        f'their frame is {frame_id[:80]!r}, expected {profile.base_frame!r} or '
        f'{profile.ee_frame!r}: start policy_node with the robot profile of this controller '
        f'(robot {profile.name!r})'
    )


@dataclass(frozen=True)
class ActionInput:
    """One action as the controller receives it.

    Attributes:
        stamp_s: ROS time of the image it was computed from [s].
        frame_id: Frame of ``twist``: the robot's base or end-effector frame.
        sequence: Increases with every action of one source.
        step_s: Length of one step of the dataset [s].
        twist: Displacement / step_s: linear [m/s], angular (rotation vector / step_s) [rad/s].
        gripper: Wanted opening, 0 closed .. 1 open.
        source_id: Publisher gid as hex, or the policy's random id; never empty.
    """

    stamp_s: float
    frame_id: str
    sequence: int
    step_s: float
    twist: Sequence[float]
    gripper: float
    source_id: str


class Admission:
    """Judges actions one by one and remembers what that takes: stamps, sources, rates."""

    def __init__(self, profile: RobotProfile) -> None:
        self._rules = profile.actions
        self._plausible = profile.plausible
        self._frames = (profile.base_frame, profile.ee_frame)
        self._last_stamp_s = -math.inf
        self._last_sequence = -1
        self._sequence_source = ''
        self._tokens = RATE_BURST
        self._tokens_s = -math.inf
        self._receipts: deque[float] = deque(maxlen=FLOOD_MESSAGES + 1)
        self._heard: dict[str, float] = {}
        self._valid: deque[tuple[float, float, str]] = deque(maxlen=VALID_NEEDED)
        self.missed = 0
        self.pace = 1.0
        """Real-time factor of simulated ROS time; a policy keeps its rate by that."""

    def hear(self, source_id: str, now_s: float) -> bool:
        """Note that a source was heard, whatever it said; True if messages flood in."""
        self._heard.pop(source_id, None)
        self._heard[source_id] = now_s
        while len(self._heard) > _SOURCES_KEPT:
            del self._heard[next(iter(self._heard))]
        self._receipts.append(now_s)
        return len(self._receipts) > FLOOD_MESSAGES and now_s - self._receipts[0] <= 1.0

    def sources(self, now_s: float) -> list[str]:
        """Return the sources heard within the last second."""
        window_s = HEARD_S / min(1.0, self.pace)
        return [s for s, heard in self._heard.items() if _recent(heard, now_s, window_s)]

    def judge(self, action: ActionInput, now_s: float, ros_now_s: float) -> str:
        """Return why the action is refused, or '' if it is valid.

        A valid action advances stamp, sequence and rate; a refused one changes nothing.
        """
        refusal = self._form(action) or self._time(action, ros_now_s)
        if refusal:
            return refusal
        if not self._take_token(action.step_s, now_s):
            return 'RATE'
        if action.source_id == self._sequence_source:
            self.missed += max(0, action.sequence - self._last_sequence - 1)
        self._sequence_source = action.source_id
        self._last_sequence = action.sequence
        self._last_stamp_s = action.stamp_s
        self._valid.append((now_s, action.step_s, action.source_id))
        return ''

    def enough_valid(self, now_s: float) -> bool:
        """Tell whether 3 valid actions of one source came in the last max(1 s, 4 steps)."""
        if len(self._valid) < VALID_NEEDED:
            return False
        window_s = max(1.0, 4.0 * max(step_s for _, step_s, _ in self._valid))
        window_s /= min(1.0, self.pace)
        one_source = len({source for _, _, source in self._valid}) == 1
        return one_source and all(_recent(t, now_s, window_s) for t, _, _ in self._valid)

    def forget_time(self) -> None:
        """Forget the last stamp and the valid actions: ROS time is not what it was."""
        self._last_stamp_s = -math.inf
        self._valid.clear()

    def _form(self, action: ActionInput) -> str:
        if len(action.twist) != 6 or not action.source_id:
            return 'MALFORMED'
        if not (math.isfinite(action.gripper) and all(map(math.isfinite, action.twist))):
            return 'NON_FINITE'
        lo, hi = self._rules.step_s_range
        if not lo <= action.step_s <= hi:
            return 'STEP_S'
        x, y, z, rx, ry, rz = action.twist
        if not (
            math.hypot(x, y, z) * action.step_s <= self._plausible.translation_m
            and math.hypot(rx, ry, rz) * action.step_s <= self._plausible.rotation_rad
        ):
            return 'IMPLAUSIBLE'
        return '' if action.frame_id in self._frames else 'FRAME'

    def _time(self, action: ActionInput, ros_now_s: float) -> str:
        if action.stamp_s == 0.0:
            return 'STAMP_ZERO'
        age_s = ros_now_s - action.stamp_s
        if not age_s >= -self._rules.max_future_s:
            return 'STAMP_FUTURE'
        if not age_s <= self._rules.max_age_s:
            return 'STAMP_OLD'
        if not action.stamp_s > self._last_stamp_s:
            return 'STAMP_ORDER'
        same = action.source_id == self._sequence_source
        return 'SEQUENCE' if same and action.sequence <= self._last_sequence else ''

    def _take_token(self, step_s: float, now_s: float) -> bool:
        gone_s = self.pace * max(0.0, now_s - self._tokens_s)
        tokens = min(RATE_BURST, self._tokens + gone_s * RATE_FACTOR / step_s)
        # A millionth of an action absorbs rounding of times that are exact multiples of the step.
        taken = tokens >= 1.0 - 1e-6
        self._tokens, self._tokens_s = max(0.0, tokens - taken), now_s
        return taken


def _recent(then_s: float, now_s: float, window_s: float) -> bool:
    return 0.0 <= now_s - then_s <= window_s
