"""What a running policy tells of itself: rates, latencies by stage, counts."""

from collections.abc import Mapping

from openvla_ros.core.statistics_window import Counters, EventRate, SlidingValues

CAMERA_TO_PUBLISH = 'camera_to_publish'
IMAGE_AGE_AT_START = 'image_age_at_start'
PREPROCESSING = 'preprocessing'
"""The dataset's recipe and the backend's own preprocessing (which counts as inference, too)."""
_SUMMARY_STAGES = ('conversion', PREPROCESSING, 'inference', 'publish')


class PolicyStatistics:
    """Counts and windows of one policy; time is passed in.

    Attributes:
        images: Rate of usable images.
        actions: Rate of published actions.
        counts: Ticks, skipped ticks and what else is counted without being a refusal.
        refused: Images, instructions and actions that were not used, by code.
        execution: How the network ran last, where the backend tells.
    """

    def __init__(self) -> None:
        """Start with nothing counted."""
        self.images = EventRate()
        self.actions = EventRate()
        self.counts = Counters()
        self.refused = Counters()
        self.execution = ''
        self._stages: dict[str, SlidingValues] = {}
        self._passes = SlidingValues(256)
        self._margins = SlidingValues(256)

    def add_stages(self, stage_s: Mapping[str, float]) -> None:
        """Take the wall times [s] of one action's stages."""
        for name, value in stage_s.items():
            self._stages.setdefault(name, SlidingValues()).add(value)

    def add_decoding(self, num_passes: int | None, min_margin: float | None) -> None:
        """Take how an action was decoded, where the backend tells."""
        if num_passes is not None:
            self._passes.add(float(num_passes))
        if min_margin is not None:
            self._margins.add(min_margin)

    def latency_ms(self, stage: str, percent: float) -> float:
        """Return a percentile of a stage's wall time [ms]; NaN before the first."""
        return 1e3 * self._stages.get(stage, SlidingValues()).percentile(percent)

    def summary(self, now_s: float, policy_rate_hz: float) -> str:
        """Return the figures in one line; ``now_s`` is steady time."""
        refused = ', '.join(f'{n} {code}' for code, n in self.refused.as_dict().items())
        stages = ', '.join(f'{name} {self._pair(name)}' for name in _SUMMARY_STAGES)
        return (
            f'{self.actions.rate_hz(now_s):.1f} of {policy_rate_hz:.1f} Hz, '
            f'camera {self.images.rate_hz(now_s):.1f} Hz, '
            f'camera to action {self._pair(CAMERA_TO_PUBLISH)} ms (p50/p99; {stages}), '
            f'{self.counts["skipped_ticks"]} ticks skipped, refused: {refused or "none"}'
            f'{self.execution and f", network: {self.execution}"}'
        )

    def values(self, now_s: float, policy_rate_hz: float) -> dict[str, str]:
        """Return every figure by name, as text, for diagnostics; ``now_s`` is steady time."""
        values = {
            'rate_hz': f'{self.actions.rate_hz(now_s):.2f}',
            'policy_rate_hz': f'{policy_rate_hz:.2f}',
            'camera_hz': f'{self.images.rate_hz(now_s):.2f}',
        }
        for name in sorted(self._stages):
            values[f'{name}_p50_ms'] = f'{self.latency_ms(name, 50):.1f}'
            values[f'{name}_p99_ms'] = f'{self.latency_ms(name, 99):.1f}'
        if len(self._passes):
            values['passes_per_action'] = f'{self._passes.mean():.2f}'
        if len(self._margins):
            values['min_margin_p1'] = f'{self._margins.percentile(1):.3f}'
        if self.execution:
            values['execution'] = self.execution
        values['skipped_ticks'] = '0'
        values |= {name: str(n) for name, n in self.counts.as_dict().items()}
        values |= {f'refused {code}': str(n) for code, n in self.refused.as_dict().items()}
        return values

    def _pair(self, stage: str) -> str:
        if stage not in self._stages:
            return '-/-'
        return f'{self.latency_ms(stage, 50):.0f}/{self.latency_ms(stage, 99):.0f}'
