"""The instruction from publishers of both durabilities, merged in the order it was sent."""

import functools
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from std_msgs.msg import String

TOPIC = 'instruction'


class InstructionSubscriptions:
    """Two subscriptions to ``instruction``.

    A volatile one hears ``ros2 topic pub``, a transient_local one gets what a latched publisher
    sent before this node started; neither can do both. A latched publisher is heard by both, so
    what both bring counts once and a text older than the newest of its publisher is dropped.
    """

    def __init__(self, node: Node, on_text: Callable[[str], None]) -> None:
        """Subscribe; ``on_text`` is called on the executor's thread."""
        self._node = node
        self._on_text = on_text
        self._newest: dict[bytes, int] = {}
        self.topic = node.resolve_topic_name(TOPIC)
        for durability in (DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL):
            qos = QoSProfile(
                depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=durability
            )
            node.create_subscription(String, TOPIC, self._callback(), qos)

    def publisher_count(self) -> int:
        """Return how many publishers the graph knows (one that died counts for some time)."""
        return len(self._node.get_publishers_info_by_topic(self.topic))

    def _callback(self) -> Callable[..., None]:
        # rclpy before Jazzy gives no message info; then every arrival counts.
        if hasattr(Subscription, 'CallbackType'):
            return self._on_message
        return functools.partial(self._on_message_alone)

    def _on_message_alone(self, message: String) -> None:
        self._on_text(message.data)

    def _on_message(self, message: String, info: Any) -> None:
        if self._is_new(info):
            self._on_text(message.data)

    def _is_new(self, info: Any) -> bool:
        gid = info.get('publisher_gid') if isinstance(info, dict) else None
        source = bytes(gid['data']) if isinstance(gid, dict) and 'data' in gid else b''
        sent = int(info.get('source_timestamp', 0)) if isinstance(info, dict) else 0
        if not source or not sent:
            return True
        if sent <= self._newest.get(source, 0):
            return False
        if len(self._newest) > 256:
            self._newest.clear()
        self._newest[source] = sent
        return True
