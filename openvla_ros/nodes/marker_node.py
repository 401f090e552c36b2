"""What an operator sees: RViz markers and the camera overlay, in a process of its own.

It only listens. Neither policy nor controller waits for it, and the overlay is drawn only while
somebody looks at it.
"""

if __name__ == '__main__':  # before what takes long to import
    from openvla_ros.core.early_exit import exit_at_signals

    exit_at_signals()


import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import rclpy
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

from openvla_ros.core.camera_projection import CameraProjection
from openvla_ros.core.image_encoding import (
    LAYOUTS,
    ImageRefused,
    decode_compressed,
    layout_refusal,
    rgb_view,
)
from openvla_ros.core.overlay import draw_overlay
from openvla_ros.core.pose_tracker import Pose
from openvla_ros.core.refusal import Refusal
from openvla_ros.core.scene_markers import scene_markers
from openvla_ros.core.situation import Situation
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

    base_frame: str = parameter('base_link', description="the robot's base frame")
    ee_frame: str = parameter('ee_link', description="the robot's end-effector frame")
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
        self._camera_info: CameraInfo | None = None
        self._camera_pose: Pose | None = None
        self._camera_tf: Any = None
        self._overlay_due_s = 0.0
        self._noted: set[str] = set()
        self._image_subscription: Any = None
        self._create_inputs()
        self._markers = self.create_publisher(MarkerArray, '~/markers', _EVERY)
        self._overlay = self.create_publisher(Image, '~/overlay', _EVERY)
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
        latency_s = self._ros_now_s() - seconds_from_time(message.header.stamp)
        self._situation.saw_action(
            twist_vector(message.twist),
            message.header.frame_id == self._values.ee_frame,
            message.gripper,
            message.step_s,
            latency_s,
            time.monotonic(),
        )

    def _on_safety(self, message: SafetyStatus) -> None:
        self._situation.saw_safety(safety_view_from_message(message), time.monotonic())

    def _on_policy_status(self, message: String) -> None:
        self._situation.policy_sentence = message.data[:300]

    def _on_instruction(self, message: String) -> None:
        self._situation.instruction = message.data[:300]

    def _on_pose(self, message: PoseStamped) -> None:
        if message.header.frame_id == self._values.base_frame:
            self._situation.saw_pose(pose_view(pose_from_message(message)), time.monotonic())

    def _on_camera_info(self, message: CameraInfo) -> None:
        self._camera_info = message

    def _on_camera_pose(self, message: PoseStamped) -> None:
        if message.header.frame_id == self._values.base_frame:
            self._camera_pose = pose_from_message(message)

    def _draw_markers(self) -> None:
        # Latched words outlive who said them.
        status = self.resolve_topic_name('policy_node/status')
        self._situation.policy_there = self.count_publishers(status) > 0
        if not self._markers.get_subscription_count():
            return
        stamp = self.get_clock().now().to_msg()
        shapes = scene_markers(self._situation, time.monotonic())
        frame = self._values.base_frame
        # What is no longer there vanishes at once, not at the end of its lifetime.
        clear = Marker(action=Marker.DELETEALL)
        clear.header.frame_id, clear.header.stamp = frame, stamp
        markers = [marker_message(shape, frame, stamp) for shape in shapes]
        self._markers.publish(MarkerArray(markers=[clear, *markers]))

    def _follow_viewers(self) -> None:
        """Subscribe to the camera while somebody looks at the overlay, and only then."""
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
        picture = draw_overlay(
            image,
            self._situation.overlay_state(now_s),
            self._projection(message.header.frame_id),
        )
        self._overlay.publish(
            rgb_image_message(picture, message.header.frame_id, message.header.stamp)
        )

    @staticmethod
    def _rgb(message: Image | CompressedImage) -> NDArray[np.uint8]:
        if isinstance(message, CompressedImage):
            return decode_compressed(message.data)
        refusal = layout_refusal(
            width=message.width,
            height=message.height,
            step=message.step,
            num_bytes=len(message.data),
            encoding=message.encoding[:80],
        )
        if refusal is None and message.encoding not in LAYOUTS:
            sentence = f'the encoding {message.encoding[:80]!r} cannot be drawn'
            refusal = Refusal('IMAGE_ENCODING', sentence)
        if refusal is not None:
            raise ImageRefused(refusal)
        return rgb_view(
            message.data,
            width=message.width,
            height=message.height,
            step=message.step,
            encoding=message.encoding,
            big_endian=bool(message.is_bigendian),
        )

    def _projection(self, camera_frame: str) -> CameraProjection | None:
        pose = self._camera_pose or self._camera_pose_from_tf(camera_frame)
        if self._camera_info is None or pose is None:
            return None
        try:
            return camera_projection_from_messages(self._camera_info, pose)
        except ValueError as error:
            self._note_once(f'no arrow in the overlay: {error}')
            return None

    def _camera_pose_from_tf(self, camera_frame: str) -> Pose | None:
        if self._camera_tf is None:
            from openvla_ros.nodes.tf_pose import TfPose

            try:
                self._camera_tf = TfPose(self, self._values.base_frame, camera_frame)
            except ConfigError:
                self._camera_tf = False
                self._note_once('no arrow in the overlay: no camera/pose, and tf2_ros is missing')
        if not self._camera_tf:
            return None
        found = self._camera_tf.newest()
        if found is not None:
            self._camera_pose = found[0]
        return self._camera_pose

    def _note_once(self, sentence: str) -> None:
        if sentence not in self._noted and len(self._noted) < 20:
            self._noted.add(sentence)
            self.get_logger().warning(sentence)

    def _ros_now_s(self) -> float:
        return 1e-9 * self.get_clock().now().nanoseconds


_USAGE = """\
usage: marker_node --ros-args [-p base_frame:=FRAME]

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
        executor.spin_once(timeout_sec=0.2)
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
