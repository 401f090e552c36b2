import copy
import json
import random
from pathlib import Path

import numpy as np
import pytest

from openvla_ros.action_space.action_tokens import decode_action_tokens
from openvla_ros.action_space.normalization import (
    ActionStats,
    UnnormKeyError,
    load_norm_stats,
    normalize_action,
    parse_norm_stats,
    resolve_unnorm_key,
    unnormalize_action,
)
from openvla_ros.core.strict_config import ConfigError

GOLDEN = Path(__file__).parents[1] / 'golden'
VECTORS = json.loads((GOLDEN / 'golden_vectors.json').read_text())


def real_stats(key):
    content = json.loads((GOLDEN / 'norm_stats' / f'{key}.json').read_text())
    return parse_norm_stats(content, key)[key]


@pytest.mark.parametrize('key', VECTORS['unnormalise']['expected'])
@pytest.mark.parametrize('sequence', VECTORS['unnormalise']['token_sequences'])
def test_actions_equal_the_original_on_real_statistics(key, sequence):
    tokens = VECTORS['unnormalise']['token_sequences'][sequence]
    action = unnormalize_action(decode_action_tokens(tokens, 32000), real_stats(key))
    expected = VECTORS['unnormalise']['expected'][key][sequence]
    np.testing.assert_allclose(action, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize('key', VECTORS['unnormalise']['expected'])
def test_neighbouring_tokens_are_one_step_of_the_grid_apart(key):
    tokens = [[31800] * 7, [31801] * 7]
    upper, lower = unnormalize_action(decode_action_tokens(tokens, 32000), real_stats(key))
    expected = VECTORS['unnormalise']['expected'][key]['lsb']
    np.testing.assert_allclose((upper - lower)[:6], expected, rtol=1e-9, atol=0)


def test_a_published_output_of_the_real_model_is_reproduced():
    vector = VECTORS['jetson_ai_lab_step355_fp16']
    action = unnormalize_action(
        decode_action_tokens(vector['ids'], 32000), real_stats(vector['unnorm_key'])
    )
    np.testing.assert_allclose(action, vector['published'], rtol=0, atol=5.1e-6)


def stats(**changes):
    content = {
        'q01': [-0.1, -2.0, 0.0],
        'q99': [0.3, 2.0, 1.0],
        'mask': [True, True, False],
        'min': [-0.2, -3.0, 0.0],
        'max': [0.4, 3.0, 1.0],
        **changes,
    }
    content = {key: value for key, value in content.items() if value is not None}
    return parse_norm_stats({'robot': {'action': content}}, 'stats.json')['robot']


def test_the_quantiles_become_plus_and_minus_one_and_the_gripper_passes():
    assert unnormalize_action([-1, 1, 0.3], stats()).tolist() == [-0.1, 2.0, 0.3]
    np.testing.assert_allclose(
        normalize_action([-0.1, 2.0, 0.3], stats()), [-1, 1, 0.3], rtol=0, atol=1e-7
    )


def test_normalising_clips_only_masked_dimensions():
    np.testing.assert_allclose(
        normalize_action([9.0, -9.0, 7.0], stats()), [1, -1, 7.0], rtol=0, atol=1e-7
    )


def test_both_directions_undo_each_other_inside_the_quantiles():
    actions = np.random.default_rng(1).uniform([-0.1, -2, 0], [0.3, 2, 1], (50, 3))
    again = unnormalize_action(normalize_action(actions, stats()), stats())
    np.testing.assert_allclose(again, actions, rtol=0, atol=1e-7)


def test_a_missing_mask_normalises_every_dimension():
    assert stats(mask=None).mask.tolist() == [True, True, True]
    assert unnormalize_action([0.0, 0.0, 0.0], stats(mask=None)).tolist() == [0.1, 0.0, 0.5]


def test_a_dimension_that_is_constant_in_the_dataset_is_trained_as_zero():
    constant = stats(q01=[0, -2.0, 0.0], q99=[0, 2.0, 1.0], min=[0, -3.0, 0], max=[0, 3.0, 1])
    assert normalize_action([5.0, 0.0, 1.0], constant)[0] == 0.0
    assert unnormalize_action([1.0, 0.0, 1.0], constant)[0] == 0.0


def test_quantiles_alone_are_enough():
    droid = json.loads((GOLDEN / 'norm_stats' / 'droid_q01_q99_only.json').read_text())
    assert parse_norm_stats(droid, 'droid')['droid'].action_dim == 7


def test_eight_dimensions_are_eight_tokens():
    eight = ActionStats(np.full(8, -1.0), np.ones(8), np.ones(8, bool))
    assert eight.action_dim == 8
    with pytest.raises(ValueError, match=r'got shape \[7\], expected \[..., 8\]'):
        unnormalize_action(np.zeros(7), eight)


def test_the_statistics_cannot_be_changed_afterwards():
    with pytest.raises(ValueError, match='read-only'):
        stats().q99[0] = 100.0


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'q99': [0.3, -2.5, 1.0]}, 'is below q01'),
        ({'q99': [0.3, 2.0]}, 'q99 has 2 values, expected 3'),
        ({'mask': [True, True]}, 'mask has 2 values, expected 3'),
        ({'mask': [1, 1, 0]}, 'mask: got'),
        ({'q01': [float('nan'), -2.0, 0.0]}, 'q01 is .*expected a list of finite numbers'),
        ({'q01': ['0', -2.0, 0.0]}, 'q01: got .*expected a list of numbers'),
        ({'q01': []}, 'q01: got .*expected a list of numbers'),
        ({'q01': [[0.1], -2.0, 0.0]}, 'q01: got'),
        ({'q01': [10**400, -2.0, 0.0]}, 'q01: holds a number too large'),
        ({'q01': [0.3, 2.0, 0.0]}, 'every action would be the same'),
        ({'q99': None}, "key 'q99' is missing"),
        ({'max': [-0.3, 3.0, 1.0]}, 'max .* is below min'),
    ],
)
def test_damaged_statistics_are_refused_with_file_key_and_entry(changes, message):
    with pytest.raises(ConfigError, match=f'^stats.json: robot.action.*{message}'):
        stats(**changes)


def test_no_mutation_of_real_statistics_gives_an_action_outside_the_quantiles():
    content = json.loads((GOLDEN / 'norm_stats' / 'bridge_orig.json').read_text())
    rng = random.Random(0)
    refused = 0
    for _ in range(200):
        mutant = copy.deepcopy(content)
        action = mutant['bridge_orig']['action']
        name = rng.choice(['q01', 'q99', 'mask'])
        value = rng.choice([None, float('nan'), float('inf'), -1e3, 'x', True, [], {}, 10**400])
        if rng.random() < 0.3:
            action[name] = rng.choice([value, action[name][:-1], [*action[name], 0.0]])
        else:
            action[name][rng.randrange(7)] = value
        try:
            parsed = parse_norm_stats(mutant, 'mutant')['bridge_orig']
        except ConfigError:
            refused += 1
            continue
        low, high = parsed.envelope()
        for token in (31744, 31872, 31999):
            reached = unnormalize_action(decode_action_tokens([token] * 7, 32000), parsed)
            assert np.isfinite(reached).all()
            assert (low <= reached).all()
            assert (reached <= high).all()
    assert refused > 150


def test_the_only_key_may_stay_unsaid_and_several_may_not():
    assert resolve_unnorm_key(['bridge_orig'], None) == 'bridge_orig'
    assert resolve_unnorm_key({'bridge_orig': 1}, '') == 'bridge_orig'
    with pytest.raises(UnnormKeyError, match='choose one of: a, b'):
        resolve_unnorm_key(['a', 'b'], None)


def test_the_no_noops_alias_works_both_ways_and_the_exact_key_wins():
    assert resolve_unnorm_key(['libero_10'], 'libero_10_no_noops') == 'libero_10'
    assert resolve_unnorm_key(['libero_10_no_noops'], 'libero_10') == 'libero_10_no_noops'
    both = ['libero_10_no_noops', 'libero_10']
    assert resolve_unnorm_key(both, 'libero_10') == 'libero_10'


def test_an_unknown_key_is_refused_with_the_nearest_one():
    with pytest.raises(
        UnnormKeyError, match=r"got 'bridge' \(did you mean 'bridge_orig'\?\), expected one of"
    ):
        resolve_unnorm_key(['bridge_orig', 'kuka'], 'bridge')


def test_dataset_statistics_replace_the_statistics_of_the_config(tmp_path):
    bridge = json.loads((GOLDEN / 'norm_stats' / 'bridge_orig.json').read_text())
    assert list(load_norm_stats(tmp_path, {'norm_stats': bridge})) == ['bridge_orig']
    own = (GOLDEN / 'norm_stats' / 'libero_10.json').read_text()
    (tmp_path / 'dataset_statistics.json').write_text(own)
    assert list(load_norm_stats(tmp_path, {'norm_stats': bridge})) == ['libero_10']


def test_a_checkpoint_without_statistics_cannot_move(tmp_path):
    with pytest.raises(ConfigError, match=r'neither dataset_statistics\.json nor norm_stats'):
        load_norm_stats(tmp_path, {})
    (tmp_path / 'dataset_statistics.json').write_text('{')
    with pytest.raises(ConfigError, match=r'dataset_statistics.json: cannot be read as JSON'):
        load_norm_stats(tmp_path, {'norm_stats': {}})


def test_statistics_without_the_name_of_their_dataset_are_recognized(tmp_path):
    """The RLDS loader caches one dataset's statistics flat, beside the data."""
    bridge = json.loads((GOLDEN / 'norm_stats' / 'bridge_orig.json').read_text())['bridge_orig']
    flat = {'action': bridge['action'], 'num_transitions': 3, 'num_trajectories': 1}
    (tmp_path / 'dataset_statistics.json').write_text(json.dumps(flat))
    with pytest.raises(ConfigError, match=r'without its name, as the RLDS loader caches'):
        load_norm_stats(tmp_path, None)
    # Under a name, even that of the entry itself, it is an ordinary file.
    (tmp_path / 'dataset_statistics.json').write_text(json.dumps({'action': flat}))
    assert list(load_norm_stats(tmp_path, None)) == ['action']
