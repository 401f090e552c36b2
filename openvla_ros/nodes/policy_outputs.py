"""What the policy publishes for others: the action, and mirrors that cost nothing unheard."""

import secrets

from builtin_interfaces.msg import Time
from geometry_msgs.msg import TwistStamped
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Float64

from openvla_ros.msg import PolicyAction
from openvla_ros.nodes.conversions import rgb_image_message, twist_stamped
from openvla_ros.nodes.policy_conversions import policy_action_message
from openvla_ros.policy.policy import Policy, PolicyStep

_NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)


class PolicyOutputs:
    """Publishers of ``~/action``, ``~/delta_twist``, ``~/gripper`` and ``~/model_input``."""

    def __init__(self, node: Node, *, frame_id: str, unnorm_key: str) -> None:
        """Create them.

        Args:
            node: Their owner.
            frame_id: The robot's name of the frame of the displacements.
            unnorm_key: The dataset.
        """
        self._clock = node.get_clock()
        self._frame_id = frame_id
        self._unnorm_key = unnorm_key
        # Random per start: the controller must not take a restarted policy for the armed one.
        self._source_id = secrets.token_hex(16)
        self.sequence = 0
        self._actions = node.create_publisher(PolicyAction, '~/action', _NEWEST)
        self._twists = node.create_publisher(TwistStamped, '~/delta_twist', _NEWEST)
        self._grippers = node.create_publisher(Float64, '~/gripper', _NEWEST)
        self._model_inputs = node.create_publisher(Image, '~/model_input', _NEWEST)

    def publish_action(self, step: PolicyStep, stamp: Time, instruction: str) -> None:
        """Publish an action and, for whoever listens, its twist and gripper.

        Args:
            step: What the policy decided.
            stamp: Stamp of the image; the mirrored twist is stamped with the time of publishing,
                because its consumers take the stamp for the age of the command.
            instruction: As the human wrote it.
        """
        self.sequence += 1
        self._actions.publish(
            policy_action_message(
                step,
                stamp=stamp,
                frame_id=self._frame_id,
                sequence=self.sequence,
                source_id=self._source_id,
                instruction=instruction,
                unnorm_key=self._unnorm_key,
            )
        )
        if self._twists.get_subscription_count():
            now = self._clock.now().to_msg()
            self._twists.publish(twist_stamped(step.delta.twist(), self._frame_id, now))
        if self._grippers.get_subscription_count():
            self._grippers.publish(Float64(data=float(step.delta.gripper)))

    def publish_model_input(
        self, policy: Policy, step: PolicyStep, stamp: Time, frame_id: str
    ) -> None:
        """Publish the picture the network saw, if anybody listens."""
        if self._model_inputs.get_subscription_count():
            pixels = policy.backend.model_input(step.prepared)
            self._model_inputs.publish(rgb_image_message(pixels, frame_id, stamp))
