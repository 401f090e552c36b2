"""The numbers a run is judged by, written down apart from the code that enforces them."""

from dataclasses import dataclass

import numpy as np

DISARMED, HOLD, ACTIVE, FAULT, ESTOP = range(5)
STATE_NAMES = ('DISARMED', 'HOLD', 'ACTIVE', 'FAULT', 'ESTOP')
SCHEDULING_ALLOWANCE_S = 0.25  # a shared 2-core machine; only ever added to times, never to limits


@dataclass(frozen=True)
class Limits:
    """Limits of one robot: m, rad, s; acceleration pairs are (nominal, stop, emergency stop)."""

    tau_s: float
    speed_mps: float
    axis_speed_mps: tuple[float, float, float]
    turn_radps: float
    accel_mps2: tuple[float, float, float]
    turn_accel_radps2: tuple[float, float, float]
    box_lo_m: tuple[float, float, float]
    box_hi_m: tuple[float, float, float]

    def hold_s(self, step_s: float) -> float:
        """How long one action is valid: H = 1.25 T."""
        return 1.25 * step_s

    def ramp_s(self, grade: int = 1) -> float:
        """Longest ramp from full speed to rest at acceleration ``grade`` (1 stop, 2 emergency)."""
        return max(
            self.speed_mps / self.accel_mps2[grade],
            self.turn_radps / self.turn_accel_radps2[grade],
        )

    def t_stop_s(self, step_s: float) -> float:
        """Time from the last accepted action to rest: H + V/A_s + 2 tau."""
        return self.hold_s(step_s) + self.ramp_s() + 2 * self.tau_s

    def accel_of(self, state: int) -> tuple[float, float]:
        """Acceleration bounds (m/s^2, rad/s^2) of one tick in a state."""
        grade = {ACTIVE: 0, ESTOP: 2}.get(int(state), 1)
        return self.accel_mps2[grade], self.turn_accel_radps2[grade]

    def wall_m(self, positions: np.ndarray) -> np.ndarray:
        """Distance of [..., 3] positions to the nearest wall, negative outside."""
        lo, hi = np.array(self.box_lo_m), np.array(self.box_hi_m)
        return np.minimum(positions - lo, hi - positions).min(axis=-1)
