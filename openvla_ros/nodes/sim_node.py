"""The simulated robot: camera, joints and a driver that follows twists, as a real robot's nodes.

It has the timeout the controller demands of every driver: a twist older than ``command_timeout``
is not followed any more. Rendering happens in a thread of its own and never delays the arm.
"""

if __name__ == '__main__':  # before what takes long to import
    from openvla_ros.core.early_exit import exit_at_signals

    exit_at_signals()


import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import rclpy
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Bool, Float64, String
from std_srvs.srv import Trigger

from openvla_ros.core.resources import resource_path
from openvla_ros.core.strict_config import ConfigError
from openvla_ros.nodes.conversions import (
    joint_state_message,
    pinhole_camera_info,
    pose_stamped,
    rgb_image_message,
    twist_from_stamped,
)
from openvla_ros.nodes.parameters import declare, parameter, sections_for_other_nodes
from openvla_ros.safety.pose_tracker import Pose
from openvla_ros.sim.arm import CONTROL_PERIOD_S, EePose, SimArm
from openvla_ros.sim.driver import SimDriver
from openvla_ros.sim.real_time import RealTimeMonitor
from openvla_ros.sim.render_thread import Picture, RenderThread
from openvla_ros.sim.tasks import (
    Kind,
    Split,
    Success,
    Task,
    find_episode,
    sample_episode,
    understand,
)

_NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
_LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
_LOG_PERIOD_S = 1.0


@dataclass(frozen=True)
class SimParameters:
    """Parameters of sim_node."""

    task: str = parameter(
        'reach',
        description='kind of task of the scenes; used while instruction is empty',
        choices=('reach', 'push', 'pick'),
        read_only=False,
    )
    instruction: str = parameter(
        '',
        description='choose scenes that fit this sentence, such as "pick up the red block"',
        read_only=False,
    )
    seed: int = parameter(
        0,
        description='seed of the first scene; ~/reset_scene goes on to the next one',
        lo=0,
        hi=1_000_000_000,
        read_only=False,
    )
    split: str = parameter(
        'test',
        description="'test' scenes are never trained on",
        choices=('train', 'test'),
        read_only=False,
    )
    image_width: int = parameter(256, description='image width', unit='px', lo=16, hi=640)
    image_height: int = parameter(256, description='image height', unit='px', lo=16, hi=640)
    image_rate: float = parameter(15.0, description='image rate', unit='Hz', lo=0.5, hi=50.0)
    command_timeout: float = parameter(
        0.1,
        description='a twist older than this is not followed any more',
        unit='s',
        lo=0.04,
        hi=0.1,
    )
    base_frame: str = parameter('base_link', description='frame of poses and of accepted twists')
    camera_frame: str = parameter(
        'camera_optical_frame', description='frame of the images (x right, y down, z forward)'
    )

    def __post_init__(self) -> None:
        """Refuse an instruction that is none of our tasks.

        Raises:
            ValueError: it names no task, or no colour, or several.
        """
        if self.instruction and understand(self.instruction) is None:
            find_episode(self.instruction, 0)


class SimNode(Node):
    """Connects the driver, the renderer and the judge of success to ROS."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__('sim_node', **node_arguments)
        self._values = declare(self, SimParameters, self._on_parameters)
        for sentence in sections_for_other_nodes(self):
            raise ConfigError(sentence)
        if self.get_clock().ros_time_is_active:
            raise ConfigError(
                'use_sim_time: got true, expected false; this simulation runs in real time and '
                'publishes no /clock'
            )
        self.failed = False
        self._next_seed = self._values.seed
        self._logged_s: dict[str, float] = {}
        self._image_due_s = 0.0
        self._create_topics()
        self._load_next_scene()
        self._monitor = RealTimeMonitor(self._values.image_rate)
        self._renderer = RenderThread(
            self._values.image_width,
            self._values.image_height,
            self._publish_picture,
            self._on_render_error,
        )
        self.create_timer(
            CONTROL_PERIOD_S, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def _create_topics(self) -> None:
        self._image = self.create_publisher(Image, 'camera/image_raw', _NEWEST)
        self._camera_info = self.create_publisher(CameraInfo, 'camera/camera_info', _NEWEST)
        self._joint_states = self.create_publisher(JointState, 'joint_states', _NEWEST)
        self._ee_pose = self.create_publisher(PoseStamped, 'ee_pose', _NEWEST)
        self._camera_pose = self.create_publisher(PoseStamped, '~/camera_pose', _LATCHED)
        # RViz's RobotModel reads it here, with or without a robot_state_publisher.
        self._description = self.create_publisher(String, 'robot_description', _LATCHED)
        urdf = resource_path('config/sim/arm.urdf').read_text(encoding='utf-8')
        self._description.publish(String(data=urdf))
        self._task_topic = self.create_publisher(String, '~/task', _LATCHED)
        self._success_topic = self.create_publisher(Bool, '~/success', _LATCHED)
        self._static_tf = _static_tf_publisher(self)
        self.create_subscription(
            TwistStamped, 'controller_node/twist_cmd', self._on_twist, _NEWEST
        )
        self.create_subscription(Float64, 'controller_node/gripper_cmd', self._on_gripper, _NEWEST)
        self.create_subscription(
            String, 'policy_node/active_instruction', self._on_instruction, _LATCHED
        )
        self.create_service(Trigger, '~/reset_scene', self._on_reset_scene)

    # Scenes and success ------------------------------------------------------------------------

    def _load_next_scene(self) -> None:
        values = self._values
        split = cast(Split, values.split)  # one of the choices, as they were declared
        if values.instruction:
            self._episode = find_episode(values.instruction, self._next_seed, split)
        else:
            self._episode = sample_episode(cast(Kind, values.task), self._next_seed, split)
        self._next_seed = self._episode.seed + 1
        self._arm = SimArm(self._episode.scene, render=False)
        self._driver = SimDriver(
            self._arm, time.monotonic(), timeout_s=self._values.command_timeout
        )
        self._judge(self._episode.task)
        self._publish_camera_pose()
        self.get_logger().info(
            f'scene {values.split}/{self._episode.seed}: {self._episode.task.instruction!r}; '
            f'blocks: {", ".join(self._arm.block_positions())}'
        )

    def _judge(self, task: Task) -> None:
        self._task = task
        self._success = Success(task, self._arm)
        self._publish_task()

    def _publish_task(self) -> None:
        state = {
            'kind': self._task.kind,
            'colour': self._task.colour,
            'instruction': self._task.instruction,
            'seed': self._episode.seed,
            'split': self._values.split,
            'success': self._success.done,
            'touched_wrong': self._success.touched_wrong,
            'blocks_m': {
                colour: [round(float(x), 4) for x in position]
                for colour, position in self._arm.block_positions().items()
            },
        }
        self._task_topic.publish(String(data=json.dumps(state)))
        self._success_topic.publish(Bool(data=self._success.done))

    def _on_instruction(self, message: String) -> None:
        meant = understand(message.data[:512])
        if meant is None or meant[1] not in self._arm.block_positions():
            return
        if meant != (self._task.kind, self._task.colour):
            self._judge(Task(*meant, message.data[:512]))

    def _on_reset_scene(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._load_next_scene()
        response.success = True
        response.message = f'seed {self._episode.seed}: {self._episode.task.instruction}'
        return response

    def _on_parameters(self, values: SimParameters) -> None:
        self._values = values
        self._next_seed = values.seed

    # The tick ----------------------------------------------------------------------------------

    def _tick(self) -> None:
        now_s = time.monotonic()
        progress = self._driver.advance(now_s)
        if progress.periods:
            self._publish_state()
        before = (self._success.done, self._success.touched_wrong)
        self._success.update(self._arm)
        if before != (self._success.done, self._success.touched_wrong):
            self._publish_task()
        if now_s >= self._image_due_s:
            period_s = 1.0 / self._values.image_rate
            self._image_due_s = max(self._image_due_s + period_s, now_s - period_s)
            self._renderer.offer(self._arm, self.get_clock().now().to_msg())
        sentence = self._monitor.note(now_s, progress.periods * CONTROL_PERIOD_S)
        if sentence:
            self.get_logger().warning(sentence)

    def _publish_state(self) -> None:
        stamp = self.get_clock().now().to_msg()
        pose = _plain_pose(self._arm.ee_pose())
        self._ee_pose.publish(pose_stamped(pose, self._values.base_frame, stamp))
        state = self._arm.joint_state()
        self._joint_states.publish(
            joint_state_message(
                state.names, state.positions, state.velocities, state.efforts, stamp
            )
        )

    def _publish_camera_pose(self) -> None:
        stamp = self.get_clock().now().to_msg()
        pose = _plain_pose(self._arm.camera_pose())
        self._camera_pose.publish(pose_stamped(pose, self._values.base_frame, stamp))
        if self._static_tf is not None:
            self._static_tf(pose, self._values.base_frame, self._values.camera_frame)

    def _publish_picture(self, picture: Picture) -> None:
        """In the renderer's thread: rclpy's publishers may be used from any."""
        frame = self._values.camera_frame
        pinhole = picture.intrinsics
        self._camera_info.publish(
            pinhole_camera_info(
                pinhole.matrix(), pinhole.width, pinhole.height, frame, picture.tag
            )
        )
        self._image.publish(rgb_image_message(picture.pixels, frame, picture.tag))
        self._monitor.count_picture()

    def _on_render_error(self, error: Exception) -> None:
        if not rclpy.ok():
            return
        self.get_logger().fatal(f'no pictures: {error}')
        self.failed = True

    # Commands ----------------------------------------------------------------------------------

    def _on_twist(self, message: TwistStamped) -> None:
        now_s = time.monotonic()
        frame = message.header.frame_id
        if frame != self._values.base_frame:
            self._warn(
                f'refused a twist in frame {frame[:80]!r}, expected {self._values.base_frame!r}',
                now_s,
            )
            return
        self._warn(self._driver.command(twist_from_stamped(message), now_s), now_s)

    def _on_gripper(self, message: Float64) -> None:
        self._warn(self._driver.set_opening(message.data), time.monotonic())

    def _warn(self, sentence: str | None, now_s: float) -> None:
        if sentence and now_s - self._logged_s.get(sentence[:30], -1.0) >= _LOG_PERIOD_S:
            self._logged_s[sentence[:30]] = now_s
            self.get_logger().warning(sentence)

    def note_error(self, error: Exception) -> None:
        """Log an unexpected exception of a callback."""
        self._warn(f'{type(error).__name__}: {str(error)[:200]}', time.monotonic())

    def close(self) -> None:
        """End the renderer."""
        self._renderer.close()


def _plain_pose(pose: EePose) -> Pose:
    return Pose.of(pose.position_m.tolist(), pose.quaternion_xyzw.tolist())


def _static_tf_publisher(node: Node) -> Any:
    """Return a function that publishes a static transform, or None where tf2_msgs is missing."""
    try:
        from tf2_msgs.msg import TFMessage
    except ImportError:
        return None
    from geometry_msgs.msg import TransformStamped

    publisher = node.create_publisher(TFMessage, '/tf_static', _LATCHED)

    def publish(pose: Pose, parent: str, child: str) -> None:
        transform = TransformStamped(child_frame_id=child)
        transform.header.frame_id = parent
        transform.header.stamp = node.get_clock().now().to_msg()
        t, r = transform.transform.translation, transform.transform.rotation
        t.x, t.y, t.z = pose.position_m
        r.x, r.y, r.z, r.w = pose.quaternion_xyzw
        publisher.publish(TFMessage(transforms=[transform]))

    return publish


_USAGE = """\
usage: sim_node --ros-args [-p task:=reach|push|pick] [-p seed:=N]

A simulated arm with a camera: follows controller_node/twist_cmd and gripper_cmd in real time, as
a robot's driver does. docs/parameters.md lists every parameter."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the simulated robot until SIGINT or SIGTERM; 2 for parameters that cannot be used."""
    if {'--help', '-h'} & set(sys.argv if args is None else args):
        print(_USAGE)
        return 0
    # Software OpenGL would take every core; the policy needs them.
    os.environ.setdefault('LP_NUM_THREADS', '1')
    stop = False

    def request_stop(*_: Any) -> None:
        nonlocal stop
        stop = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, request_stop)
    try:
        rclpy.init(
            args=list(sys.argv if args is None else args),
            signal_handler_options=SignalHandlerOptions.NO,
        )
        node = SimNode()
    except Exception as error:  # nothing runs yet: one line instead of a traceback
        kind = '' if isinstance(error, ConfigError) else f'{type(error).__name__}: '
        print(f'sim_node: {kind}{" ".join(str(error).split())}', file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not stop and not node.failed and rclpy.ok():
        try:
            executor.spin_once(timeout_sec=0.2)
        except Exception as error:  # one bad message must not take the robot away
            node.note_error(error)
    node.close()
    node.destroy_node()
    rclpy.try_shutdown()
    return 1 if node.failed else 0


if __name__ == '__main__':
    sys.exit(main())
