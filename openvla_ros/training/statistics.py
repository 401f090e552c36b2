"""Dataset statistics as OpenVLA's data loader writes them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla_ros.action_space.normalization import STATISTICS_FILE


def dataset_statistics(
    actions: NDArray[np.floating[Any]], num_trajectories: int
) -> dict[str, Any]:
    """Return one dataset's entry: quantiles, moments and the mask that spares the gripper.

    Args:
        actions: float[N,7] in dataset units, the gripper last.
        num_trajectories: How many episodes they come from.
    """
    values = np.asarray(actions, np.float64)
    if values.ndim != 2 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(
            f'actions: got {list(values.shape)}, expected at least one row of finite numbers'
        )
    dimension = values.shape[1]
    nothing = [0.0] * dimension
    return {
        'action': {
            'mean': values.mean(0).tolist(),
            'std': values.std(0).tolist(),
            'max': values.max(0).tolist(),
            'min': values.min(0).tolist(),
            'q01': np.quantile(values, 0.01, axis=0).tolist(),
            'q99': np.quantile(values, 0.99, axis=0).tolist(),
            'mask': [True] * (dimension - 1) + [False],
        },
        # OpenVLA sees no joint state; its files hold zeros here.
        'proprio': dict.fromkeys(('mean', 'std', 'max', 'min', 'q01', 'q99'), nothing),
        'num_transitions': len(values),
        'num_trajectories': num_trajectories,
    }


def write_statistics(folder: Path, statistics: Mapping[str, Any]) -> None:
    """Write ``{unnorm_key: entry}`` next to the weights."""
    (folder / STATISTICS_FILE).write_text(json.dumps(statistics, indent=1) + '\n')
