"""Every convention of every dataset, against vectors worked out by hand."""

import dataclasses
import functools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from openvla_ros.action_space import dataset_profile
from openvla_ros.action_space.dataset_profile import (
    DatasetProfile,
    check_step_envelope,
    find_dataset_profile,
    from_eef_delta,
    list_dataset_profiles,
    profile_of_policy,
    step_envelope,
    to_eef_delta,
)
from openvla_ros.action_space.normalization import parse_norm_stats
from openvla_ros.core.resources import resource_path
from openvla_ros.core.strict_config import ConfigError, load_yaml, parse

load_dataset_profile = functools.cache(dataset_profile.load_dataset_profile)

LIBERO = ['libero_spatial', 'libero_object', 'libero_goal', 'libero_10']
KEYS = ['bridge_orig', 'fractal20220817_data', 'openvla_ros_demo', *LIBERO]
STATISTICS = Path(__file__).parents[1] / 'golden' / 'norm_stats'


def golden_stats(key):
    content = json.loads((STATISTICS / f'{key}.json').read_text())
    return parse_norm_stats(content, key)[key]


def test_there_is_a_profile_for_every_promised_dataset_and_the_template_is_none():
    assert set(KEYS) <= set(list_dataset_profiles())
    assert 'template' not in list_dataset_profiles()


# --- which way the arm moves ---------------------------------------------------------------


def test_bridge_plus_x_is_forward_in_metres_at_five_hertz():
    delta = to_eef_delta([0.02, 0, 0, 0, 0, 0, 1], load_dataset_profile('bridge_orig'))
    assert delta.frame == 'base'
    assert delta.step_s == 0.2
    np.testing.assert_allclose(delta.translation_m, [0.02, 0, 0])
    np.testing.assert_allclose(delta.twist()[:3], [0.1, 0, 0])  # 20 mm in 0.2 s


def test_bridge_positive_third_angle_turns_left_about_the_vertical():
    delta = to_eef_delta([0, 0, 0, 0, 0, 0.1, 1], load_dataset_profile('bridge_orig'))
    np.testing.assert_allclose(delta.rotation_rad, [0, 0, 0.1], atol=1e-15)


def test_bridge_angles_are_euler_angles_not_a_rotation_vector():
    # Roll 90 degrees, then yaw 90 degrees about fixed axes: x -> y, y -> z, z -> x, which is
    # one turn of 120 degrees about the diagonal.
    action = [0, 0, 0, math.pi / 2, 0, math.pi / 2, 0]
    delta = to_eef_delta(action, load_dataset_profile('bridge_orig'))
    np.testing.assert_allclose(
        delta.rotation_rad, np.full(3, math.radians(120) / math.sqrt(3)), atol=1e-12
    )


def test_fractal_is_in_metres_at_three_hertz_with_euler_angles():
    profile = load_dataset_profile('fractal20220817_data')
    delta = to_eef_delta([0, 0.03, 0, math.pi / 2, 0, math.pi / 2, 1], profile)
    np.testing.assert_allclose(delta.twist()[:3], [0, 0.09, 0])  # 30 mm in a third of a second
    np.testing.assert_allclose(
        delta.rotation_rad, np.full(3, math.radians(120) / math.sqrt(3)), atol=1e-12
    )
    assert delta.frame == 'base'


@pytest.mark.parametrize('key', LIBERO)
def test_libero_units_are_five_centimetres_and_half_a_radian(key):
    delta = to_eef_delta([1, -0.5, 0.2, 0, 0, 0.4, 1], load_dataset_profile(key))
    np.testing.assert_allclose(delta.translation_m, [0.05, -0.025, 0.01])
    np.testing.assert_allclose(delta.rotation_rad, [0, 0, 0.2])
    assert delta.frame == 'base'
    assert delta.step_s == 0.05


@pytest.mark.parametrize('key', [*LIBERO, 'openvla_ros_demo'])
def test_a_rotation_vector_passes_with_all_axes_at_once(key):
    profile = load_dataset_profile(key)
    turn = np.array([0.1, -0.2, 0.3])
    delta = to_eef_delta([0, 0, 0, *turn, 0], profile)
    np.testing.assert_allclose(delta.rotation_rad, turn * profile.rotation_scale_rad)


def test_the_demonstration_is_in_metres_and_radians_at_five_hertz():
    delta = to_eef_delta(
        [0.01, 0.02, -0.03, 0, 0, 0.05, 1], load_dataset_profile('openvla_ros_demo')
    )
    np.testing.assert_allclose(delta.translation_m, [0.01, 0.02, -0.03])
    assert (delta.frame, delta.step_s, delta.gripper) == ('base', 0.2, 1.0)


# --- what gripper 1 means ------------------------------------------------------------------


@pytest.mark.parametrize('key', KEYS)
def test_one_opens_and_zero_closes_everywhere(key):
    profile = load_dataset_profile(key)
    assert to_eef_delta([0, 0, 0, 0, 0, 0, 1], profile).gripper == 1.0
    assert to_eef_delta([0, 0, 0, 0, 0, 0, 0], profile).gripper == 0.0


@pytest.mark.parametrize('key', ['bridge_orig', 'fractal20220817_data'])
def test_the_opening_passes_where_no_threshold_is_written(key):
    profile = load_dataset_profile(key)
    # 31744 and 31745 decode to 0.99608, the bin nearest to 1.
    assert to_eef_delta([0, 0, 0, 0, 0, 0, 0.99608], profile).gripper == pytest.approx(0.99608)
    assert to_eef_delta([0, 0, 0, 0, 0, 0, -0.99608], profile).gripper == 0.0


@pytest.mark.parametrize('key', [*LIBERO, 'openvla_ros_demo'])
@pytest.mark.parametrize(('value', 'opening'), [(0.99608, 1.0), (0.51, 1.0), (0.49, 0.0)])
def test_a_threshold_makes_every_command_fully_open_or_closed(key, value, opening):
    delta = to_eef_delta([0, 0, 0, 0, 0, 0, value], load_dataset_profile(key))
    assert delta.gripper == opening


def test_a_gripper_the_other_way_round_is_turned_round():
    profile = load_dataset_profile('bridge_orig')
    inverted = dataclasses.replace(
        profile, gripper=dataclasses.replace(profile.gripper, open_value=-1.0, closed_value=1.0)
    )
    openings = [to_eef_delta([0] * 6 + [g], inverted).gripper for g in (-1.0, 0.0, 1.0)]
    assert openings == [1.0, 0.5, 0.0]


# --- image recipe --------------------------------------------------------------------------


def test_the_recipes_are_those_of_the_published_evaluations():
    bridge = load_dataset_profile('bridge_orig').image
    assert (bridge.resize, bridge.center_crop, bridge.rotate_180) == ('lanczos3', False, False)
    for key in LIBERO:
        recipe = load_dataset_profile(key).image
        assert (recipe.resize, recipe.center_crop, recipe.rotate_180) == ('lanczos3', True, True)
    demo = load_dataset_profile('openvla_ros_demo').image
    assert (demo.resize, demo.center_crop, demo.rotate_180) == ('lanczos3', False, False)


# --- refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize('length', [0, 6, 8, 14])
def test_anything_but_seven_numbers_is_refused(length):
    with pytest.raises(ValueError, match='expected 7'):
        to_eef_delta(np.zeros(length), load_dataset_profile('bridge_orig'))


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('index', range(7))
def test_a_non_finite_number_is_refused_in_every_place(index, bad):
    action = np.zeros(7)
    action[index] = bad
    with pytest.raises(ValueError, match='finite'):
        to_eef_delta(action, load_dataset_profile('bridge_orig'))


@pytest.mark.parametrize('key', ['', 'bridge', 'droid', '../bridge_orig', 'template'])
def test_an_unset_or_unknown_key_is_refused_with_the_list(key):
    with pytest.raises(ConfigError) as refusal:
        load_dataset_profile(key)
    for known in KEYS:
        assert known in str(refusal.value)


def test_a_dataset_without_idle_steps_has_the_conventions_of_the_whole():
    assert load_dataset_profile('libero_goal_no_noops').unnorm_key == 'libero_goal'


def test_the_template_loads_once_its_questions_are_answered(tmp_path):
    template = resource_path('config/datasets/template.yaml').read_text()
    (tmp_path / 'my_robot.yaml').write_text(template)
    with pytest.raises(ConfigError, match='sources: nothing is written for frame'):
        load_dataset_profile('my_robot', tmp_path)
    (tmp_path / 'my_robot.yaml').write_text(template.replace("''", 'measured'))
    assert load_dataset_profile('my_robot', tmp_path).rotation == 'rotvec'
    assert list_dataset_profiles(tmp_path) == ['my_robot']


def test_every_mistake_in_a_profile_is_refused():
    good = load_yaml(resource_path('config/datasets/bridge_orig.yaml'))
    mistakes = {
        'frame': 'camera',
        'rotation': 'euler_zyx',
        'translation_scale_m': 0.0,
        'rotation_scale_rad': float('nan'),
        'step_s': -0.2,
        'gripper': {'open_value': 1.0, 'closed_value': 1.0},
        'image': {'resize': 'lanczos'},
        'camera': {'name': 'a', 'width': 0, 'height': 1},
        'sources': {**good['sources'], 'fame': 'x'},
        'unnorm_key': None,
    }
    for name, value in mistakes.items():
        with pytest.raises(ConfigError):
            parse(DatasetProfile, {**good, name: value}, 'test')
    for name in good:
        with pytest.raises(ConfigError, match=name):
            parse(DatasetProfile, {k: v for k, v in good.items() if k != name}, 'test')


def test_a_profile_in_a_file_of_another_name_is_refused(tmp_path):
    content = load_yaml(resource_path('config/datasets/bridge_orig.yaml'))
    (tmp_path / 'mine.yaml').write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="expected 'mine'"):
        load_dataset_profile('mine', tmp_path)


# --- inverse, envelope ---------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    key=st.sampled_from(['bridge_orig', 'fractal20220817_data']),
    values=st.lists(st.floats(-1.0, 1.0), min_size=6, max_size=6),
    gripper=st.floats(0.0, 1.0),
)
def test_from_eef_delta_is_the_inverse(key, values, gripper):
    profile = load_dataset_profile(key)
    action = np.array([*values, gripper])
    back = from_eef_delta(to_eef_delta(action, profile), profile)
    np.testing.assert_allclose(back, action, atol=1e-9)


def test_a_displacement_in_another_frame_is_not_written_as_this_dataset():
    bridge, libero = load_dataset_profile('bridge_orig'), load_dataset_profile('libero_10')
    delta = to_eef_delta(np.zeros(7), libero)
    with pytest.raises(ValueError, match='step'):
        from_eef_delta(delta, bridge)


def test_the_envelope_of_bridge_is_the_norm_of_its_corner():
    # max(|q01|, |q99|) per axis: 28.7, 41.7, 40.2 mm and 82, 93, 207 mrad.
    metres, radians = step_envelope(
        golden_stats('bridge_orig'), load_dataset_profile('bridge_orig')
    )
    assert metres == pytest.approx(math.sqrt(0.0287**2 + 0.0417**2 + 0.0402**2), abs=2e-4)
    assert radians == pytest.approx(math.sqrt(0.0819**2 + 0.0929**2 + 0.2072**2), abs=2e-4)


def test_statistics_that_reach_too_far_are_refused_with_what_to_do():
    libero, bridge = golden_stats('libero_10'), load_dataset_profile('bridge_orig')
    check_step_envelope(golden_stats('bridge_orig'), bridge)
    with pytest.raises(ConfigError, match=r'allow 1\.\d+ m and .*raise plausible_step_m'):
        check_step_envelope(libero, bridge)
    check_step_envelope(libero, bridge, plausible_step_m=2.0, plausible_step_rad=6.0)


def test_a_profile_is_found_by_key_and_alias_or_there_is_none(tmp_path):
    assert find_dataset_profile('bridge_orig').unnorm_key == 'bridge_orig'
    assert find_dataset_profile('libero_10_no_noops').unnorm_key == 'libero_10'
    assert find_dataset_profile('template') is None
    assert find_dataset_profile('bridge_orig', tmp_path) is None


@pytest.mark.parametrize('key', LIBERO)
def test_libero_statistics_are_plausible_only_with_libero_units(key):
    stats = golden_stats(key)
    metres, _ = step_envelope(stats, load_dataset_profile(key))
    assert metres < 0.1
    as_metres, _ = step_envelope(stats, load_dataset_profile('bridge_orig'))
    assert as_metres == pytest.approx(20 * metres)
    assert as_metres > 1.0


def cropping_profile(folder, key='bridge_orig'):
    """A profile as a fine-tuning leaves it in its folder."""
    folder.mkdir()
    text = resource_path('config/datasets/bridge_orig.yaml').read_text()
    text = text.replace('unnorm_key: bridge_orig', f'unnorm_key: {key}')
    assert 'center_crop: false' in text
    text = text.replace('center_crop: false', 'center_crop: true')
    (folder / 'dataset_profile.yaml').write_text(text)
    return folder


def test_the_profile_beside_the_adapter_then_beside_the_checkpoint_comes_first(tmp_path):
    adapter = cropping_profile(tmp_path / 'adapter')
    for folders in ((adapter, None), (None, adapter), (adapter, tmp_path)):
        assert profile_of_policy('bridge_orig', '', *folders).image.center_crop is True
    assert profile_of_policy('bridge_orig', '', None, tmp_path).image.center_crop is False


def test_a_named_folder_of_profiles_wins_over_the_one_beside_the_adapter(tmp_path):
    adapter = cropping_profile(tmp_path / 'adapter')
    ours = resource_path('config/datasets')
    assert profile_of_policy('bridge_orig', ours, adapter).image.center_crop is False


def test_a_profile_of_another_dataset_is_passed_over(tmp_path):
    adapter = cropping_profile(tmp_path / 'adapter', 'my_arm')
    assert profile_of_policy('bridge_orig', '', adapter).image.center_crop is False
    with pytest.raises(ConfigError, match='my_rm'):
        profile_of_policy('my_rm', '', adapter)
