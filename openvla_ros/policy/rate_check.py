"""Whether a policy can keep its rate, measured before it says that it is ready."""

import time
from collections.abc import Sequence

import numpy as np

from openvla_ros.policy.policy import Policy

WARM_RUNS = 10
_INSTRUCTION = 'pick up the red block'


def measure_durations_s(policy: Policy, runs: int = WARM_RUNS) -> list[float]:
    """Return the wall time [s] of ``runs`` actions on a picture like the dataset's camera's.

    Every run sees another picture, so that nothing kept from the run before makes it faster.
    """
    camera = policy.profile.camera
    generator = np.random.default_rng(0)
    durations_s = []
    for _ in range(runs):
        coarse = generator.integers(0, 256, (8, 8, 3), np.uint8)
        rows = np.arange(camera.height) * 8 // camera.height
        columns = np.arange(camera.width) * 8 // camera.width
        image = np.ascontiguousarray(coarse[rows][:, columns])
        started_s = time.perf_counter()
        policy.act(image, _INSTRUCTION)
        durations_s.append(time.perf_counter() - started_s)
    return durations_s


def rate_kept_hz(durations_s: Sequence[float]) -> float:
    """Return the rate that nine of ten of the measured actions keep."""
    return 1.0 / float(np.percentile(durations_s, 90, method='lower'))
