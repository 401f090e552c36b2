"""The launch files, wherever ROS's launch is importable (it is not on PyPI).

What they start is tested in test/nodes/test_launch_plan.py; here, that launch starts just that.
"""

import importlib.util
import sys
from pathlib import Path

import pytest

from openvla_ros.core.strict_config import load_yaml
from openvla_ros.nodes.launch_arguments import DEMO_ARGUMENTS, POLICY_ARGUMENTS, defaults
from openvla_ros.nodes.launch_plan import demo_plan, policy_plan

ROOT = Path(__file__).resolve().parents[2]
LAUNCH_FILES = sorted((ROOT / 'launch').glob('*.launch.py'))

# Not 'launch': the folder of that name here would be found.
pytest.importorskip(
    'launch_ros', reason='launch_ros is not importable here: it comes with a ROS installation'
)

from ament_index_python.packages import get_package_share_directory  # noqa: E402
from launch import LaunchContext, LaunchDescription  # noqa: E402
from launch.actions import (  # noqa: E402
    DeclareLaunchArgument,
    ExecuteLocal,
    LogInfo,
    SetEnvironmentVariable,
)
from launch.utilities import perform_substitutions  # noqa: E402
from launch_ros.actions import Node, PushRosNamespace  # noqa: E402

from openvla_ros.nodes import launch_actions  # noqa: E402

SHARE = Path(get_package_share_directory('openvla_ros'))
MODEL = {'unnorm_key': 'openvla_ros_demo', 'checkpoint': 'somewhere'}


def _load(path):
    spec = importlib.util.spec_from_file_location(path.name.split('.')[0], path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _visit(entity, context):
    """Return an entity and all it leads to, as launch would carry them out."""
    found = [entity]
    for following in entity.visit(context) or () if not isinstance(entity, Node) else ():
        found += _visit(following, context)
    return found


def _launched(file='policy.launch.py', pushed='', **given):
    """Return the context and every action that a launch file leads to."""
    context = LaunchContext()
    context.launch_configurations.update(given)
    description = _load(ROOT / 'launch' / file).generate_launch_description()
    first = [PushRosNamespace(pushed)] if pushed else []
    return context, _visit(LaunchDescription([*first, description]), context)


def _nodes(actions):
    return {action.node_executable: action for action in actions if isinstance(action, Node)}


def _command(node, context):
    """Return what a node of launch_ros is started with: (parameters, rest of the command line)."""
    with pytest.MonkeyPatch.context() as patched:
        # Everything but starting the process.
        patched.setattr(ExecuteLocal, 'execute', lambda self, context: self.prepare(context))
        node.execute(context)
    words = list(node.process_description.final_cmd)
    parameters, rest = {}, []
    while words:
        word = words.pop(0)
        if word == '--params-file':
            (section,) = load_yaml(words.pop(0)).values()
            parameters |= section['ros__parameters']
        else:
            rest.append(word)
    return parameters, rest[1:]


@pytest.mark.parametrize('path', LAUNCH_FILES, ids=lambda path: path.name)
def test_every_argument_is_described(path):
    entities = _load(path).generate_launch_description().entities
    arguments = [entity for entity in entities if isinstance(entity, DeclareLaunchArgument)]
    assert arguments
    for argument in arguments:
        assert argument.description not in ('', 'no description given'), argument.name


@pytest.mark.parametrize(
    ('file', 'arguments', 'make_plan', 'given'),
    [
        (
            'policy.launch.py',
            POLICY_ARGUMENTS,
            policy_plan,
            {
                **MODEL,
                'robot': 'wx250s.example',
                'namespace': 'left',
                'mode': 'shadow',
                'image_topic': '/front/image',
            },
        ),
        ('demo.launch.py', DEMO_ARGUMENTS, demo_plan, {'seed': '3', 'task': 'push'}),
    ],
)
def test_launch_starts_just_what_is_planned(file, arguments, make_plan, given):
    context, actions = _launched(file, '/cell', **given)
    is_installed = launch_actions._is_installed
    plan = make_plan({**defaults(arguments), **given}, SHARE, is_installed, '/cell')
    nodes = _nodes(actions)
    assert list(nodes) == [process.executable for process in plan.processes]
    for process in plan.processes:
        parameters, rest = _command(nodes[process.executable], context)
        assert parameters == dict(process.parameters)
        expected = process.ros_arguments()
        while '-p' in expected:
            at = expected.index('-p')
            del expected[at : at + 2]
        assert sorted(word for word in rest if word != '--ros-args') == sorted(expected)
        assert nodes[process.executable]._ExecuteLocal__respawn == (
            process.respawn_delay_s is not None
        )
    environment = {
        perform_substitutions(context, a.name): perform_substitutions(context, a.value)
        for a in actions
        if isinstance(a, SetEnvironmentVariable)
    }
    assert environment == dict(plan.environment)
    said = [perform_substitutions(context, a.msg) for a in actions if isinstance(a, LogInfo)]
    assert said == list(plan.lines)


def test_both_commands_are_printed_with_the_namespace_of_a_pushed_one():
    context, actions = _launched(pushed='/cell', robot='sim', namespace='left', **MODEL)
    said = [perform_substitutions(context, a.msg) for a in actions if isinstance(a, LogInfo)]
    assert any('topic pub --once --keep-alive 1 /cell/left/instruction ' in s for s in said)
    assert any('service call /cell/left/controller_node/arm std_srvs' in s for s in said)


def test_a_choice_that_does_not_exist_is_refused():
    with pytest.raises(RuntimeError, match='quantization'):
        _launched(robot='sim', quantization='int3', **MODEL)


def test_what_is_missing_is_named_before_anything_starts():
    with pytest.raises(RuntimeError, match=r'not given: robot, checkpoint \(or server_url\);'):
        _launched(unnorm_key='openvla_ros_demo')


def test_a_frame_that_contradicts_the_profile_ends_the_launch():
    with pytest.raises(RuntimeError, match="base_frame: got 'world', expected 'base_link'"):
        _launched(robot='sim', base_frame='world', **MODEL)


@pytest.mark.parametrize('path', LAUNCH_FILES, ids=lambda path: path.name)
def test_a_mistyped_argument_is_refused_with_the_nearest_one(path, monkeypatch):
    command = ['ros2', 'launch', 'openvla_ros', path.name, 'namespac:=left']
    monkeypatch.setattr(sys, 'argv', command)
    with pytest.raises(RuntimeError, match=r"no argument 'namespac' \(did you mean 'namespace'"):
        _launched(path.name, robot='sim', namespac='left', **MODEL)
