"""A topic as a recording names it; apart from the writer, which needs rosbags."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BagTopic:
    """A topic of the bag.

    Attributes:
        name: Full name.
        kind: Message type, such as 'std_msgs/msg/String'.
        latched: Whether `ros2 bag play` should publish it so.
    """

    name: str
    kind: str
    latched: bool = False
