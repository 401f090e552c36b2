"""sim_node as a process, over real DDS."""

import json
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import rclpy
from geometry_msgs.msg import PoseStamped, TwistStamped
from harness.processes import Processes
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Bool, Float64, String
from std_srvs.srv import Trigger

from openvla_ros.nodes.parameters import markdown_table
from openvla_ros.nodes.sim_node import SimParameters
from openvla_ros.sim.scene import build_model
from openvla_ros.sim.tasks import sample_episode

pytestmark = pytest.mark.ros

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
TICK_S = 0.02
# What a loaded machine may add: one process is not scheduled for this long.
SCHEDULER_S = 0.15


class Client:
    """What a controller, a policy and an operator do with the simulated robot."""

    def __init__(self, domain_id):
        self._context = rclpy.Context()
        self._context.init(domain_id=domain_id)
        self.node = rclpy.create_node('client', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.latest = {}
        self.count = Counter()
        self.way = []  # (steady time, position) of every pose
        self.listen(Image, 'camera/image_raw')
        self.listen(CameraInfo, 'camera/camera_info')
        self.listen(JointState, 'joint_states')
        self.listen(PoseStamped, 'ee_pose')
        self.listen(String, 'sim_node/task', LATCHED)
        self.listen(Bool, 'sim_node/success', LATCHED)
        self.listen(PoseStamped, 'sim_node/camera_pose', LATCHED)
        self.twist = self.node.create_publisher(TwistStamped, 'controller_node/twist_cmd', 1)
        self.gripper = self.node.create_publisher(Float64, 'controller_node/gripper_cmd', 1)
        self.instruction = self.node.create_publisher(
            String, 'policy_node/active_instruction', LATCHED
        )
        self._reset = self.node.create_client(Trigger, 'sim_node/reset_scene')
        self._set = self.node.create_client(SetParameters, 'sim_node/set_parameters')

    def listen(self, kind, topic, qos=1):
        def keep(message):
            self.latest[topic] = message
            self.count[topic] += 1
            if topic == 'ee_pose':
                p = message.pose.position
                self.way.append((time.monotonic(), np.array([p.x, p.y, p.z])))

        self.node.create_subscription(kind, topic, keep, qos)

    def spin(self, seconds):
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self._executor.spin_once(timeout_sec=0.005)

    def wait(self, condition, deadline_s=20.0):
        end_s = time.monotonic() + deadline_s
        while not condition():
            assert time.monotonic() < end_s, 'the condition was not met in time'
            self._executor.spin_once(timeout_sec=0.01)

    def drive(self, linear, seconds, opening=None, frame='base_link'):
        """Send a twist at 50 Hz; returns the steady time of the last one."""
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            message = TwistStamped()
            message.header.frame_id = frame
            message.header.stamp = self.node.get_clock().now().to_msg()
            v = message.twist.linear
            v.x, v.y, v.z = map(float, linear)
            self.twist.publish(message)
            sent_s = time.monotonic()
            if opening is not None:
                self.gripper.publish(Float64(data=opening))
            self.spin(TICK_S)
        return sent_s

    def position(self):
        return self.way[-1][1]

    def task(self):
        return json.loads(self.latest['sim_node/task'].data)

    def call(self, client, request):
        assert client.wait_for_service(10.0)
        future = client.call_async(request)
        self.wait(future.done)
        return future.result()

    def reset_scene(self):
        return self.call(self._reset, Trigger.Request())

    def set_parameter(self, name, value):
        request = SetParameters.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg()]
        )
        return self.call(self._set, request).results[0]

    def close(self):
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()


@pytest.fixture(scope='module')
def processes(tmp_path_factory):
    with Processes(tmp_path_factory.mktemp('sim_node'), deadline_s=110.0) as processes:
        yield processes


def start(processes, name, *parameters):
    arguments = [part for p in parameters for part in ('-p', p)]
    ros_args = ['--ros-args', *arguments] if arguments else []
    return processes.start(name, [sys.executable, '-m', 'openvla_ros.nodes.sim_node', *ros_args])


@pytest.fixture(scope='module')
def robot(processes):
    start(processes, 'sim_node', 'seed:=4', 'image_width:=128', 'image_height:=96')
    client = Client(int(processes.env['ROS_DOMAIN_ID']))
    client.wait(lambda: len(client.latest) == 7, deadline_s=40.0)
    yield client
    client.close()


def test_it_publishes_camera_joints_and_pose_with_frames_and_stamps(robot):
    image, info = robot.latest['camera/image_raw'], robot.latest['camera/camera_info']
    assert (image.encoding, image.width, image.height) == ('rgb8', 128, 96)
    assert (image.step, len(image.data)) == (3 * 128, 3 * 128 * 96)
    assert image.header.frame_id == info.header.frame_id == 'camera_optical_frame'
    assert (info.width, info.height) == (128, 96)
    fov_deg = 2 * np.rad2deg(np.arctan(96 / 2 / info.k[4]))
    assert fov_deg == pytest.approx(sample_episode('reach', 4, 'test').scene.camera.fov_deg)
    assert robot.latest['ee_pose'].header.frame_id == 'base_link'
    now_s = robot.node.get_clock().now().nanoseconds * 1e-9
    for topic in ('camera/image_raw', 'ee_pose', 'joint_states'):
        stamp = robot.latest[topic].header.stamp
        assert abs(now_s - stamp.sec - stamp.nanosec * 1e-9) < 5.0
    joints = robot.latest['joint_states']
    assert joints.name[:2] == ['waist', 'shoulder']
    assert len(joints.name) == len(joints.position) == len(joints.velocity) == 8


def test_the_scene_is_the_one_of_the_seed(robot):
    task, episode = robot.task(), sample_episode('reach', 4, 'test')
    assert task['instruction'] == episode.task.instruction
    assert (task['seed'], task['split'], task['success']) == (4, 'test', False)
    for block in episode.scene.blocks:
        assert task['blocks_m'][block.colour][:2] == pytest.approx(block.position_m, abs=1e-3)
    start_m = robot.position()
    assert start_m == pytest.approx(episode.scene.start_position_m, abs=2e-3)
    camera = robot.latest['sim_node/camera_pose'].pose.position
    expected = build_model(episode.scene).camera('camera').pos
    assert [camera.x, camera.y, camera.z] == pytest.approx(expected)


def test_pose_comes_at_50_hz_and_images_at_15(robot):
    robot.count.clear()
    start_s = time.monotonic()
    robot.spin(2.0)
    elapsed_s = time.monotonic() - start_s
    # Half the wanted rate is what a machine busy with other tests must still give.
    assert 25 < robot.count['ee_pose'] / elapsed_s < 55
    assert 7 < robot.count['camera/image_raw'] / elapsed_s < 17


def test_it_follows_a_twist_and_stops_by_itself_when_commands_stay_away(robot):
    before = robot.position()
    last_sent_s = robot.drive((0.0, 0.1, 0.0), 1.0)
    robot.spin(0.8)
    moved = robot.position() - before
    assert moved[1] > 0.07
    assert abs(moved[0]) < 0.005
    stopped_s = next(
        t for t, p in robot.way if t > last_sent_s and np.linalg.norm(p - robot.position()) < 1e-3
    )
    # Timeout, one tick, braking (rest within 0.1 s of a zero: test_arm), scheduler.
    assert stopped_s - last_sent_s < 0.1 + TICK_S + 0.1 + SCHEDULER_S


def test_a_twist_in_another_frame_moves_nothing(robot, processes):
    before = robot.position()
    robot.drive((0.0, -0.1, 0.0), 0.4, frame='ee_link')
    robot.spin(0.2)
    assert robot.position() == pytest.approx(before, abs=1e-3)
    assert "refused a twist in frame 'ee_link'" in processes['sim_node'].log_text()


def test_a_twist_that_is_not_finite_moves_nothing(robot, processes):
    before = robot.position()
    robot.drive((0.0, float('nan'), 0.0), 0.4)
    robot.spin(0.2)
    assert robot.position() == pytest.approx(before, abs=1e-3)
    assert 'expected 6 finite numbers' in processes['sim_node'].log_text()


def test_the_gripper_follows(robot):
    robot.drive((0, 0, 0), 0.6, opening=0.0)
    robot.wait(lambda: robot.latest['joint_states'].position[6] < 0.016)
    robot.drive((0, 0, 0), 0.6, opening=1.0)
    robot.wait(lambda: robot.latest['joint_states'].position[6] > 0.036)


def test_success_is_reported_when_the_task_is_done(robot):
    reply = robot.reset_scene()
    assert reply.success
    robot.wait(lambda: robot.task()['seed'] == 5)
    assert robot.task()['instruction'] in reply.message
    assert not robot.latest['sim_node/success'].data
    task = robot.task()
    goal = np.add(task['blocks_m'][task['colour']], (0, 0, 0.05))
    robot.spin(0.3)
    end_s = time.monotonic() + 15
    while not robot.latest['sim_node/success'].data:
        assert time.monotonic() < end_s
        error = goal - robot.position()
        robot.drive(np.clip(1.5 * error, -0.12, 0.12), 0.1)
    assert robot.task()['success']
    assert not robot.task()['touched_wrong']


def test_success_is_judged_by_the_instruction_in_force(robot):
    other = next(c for c in robot.task()['blocks_m'] if c != robot.task()['colour'])
    robot.instruction.publish(String(data=f'please pick up the {other} block'))
    robot.wait(lambda: robot.task()['kind'] == 'pick')
    assert robot.task()['colour'] == other
    assert not robot.task()['success']
    robot.instruction.publish(String(data='sing a song'))
    robot.spin(0.3)
    assert robot.task()['kind'] == 'pick'


def test_parameters_choose_the_next_scene(robot):
    assert robot.set_parameter('instruction', 'push the yellow block').successful
    assert robot.set_parameter('seed', 40).successful
    robot.reset_scene()
    robot.wait(lambda: robot.task()['instruction'] == 'push the yellow block')
    assert robot.task()['seed'] >= 40
    refused = robot.set_parameter('instruction', 'push the transparent block')
    assert not refused.successful
    assert 'expected a task' in refused.reason


def test_it_ends_cleanly_within_two_seconds(robot, processes):
    del robot
    process = processes['sim_node']
    sent_s = process.signal(signal.SIGINT)
    assert process.wait(5.0) == 0
    assert time.monotonic() - sent_s < 2.0 + SCHEDULER_S
    assert 'Traceback' not in process.log_text()


@pytest.mark.parametrize(
    ('wrong', 'sentence'),
    [
        ('image_widht:=128', "unknown key 'image_widht' (did you mean 'image_width'?)"),
        ('command_timeout:=1.0', 'command_timeout: got 1.0, expected between 0.04 and 0.1'),
        ('instruction:=sing', "got 'sing', expected a task"),
    ],
)
def test_wrong_parameters_are_one_sentence(processes, wrong, sentence):
    process = start(processes, 'wrong', wrong)
    assert process.wait(20.0) == 2
    lines = [line for line in process.log_text().splitlines() if line.startswith('sim_node:')]
    assert sentence in lines[-1]
    assert 'Traceback' not in process.log_text()


def test_it_never_imports_torch(processes):
    code = 'import sys, openvla_ros.nodes.sim_node; sys.exit("torch" in sys.modules)'
    assert processes.start('import', [sys.executable, '-c', code]).wait(20.0) == 0


def test_the_documented_parameters_are_those_of_the_node():
    page = (Path(__file__).parents[2] / 'docs' / 'simulation.md').read_text()
    assert markdown_table(SimParameters) in page
