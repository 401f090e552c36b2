"""What a recorder listens to: each message as the bytes that arrived, and what it is good for."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_msgs.msg import Float64, String

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.data.bag_topic import BagTopic
from openvla_ros.data.recording_readiness import Arrivals, Observed
from openvla_ros.msg import PolicyAction, SafetyStatus
from openvla_ros.nodes.image_subscription import ImageSubscription
from openvla_ros.nodes.instruction_subscriptions import InstructionSubscriptions
from openvla_ros.nodes.tf_pose import TfPose
from openvla_ros.observation.image_encoding import (
    ImageRefused,
    compressed_refusal,
    decode_compressed,
    layout_refusal,
)
from openvla_ros.safety.robot_profile import RobotProfile

_IMAGES_WAITING = 10
_TF_PERIOD_S = 0.1
_KEPT_STATIC = 200
# Matches reliable and best-effort publishers alike.
_ANY = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
_LATCHED = QoSProfile(
    depth=100,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
IMAGE, POSE, COMMAND, STATE, INSTRUCTION = (
    'image',
    'pose',
    'gripper_command',
    'gripper_state',
    'instruction',
)


@dataclass(frozen=True)
class _Topic:
    """A plain subscription; the newest of a ``kept`` one begins every episode."""

    role: str
    name: str
    kind: type
    kept: bool = False
    latched: bool = False


_TOPICS = (
    _Topic('camera_info', 'camera/camera_info', CameraInfo, kept=True),
    _Topic(COMMAND, 'controller_node/gripper_cmd', Float64, kept=True),
    _Topic(STATE, 'gripper_state', Float64, kept=True),
    _Topic('joint_states', 'joint_states', JointState),
    _Topic('twist_command', 'controller_node/twist_cmd', TwistStamped),
    _Topic('policy_action', 'policy_node/action', PolicyAction),
    _Topic('safety_status', 'controller_node/status', SafetyStatus, kept=True, latched=True),
)


@dataclass(eq=False)
class Tap:
    """One topic that is recorded.

    Attributes:
        role: What it holds.
        bag: The topic as the bag names it.
        kind: Message class.
        kept: Serialized messages that hold until a newer one comes.
        arrivals: When messages came.
        newest: The last one.
    """

    role: str
    bag: BagTopic
    kind: type
    kept: list[bytes] = field(default_factory=list)
    arrivals: Arrivals = field(default_factory=Arrivals)
    newest: bytes | None = None

    def message(self) -> Any:
        """Return the newest message; None before the first."""
        return None if self.newest is None else deserialize_message(self.newest, self.kind)


class RecordedTopics:
    """The subscriptions of a recorder.

    Attributes:
        taps: By role.
        instruction: The newest one heard; empty for none, or for a stop.
    """

    def __init__(
        self,
        node: Node,
        profile: RobotProfile,
        *,
        transport: str,
        reliability: str,
        on_message: Callable[[Tap, bytes], None],
        on_instruction: Callable[[str], None],
    ) -> None:
        """Subscribe.

        Args:
            node: Owner of the subscriptions.
            profile: The robot's; says where its pose comes from.
            transport: 'raw' or 'compressed'.
            reliability: As for ImageSubscription.
            on_message: Called with every message.
            on_instruction: Called with every instruction.

        Raises:
            ConfigError: the profile has no pose, or has it from TF and TF is not installed.
        """
        self._node, self._profile, self._on_message = node, profile, on_message
        self._on_text = on_instruction
        self.taps: dict[str, Tap] = {}
        self.instruction = ''
        for topic in _TOPICS:
            self._subscribe(topic)
        self._listen_to_pose()
        kind = CompressedImage if transport == 'compressed' else Image
        self._camera = ImageSubscription(
            node,
            transport=transport,
            reliability=reliability,
            on_image=lambda data: self._take(self.taps[IMAGE], False, data),
            depth=_IMAGES_WAITING,
            raw=True,
        )
        self._tap(IMAGE, self._camera.topic, kind)
        texts = InstructionSubscriptions(node, self._on_instruction)
        self._tap(INSTRUCTION, texts.topic, String)

    def observed(self, now_s: float, free_bytes: int) -> Observed:
        """Return what arrives.

        Args:
            now_s: Steady time [s].
            free_bytes: What the disk takes.
        """
        image, where = self.taps[IMAGE], self.taps[self._pose_role]
        opening = self.taps[COMMAND].message() or self.taps[STATE].message()
        names = [self.taps[role].bag.name for role in (COMMAND, STATE)]
        return Observed(
            image=image.bag.name,
            image_age_s=image.arrivals.age_s(now_s),
            image_rate_hz=image.arrivals.rate_hz(now_s),
            image_fault=_image_fault(image.message()),
            pose=where.bag.name,
            pose_age_s=self._pose_arrivals.age_s(now_s),
            pose_fault=self._pose_fault(),
            gripper=' and '.join(names),
            opening=None if opening is None else float(opening.data),
            free_bytes=free_bytes,
        )

    def _listen_to_pose(self) -> None:
        source = self._profile.pose.source
        self._tf: TfPose | None = None
        if source == 'topic':
            self._pose_role = POSE
            self._subscribe(_Topic(POSE, 'ee_pose', PoseStamped))
            self._pose_arrivals = self.taps[POSE].arrivals
            return
        if source != 'tf':
            raise ConfigError(
                f'pose.source of robot {self._profile.name!r} is {source!r}, expected topic or '
                'tf: an episode without the pose of the end effector cannot be learnt from'
            )
        self._tf = TfPose(self._node, self._profile.base_frame, self._profile.ee_frame)
        from tf2_msgs.msg import TFMessage

        self._subscribe(_Topic('tf', '/tf', TFMessage))
        self._subscribe(_Topic('tf_static', '/tf_static', TFMessage, kept=True, latched=True))
        self._pose_role, self._pose_arrivals = 'tf', Arrivals()
        self._timer = self._node.create_timer(_TF_PERIOD_S, self._look_at_tf)

    def _look_at_tf(self) -> None:
        if self._tf is not None and self._tf.newest() is not None:
            self._pose_arrivals.note(time.monotonic())

    def _pose_fault(self) -> str:
        if self._tf is not None:
            return self._tf.failure
        message = self.taps[POSE].message()
        expected = self._profile.base_frame
        if message is None or message.header.frame_id == expected:
            return ''
        return (
            f'the frame is {message.header.frame_id[:80]!r}, expected {expected!r} as the profile '
            f'of robot {self._profile.name!r} says'
        )

    def _subscribe(self, topic: _Topic) -> None:
        name = self._node.resolve_topic_name(topic.name)
        tap = self._tap(topic.role, name, topic.kind, latched=topic.latched)
        self._node.create_subscription(
            topic.kind,
            topic.name,
            functools.partial(self._take, tap, topic.kept),
            _LATCHED if topic.latched else _ANY,
            raw=True,
        )

    def _tap(self, role: str, name: str, kind: type, *, latched: bool = False) -> Tap:
        package = kind.__module__.partition('.')[0]
        bag = BagTopic(name, f'{package}/msg/{kind.__name__}', latched)
        self.taps[role] = Tap(role, bag, kind)
        return self.taps[role]

    def _take(self, tap: Tap, kept: bool, data: bytes) -> None:
        tap.arrivals.note(time.monotonic())
        tap.newest = data
        if kept and tap.role == 'tf_static':  # every publisher has its own transforms
            tap.kept = [*(old for old in tap.kept if old != data), data][-_KEPT_STATIC:]
        elif kept:
            tap.kept = [data]
        self._on_message(tap, data)

    def _on_instruction(self, text: str) -> None:
        self.instruction = text
        self._on_text(text)


def serialized_text(text: str) -> bytes:
    """Return a String message as it is stored."""
    return bytes(serialize_message(String(data=text)))


def _image_fault(message: Any) -> str:
    if message is None:
        return ''
    if isinstance(message, CompressedImage):
        refusal = compressed_refusal(num_bytes=len(message.data), image_format=message.format)
        try:
            if refusal is None:
                decode_compressed(message.data)
        except ImageRefused as refused:
            refusal = refused.refusal
    else:
        refusal = layout_refusal(
            width=message.width,
            height=message.height,
            step=message.step,
            num_bytes=len(message.data),
            encoding=message.encoding,
        )
    return '' if refusal is None else refusal.sentence
