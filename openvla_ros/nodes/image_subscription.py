"""The subscription to the camera: raw or compressed, with the reliability the camera offers."""

import time
from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from openvla_ros.core.status import Status
from openvla_ros.nodes.dds_profile import FOR_IMAGES, profile_variable
from openvla_ros.nodes.rclpy_compat import (
    SubscriptionEventCallbacks,
    UnsupportedEventTypeError,
)
from openvla_ros.observation.image_loss import WINDOW_S, ImageLoss

TOPIC = 'camera/image_raw'
_FOLLOW_PERIOD_S = 0.5
_SHOWN_PUBLISHERS = 4
# Measured: it is the sender's shared memory that an image must fit into.
_LOSS_ADVICE = (
    f"start the camera's driver with {profile_variable()} set to config/{FOR_IMAGES}, "
    'or let it publish smaller or compressed images'
)


class ImageSubscription:
    """Keeps one subscription that matches the publisher there is.

    A reliable subscription never gets anything from a best-effort camera, and a best-effort one
    loses most large images of a reliable camera, so ``auto`` looks who publishes and creates the
    subscription anew when that changes.
    """

    def __init__(
        self,
        node: Node,
        *,
        transport: str,
        reliability: str,
        on_image: Callable[[Any], None],
        depth: int = 1,
        raw: bool = False,
    ) -> None:
        """Subscribe.

        Args:
            node: Owner of the subscription.
            transport: 'raw' or 'compressed'.
            reliability: 'auto', 'reliable' or 'best_effort'.
            on_image: Called with every message, on the executor's thread.
            depth: How many images wait for the executor; older ones are dropped.
            raw: Give ``on_image`` the serialized message, as bytes.
        """
        self._node = node
        self._kind = CompressedImage if transport == 'compressed' else Image
        # image_transport's naming: what is remapped is the base name.
        base = node.resolve_topic_name(TOPIC)
        self._name = f'{base}/compressed' if transport == 'compressed' else base
        self._automatic = reliability == 'auto'
        self._on_image = on_image
        self._depth, self._raw = depth, raw
        self._reliable = reliability != 'best_effort'
        self.publishers: list[str] = []
        self.loss = ImageLoss()
        self._mismatch = False
        self._subscription = self._subscribe()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(_FOLLOW_PERIOD_S, self.follow_publisher, clock=steady)

    @property
    def topic(self) -> str:
        """Full name of the subscribed topic."""
        return str(self._subscription.topic_name)

    def explain(self, refusal: Status) -> Status:
        """Say more about a missing image, where the graph tells more."""
        if refusal.code not in ('NO_IMAGE', 'IMAGE_STALE') or not self.publishers:
            return refusal
        if self._mismatch:
            return Status(
                'QOS_MISMATCH',
                f'{self.topic}: the camera publishes best effort and image_reliability is '
                "reliable, so nothing arrives; set image_reliability to 'auto'",
            )
        losing = self.loss.losing or (refusal.code == 'NO_IMAGE' and not self._reliable)
        advice = f'large images are lost on the way; {_LOSS_ADVICE}'
        if refusal.code == 'NO_IMAGE':
            return Status(
                'NO_IMAGE',
                f'{self.topic}: {self.publishers[0]} publishes, but nothing arrives; '
                f'{advice if losing else "is it the right topic?"}',
            )
        if not losing:
            return refusal
        return Status('IMAGE_STALE', f'{self.topic}: {self.publishers[0]} publishes, but {advice}')

    def follow_publisher(self) -> None:
        """Look who publishes; subscribe anew if the reliability must change."""
        infos = self._node.get_publishers_info_by_topic(self.topic)
        names = sorted(f'{i.node_namespace.rstrip("/")}/{i.node_name}' for i in infos)
        offered = [info.qos_profile.reliability for info in infos]
        best_effort = ReliabilityPolicy.BEST_EFFORT in offered
        if names != self.publishers:
            self.publishers = names
            self._tell_publishers(best_effort)
        self._mismatch = best_effort and not self._automatic and self._reliable
        self._tell_loss()
        if self._automatic and infos and self._reliable == best_effort:
            self._reliable = not best_effort
            self._node.destroy_subscription(self._subscription)
            self._subscription = self._subscribe()

    def _subscribe(self) -> Any:
        qos = QoSProfile(
            depth=self._depth,
            reliability=(
                ReliabilityPolicy.RELIABLE if self._reliable else ReliabilityPolicy.BEST_EFFORT
            ),
            durability=DurabilityPolicy.VOLATILE,
        )
        # With a callback of our own rclpy does not log a warning that auto makes untrue at once.
        callbacks = {'incompatible_qos': lambda _: None, 'message_lost': self._on_lost}
        try:
            return self._create(qos, SubscriptionEventCallbacks(**callbacks))
        except UnsupportedEventTypeError:  # a middleware that does not count
            del callbacks['message_lost']
            return self._create(qos, SubscriptionEventCallbacks(**callbacks))

    def _create(self, qos: QoSProfile, events: SubscriptionEventCallbacks) -> Any:
        return self._node.create_subscription(
            self._kind, self._name, self._on_image, qos, event_callbacks=events, raw=self._raw
        )

    def _on_lost(self, info: Any) -> None:
        self.loss.note(info.total_count_change, time.monotonic())

    def _tell_loss(self) -> None:
        if not self.loss.judge(time.monotonic()):
            return
        log = self._node.get_logger()
        if self.loss.losing:
            log.warning(f'{self.topic}: images are lost on the way; {_LOSS_ADVICE}')
        else:
            log.info(f'{self.topic}: no image was lost for {WINDOW_S:g} s')

    def _tell_publishers(self, best_effort: bool) -> None:
        log = self._node.get_logger()
        if not self.publishers:
            log.info(f'{self.topic}: nobody publishes')
            return
        shown = ', '.join(self.publishers[:_SHOWN_PUBLISHERS])
        kind = 'best effort' if best_effort else 'reliable'
        log.info(f'{self.topic}: published by {shown} ({kind})')
        if len(self.publishers) > 1:
            log.warning(
                f'{self.topic}: {len(self.publishers)} publishers; two cameras on one topic show '
                'the model two scenes'
            )
