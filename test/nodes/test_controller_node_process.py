"""controller_node as a process of its own, with a policy and an arm that do as they are told."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, TwistStamped
from harness.processes import own_domain_id
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Bool, Float64
from std_srvs.srv import SetBool, Trigger

from openvla_ros.core.resources import resource_path
from openvla_ros.msg import PolicyAction, SafetyStatus

pytestmark = pytest.mark.ros

MODULE = 'openvla_ros.nodes.controller_node'
DEADLINE_S = 15.0
TAU = 0.02
LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


class World:
    """Publishes poses, actions and e-stop heartbeats; records what the controller says."""

    def __init__(self, domain, reliability=ReliabilityPolicy.RELIABLE):
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = rclpy.create_node('world', context=self._context)
        self.twists, self.poses, self.gripper, self.statuses, self.diagnostics = [], [], [], [], []
        # What a callback meets would end only its thread; close() judges it.
        self.errors, self.frames = [], set()
        self.policy, self.heartbeat = False, False
        self.gripper_wanted = 1.0
        self._position, self._twist, self._sequence, self._tick = (
            np.array([0.25, 0, 0.15]),
            0,
            0,
            0,
        )
        node = self.node
        node.create_subscription(TwistStamped, 'controller_node/twist_cmd', self._on_twist, 10)
        node.create_subscription(
            PoseStamped, 'controller_node/pose_cmd', lambda m: self.poses.append(m), 10
        )
        node.create_subscription(
            Float64, 'controller_node/gripper_cmd', lambda m: self.gripper.append(m.data), 10
        )
        node.create_subscription(
            SafetyStatus, 'controller_node/status', lambda m: self.statuses.append(m), LATCHED
        )
        node.create_subscription(
            DiagnosticArray, '/diagnostics', lambda m: self.diagnostics.append(m), 10
        )
        self._actions = node.create_publisher(
            PolicyAction, 'policy_node/action', QoSProfile(depth=1, reliability=reliability)
        )
        self._poses = node.create_publisher(PoseStamped, 'ee_pose', 1)
        self._estop = node.create_publisher(Bool, 'estop', 10)
        self._clients = {
            'arm': node.create_client(SetBool, 'controller_node/arm'),
            'reset': node.create_client(Trigger, 'controller_node/reset'),
            'estop': node.create_client(Trigger, 'controller_node/estop'),
        }
        node.create_timer(TAU, self._on_timer)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self):
        try:
            self._executor.spin()
        except ExternalShutdownException:
            pass  # how close() ends it
        except Exception as error:
            self.errors.append(error)

    def close(self):
        self._executor.shutdown()
        self._thread.join(5.0)
        rclpy.shutdown(context=self._context)
        assert self.errors == []
        assert self.frames <= {'base_link'}

    def _on_twist(self, message):
        v, w = message.twist.linear, message.twist.angular
        self._twist = np.array([v.x, v.y, v.z])
        self.twists.append(np.array([v.x, v.y, v.z, w.x, w.y, w.z]))
        self.frames.add(message.header.frame_id)

    def _on_timer(self):
        self._tick += 1
        self._position = self._position + self._twist * TAU
        message = PoseStamped()
        message.header.frame_id = 'base_link'
        message.header.stamp = self.node.get_clock().now().to_msg()
        p = message.pose.position
        p.x, p.y, p.z = map(float, self._position)
        message.pose.orientation.w = 1.0
        self._poses.publish(message)
        if self.heartbeat and self._tick % 3 == 0:
            self._estop.publish(Bool(data=False))
        if self.policy and self._tick % 10 == 0:
            self.act()

    def act(self, x=0.1):
        self._sequence += 1
        message = PolicyAction(sequence=self._sequence, step_s=0.2, gripper=self.gripper_wanted)
        message.header.frame_id = 'base_link'
        message.header.stamp = self.node.get_clock().now().to_msg()
        # To and fro, so that the arm never meets a wall.
        message.twist.linear.x = x if self._sequence % 20 < 10 else -x
        message.source_id = 'f' * 32
        self._actions.publish(message)

    def call(self, name, **fields):
        client = self._clients[name]
        assert client.wait_for_service(DEADLINE_S), f'no service {name}'
        future = client.call_async(client.srv_type.Request(**fields))
        wait(future.done, f'answer of {name}')
        return future.result()

    @property
    def status(self):
        return self.statuses[-1] if self.statuses else SimpleNamespace(state=-1, sentence='none')

    def arm(self):
        self.policy = True
        deadline_s = time.monotonic() + DEADLINE_S
        while not (reply := self.call('arm', data=True)).success:
            assert time.monotonic() < deadline_s, reply.message
            time.sleep(0.1)
        return reply.message

    def move(self):
        self.arm()
        wait(lambda: self.twists and np.linalg.norm(self.twists[-1][:3]) > 0.05, 'motion')

    def wait_state(self, name):
        wait(lambda: self.status.state == getattr(SafetyStatus, name), f'state {name}')


def wait(condition, what):
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, f'{what} not within {DEADLINE_S} s'
        time.sleep(0.01)


def controller(domain, *parameters, env=None, **popen):
    arguments = [word for p in parameters for word in ('-p', p)]
    return subprocess.Popen(
        [sys.executable, '-m', MODULE, '--ros-args', *arguments],
        env=os.environ
        | {'ROS_DOMAIN_ID': str(domain), 'ROS_PYTHON_CHECK_FIELDS': '1'}
        | (env or {}),
        text=True,
        **popen,
    )


@contextlib.contextmanager
def running(*parameters, env=None, stderr=None, **world):
    with own_domain_id() as domain:
        process = controller(domain, *parameters, env=env, stderr=stderr)
        it = World(domain, **world)
        it.process = process
        try:
            yield it
        finally:
            process.kill()
            process.wait()
            it.close()


def profile_file(folder, **sections):
    content = yaml.safe_load(resource_path('config/robots/sim.yaml').read_text())
    for name, change in sections.items():
        if isinstance(change, dict):
            content[name].update(change)
        else:
            content[name] = change
    path = folder / 'robot.yaml'
    path.write_text(yaml.safe_dump(content))
    return path


def test_from_start_over_arm_motion_and_estop_to_reset(tmp_path):
    path = profile_file(tmp_path, estop={'required': True})
    with running(f'robot:={path}') as world:
        wait(lambda: len(world.twists) > 5, 'zeros while disarmed')
        assert not np.any(world.twists)
        assert world.status.state == SafetyStatus.DISARMED
        assert world.poses == []
        world.policy = True
        time.sleep(1.0)
        assert 'no e-stop heartbeat' in world.call('arm', data=True).message
        world.heartbeat = True
        assert "robot 'sim'" in world.arm()
        wait(lambda: np.linalg.norm(world.twists[-1][:3]) > 0.05, 'motion')
        assert len(world.status.armed_source) == 32
        # The gid of the publisher wins over what a message says of itself, where rclpy tells it.
        tells_gid = os.environ['ROS_DISTRO'] not in ('humble', 'jazzy')
        assert (world.status.armed_source != 'f' * 32) == tells_gid
        wait(lambda: world.gripper, 'a gripper command')
        assert world.gripper[-1] == 1.0
        assert world.poses
        if not tells_gid:
            twin = world.node.create_publisher(PolicyAction, 'policy_node/action', 1)
            wait(lambda: '2 publishers of' in world.status.sentence, 'a note on the second one')
            world.node.destroy_publisher(twin)

        assert world.call('estop').success
        world.wait_state('ESTOP')
        wait(lambda: not world.twists[-1].any(), 'rest')
        time.sleep(1.1)
        assert not np.any(world.twists[-20:])
        assert world.call('reset').success
        world.wait_state('DISARMED')
        world.move()

        world.heartbeat = False
        world.wait_state('ESTOP')
        assert world.status.reasons[0] == 'ESTOP_LOST'
        names = {value.key for value in world.diagnostics[-1].status[0].values}
        assert {'state', 'accepted', 'tick_gap_p99_ms'} <= names
        steps = np.diff([np.linalg.norm(t[:3]) for t in world.twists])
        assert np.abs(steps).max() <= 5.0 * TAU + 1e-9


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_moving_ramps_sends_zeros_and_ends(number):
    with running('robot:=sim') as world:
        world.move()
        sent = len(world.twists)
        world.process.send_signal(number)
        assert world.process.wait(5.0) == 0
        wait(lambda: not np.any(world.twists[-8:]), 'zeros at the end')
        speeds = [np.linalg.norm(t[:3]) for t in world.twists[sent - 1 :]]
        assert np.abs(np.diff(speeds)).max() <= 2.0 * TAU + 1e-9
        assert speeds[1] > 0.0, 'it must ramp, not jump'


def test_shadow_sends_nothing_but_reports_what_it_would_send():
    with running('robot:=sim', 'shadow:=true') as world:
        world.arm()
        wait(lambda: world.status.commanded.linear.x > 0.05, 'a wanted command')
        assert world.status.mode == 'shadow'
        assert (world.twists, world.poses, world.gripper) == ([], [], [])


def test_a_policy_with_the_wrong_qos_is_named():
    with running('robot:=sim', reliability=ReliabilityPolicy.BEST_EFFORT) as world:
        world.policy = True
        wait(lambda: 'best_effort' in world.status.sentence, 'the mismatch in the status')
        assert 'no policy is publishing' in world.status.sentence
        assert 'needs reliable' in world.status.sentence


@pytest.mark.parametrize(
    ('env', 'shared'),
    [
        ({'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}, False),
        ({'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET'}, False),
        # The user's own choice is kept, and said to be a risk.
        ({'FASTDDS_BUILTIN_TRANSPORTS': 'DEFAULT'}, True),
    ],
)
def test_no_killed_process_can_hold_it_up_through_shared_memory(tmp_path, env, shared):
    with (
        open(tmp_path / 'log', 'w') as log,
        running('robot:=sim', env=env, stderr=log) as world,
    ):
        world.arm()  # it is discovered, hears and answers, and says so
        maps = Path(f'/proc/{world.process.pid}/maps').read_text()
        assert ('/dev/shm/fast' in maps) == shared
        said = 'uses the shared memory of Fast DDS' in (tmp_path / 'log').read_text()
        assert said == shared


def test_a_missing_limit_ends_with_2_and_one_line_that_names_it(tmp_path):
    content = yaml.safe_load(resource_path('config/robots/sim.yaml').read_text())
    del content['limits']['acceleration_mps2']
    path = tmp_path / 'robot.yaml'
    path.write_text(yaml.safe_dump(content))
    domain = os.environ['ROS_DOMAIN_ID']
    process = controller(domain, f'robot:={path}', stderr=subprocess.PIPE)
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2
    assert len(errors.strip().splitlines()) == 1
    assert "limits: key 'acceleration_mps2' is missing" in errors


def test_it_starts_in_less_than_a_second_and_without_torch():
    code = (
        'import sys, time, rclpy\n'
        f'from {MODULE} import ControllerNode\n'
        'rclpy.init(args=["x", "--ros-args", "-p", "robot:=sim"])\n'
        'ControllerNode()\n'
        'assert not {"torch", "transformers", "mujoco"} & set(sys.modules)\n'
        'print("CPU", time.process_time())\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    cpu_s = float(done.stdout.split('CPU')[1])
    assert 0.0 < cpu_s < 1.0
