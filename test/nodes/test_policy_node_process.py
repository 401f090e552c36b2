"""How policy_node starts, refuses to start, ends, and shares a graph."""

import os
import re
import signal
import sys
import time

import pytest
from geometry_msgs.msg import PoseStamped, TwistStamped
from harness.policy_bench import KEY, Camera, Heard, PolicyBench
from harness.processes import own_domain_id
from rclpy.clock import Clock, ClockType
from std_msgs.msg import String
from std_srvs.srv import SetBool

from openvla_ros.msg import SafetyStatus
from openvla_ros.nodes import policy_node

pytestmark = pytest.mark.ros

ROBOT = ('-p', 'robot:=sim')


@pytest.fixture
def bench(tmp_path):
    with PolicyBench(tmp_path, deadline_s=100.0) as bench:
        bench.orders()
        yield bench


def crowding():
    """By how much other work slows a process on this machine down: 1 where there is none."""
    return max(1.0, 2 * os.getloadavg()[0] / (os.cpu_count() or 1))


def acting(bench, *parameters, **orders):
    """Start a policy that publishes actions for a camera."""
    bench.camera = Camera(bench.node)
    policy = bench.start_policy(*parameters)
    bench.wait_code('NO_INSTRUCTION', 45.0)
    bench.instruct('pick up the cube')
    bench.wait_actions(2)
    bench.orders(**orders)
    return policy


def last_line(process):
    return process.log_text().strip().splitlines()[-1]


# --- start ---------------------------------------------------------------------------------


def test_it_is_ready_only_after_loading_and_warming_up(bench):
    bench.orders(loading=True)
    Camera(bench.node)
    bench.start_policy()
    bench.instruct('pick up the cube', latched=True)
    bench.wait_code('LOADING', 45.0)
    time.sleep(0.5)
    assert bench.heard.actions == []
    bench.orders()
    bench.wait_code('READY', 45.0)
    first_action_s = bench.wait(lambda: bench.heard.actions, 'an action')[0][0]
    codes = bench.heard.codes()
    assert codes[0] == 'LOADING'
    assert codes[-1] == 'READY'
    assert set(codes) <= {'LOADING', 'WARMING_UP', 'NO_INSTRUCTION', 'NO_IMAGE', 'READY'}
    ready_s = next(t for t, m in bench.heard.statuses if m.data.startswith('READY'))
    assert first_action_s > ready_s - 0.3


def test_a_latched_instruction_reaches_a_policy_that_starts_later(bench):
    Camera(bench.node)
    bench.instruct('open the drawer', latched=True)
    bench.start_policy()
    bench.wait(lambda: bench.heard.actions, 'an action', 20.0)
    assert bench.heard.actions[0][1].instruction == 'open the drawer'
    bench.instruct('', latched=False)  # anybody may stop what somebody else has latched
    bench.wait_code('NO_INSTRUCTION')
    time.sleep(0.5)
    assert bench.heard.code() == 'NO_INSTRUCTION'


@pytest.mark.parametrize(
    ('parameters', 'said'),
    [
        ([], 'unnorm_key: is not set.*bridge_orig.*libero_spatial'),
        (['unnorm_key:=bridge'], "'bridge' has no dataset profile.*did you mean 'bridge_orig'"),
        ([f'unnorm_key:={KEY}', 'rat_hz:=5.0'], "unknown key 'rat_hz'.*did you mean 'rate_hz'"),
        ([f'unnorm_key:={KEY}', 'rate_hz:=fast'], 'rate_hz.*expected a number'),
        ([f'unnorm_key:={KEY}', 'rate_hz:='], 'policy_node: .*rate_hz'),
        (
            [f'unnorm_key:={KEY}', 'server_url:=http://x', 'server_timeout_s:=9'],
            'server_timeout_s.*less than hang_timeout_s',
        ),
        ([f'unnorm_key:={KEY}'], 'robot: is not set.*the robot profile that controller_node has'),
        (
            [f'unnorm_key:={KEY}', 'robot:=wx250s.example', 'base_frame:=base_link'],
            "base_frame: got 'base_link', expected 'wx250s/base_link'",
        ),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_in_one_sentence(
    parameters, said, capsys, monkeypatch
):
    with own_domain_id() as domain:
        monkeypatch.setenv('ROS_DOMAIN_ID', str(domain))
        flags = [part for parameter in parameters for part in ('-p', parameter)]
        assert policy_node.main(['policy_node', '--ros-args', *flags]) == 2
    sentence = capsys.readouterr().err.strip()
    assert re.search(said, sentence)
    assert '\n' not in sentence


@pytest.mark.parametrize(
    ('orders', 'said'),
    [
        ({'load_raises': '/nowhere: no such checkpoint'}, '/nowhere: no such checkpoint'),
        ({'unit': 1.0}, 'allow 1.732 m.*wrong key or a wrong unit'),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_in_one_sentence(bench, orders, said):
    bench.orders(**orders)
    policy = bench.start_policy()
    assert policy.wait(45.0) == 2
    assert re.search(said, last_line(policy))
    assert 'Traceback' not in policy.log_text()
    assert bench.heard.actions == []


def test_a_missing_checkpoint_is_refused_at_once(bench):
    argv = [sys.executable, '-m', 'openvla_ros.nodes.policy_node', '--ros-args', *ROBOT]
    argv += ['-p', f'unnorm_key:={KEY}', '-p', 'checkpoint:=/nowhere/openvla']
    policy = bench.processes.start('policy', argv)
    assert policy.wait(45.0) == 2
    assert "'/nowhere/openvla' is not a folder" in last_line(policy)
    assert 'Traceback' not in policy.log_text()


def test_neither_checkpoint_nor_server_is_refused(bench):
    argv = [sys.executable, '-m', 'openvla_ros.nodes.policy_node', '--ros-args', *ROBOT]
    policy = bench.processes.start('policy', [*argv, '-p', f'unnorm_key:={KEY}'])
    assert policy.wait(45.0) == 2
    assert 'exactly one' in last_line(policy)


def test_with_a_server_it_never_imports_torch_and_waits_for_the_server(bench, tmp_path):
    script = (
        'import os, sys, openvla_ros.nodes.policy_node as p\n'
        'code = p.main(sys.argv)\n'
        "print('torch' in sys.modules, file=sys.stderr, flush=True)\n"
        'os._exit(code)\n'
    )
    argv = [sys.executable, '-c', script, '--ros-args', *ROBOT, '-p', f'unnorm_key:={KEY}']
    policy = bench.processes.start('policy', [*argv, '-p', 'server_url:=http://127.0.0.1:9'])
    bench.wait_code('SERVER_UNAVAILABLE', 45.0)
    t_s = policy.signal(signal.SIGTERM)
    assert policy.wait(10.0) == 0
    assert time.monotonic() - t_s < 1.0 * crowding()
    assert last_line(policy) == 'False'


def test_a_model_that_cannot_keep_the_rate_is_not_ready_and_says_which_rate_it_keeps(bench):
    bench.orders(delay_s=0.4)
    Camera(bench.node)
    policy = bench.start_policy(allow_slow=False)
    sentence = bench.wait_code('TOO_SLOW', 45.0)
    assert re.search(r'keeps [12]\.\d\d Hz here, 5\.00 Hz are needed', sentence)
    bench.instruct('pick up the cube')
    time.sleep(1.0)
    assert bench.heard.actions == []
    assert policy.returncode is None
    policy.signal(signal.SIGTERM)
    assert policy.wait(10.0) == 0


def test_a_slow_model_runs_where_that_is_allowed(bench):
    bench.orders(delay_s=0.25)
    Camera(bench.node)
    bench.start_policy()
    bench.wait_code('NO_INSTRUCTION', 45.0)
    bench.instruct('pick up the cube')
    bench.wait_actions(3)


def test_a_camera_that_offers_less_than_what_was_asked_for_is_named(bench):
    Camera(bench.node, best_effort=True)
    bench.start_policy('image_reliability:=reliable')
    bench.wait_code('NO_INSTRUCTION', 45.0)
    bench.instruct('pick up the cube')
    assert 'image_reliability' in bench.wait_code('QOS_MISMATCH')


def test_compressed_images_come_by_the_name_of_image_transport(bench):
    Camera(bench.node, 'front/image/compressed')
    bench.start_policy('image_transport:=compressed', ros=['-r', 'camera/image_raw:=front/image'])
    bench.wait_code('NO_INSTRUCTION', 45.0)
    bench.instruct('pick up the cube')
    bench.wait_actions(2)
    bench.wait(lambda: bench.diagnostics, 'diagnostics')
    assert bench.diagnostics['policy_node: policy'][2]['camera_topic'] == '/front/image/compressed'


# --- end -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('when', 'number'),
    [('loading', signal.SIGTERM), ('inferring', signal.SIGINT), ('acting', signal.SIGTERM)],
)
def test_it_ends_within_a_second_whatever_it_does(bench, when, number):
    if when == 'loading':
        bench.orders(loading=True)
        policy = bench.start_policy()
        bench.wait_code('LOADING', 45.0)
    else:
        policy = acting(bench, **({'hang': True} if when == 'inferring' else {}))
        time.sleep(0.5)
    t_s = policy.signal(number)
    assert policy.wait(10.0) == 0
    assert time.monotonic() - t_s < 1.0 * crowding()
    assert 'Traceback' not in policy.log_text()
    bench.wait_code('ENDED')


def test_a_hung_inference_ends_it_with_exit_code_3(bench):
    policy = acting(bench, 'hang_timeout_s:=2.0', hang=True)
    t_s = time.monotonic()
    assert policy.wait(20.0) == 3
    assert 1.5 < time.monotonic() - t_s < 2.5 + crowding()
    assert 'INFERENCE_HUNG' in policy.log_text()
    bench.wait_code('INFERENCE_HUNG')


def test_a_stopped_and_continued_process_did_not_hang(bench):
    policy = acting(bench, 'hang_timeout_s:=2.0', delay_s=0.1)
    policy.signal(signal.SIGSTOP)
    time.sleep(3.0)
    policy.signal(signal.SIGCONT)
    bench.wait_actions(3)
    assert policy.returncode is None


@pytest.mark.parametrize(
    ('kind', 'code'), [('bug', 'INFERENCE_DIED'), ('memory', 'OUT_OF_MEMORY')]
)
def test_an_inference_that_cannot_go_on_ends_it_with_exit_code_3(bench, kind, code):
    policy = acting(bench, raises=kind)
    assert policy.wait(10.0) == 3
    bench.wait_code(code)


@pytest.mark.parametrize(
    ('orders', 'code'),
    [
        ({'raises': 'tokens'}, 'BAD_TOKENS'),
        ({'action': [0.01, float('nan'), 0, 0, 0, 0, 1]}, 'BAD_ACTION'),
    ],
)
def test_a_model_that_writes_no_actions_is_a_fault_that_stays(bench, orders, code):
    policy = acting(bench, **orders)
    sentence = bench.wait_code('MODEL_FAULT')
    assert 'Restart' in sentence
    t_s = time.monotonic()
    bench.orders()
    bench.instruct('another task')
    time.sleep(0.7)
    assert bench.heard.code() == 'MODEL_FAULT'
    assert bench.heard.actions_since(t_s) == []
    assert policy.returncode is None
    bench.wait(
        lambda: bench.diagnostics['policy_node: policy'][2].get(f'refused {code}') == '3',
        'three refusals on /diagnostics',
    )


# --- two robots ----------------------------------------------------------------------------


class Robot:
    """An arm in a namespace: follows its controller's twists, tells its pose, has a camera."""

    def __init__(self, node, namespace):
        self.twists, self.states, self._node = [], [], node
        self._position = [0.25, 0.0, 0.15]
        self._poses = node.create_publisher(PoseStamped, f'{namespace}/ee_pose', 1)
        self.camera = Camera(node, f'{namespace}/camera/image_raw')
        self.heard = Heard(node, namespace)
        self.texts = node.create_publisher(String, f'{namespace}/instruction', 1)
        self.arming = node.create_client(SetBool, f'{namespace}/controller_node/arm')
        controller = f'{namespace}/controller_node'
        node.create_subscription(TwistStamped, f'{controller}/twist_cmd', self._follow, 1)
        node.create_subscription(
            SafetyStatus, f'{controller}/status', lambda m: self.states.append(m.state), 1
        )
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        node.create_timer(0.02, self._tell_pose, clock=steady)

    def _follow(self, message):
        v = message.twist.linear
        self.twists.append((v.x, v.y, v.z))
        self._position = [p + 0.02 * u for p, u in zip(self._position, self.twists[-1])]

    def _tell_pose(self):
        message = PoseStamped()
        message.header.frame_id = 'base_link'
        message.header.stamp = self._node.get_clock().now().to_msg()
        p = message.pose.position
        p.x, p.y, p.z = self._position
        message.pose.orientation.w = 1.0
        self._poses.publish(message)


def test_two_complete_robots_in_one_graph_move_only_when_their_own_operator_says_so(bench):
    robots = {name: Robot(bench.node, name) for name in ('left', 'right')}
    for name in robots:
        space = ['-r', f'__ns:=/{name}']
        bench.start_policy(name=f'{name}_policy', ros=space)
        argv = [sys.executable, '-m', 'openvla_ros.nodes.controller_node', '--ros-args']
        bench.processes.start(f'{name}_controller', [*argv, '-p', 'robot:=sim', *space])
    left, right = robots['left'], robots['right']
    for robot in robots.values():
        bench.wait_code('NO_INSTRUCTION', 45.0, robot.heard)
        robot.texts.publish(String(data='pick up the cube'))
    for robot in robots.values():
        bench.wait_actions(3, heard=robot.heard)

    def armed():
        future = left.arming.call_async(SetBool.Request(data=True))
        bench.wait(future.done, 'an answer of the left controller')
        return future.result().success

    bench.wait(armed, 'the left arm armed', 15.0)
    bench.wait(lambda: left.twists and left.twists[-1][0] > 0.03, 'the left arm moves')
    # A silent camera: no image for 0.5 s, then the last action's time and the ramp to rest.
    t_s = time.monotonic()
    left.camera.content = None
    bench.wait(lambda: left.states[-1] == SafetyStatus.HOLD and not any(left.twists[-1]), 'rest')
    assert time.monotonic() - t_s < 0.5 + 0.2 + 0.415 + 0.3 * crowding()
    left.camera.content = 'noise'
    bench.wait(lambda: left.states[-1] == SafetyStatus.ACTIVE, 'motion without a call')
    bench.wait_actions(3, heard=right.heard)
    assert set(right.states) == {SafetyStatus.DISARMED}
    assert set(right.twists) == {(0.0, 0.0, 0.0)}
    left.texts.publish(String(data=''))
    bench.wait(lambda: left.states[-1] == SafetyStatus.HOLD, 'the left arm holds')
    bench.wait_actions(2, heard=right.heard)
    assert right.heard.code() == 'READY'
    for name, robot in robots.items():
        messages = [m for _, m in robot.heard.actions]
        assert len({m.source_id for m in messages}) == 1
        assert f'{name}/policy_node: policy' in bench.diagnostics
    assert left.heard.actions[0][1].source_id != right.heard.actions[0][1].source_id
    assert bench.heard.actions == []
