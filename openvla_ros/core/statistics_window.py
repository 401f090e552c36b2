"""Rates and latencies over a sliding window, and counters that cannot overflow a message."""

import collections
from collections.abc import Mapping

import numpy as np

_COUNTER_LIMIT = 2**63 - 1


class SlidingValues:
    """The last values of a quantity and their percentiles."""

    def __init__(self, length: int = 512) -> None:
        """Keep the last ``length`` values."""
        self._values: collections.deque[float] = collections.deque(maxlen=length)

    def add(self, value: float) -> None:
        """Take a value."""
        self._values.append(value)

    def percentile(self, percent: float) -> float:
        """Return a percentile (linear interpolation), or NaN without values."""
        values = list(self._values)
        return float(np.percentile(values, percent)) if values else float('nan')

    def mean(self) -> float:
        """Return the mean, or NaN without values."""
        values = list(self._values)
        return float(np.mean(values)) if values else float('nan')

    def __len__(self) -> int:
        """Return how many values there are."""
        return len(self._values)


class EventRate:
    """How often something happens, over a window of time."""

    def __init__(self, window_s: float = 5.0) -> None:
        """Count events of the last ``window_s`` seconds."""
        self._window_s = window_s
        self._times_s: collections.deque[float] = collections.deque(maxlen=4096)

    def mark(self, now_s: float) -> None:
        """Note one event at steady time ``now_s``."""
        self._times_s.append(now_s)

    def rate_hz(self, now_s: float) -> float:
        """Return events per second: intervals over their time, or over the time since the last."""
        times_s = [t for t in list(self._times_s) if now_s - t <= self._window_s]
        if len(times_s) < 2:
            return 0.0
        # The silence since the last event counts as soon as it is longer than usual.
        span_s = times_s[-1] - times_s[0]
        silence_s = now_s - times_s[-1]
        usual_s = span_s / (len(times_s) - 1)
        return (len(times_s) - 1) / (span_s + max(0.0, silence_s - usual_s)) if span_s else 0.0


class Counters:
    """Counts by name, in order of first appearance."""

    def __init__(self) -> None:
        """Start with none."""
        self._counts: dict[str, int] = {}

    def add(self, name: str) -> int:
        """Count one more and return the count."""
        self._counts[name] = min(self._counts.get(name, 0) + 1, _COUNTER_LIMIT)
        return self._counts[name]

    def __getitem__(self, name: str) -> int:
        """Return a count; 0 for a name never counted."""
        return self._counts.get(name, 0)

    def as_dict(self) -> Mapping[str, int]:
        """Return a copy of all counts."""
        return dict(self._counts)
