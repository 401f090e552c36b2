import copy

import pytest
import yaml

from openvla_ros.core.resources import resource_path
from openvla_ros.core.strict_config import ConfigError, parse
from openvla_ros.safety.robot_profile import (
    RobotProfile,
    list_robot_profiles,
    load_robot_profile,
)

SIM = yaml.safe_load(resource_path('config/robots/sim.yaml').read_text())


def with_value(path, value):
    content = copy.deepcopy(SIM)
    inner = content
    *sections, key = path.split('.')
    for section in sections:
        inner = inner[section]
    inner[key] = value
    return content


def keys():
    for key, value in SIM.items():
        yield key
        if isinstance(value, dict):
            yield from (f'{key}.{inner}' for inner in value)


def refusal(content):
    with pytest.raises(ConfigError) as error:
        parse(RobotProfile, content, 'robot.yaml')
    assert '\n' not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize('name', list_robot_profiles())
def test_every_profile_of_the_package_is_complete(name):
    profile = load_robot_profile(name)
    assert profile.name == name.removesuffix('.example')


@pytest.mark.parametrize('path', [k for k in keys() if k != 'estop.required'])
def test_a_missing_limit_refuses_and_is_named(path):
    content = copy.deepcopy(SIM)
    inner = content
    *sections, key = path.split('.')
    for section in sections:
        inner = inner[section]
    del inner[key]
    assert key in refusal(content)


@pytest.mark.parametrize('bad', [None, 'x', [], {}, float('nan'), float('inf'), -1.0, 1e9, True])
@pytest.mark.parametrize('path', [f'limits.{k}' for k in SIM['limits']] + ['control_rate_hz'])
def test_a_limit_that_is_no_sane_number_refuses(path, bad):
    assert path.split('.')[-1] in refusal(with_value(path, bad))


@pytest.mark.parametrize('bad', [[0.1, 0.1], [0.1] * 4, [0.1, float('nan'), 0.1], [9e9] * 3, 0.1])
def test_an_array_is_checked_element_by_element(bad):
    assert 'axis_speed_mps' in refusal(with_value('limits.axis_speed_mps', bad))


def test_an_unknown_key_names_the_nearest_one():
    assert "did you mean 'speed_mps'?" in refusal(with_value('limits.sped_mps', 0.1))


def test_a_box_inside_out_refuses():
    assert 'axis x' in refusal(with_value('workspace.box_lo_m', [0.5, -0.25, 0.0]))


def test_a_stop_gentler_than_motion_refuses():
    assert 'gentler' in refusal(with_value('limits.stop_acceleration_mps2', 0.5))


def test_gripper_thresholds_in_the_wrong_order_refuse():
    assert 'close_below' in refusal(with_value('gripper.close_below', 0.7))


def test_a_leash_beyond_half_a_turn_refuses():
    content = with_value('plausible.rotation_rad', 1.5)
    content['actions']['leash_steps'] = 2.5
    assert 'ambiguous' in refusal(content)


def test_an_integrated_pose_needs_a_start():
    assert 'start' in refusal(with_value('pose.source', 'integrated'))


def test_a_half_space_needs_a_unit_normal():
    half_space = {'name': 'post', 'normal': [1.0, 1.0, 0.0], 'offset_m': 0.1}
    assert 'length' in refusal(with_value('workspace.half_spaces', [half_space]))


def test_an_unknown_robot_names_the_nearest_one():
    with pytest.raises(ConfigError, match="did you mean 'sim'"):
        load_robot_profile('simm')


def test_the_estop_is_required_unless_the_file_says_otherwise():
    content = copy.deepcopy(SIM)
    del content['estop']['required']
    assert parse(RobotProfile, content, 'robot.yaml').estop.required


@pytest.mark.parametrize('name', [n for n in list_robot_profiles() if n != 'sim'])
def test_hardware_profiles_start_in_shadow_require_the_estop_and_scale_down(name):
    profile = load_robot_profile(name)
    assert profile.mode == 'shadow'
    assert profile.estop.required
    assert profile.action_scale == 0.3
    assert profile.limits.speed_mps <= 0.10


def test_the_stop_time_is_hold_and_ramp_and_two_periods():
    # 1.25 * 0.2 + 0.25 / 2 + 2 * 0.02
    assert load_robot_profile('sim').stop_time_s(0.2) == pytest.approx(0.415)
    assert load_robot_profile('sim').stop_time_s(1 / 3) == pytest.approx(0.5817, abs=1e-4)


def test_the_stop_distance_is_hold_and_braking_and_a_period():
    # 0.25 * (0.25 + 0.02) + 0.25^2 / (2 * 2) + 0.25 * 0.02
    assert load_robot_profile('sim').stop_distance_m(0.2) == pytest.approx(0.088125)


ACTION = {'name': 'gripper', 'open_position': 0.04, 'closed_position': 0.01, 'max_effort': 5.0}


def with_action(**changes):
    return with_value('gripper.action', ACTION | changes)


def test_a_gripper_action_is_gripper_command_and_not_required_unless_written_down():
    action = parse(RobotProfile, with_action(), 'robot.yaml').gripper.action
    assert (action.type, action.required) == ('GripperCommand', False)
    # Half open is half way between the two positions.
    assert action.position(0.5) == pytest.approx(0.025)


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'type': 'Gripper'}, "'GripperCommand', 'ParallelGripperCommand'"),
        ({'type': 'ParallelGripperCommand'}, "joint '', expected the name of the joint"),
        ({'joint': 'finger'}, 'GripperCommand with joint'),
        ({'open_position': 0.01}, 'are both 0.01'),
        ({'require': True}, "unknown key 'require'"),
        ({'required': 'yes'}, 'required'),
    ],
)
def test_a_wrong_gripper_action_refuses(changes, said):
    assert said in refusal(with_action(**changes))
