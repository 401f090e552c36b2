"""The launch files, wherever ROS's launch is importable (it is not on PyPI)."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAUNCH_FILES = sorted((ROOT / 'launch').glob('*.launch.py'))

# Not 'launch': the folder of that name here would be found.
pytest.importorskip(
    'launch_ros', reason='launch_ros is not importable here: it comes with a ROS installation'
)

from launch import LaunchContext  # noqa: E402
from launch.actions import (  # noqa: E402
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
)
from launch.utilities import perform_substitutions  # noqa: E402
from launch_ros.actions import Node  # noqa: E402


def _load(path):
    spec = importlib.util.spec_from_file_location(path.name.split('.')[0], path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MODEL = {'unnorm_key': 'openvla_ros_demo', 'checkpoint': 'somewhere'}


def _started(file='policy.launch.py', **given):
    """Return the context and what the launch file starts with these arguments."""
    module = _load(ROOT / 'launch' / file)
    context = LaunchContext()
    context.launch_configurations.update(given)
    actions = []
    for entity in module.generate_launch_description().entities:
        result = entity.execute(context)
        if isinstance(entity, OpaqueFunction):
            actions = result
    return context, actions


def _nodes(actions):
    return {action.node_executable: action for action in actions if isinstance(action, Node)}


@pytest.mark.parametrize('path', LAUNCH_FILES, ids=lambda path: path.name)
def test_every_argument_is_described(path):
    entities = _load(path).generate_launch_description().entities
    arguments = [entity for entity in entities if isinstance(entity, DeclareLaunchArgument)]
    assert arguments
    for argument in arguments:
        assert argument.description not in ('', 'no description given'), argument.name


def test_policy_controller_and_markers_start_and_the_first_two_come_back():
    _, actions = _started(robot='sim', **MODEL)
    nodes = _nodes(actions)
    assert set(nodes) == {'policy_node', 'controller_node', 'marker_node'}
    # launch keeps the respawn option to itself; that it works is seen by killing the controller.
    assert nodes['controller_node']._ExecuteLocal__respawn
    assert nodes['policy_node']._ExecuteLocal__respawn
    assert not nodes['marker_node']._ExecuteLocal__respawn


def test_the_line_that_arms_is_printed_with_the_namespace():
    context, actions = _started(robot='sim', namespace='left', **MODEL)
    said = [perform_substitutions(context, a.msg) for a in actions if isinstance(a, LogInfo)]
    assert any(
        "ros2 service call /left/controller_node/arm std_srvs/srv/SetBool '{data: true}'" in line
        for line in said
    )


def test_what_is_not_installed_is_left_out_with_a_line():
    context, actions = _started(robot='sim', rviz='true', **MODEL)
    if 'rviz2' in _nodes(actions):
        pytest.skip('rviz2 is installed here, so nothing is left out')
    said = [perform_substitutions(context, a.msg) for a in actions if isinstance(a, LogInfo)]
    assert any('rviz2 is not installed' in line for line in said)


def test_a_choice_that_does_not_exist_is_refused():
    with pytest.raises(RuntimeError, match='quantization'):
        _started(robot='sim', quantization='int3', **MODEL)


def test_what_is_missing_is_named_before_anything_starts():
    with pytest.raises(RuntimeError, match=r'not given: robot, checkpoint \(or server_url\);'):
        _started(unnorm_key='openvla_ros_demo')


def test_a_parameter_file_may_hold_what_is_not_given_as_an_argument():
    _, actions = _started(params_file='my.yaml')
    assert 'controller_node' in _nodes(actions)


@pytest.mark.parametrize('path', LAUNCH_FILES, ids=lambda path: path.name)
def test_a_mistyped_argument_is_refused_with_the_nearest_one(path, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['ros2', 'launch', 'openvla_ros', path.name, 'mod:=shadow'])
    with pytest.raises(RuntimeError, match=r"no argument 'mod' \(did you mean 'mode'\?\)"):
        _started(path.name, robot='sim', mod='shadow', **MODEL)


def test_the_demo_starts_the_arm_and_includes_the_policy_for_it():
    _, actions = _started('demo.launch.py', mode='shadow')
    assert 'sim_node' in _nodes(actions)
    (policy,) = (action for action in actions if isinstance(action, IncludeLaunchDescription))
    given = dict(policy.launch_arguments)
    assert given['robot'] == 'sim'
    assert given['mode'] == 'shadow'
