"""What an operator sees: RViz markers and the camera overlay, in a process of its own.

It only listens. Neither policy nor controller waits for it, and the overlay is drawn only while
somebody looks at it.
"""

if __name__ == '__main__':  # before what takes long to import
    from openvla_ros.core.early_exit import exit_at_signals

    exit_at_signals()


import contextlib
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String
from visualization_msgs.msg import Marker, MarkerArray

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.msg import PolicyAction, SafetyStatus
from openvla_ros.nodes.conversions import pose_from_message, rgb_image_message, seconds_from_time
from openvla_ros.nodes.marker_conversions import (
    camera_projection_from_messages,
    marker_message,
    pose_view,
    safety_view_from_message,
    twist_vector,
)
from openvla_ros.nodes.parameters import declare, parameter
from openvla_ros.nodes.policy_conversions import image_refusal, rgb_from_message
from openvla_ros.nodes.tf_pose import TfTree
from openvla_ros.observation.image_encoding import ImageRefused
from openvla_ros.safety.pose_tracker import Pose
from openvla_ros.safety.robot_frames import refuse_other_frames
from openvla_ros.safety.robot_profile import load_robot_profile
from openvla_ros.visualization.camera_projection import CameraProjection
from openvla_ros.visualization.drawing_frame import DrawingFrame
from openvla_ros.visualization.overlay import draw_overlay
from openvla_ros.visualization.scene_markers import scene_markers
from openvla_ros.visualization.situation import Situation

NO_FRAME = (
    'nothing is drawn: no robot profile is given, and neither a controller status nor an ee_pose '
    "names the robot's base frame; start marker_node with the controller's robot (robot:=...)"
)
_WAITED_S = 5.0  # after the start, before something is called missing
_CAMERA = 'camera/image_raw'
_NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
_EVERY = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
_NEWEST_RELIABLY = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
_LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


@dataclass(frozen=True)
class MarkerParameters:
    """Parameters of marker_node."""

    robot: str = parameter(
        '',
        description='robot profile, the one controller_node has; without one the base frame is '
        'taken from what is shown, and the end-effector pose from ee_pose',
    )
    base_frame: str = parameter(
        '', description="the robot's base frame; '' for the profile's, another name is refused"
    )
    ee_frame: str = parameter(
        '', description="its end-effector frame; '' for the profile's, another name is refused"
    )
    markers_rate_hz: float = parameter(
        10.0, description='how often the markers are published', unit='Hz', lo=1.0, hi=60.0
    )
    overlay_rate_hz: float = parameter(
        10.0, description='how often the overlay is drawn at most', unit='Hz', lo=0.5, hi=60.0
    )


class MarkerNode(Node):
    """Collects what is said in the graph and draws it."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__('marker_node', **node_arguments)
        self._values = declare(self, MarkerParameters)
        self._situation = Situation()
        self._frame, self._pose_from_tf = _frame_and_pose_source(self._values)
        self._started_s = time.monotonic()
        self._tf: TfTree | None = None
        self._tf_stamp_s = -1.0
        self._tf_is_missing = False
        self._camera_info: CameraInfo | None = None
        self._camera_pose: Pose | None = None
        self._overlay_due_s = 0.0
        self._noted: set[str] = set()
        self._image_subscription: Any = None
        self._create_inputs()
        self._markers = self.create_publisher(MarkerArray, '~/markers', _EVERY)
        self._overlay = self.create_publisher(Image, '~/overlay', _EVERY)
        if self._pose_from_tf:
            self._tf = self._tf_tree('no end-effector pose')
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0 / self._values.markers_rate_hz, self._draw_markers, clock=steady)
        self.create_timer(0.5, self._follow_viewers, clock=steady)

    def _create_inputs(self) -> None:
        self.create_subscription(PolicyAction, 'policy_node/action', self._on_action, _EVERY)
        self.create_subscription(SafetyStatus, 'controller_node/status', self._on_safety, _LATCHED)
        self.create_subscription(String, 'policy_node/status', self._on_policy_status, _LATCHED)
        self.create_subscription(
            String, 'policy_node/active_instruction', self._on_instruction, _LATCHED
        )
        self.create_subscription(PoseStamped, 'ee_pose', self._on_pose, _NEWEST)
        self.create_subscription(CameraInfo, 'camera/camera_info', self._on_camera_info, _NEWEST)
        self.create_subscription(PoseStamped, 'camera/pose', self._on_camera_pose, _LATCHED)

    def _on_action(self, message: PolicyAction) -> None:
        with self._guard('an action'):
            numbers = twist_vector(message.twist)
            if not np.isfinite([*numbers, message.gripper, message.step_s]).all():
                raise ValueError('it holds NaN or infinity')
            in_ee = self._frame.is_ee(message.header.frame_id)
            latency_s = self._ros_now_s() - seconds_from_time(message.header.stamp)
            self._situation.saw_action(
                numbers, in_ee, message.gripper, message.step_s, latency_s, time.monotonic()
            )

    def _on_safety(self, message: SafetyStatus) -> None:
        with self._guard("the controller's status"):
            self._situation.saw_safety(safety_view_from_message(message), time.monotonic())
            warning = self._frame.controller_works_in(message.header.frame_id)
            if warning:
                self._note_once(warning)

    def _on_policy_status(self, message: String) -> None:
        self._situation.policy_sentence = message.data[:300]

    def _on_instruction(self, message: String) -> None:
        self._situation.instruction = message.data[:300]

    def _on_pose(self, message: PoseStamped) -> None:
        with self._guard('ee_pose'):
            self._frame.expect_base(message.header.frame_id)
            self._situation.saw_pose(pose_view(pose_from_message(message)), time.monotonic())

    def _look_up_pose(self) -> None:
        if not self._pose_from_tf or self._tf is None:
            return
        with self._guard('the end-effector pose'):
            found = self._tf.look_up(self._frame.base, self._frame.ee)
            if found is None:
                if time.monotonic() - self._started_s > _WAITED_S:
                    raise ValueError(self._tf.failure)
                return
            pose, stamp_s = found
            if stamp_s != self._tf_stamp_s:
                self._tf_stamp_s = stamp_s
                self._situation.saw_pose(pose_view(pose), time.monotonic())

    def _on_camera_info(self, message: CameraInfo) -> None:
        self._camera_info = message

    def _on_camera_pose(self, message: PoseStamped) -> None:
        with self._guard('camera/pose'):
            self._frame.expect_base(message.header.frame_id)
            self._camera_pose = pose_from_message(message)

    def _draw_markers(self) -> None:
        with self._guard('the markers'):
            self._look_up_pose()
            self._publish_markers()

    def _publish_markers(self) -> None:
        # Latched words outlive who said them.
        status = self.resolve_topic_name('policy_node/status')
        self._situation.policy_there = self.count_publishers(status) > 0
        if not self._markers.get_subscription_count():
            return
        frame = self._frame.base
        if not frame:
            if time.monotonic() - self._started_s > _WAITED_S:
                self._note_once(NO_FRAME)
            return
        stamp = self.get_clock().now().to_msg()
        shapes = scene_markers(self._situation, time.monotonic())
        # What is no longer there vanishes at once, not at the end of its lifetime.
        clear = Marker(action=Marker.DELETEALL)
        clear.header.frame_id, clear.header.stamp = frame, stamp
        markers = [marker_message(shape, frame, stamp) for shape in shapes]
        self._markers.publish(MarkerArray(markers=[clear, *markers]))

    def _follow_viewers(self) -> None:
        """Subscribe to the camera while somebody looks at the overlay, and only then."""
        with self._guard('the camera'):
            wanted = self._overlay.get_subscription_count() > 0
            if wanted and self._image_subscription is None:
                self._image_subscription = self._subscribe_to_camera()
            elif not wanted and self._image_subscription is not None:
                self.destroy_subscription(self._image_subscription)
                self._image_subscription = None

    def _subscribe_to_camera(self) -> Any:
        """As the camera offers it, compressed where nothing else is; None while there is none."""
        for kind, name in ((Image, _CAMERA), (CompressedImage, f'{_CAMERA}/compressed')):
            infos = self.get_publishers_info_by_topic(self.resolve_topic_name(name))
            if infos:
                offered = {info.qos_profile.reliability for info in infos}
                qos = _NEWEST_RELIABLY if ReliabilityPolicy.RELIABLE in offered else _NEWEST
                return self.create_subscription(kind, name, self._on_image, qos)
        return None

    def _on_image(self, message: Image | CompressedImage) -> None:
        with self._guard('the overlay'):
            self._draw(message)

    def _draw(self, message: Image | CompressedImage) -> None:
        now_s = time.monotonic()
        if now_s < self._overlay_due_s:
            return
        # Half a period early is early enough for a camera whose period does not divide ours.
        self._overlay_due_s = now_s + 0.7 / self._values.overlay_rate_hz
        try:
            image = self._rgb(message)
        except ImageRefused as refused:
            self._note_once(f'no overlay: {refused}')
            return
        self._look_up_pose()
        picture = draw_overlay(
            image,
            self._situation.overlay_state(now_s),
            self._projection(message.header.frame_id, message.header.stamp),
        )
        self._overlay.publish(
            rgb_image_message(picture, message.header.frame_id, message.header.stamp)
        )

    @staticmethod
    def _rgb(message: Image | CompressedImage) -> NDArray[np.uint8]:
        refusal = image_refusal(message)
        if refusal is not None:
            raise ImageRefused(refusal)
        return rgb_from_message(message)

    def _projection(self, camera_frame: str, stamp: Time) -> CameraProjection | None:
        """Return where the camera was at this image; a camera on the wrist moves."""
        pose = self._camera_pose or self._camera_pose_from_tf(camera_frame, stamp)
        if self._camera_info is None or pose is None:
            return None
        try:
            return camera_projection_from_messages(self._camera_info, pose)
        except ValueError as error:
            self._note_once(f'no arrow in the overlay: {error}')
            return None

    def _camera_pose_from_tf(self, camera_frame: str, stamp: Time) -> Pose | None:
        if not self._frame.base or not camera_frame:
            return None
        if self._tf is None and self._tf_is_missing:
            return None
        self._tf = self._tf or self._tf_tree('no arrow in the overlay: no camera/pose')
        if self._tf is None:
            return None
        # TF may lag behind the image; a moment ago is then the best there is.
        found = self._tf.look_up(self._frame.base, camera_frame, stamp) or self._tf.look_up(
            self._frame.base, camera_frame
        )
        if found is None:
            self._note_once(f'no arrow in the overlay: {self._tf.failure}')
            return None
        return found[0]

    def _tf_tree(self, without: str) -> TfTree | None:
        try:
            return TfTree(self)
        except ConfigError as error:
            self._tf_is_missing = True
            self._note_once(f'{without}, and {error}')
            return None

    @contextlib.contextmanager
    def _guard(self, what: str) -> Iterator[None]:
        """Say once what cannot be drawn and go on: an exception would end ``spin``."""
        try:
            yield
        except ValueError as error:
            self._note_once(f'{what} is not drawn: {" ".join(str(error).split())[:300]}')
        except Exception as error:
            self.note_error(what, error)

    def note_error(self, what: str, error: Exception) -> None:
        """Say once what went wrong."""
        self._note_once(f'{what}: {type(error).__name__}: {" ".join(str(error).split())[:200]}')

    def _note_once(self, sentence: str) -> None:
        if sentence not in self._noted and len(self._noted) < 20:
            self._noted.add(sentence)
            self.get_logger().warning(sentence)

    def _ros_now_s(self) -> float:
        return 1e-9 * self.get_clock().now().nanoseconds


def _frame_and_pose_source(values: MarkerParameters) -> tuple[DrawingFrame, bool]:
    """Return the frames as far as they are known, and whether the pose comes from TF."""
    if not values.robot:
        return DrawingFrame(values.base_frame, values.ee_frame), False
    profile = load_robot_profile(values.robot)
    refuse_other_frames(profile, values.base_frame, values.ee_frame)
    return DrawingFrame(profile.base_frame, profile.ee_frame), profile.pose.source == 'tf'


_USAGE = """\
usage: marker_node --ros-args [-p robot:=PROFILE]

Draws for RViz what policy_node wants and what controller_node allows, and the camera image with
both in it. It moves nothing. docs/parameters.md lists every parameter."""


def main(args: Sequence[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM; 2 for parameters that cannot be used."""
    if {'--help', '-h'} & set(sys.argv if args is None else args):
        print(_USAGE)
        return 0
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    try:
        rclpy.init(
            args=list(sys.argv if args is None else args),
            signal_handler_options=SignalHandlerOptions.NO,
        )
        node = MarkerNode()
    except ConfigError as error:
        print(f'marker_node: {error}', file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not stopping and rclpy.ok():
        try:
            executor.spin_once(timeout_sec=0.2)
        except Exception as error:  # a callback we do not own, such as those of tf2_ros
            node.note_error('executor', error)
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
