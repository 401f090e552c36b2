"""Stands in for tf2_ros and tf2_msgs in tests where they are not installed.

One transform is one geometry_msgs/TransformStamped on /tf (TFMessage is not there either); a
look-up knows direct transforms only, and the newest one of each pair.
"""

from geometry_msgs.msg import TransformStamped


class TransformException(Exception):  # noqa: N818  (its name in tf2_ros)
    """A transform that is not there."""


class Buffer:
    """Keeps the newest transform from each parent to each child."""

    def __init__(self, node=None):
        self.transforms = {}

    def lookup_transform(self, target, source, time):
        """Return the newest transform; at a time after it there is none, as with tf2."""
        found = self.transforms.get((target, source))
        if found is None:
            raise TransformException(f'"{target}" passed to lookupTransform does not exist.')
        stamp = found.header.stamp
        if time.nanoseconds > 1_000_000_000 * stamp.sec + stamp.nanosec:
            raise TransformException('Lookup would require extrapolation into the future.')
        return found


class TransformListener:
    """Fills a buffer from /tf."""

    def __init__(self, buffer, node, *, spin_thread=False):
        def keep(message):
            buffer.transforms[message.header.frame_id, message.child_frame_id] = message

        node.create_subscription(TransformStamped, '/tf', keep, 100)
