"""What rclpy calls differently, or lacks, in the ROS distributions that are meant to work.

Jazzy and Kilted are tested; Humble was only read.
"""

from collections.abc import Callable
from typing import Any

from rclpy.subscription import Subscription

try:
    from rclpy.event_handler import (
        PublisherEventCallbacks,
        SubscriptionEventCallbacks,
        UnsupportedEventTypeError,
    )
except ImportError:  # Humble
    from rclpy.qos_event import (
        PublisherEventCallbacks,
        SubscriptionEventCallbacks,
        UnsupportedEventTypeError,
    )

__all__ = [
    'PublisherEventCallbacks',
    'SubscriptionEventCallbacks',
    'UnsupportedEventTypeError',
    'with_message_info',
]


def with_message_info(callback: Callable[[Any, Any], None]) -> Callable[..., None]:
    """Return ``callback(message, info)`` as this rclpy calls it; ``info`` is {} on Humble."""
    if hasattr(Subscription, 'CallbackType'):
        return callback
    return lambda message: callback(message, {})
