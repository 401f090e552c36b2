import json

import numpy as np
import pytest

from openvla_ros.action_space.normalization import (
    load_norm_stats,
    normalize_action,
    unnormalize_action,
)
from openvla_ros.training.statistics import dataset_statistics, write_statistics


def _actions(rows=1001):
    # Columns whose quantiles are known: 0 .. 1 in equal steps has its 1 % quantile at 0.01.
    ramp = np.linspace(0.0, 1.0, rows)
    return np.stack(
        [ramp, -ramp, 2 * ramp, 0 * ramp, 0 * ramp, 0 * ramp, (ramp > 0.5).astype(float)], 1
    )


def test_quantiles_are_the_first_and_the_ninety_ninth_percent():
    action = dataset_statistics(_actions(), 3)['action']
    np.testing.assert_allclose(action['q01'][:3], [0.01, -0.99, 0.02], atol=1e-12)
    np.testing.assert_allclose(action['q99'][:3], [0.99, -0.01, 1.98], atol=1e-12)


def test_the_gripper_is_not_normalised():
    assert dataset_statistics(_actions(), 3)['action']['mask'] == [True] * 6 + [False]


def test_what_is_written_is_what_the_policy_reads(tmp_path):
    write_statistics(tmp_path, {'demo': dataset_statistics(_actions(), 3)})
    stats = load_norm_stats(tmp_path, None)['demo']
    action = np.array([0.5, -0.25, 1.0, 0.0, 0.0, 0.0, 1.0])
    np.testing.assert_allclose(
        unnormalize_action(normalize_action(action, stats), stats), action, atol=1e-6
    )


def test_a_dimension_that_never_moves_is_written_as_zero(tmp_path):
    write_statistics(tmp_path, {'demo': dataset_statistics(_actions(), 3)})
    stats = load_norm_stats(tmp_path, None)['demo']
    assert normalize_action(_actions()[7], stats)[3:6].tolist() == [0.0, 0.0, 0.0]


def test_counts_and_the_absent_joint_state_are_there(tmp_path):
    entry = dataset_statistics(_actions(), 3)
    assert (entry['num_transitions'], entry['num_trajectories']) == (1001, 3)
    assert entry['proprio']['q99'] == [0.0] * 7
    json.dumps(entry)


@pytest.mark.parametrize('bad', [np.empty((0, 7)), np.full((3, 7), np.nan), np.zeros(7)])
def test_unusable_actions_are_refused(bad):
    with pytest.raises(ValueError, match='expected at least one row of finite numbers'):
        dataset_statistics(bad, 1)
