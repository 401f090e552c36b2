"""How fast simulated ROS time runs against the steady clock: the real-time factor.

``/clock`` comes in lumps (Gazebo: every millisecond of simulated time, Isaac Sim: every frame), so
its readings are a staircase. A straight line through the readings of the last half second gives
its slope, the factor, and a smooth reading of ROS time that never runs backwards.
"""

import math
from collections import deque

WINDOW_S = 0.5
SLOWEST = 0.1
"""Below this real-time factor nothing is stretched any further."""
STANDS_STILL_S = 0.3
"""ROS time that did not advance for this long on the steady clock stands still."""
_FASTEST = 100.0
_LEAST_READINGS = 5
_LEAST_SPAN_S = 0.1


class RosPace:
    """Follows ROS time; all times are passed in."""

    def __init__(self) -> None:
        """Start at real time, until readings say otherwise."""
        self.factor = 1.0
        self._readings: deque[tuple[float, float]] = deque()
        self._smooth_s: float | None = None
        self._advanced_s: float | None = None

    def note(self, now_s: float, ros_now_s: float) -> float:
        """Take one reading.

        Args:
            now_s: Steady time [s].
            ros_now_s: ROS time [s].

        Returns:
            ROS time that passed since the reading before [s], smoothed, never negative; 0 for the
            first reading, and where a clock gave no number or ran backwards.
        """
        if not (math.isfinite(now_s) and math.isfinite(ros_now_s)):
            self.forget()
            return 0.0
        readings = self._readings
        if readings and (now_s <= readings[-1][0] or ros_now_s < readings[-1][1]):
            self.forget()
        if not readings or ros_now_s > readings[-1][1]:
            self._advanced_s = now_s
        before_s = readings[-1][0] if readings else now_s
        readings.append((now_s, ros_now_s))
        while now_s - readings[0][0] > WINDOW_S:
            readings.popleft()
        return self._advance(before_s, now_s)

    def forget(self) -> None:
        """Forget the readings, because ROS time jumped; the factor stays until there are more."""
        self._readings.clear()
        self._smooth_s = None

    def stands_still(self, now_s: float) -> bool:
        """Tell whether ROS time has not advanced lately; ``now_s`` is steady time."""
        return self._advanced_s is not None and now_s - self._advanced_s > STANDS_STILL_S

    @property
    def slowdown(self) -> float:
        """How much longer than its length in ROS time something takes, 1 to 10."""
        return 1.0 / min(1.0, max(self.factor, SLOWEST))

    def _advance(self, before_s: float, now_s: float) -> float:
        readings = self._readings
        if len(readings) < _LEAST_READINGS or now_s - readings[0][0] < _LEAST_SPAN_S:
            return self.factor * (now_s - before_s)
        count = len(readings)
        mean_s = sum(now - now_s for now, _ in readings) / count
        # Relative to the first reading, so that seconds since 1970 lose no digits.
        base_s = readings[0][1]
        mean_ros_s = sum(ros - base_s for _, ros in readings) / count
        along = sum((t - now_s - mean_s) * (ros - base_s) for t, ros in readings)
        spread = sum((t - now_s - mean_s) ** 2 for t, _ in readings)
        self.factor = min(max(along / spread, 0.0), _FASTEST)
        smooth_s = base_s + mean_ros_s - self.factor * mean_s
        if self._smooth_s is None:
            passed_s = self.factor * (now_s - before_s)
            self._smooth_s = smooth_s
            return passed_s
        passed_s = max(0.0, smooth_s - self._smooth_s)
        self._smooth_s += passed_s
        return passed_s
