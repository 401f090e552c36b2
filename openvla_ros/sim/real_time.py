"""Whether the simulation keeps up with the clock: said once when it does not, and once after."""

# Below this part of real time, or of the wanted picture rate, it is degraded.
DEGRADED = 0.8
WINDOW_S = 5.0


class RealTimeMonitor:
    """Counts simulated time and pictures over windows of WINDOW_S; time is passed in."""

    def __init__(self, image_rate_hz: float) -> None:
        """Start.

        Args:
            image_rate_hz: Pictures wanted per second.
        """
        self._wanted_hz = image_rate_hz
        self._pictures = 0
        self._simulated_s = 0.0
        self._since_s: float | None = None
        self._degraded = False

    def count_picture(self) -> None:
        """Note that a picture was delivered (from any thread)."""
        self._pictures += 1

    def note(self, now_s: float, simulated_s: float) -> str | None:
        """Note simulated time [s]; returns a sentence when the judgement changes."""
        if self._since_s is None:
            self._since_s = now_s
            return None
        self._simulated_s += simulated_s
        elapsed_s = now_s - self._since_s
        if elapsed_s < WINDOW_S:
            return None
        real_time, image_hz = self._simulated_s / elapsed_s, self._pictures / elapsed_s
        self._since_s, self._simulated_s, self._pictures = now_s, 0.0, 0
        degraded = real_time < DEGRADED or image_hz < DEGRADED * self._wanted_hz
        if degraded == self._degraded:
            return None
        self._degraded = degraded
        return (
            f'the simulation is {"slower than wanted" if degraded else "as fast as wanted again"}:'
            f' {real_time:.2f} of real time, {image_hz:.1f} of {self._wanted_hz:g} pictures/s'
        )
