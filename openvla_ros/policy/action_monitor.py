"""Whether the model can be trusted: stuck, oscillating, or writing what is not an action."""

import collections

import numpy as np
from numpy.typing import NDArray

from openvla_ros.action_space.eef_delta import EefDelta
from openvla_ros.core.status import Status

BAD_OUTPUTS_LIMIT = 3
BAD_OUTPUTS_WINDOW_S = 10.0
"""Three outputs that are no actions within this time are a fault, not an accident."""

REVERSALS_LIMIT = 8
REVERSALS_WINDOW = 10
"""So many reversals among so many motions are an oscillation."""


class ActionMonitor:
    """Watches the sequence of actions."""

    def __init__(self, *, stuck_after: int = 25) -> None:
        """Watch; ``stuck_after`` equal moving actions are allowed in a row, 0 never checks."""
        self.stuck_after = stuck_after
        self.reversals = 0
        self._last: bytes = b''
        self._same = 0
        self._stuck = False
        self._direction: NDArray[np.float64] | None = None
        self._reversed: collections.deque[bool] = collections.deque(maxlen=REVERSALS_WINDOW)
        self._bad_s: collections.deque[float] = collections.deque(maxlen=BAD_OUTPUTS_LIMIT)

    def judge(self, delta: EefDelta, *, moving: bool) -> Status | None:
        """Take note of an action.

        Args:
            delta: The action.
            moving: Whether the arm is commanded to move; at rest an action may repeat.

        Returns:
            Why it is not to be executed, or None.
        """
        self._count_reversal(delta)
        content = delta.translation_m.tobytes() + delta.rotation_rad.tobytes()
        if content != self._last or not delta.is_motion() or not self.stuck_after:
            self._last, self._same, self._stuck = content, 0, False
        elif not moving:
            # Already stuck stays so: the arm stands still because of it.
            self._same = 0
        if moving and delta.is_motion():
            self._same += 1
        if self.stuck_after and self._same > self.stuck_after:
            self._stuck = True
        if self._stuck:
            return Status(
                'STUCK',
                f'the model has repeated the same motion more than {self.stuck_after} times while '
                'the arm moved; nothing is published until it wants another motion or gets '
                'another instruction, so the arm rests and the controller disarms after its '
                'hold_timeout_s',
            )
        return None

    def bad_output(self, now_s: float) -> bool:
        """Take note of an output that is no action; True when there were too many of them."""
        self._bad_s.append(now_s)
        return (
            len(self._bad_s) == BAD_OUTPUTS_LIMIT
            and 0.0 <= now_s - self._bad_s[0] <= BAD_OUTPUTS_WINDOW_S
        )

    @property
    def oscillating(self) -> bool:
        """Whether nearly every one of the last motions was opposite to the one before."""
        return sum(self._reversed) >= REVERSALS_LIMIT

    def forget(self) -> None:
        """Start anew with another instruction."""
        self._reversed.clear()
        self._last, self._same, self._stuck, self._direction = b'', 0, False, None

    def _count_reversal(self, delta: EefDelta) -> None:
        if not delta.is_motion():
            return
        direction = delta.translation_m
        if self._direction is not None:
            reversed_now = float(direction @ self._direction) < 0.0
            self.reversals += reversed_now
            self._reversed.append(reversed_now)
        self._direction = direction
