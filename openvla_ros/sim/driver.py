"""The driver of the simulated arm: real time, newest command, and a command timeout of its own.

Any driver behind the controller must do what this one does: a controller that is killed sends no
zero, so the last hop stops the arm by itself when commands stay away.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openvla_ros.sim.arm import CONTROL_PERIOD_S, SimArm

# After a stall at most this much is caught up; the rest of the time is lost, and said so.
CATCH_UP_S = 0.1


@dataclass(frozen=True)
class Progress:
    """What one call of ``advance`` did."""

    periods: int
    lost_s: float


class SimDriver:
    """Advances an arm with the steady clock; time is passed in."""

    def __init__(self, arm: SimArm, now_s: float, *, timeout_s: float = 0.1) -> None:
        """Start at rest.

        Args:
            arm: The arm to move.
            now_s: Steady time.
            timeout_s: A twist older than this is not followed any more.
        """
        self.arm = arm
        self._timeout_s = timeout_s
        self._twist: NDArray[np.float64] = np.zeros(6)
        self._received_s = -math.inf
        self._opening = math.nan
        self._advanced_s = now_s

    def command(self, twist: ArrayLike, now_s: float) -> str | None:
        """Take a twist float64[6] in base_link (m/s, rad/s).

        Returns:
            None, or why it was refused; a refused twist also ends the one before it.
        """
        values = np.asarray(twist, dtype=np.float64)
        if values.shape != (6,) or not np.all(np.isfinite(values)):
            self._received_s = -math.inf
            return f'got twist {values.tolist()}, expected 6 finite numbers (m/s, rad/s)'
        self._twist = values
        self._received_s = now_s
        return None

    def set_opening(self, opening: float) -> str | None:
        """Take a wanted gripper opening, 0 closed .. 1 open; returns why it was refused."""
        if not math.isfinite(opening) or not 0.0 <= opening <= 1.0:
            return f'got gripper opening {opening}, expected 0 (closed) to 1 (open)'
        self._opening = opening
        return None

    def advance(self, now_s: float) -> Progress:
        """Move the arm on to ``now_s``, in whole control periods."""
        behind_s = now_s - self._advanced_s
        lost_s = max(0.0, behind_s - CATCH_UP_S)
        self._advanced_s += lost_s
        periods = math.floor((now_s - self._advanced_s) / CONTROL_PERIOD_S + 1e-6)
        fresh = 0.0 <= now_s - self._received_s <= self._timeout_s
        twist = self._twist if fresh else np.zeros(6)
        for _ in range(periods):
            self.arm.step(twist, self._opening, CONTROL_PERIOD_S)
        self._advanced_s += periods * CONTROL_PERIOD_S
        return Progress(max(0, periods), lost_s)
