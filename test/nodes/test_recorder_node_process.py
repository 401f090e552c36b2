"""recorder_node as record.launch.py starts it, with a camera, a robot and a person beside it."""

import contextlib
import signal
import sys
import threading
import time

import numpy as np
import pytest
import rclpy
from geometry_msgs.msg import TwistStamped
from harness.processes import DeadlineError, Processes
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, JointState
from std_msgs.msg import Float64, String

from openvla_ros.core.resources import share_directory
from openvla_ros.data.episode_label import load_label
from openvla_ros.data.recording import Recording
from openvla_ros.msg import PolicyAction, SafetyStatus
from openvla_ros.nodes.launch_plan import record_plan
from openvla_ros.srv import EndEpisode, StartEpisode

pytestmark = pytest.mark.ros

KEY = 'openvla_ros_demo'
DEADLINE_S = 20.0
LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


def wait(condition, what, deadline_s=DEADLINE_S):
    end_s = time.monotonic() + deadline_s
    while not (value := condition()):
        if time.monotonic() >= end_s:
            raise DeadlineError(f'{what} not within {deadline_s} s')
        time.sleep(0.02)
    return value


class Person:
    """Drives the arm and its gripper, says sentences, and calls the recorder's services."""

    def __init__(self, domain):
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = node = rclpy.create_node('person', context=self._context)
        self.statuses = []
        self.opening = None
        self._tick = 0
        # As ros2_control's and other drivers publish: reliable; sensors best effort.
        best_effort = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._twists = node.create_publisher(TwistStamped, 'controller_node/twist_cmd', 1)
        self._openings = node.create_publisher(Float64, 'controller_node/gripper_cmd', 1)
        self._joints = node.create_publisher(JointState, 'joint_states', best_effort)
        self._cameras = node.create_publisher(CameraInfo, 'camera/camera_info', best_effort)
        self._actions = node.create_publisher(PolicyAction, 'policy_node/action', 1)
        self._instructions = node.create_publisher(String, 'instruction', LATCHED)
        self._safety = node.create_publisher(SafetyStatus, 'controller_node/status', LATCHED)
        self._safety.publish(SafetyStatus(state=SafetyStatus.ACTIVE, sentence='moving'))
        node.create_subscription(
            String, 'recorder_node/status', lambda m: self.statuses.append(m.data), LATCHED
        )
        self._start = node.create_client(StartEpisode, 'recorder_node/start_episode')
        self._end = node.create_client(EndEpisode, 'recorder_node/end_episode')
        node.create_timer(0.02, self._drive)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self):
        with contextlib.suppress(Exception):
            self._executor.spin()

    def _drive(self):
        self._tick += 1
        stamp = self.node.get_clock().now().to_msg()
        twist = TwistStamped()
        twist.header.frame_id, twist.header.stamp = 'base_link', stamp
        # To and fro in 4 s, so that the arm always moves and stays where it is.
        twist.twist.linear.x = 0.05 if self._tick % 200 < 100 else -0.05
        self._twists.publish(twist)
        if self.opening is not None:
            self._openings.publish(Float64(data=self.opening))
        if self._tick % 5 == 0:
            joints = JointState(name=['elbow'], position=[0.01 * self._tick])
            joints.header.stamp = stamp
            self._joints.publish(joints)
            self._cameras.publish(CameraInfo(width=64, height=48))
            self._actions.publish(PolicyAction(sequence=self._tick, step_s=0.2))

    def say(self, text):
        self._instructions.publish(String(data=text))

    def start(self, sentence=''):
        return self._call(self._start, sentence=sentence)

    def end(self, outcome, sentence=''):
        return self._call(self._end, outcome=outcome, sentence=sentence)

    def _call(self, client, *, deadline_s=DEADLINE_S, **fields):
        assert client.wait_for_service(DEADLINE_S), 'no recorder'
        future = client.call_async(client.srv_type.Request(**fields))
        wait(future.done, 'an answer', deadline_s)
        return future.result()

    def start_when_ready(self, sentence=''):
        """A recorder that was just started first discovers who publishes."""
        # Its status tells it from one that was killed, whose service is still in the graph.
        self.wait_status('READY')
        for _ in range(5):
            with contextlib.suppress(DeadlineError):
                return self._call(self._start, deadline_s=2.0, sentence=sentence)
        raise DeadlineError('no recorder answers')

    def wait_status(self, code):
        return wait(
            lambda: next((s for s in reversed(self.statuses) if s.startswith(code)), None),
            f'status {code}',
        )

    def close(self):
        self._executor.shutdown()
        rclpy.shutdown(context=self._context)
        self._thread.join(5.0)


class Cell:
    """Everything of one recording session."""

    def __init__(self, processes):
        self.processes = processes
        self.directory = processes.folder / 'episodes'
        self.person = Person(int(processes.env['ROS_DOMAIN_ID']))
        self.start_recorder()

    def start_recorder(self, **given):
        self.person.statuses.clear()
        given = {'robot': 'sim', 'unnorm_key': KEY, 'directory': str(self.directory), **given}
        plan = record_plan(given, share_directory(), lambda _: False).process('recorder_node')
        argv = [sys.executable, '-m', f'openvla_ros.nodes.{plan.executable}', '--ros-args']
        self.recorder = self.processes.start('recorder', [*argv, *plan.ros_arguments()])

    def start_camera_and_robot(self):
        self.camera = self.processes.start_actor(
            'camera', 'fake_camera', '--width', '64', '--height', '48', '--rate-hz', '15'
        )
        record = str(self.processes.folder / 'robot')
        self.robot = self.processes.start_actor('robot', 'fake_robot', '--record', record)
        self.person.opening = 1.0

    def episodes(self):
        return sorted(p for p in self.directory.iterdir() if not p.name.startswith('.'))

    def lost(self):
        return sorted((self.directory / '.incomplete').iterdir())

    def wait_for_images(self, least):
        def there():
            status = self.person.statuses[-1] if self.person.statuses else ''
            return 'images' in status and int(status.split(' images')[0].split()[-1]) >= least

        wait(there, f'{least} images')


@pytest.fixture
def cell(tmp_path):
    with Processes(tmp_path, deadline_s=100.0) as processes:
        cell = Cell(processes)
        yield cell
        cell.person.close()
        # What a callback raised unexpectedly is logged, and the node goes on: no test may hide it.
        assert '[ERROR]' not in cell.recorder.log_text()


def test_what_would_not_be_usable_is_refused_and_nothing_is_recorded(cell):
    reply = cell.person.start('pick up the block')
    assert not reply.success
    for sentence in (
        '/camera/image_raw: no image arrived yet',
        '/ee_pose: no pose of the end effector arrived yet',
        '/controller_node/gripper_cmd and /gripper_state: no opening of the gripper arrived',
    ):
        assert sentence in reply.message
    assert cell.person.wait_status('NO_IMAGE')
    cell.start_camera_and_robot()
    cell.person.wait_status('READY')
    cell.camera.call('rate', rate_hz=3.0)
    status = cell.person.wait_status('CAMERA_SLOW')
    assert 'expected 5 or more for the steps of 0.2 s' in status
    assert 'images a second' in cell.person.start('pick up the block').message
    cell.camera.call('rate', rate_hz=15.0)
    cell.robot.call('pose_frame', frame='world')
    assert "the frame is 'world', expected 'base_link'" in cell.person.wait_status('POSE_UNUSABLE')
    cell.robot.call('pose_frame', frame='base_link')
    cell.person.opening = 37.0
    assert 'got an opening of 37, expected 0' in cell.person.wait_status('GRIPPER_RANGE')
    assert cell.episodes() == cell.lost() == []


def test_an_episode_holds_what_was_there_and_makes_a_data_set(cell, tmp_path):
    cell.start_camera_and_robot()
    cell.person.say('push the block')
    reply = cell.person.start_when_ready()
    assert not cell.person.start().success  # one at a time
    assert cell.episodes() == []
    cell.wait_for_images(30)
    cell.person.opening = 0.0
    cell.wait_for_images(60)
    sent = cell.camera.call('sent')
    refused = cell.person.end('sucess')
    assert "did you mean 'success'" in refused.message
    ended = cell.person.end('success')
    assert ended.success, ended.message
    assert ended.path == str(cell.directory / reply.episode)
    assert [str(path) for path in cell.episodes()] == [ended.path]
    assert cell.lost() == []

    label = load_label(cell.episodes()[0])
    assert (label.outcome, label.sentence, label.lost_messages) == ('success', 'push the block', 0)
    assert (label.robot, label.unnorm_key, label.base_frame) == ('sim', KEY, 'base_link')
    with Recording(ended.path) as recording:
        assert recording.topics() == {
            '/camera/image_raw': 'sensor_msgs/msg/Image',
            '/camera/camera_info': 'sensor_msgs/msg/CameraInfo',
            '/ee_pose': 'geometry_msgs/msg/PoseStamped',
            '/controller_node/gripper_cmd': 'std_msgs/msg/Float64',
            '/controller_node/twist_cmd': 'geometry_msgs/msg/TwistStamped',
            '/controller_node/status': 'openvla_ros/msg/SafetyStatus',
            '/policy_node/action': 'openvla_ros/msg/PolicyAction',
            '/joint_states': 'sensor_msgs/msg/JointState',
            '/instruction': 'std_msgs/msg/String',
        }
        images = list(recording.images('/camera/image_raw', refused := []))
        assert refused == []
        assert 60 <= len(images) <= sent + 15
        assert images[0].image.shape == (48, 64, 3)
        # 15 images a second: none was left out on the way.
        assert np.median(np.diff([image.stamp_s for image in images])) < 0.1
        poses = recording.poses('/ee_pose')
        assert len(poses.values) > 2 * len(images)
        assert set(recording.openings('/controller_node/gripper_cmd').values[:, 0]) == {0.0, 1.0}
        assert [text for _, text in recording.texts('/instruction')] == ['push the block']
        assert len(recording.actions('/policy_node/action').values) > 10
    _assert_makes_a_data_set(ended.path, tmp_path / 'set')


def _assert_makes_a_data_set(path, out):
    pytest.importorskip('pyarrow', reason='pyarrow is not installed (requirements/data.txt)')
    from openvla_ros.data.__main__ import main
    from openvla_ros.data.data_set import DataSet

    assert main(['prepare', path, '--out', str(out), '--unnorm-key', KEY]) == 0
    data = DataSet(out)
    assert data.instructions == ['push the block']
    # 60 images at 15 Hz are 4 s, in steps of 0.2 s; a few fall to a busy machine.
    assert len(data) > 10
    # 0.05 m/s for 0.2 s, to and fro; the demo's actions are in metres.
    assert np.median(np.abs(data.actions[:, 0])) == pytest.approx(0.01, abs=0.003)


def test_a_killed_recorder_loses_the_episode_in_hand_alone_and_says_so(cell):
    cell.start_camera_and_robot()
    first = cell.person.start_when_ready('push the block').episode
    cell.wait_for_images(5)
    assert cell.person.end('failure').success
    second = cell.person.start('push the block').episode
    cell.wait_for_images(15)
    cell.recorder.kill()
    assert [path.name for path in cell.episodes()] == [first]

    cell.start_recorder()
    third = cell.person.start_when_ready('push the block').episode
    assert f'episode {second} was lost' in cell.recorder.log_text()
    cell.wait_for_images(5)
    assert cell.person.end('success').success
    assert [path.name for path in cell.episodes()] == sorted([first, third])
    assert [path.name for path in cell.lost()] == [second]
    for path, outcome in zip(cell.episodes(), ('failure', 'success')):
        assert load_label(path).outcome == outcome
        with Recording(path) as recording:
            assert len(list(recording.images('/camera/image_raw', []))) >= 5


def test_an_episode_goes_on_until_it_has_a_sentence_or_is_discarded(cell):
    cell.start_camera_and_robot()
    cell.person.start_when_ready()
    cell.wait_for_images(5)
    reply = cell.person.end('success')
    assert not reply.success
    assert 'sentence: is empty and no instruction was heard' in reply.message
    cell.person.wait_status('RECORDING')
    assert cell.person.end('success', 'put it down').success
    assert load_label(cell.episodes()[0]).sentence == 'put it down'

    cell.person.start('push the block')
    cell.wait_for_images(5)
    assert cell.person.end('discard').message.startswith('discarded episode')
    assert len(cell.episodes()) == 1
    assert cell.lost() == []
    assert 'no episode is being recorded' in cell.person.end('success').message


def test_a_recorder_that_is_stopped_ends_well_and_keeps_what_has_no_label_apart(cell):
    cell.start_camera_and_robot()
    name = cell.person.start_when_ready('push the block').episode
    cell.wait_for_images(10)
    cell.recorder.signal(signal.SIGINT)
    assert cell.recorder.wait(10.0) == 0
    assert f'episode {name} was not labeled' in cell.recorder.log_text()
    assert cell.episodes() == []
    (path,) = cell.lost()
    with Recording(path) as recording:  # closed, unlike that of a killed one
        assert len(list(recording.images('/camera/image_raw', []))) >= 10


def test_a_configuration_that_cannot_be_used_is_one_sentence_and_exit_code_2(cell):
    cell.start_recorder(unnorm_key='openvla_ros_dmo')
    assert cell.recorder.wait(DEADLINE_S) == 2
    assert "(did you mean 'openvla_ros_demo'?)" in cell.recorder.log_text()
