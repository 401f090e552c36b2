"""What keeps controller_node going, seen from inside one process."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
import rclpy
import yaml
from geometry_msgs.msg import PoseStamped
from rclpy.context import Context
from rclpy.parameter import Parameter
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool, Trigger

from openvla_ros.core.resources import resource_path
from openvla_ros.msg import PolicyAction
from openvla_ros.nodes.controller_node import ControllerNode, main
from openvla_ros.safety.pose_tracker import Pose
from openvla_ros.safety.safety_state import State

pytestmark = pytest.mark.ros


class Sent(list):
    def publish(self, message):
        self.append(message)


@pytest.fixture
def node():
    context = Context()
    rclpy.init(context=context)
    it = ControllerNode(
        context=context,
        parameter_overrides=[Parameter('robot', value='sim')],
        use_global_arguments=False,
    )
    it._twist_publisher = Sent()
    yield it
    it.destroy_node()
    rclpy.shutdown(context=context)


def raises(*_, **__):
    raise RuntimeError('injected')


def pose():
    message = PoseStamped()
    message.header.frame_id = 'base_link'
    message.pose.orientation.w = 1.0
    return message


CALLBACKS = {
    'action': ('offer', lambda n: n._on_action(PolicyAction(), {})),
    'pose': ('set_pose', lambda n: n._on_pose(pose())),
    'estop': ('heartbeat', lambda n: n._on_estop(Bool())),
    'arm': ('arm', lambda n: n._on_arm(SetBool.Request(data=True), SetBool.Response())),
    'reset': ('reset', lambda n: n._on_reset(Trigger.Request(), Trigger.Response())),
    'estop service': (
        'estop',
        lambda n: n._on_estop_service(Trigger.Request(), Trigger.Response()),
    ),
}


@pytest.mark.parametrize('name', CALLBACKS)
def test_an_exception_in_a_callback_is_a_fault_and_the_ticks_go_on(node, monkeypatch, name):
    method, call = CALLBACKS[name]
    monkeypatch.setattr(node._clamp, method, raises)
    call(node)
    node._tick()
    assert node._clamp.state == State.FAULT
    assert len(node._twist_publisher) == 1


def test_a_service_that_failed_answers_no(node, monkeypatch):
    monkeypatch.setattr(node._clamp, 'arm', raises)
    assert not node._on_arm(SetBool.Request(data=True), SetBool.Response()).success


def test_an_exception_in_the_tick_sends_zero_and_is_a_fault(node, monkeypatch):
    monkeypatch.setattr(node._clamp, 'step', raises)
    node._tick()
    assert node._clamp.state == State.FAULT
    sent = node._twist_publisher[-1].twist
    assert not np.any([sent.linear.x, sent.linear.y, sent.linear.z, sent.angular.z])


def test_a_publisher_that_fails_does_not_end_the_ticks(node, monkeypatch):
    monkeypatch.setattr(node._status_publisher, 'publish', raises, raising=False)
    for _ in range(3):
        node._tick()
    assert node._clamp.state == State.FAULT


@pytest.mark.parametrize('name', ['robot', 'shadow', 'base_frame', 'ee_frame'])
@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -1, 1e9, 'x', True, [0.1]])
def test_no_parameter_changes_at_run_time(node, name, bad):
    before = node.profile
    assert not node.set_parameters([Parameter(name, value=bad)])[0].successful
    assert node.profile == before


def test_no_limit_is_a_parameter(node):
    names = [n for n in node.list_parameters([], 0).names if '.' not in n]
    assert set(names) - {'use_sim_time', 'start_type_description_service'} == {
        'robot',
        'shadow',
        'base_frame',
        'ee_frame',
    }


def test_a_pose_in_another_frame_is_refused_and_the_status_says_so(node):
    message = pose()
    message.header.frame_id = 'map'
    node._on_pose(message)
    status = node._clamp.step(1.0, 1.0).status
    assert "its frame is 'map', expected 'base_link'" in status.sentence


def test_a_pose_from_tf_is_fresh_in_the_tick_that_looked_it_up(node):
    here = Pose((0.25, 0.0, 0.15), (0.0, 0.0, 0.0, 1.0))
    node._tf = SimpleNamespace(newest=lambda: (here, node._ros_now_s()), failure='')
    node._status_publisher = Sent()
    node._tick()
    assert {'NO_POSE', 'POSE_STALE'}.isdisjoint(node._status_publisher[-1].reasons)


def test_a_transform_that_is_missing_is_in_the_status(node):
    why = "TF does not have 'ee_link' in 'base_link': not connected"
    node._tf = SimpleNamespace(newest=lambda: None, failure=why)
    node._status_publisher = Sent()
    node._tick()
    assert f'poses are refused because {why}' in node._status_publisher[-1].sentence


def test_an_action_in_another_frame_is_logged_with_both_frames(node, monkeypatch):
    logged = []
    monkeypatch.setattr(node, '_log_throttled', lambda text, now_s: logged.append(text))
    message = PolicyAction(step_s=0.2, source_id='a policy')
    message.header.frame_id = 'camera'
    node._on_action(message, {})
    assert logged == [
        "refused an action: FRAME, their frame is 'camera', expected 'base_link' or 'ee_link': "
        "start policy_node with the robot profile of this controller (robot 'sim')"
    ]


def test_without_a_policy_arming_says_so(node):
    response = node._on_arm(SetBool.Request(data=True), SetBool.Response())
    assert '/policy_node/action has no publishers; start policy_node' in response.message


def test_words_of_a_policy_are_made_fit_for_a_terminal(node):
    node._on_policy_status(String(data='NO_IMAGE: \x1b[2J\nnothing; 0.0 of 5.0 Hz, camera'))
    assert node._policy_status == 'NO_IMAGE:  [2J nothing'


def test_a_qos_mismatch_is_forgotten_when_actions_arrive(node):
    node._mismatch['policy_node/action'] = 'nothing arrives'
    assert node._notes() == ('nothing arrives',)
    node._on_action(PolicyAction(), {})
    assert node._notes() == ()


def test_a_stop_request_ends_after_ten_zeros_at_rest(node):
    node.request_stop()
    for k in range(10):
        assert not node.finished
        node._tick()
        assert len(node._twist_publisher) == k + 1
    assert node.finished


def refusal(capfd, *parameters):
    """Start with these parameters; return the one line it ends with."""
    words = [word for p in parameters for word in ('-p', p)]
    assert main(['controller_node', '--ros-args', *words]) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if 'controller_node: ' in line]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ('parameters', 'expected'),
    [
        ([], "key 'robot' is missing"),
        (['robot:=simm'], "did you mean 'sim'"),
        (['robot:=sim', 'shadw:=true'], "did you mean 'shadow'"),
        (['robot:=sim', 'shadow:=1'], 'expected true or false'),
        (['robot:=sim', 'ee_frame:=tool0'], "ee_frame: got 'tool0', expected 'ee_link'"),
        (['robot:=sim', 'base_frame:=world'], "base_frame: got 'world', expected 'base_link'"),
        (['robot:=/nowhere/robot.yaml'], 'No such file'),
    ],
)
def test_a_bad_parameter_refuses_to_start_in_one_line(parameters, expected, capfd):
    assert expected in refusal(capfd, *parameters)


@pytest.mark.skipif(
    importlib.util.find_spec('tf2_ros') is not None, reason='tf2_ros is installed here'
)
def test_a_tf_pose_without_tf2_ros_refuses_to_start(capfd, tmp_path):
    content = yaml.safe_load(resource_path('config/robots/sim.yaml').read_text())
    content['pose']['source'] = 'tf'
    path = tmp_path / 'robot.yaml'
    path.write_text(yaml.safe_dump(content))
    assert 'tf2_ros cannot be imported' in refusal(capfd, f'robot:={path}')


def test_help_says_how_to_arm_and_that_it_is_not_a_safety_function(capsys):
    assert main(['controller_node', '--help']) == 0
    printed = capsys.readouterr().out
    assert '/controller_node/arm' in printed
    assert 'not a certified safety function' in printed
