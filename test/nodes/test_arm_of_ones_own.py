"""README's path for a robot: the processes of policy.launch.py for a profile that is not sim's.

Other frames, another gripper, the pose from TF, and a camera that nobody simulates; the policy's
network is the fake one of the other tests, everything else is what the launch file starts.
"""

import importlib.util
import os
import re
import sys
import time
from pathlib import Path

import pytest
import rclpy
import yaml
from geometry_msgs.msg import TransformStamped, TwistStamped
from harness.policy_bench import FAKE, Camera
from harness.processes import TEST_FOLDER, DeadlineError, Processes
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Bool, Float64, String
from std_srvs.srv import SetBool
from visualization_msgs.msg import Marker, MarkerArray

from openvla_ros.core.resources import resource_path, share_directory
from openvla_ros.msg import SafetyStatus
from openvla_ros.nodes.launch_plan import policy_plan

pytestmark = pytest.mark.ros

if importlib.util.find_spec('tf2_ros') is None:
    STAND_INS, TFMessage = [str(TEST_FOLDER / 'stand_ins')], TransformStamped
else:
    from tf2_msgs.msg import TFMessage

    STAND_INS = []

BASE, EE = 'wx250s/base_link', 'wx250s/ee_gripper_link'
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def profile(folder, **changes):
    """The example profile, copied and changed as README says; active instead of shadow."""
    content = yaml.safe_load(resource_path('config/robots/wx250s.example.yaml').read_text())
    assert (content['base_frame'], content['ee_frame']) == (BASE, EE)
    assert content['pose']['source'] == 'tf'
    content |= {'mode': 'active', **changes}
    content['gripper'] |= {'close_below': 0.2, 'open_above': 0.5, 'decisions': 1}
    path = folder / 'my_arm.yaml'
    path.write_text(yaml.safe_dump(content))
    return path


class Arm:
    """A fake arm with a camera: follows twists in its base frame and says on TF where it is."""

    def __init__(self, domain, namespace, twist_topic):
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = rclpy.create_node('arm', namespace=namespace, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.start_m = (0.25, 0.0, 0.15)
        self.position_m = self.start_m
        self.sentence, self.status_frame, self.gripper = '', '', None
        self.twist_frames, self.markers = set(), []
        self.beating = True
        self._tf = self.node.create_publisher(TFMessage, '/tf', 10)
        self._estop = self.node.create_publisher(Bool, 'estop', 1)
        self._say = self.node.create_publisher(String, 'instruction', 1)
        self._arming = self.node.create_client(SetBool, 'controller_node/arm')
        self.camera = Camera(self.node, 'camera/color/image_raw')
        subscribe = self.node.create_subscription
        subscribe(TwistStamped, twist_topic, self._follow, 1)
        subscribe(SafetyStatus, 'controller_node/status', self._on_status, LATCHED)
        subscribe(Float64, 'controller_node/gripper_cmd', self._on_gripper, 1)
        subscribe(MarkerArray, 'marker_node/markers', self._on_markers, 5)
        self.in_tf = True
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.node.create_timer(0.02, self._tick, clock=steady)

    def _follow(self, message):
        self.twist_frames.add(message.header.frame_id)
        v = message.twist.linear
        self.position_m = tuple(p + 0.02 * u for p, u in zip(self.position_m, (v.x, v.y, v.z)))

    def _on_status(self, message):
        self.sentence, self.status_frame = message.sentence, message.header.frame_id

    def _on_gripper(self, message):
        self.gripper = message.data

    def _on_markers(self, message):
        self.markers = [m for m in message.markers if m.action == Marker.ADD]

    def _tick(self):
        if self.beating:
            self._estop.publish(Bool(data=False))
        if not self.in_tf:
            return
        message = TFMessage()
        found = message if not hasattr(message, 'transforms') else self._transform(message)
        found.header.frame_id, found.child_frame_id = BASE, EE
        found.header.stamp = self.node.get_clock().now().to_msg()
        t = found.transform.translation
        t.x, t.y, t.z = self.position_m
        found.transform.rotation.w = 1.0
        self._tf.publish(message)

    @staticmethod
    def _transform(message):
        message.transforms.append(TransformStamped())
        return message.transforms[0]

    def say(self, text):
        self.wait(lambda: self._say.get_subscription_count() > 0, 'a policy that listens', 45.0)
        self._say.publish(String(data=text))

    def arm(self):
        """Ask the controller to arm; return (success, sentence)."""
        self.wait(self._arming.service_is_ready, 'the arm service', 30.0)
        future = self._arming.call_async(SetBool.Request(data=True))
        self.wait(future.done, 'the answer of the controller')
        return future.result().success, future.result().message

    def travelled_m(self):
        return sum((p - q) ** 2 for p, q in zip(self.position_m, self.start_m)) ** 0.5

    def wait(self, condition, what, deadline_s=15.0):
        end_s = time.monotonic() + deadline_s
        while not condition():
            if time.monotonic() > end_s:
                raise DeadlineError(f'timed out waiting for {what}; {self.sentence}')
            self._executor.spin_once(timeout_sec=0.02)

    def close(self):
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()


@pytest.fixture
def launched(tmp_path):
    """A function that starts what policy.launch.py would, and returns the fake arm."""
    arms = []
    with Processes(tmp_path, deadline_s=100.0) as processes:

        def launch(pushed='', robot=None, **given):
            robot = robot or profile(tmp_path)
            plan = policy_plan(
                {
                    'robot': str(robot),
                    'unnorm_key': 'openvla_ros_demo',
                    'checkpoint': 'fake',
                    'image_topic': 'camera/color/image_raw',
                    'allow_slow': 'true',
                    **given,
                },
                share_directory(),
                lambda _: False,
                pushed,
            )
            path = os.pathsep.join([*STAND_INS, processes.env['PYTHONPATH']])
            env = {**plan.environment, 'PYTHONPATH': path}
            for process in plan.processes:
                module = [sys.executable, '-m', f'openvla_ros.nodes.{process.executable}']
                network = [sys.executable, str(FAKE)]
                command = network if process.executable == 'policy_node' else module
                arguments = ['--ros-args', *process.ros_arguments()]
                processes.start(process.executable, [*command, *arguments], env=env)
            namespace = plan.process('controller_node').namespace
            twist_topic = given.get('twist_cmd_topic', 'controller_node/twist_cmd')
            arms.append(Arm(int(processes.env['ROS_DOMAIN_ID']), namespace, twist_topic))
            arms[-1].plan, arms[-1].processes = plan, processes
            return arms[-1]

        yield launch
        for arm in arms:
            arm.close()


@pytest.mark.parametrize(
    ('pushed', 'given', 'expected'),
    [
        ('', {}, '/'),
        ('/cell', {'namespace': 'left', 'twist_cmd_topic': '/servo/cmds'}, '/cell/left'),
    ],
)
def test_an_arm_with_its_own_frames_gripper_and_tf_moves(launched, pushed, given, expected):
    arm = launched(pushed, **given)
    assert arm.node.get_namespace() == expected
    arm.wait(lambda: 'says NO_INSTRUCTION' in arm.sentence, 'a policy that is loaded', 45.0)
    arm.say('pick up the spoon')
    arm.wait(lambda: arm.sentence.endswith('Call ~/arm.'), 'nothing that prevents arming')
    assert 'arming would be refused' not in arm.sentence
    armed, sentence = arm.arm()
    assert armed, sentence
    # 10 mm a step, of which the example takes a third.
    arm.wait(lambda: arm.travelled_m() > 0.01, 'motion')
    assert arm.position_m[0] > arm.start_m[0]
    assert arm.position_m[1:] == pytest.approx(arm.start_m[1:], abs=2e-3)
    assert arm.twist_frames == {BASE}
    assert arm.status_frame == BASE
    # 1.0 is above open_above, and one decision is enough for this gripper.
    arm.wait(lambda: arm.gripper == 1.0, 'an open gripper')


def test_markers_are_drawn_in_the_robots_frame_at_the_pose_from_tf(launched):
    arm = launched()

    def drawn():
        return {m.ns: m for m in arm.markers}

    arm.say('pick up the spoon')
    arm.wait(lambda: 'workspace' in drawn(), 'the box', 45.0)

    def displacement():
        arm.say('pick up the spoon')
        return 'policy_displacement' in drawn()

    arm.wait(displacement, "the policy's arrow", 45.0)
    assert {m.header.frame_id for m in arm.markers} == {BASE}
    start = drawn()['policy_displacement'].points[0]
    assert (start.x, start.y, start.z) == pytest.approx(arm.start_m, abs=1e-6)


def test_arming_says_what_is_missing_in_the_order_in_which_one_does_it(launched):
    arm = launched()
    arm.in_tf = arm.beating = False
    arm.camera.content = None
    arm.wait(lambda: 'says NO_INSTRUCTION' in arm.sentence, 'a policy that is loaded', 45.0)
    armed, sentence = arm.arm()
    assert not armed
    order = r'NO_INSTRUCTION: .*no end-effector pose.*no e-stop heartbeat.*TF does not have'
    assert re.search(order, sentence), sentence
    assert f'{EE!r} in {BASE!r}' in sentence
    arm.say('pick up the spoon')
    arm.wait(lambda: 'says NO_IMAGE' in arm.sentence, 'a policy that wants an image')
    arm.camera.content = 'noise'
    arm.wait(lambda: 'no policy' not in arm.sentence, 'actions')
    arm.in_tf = True
    arm.wait(lambda: 'pose' not in arm.sentence.split('(last')[0], 'a pose')
    arm.beating = True
    arm.wait(lambda: arm.sentence.endswith('Call ~/arm.'), 'nothing that prevents arming')
    assert arm.arm()[0]


def test_a_policy_of_another_robot_is_refused_with_both_frames_and_the_cure(launched):
    arm = launched()
    process = arm.plan.with_parameters('policy_node', robot='sim').process('policy_node')
    command = [sys.executable, str(FAKE), '--ros-args', *process.ros_arguments()]
    arm.processes.start('policy_node', command, env=arm.plan.environment)
    arm.wait(lambda: 'says NO_INSTRUCTION' in arm.sentence, 'a policy that is loaded', 45.0)
    arm.say('pick up the spoon')
    frames = f"their frame is 'base_link', expected '{BASE}' or '{EE}'"
    arm.wait(lambda: frames in arm.sentence, 'a refusal that names the frames')
    armed, sentence = arm.arm()
    assert not armed
    assert 'fewer than 3 valid actions' in sentence
    assert frames in sentence
    assert 'start policy_node with the robot profile of this controller' in sentence
    assert arm.travelled_m() == 0.0


def test_the_launch_prints_commands_that_exist_in_the_graph(launched):
    arm = launched('/cell', namespace='left')
    said = '\n'.join(arm.plan.lines)
    topic = re.search(r'--keep-alive 1 (\S+) std_msgs/msg/String', said)[1]
    service = re.search(r'service call (\S+) std_srvs/srv/SetBool', said)[1]
    heard = arm.node.count_subscribers

    def services():
        return [name for name, _ in arm.node.get_service_names_and_types()]

    arm.wait(lambda: heard(topic) > 0 and service in services(), f'{topic} and {service}', 45.0)
    assert Path(topic).parent == Path('/cell/left')
