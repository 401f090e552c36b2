"""The instruction from publishers of both durabilities, merged in the order it was sent."""

import collections
import functools
import time
from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from std_msgs.msg import String

from openvla_ros.nodes.rclpy_compat import SubscriptionEventCallbacks

TOPIC = 'instruction'
_FOLLOW_PERIOD_S = 0.2
# As long as a subscription waits for what a latched publisher sent before.
_FETCH_S = 5.0
_REMEMBERED = 256


class InstructionSubscriptions:
    """A volatile subscription to ``instruction``, and a transient_local one while it is needed.

    The volatile one hears every publisher, but not what a latched one sent before this node
    started. That is fetched by a transient_local subscription, made when a latched publisher
    appears and destroyed again: as long as it is there, both ends warn of a plain
    ``ros2 topic pub``, whose QoS it does not match. What both bring counts once, and a text older
    than the newest of its publisher is dropped.
    """

    def __init__(self, node: Node, on_text: Callable[[str], None]) -> None:
        """Subscribe; ``on_text`` is called on the executor's thread."""
        self._node = node
        self._on_text = on_text
        self._newest: dict[bytes, int] = {}
        self._seen: collections.deque[int] = collections.deque(maxlen=_REMEMBERED)
        self.topic = node.resolve_topic_name(TOPIC)
        self._subscribe(DurabilityPolicy.VOLATILE, None)
        self._latched: Any = None
        self._latched_since_s = 0.0
        self._asked: set[bytes] = set()
        self._fetched: set[bytes] = set()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(_FOLLOW_PERIOD_S, self.follow_publishers, clock=steady)

    def publisher_count(self) -> int:
        """Return how many publishers the graph knows (one that died counts for some time)."""
        return len(self._node.get_publishers_info_by_topic(self.topic))

    def follow_publishers(self) -> None:
        """Look who publishes; fetch what a latched publisher that is new here sent before."""
        now_s = time.monotonic()
        latched = {
            bytes(info.endpoint_gid)
            for info in self._node.get_publishers_info_by_topic(self.topic)
            if info.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
        }
        self._fetched &= latched
        if self._latched is not None and now_s - self._latched_since_s > _FETCH_S:
            self._node.destroy_subscription(self._latched)
            self._latched = None
            self._fetched |= self._asked & latched
        if self._latched is None and latched - self._fetched:
            self._asked, self._latched_since_s = latched, now_s
            # It does not match plain publishers, which the other one hears: nothing to warn of.
            quiet = SubscriptionEventCallbacks(incompatible_qos=lambda _: None)
            self._latched = self._subscribe(DurabilityPolicy.TRANSIENT_LOCAL, quiet)

    def _subscribe(self, durability: DurabilityPolicy, events: Any) -> Any:
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=durability)
        return self._node.create_subscription(
            String, TOPIC, self._callback(), qos, event_callbacks=events
        )

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
        if not sent:
            return True
        if not source:  # Jazzy; two texts are not sent in the same nanosecond
            new = sent not in self._seen
            self._seen.append(sent)
            return new
        if sent <= self._newest.get(source, 0):
            return False
        if len(self._newest) > _REMEMBERED:
            self._newest.clear()
        self._newest[source] = sent
        return True
