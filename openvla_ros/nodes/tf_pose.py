"""The end-effector pose from TF, where tf2_ros is installed."""

from typing import Any

from rclpy.node import Node
from rclpy.time import Time

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.nodes.conversions import pose_from_transform, seconds_from_time
from openvla_ros.safety.pose_tracker import Pose


class TfTree:
    """Looks transforms up as poses; it listens from the moment it is made."""

    def __init__(self, node: Node) -> None:
        """Listen to TF.

        Raises:
            ConfigError: tf2_ros is not installed.
        """
        try:
            import tf2_ros
        except ImportError as error:
            raise ConfigError(
                f"pose.source is 'tf' but tf2_ros cannot be imported ({error}); install it "
                '(apt: ros-$ROS_DISTRO-tf2-ros-py), or publish the pose on ee_pose and write '
                "source: topic in the robot's profile"
            ) from error
        self._failures = (tf2_ros.TransformException,)
        self._buffer = tf2_ros.Buffer(node=node)
        # The listener's callbacks run in the node's own executor, between two of its own.
        self._listener = tf2_ros.TransformListener(self._buffer, node, spin_thread=False)
        self.failure = ''

    def look_up(self, parent: str, child: str, stamp: Any = None) -> tuple[Pose, float] | None:
        """Return the pose of ``child`` in ``parent`` and its stamp [s, ROS time].

        Args:
            parent: A frame.
            child: Another one.
            stamp: builtin_interfaces/Time of the pose; None for the newest there is.

        Returns:
            None where TF does not have it; ``failure`` then says why, and is '' otherwise.
        """
        time = Time() if stamp is None else Time.from_msg(stamp)
        try:
            found = self._buffer.lookup_transform(parent, child, time)
        except self._failures as error:
            why = ' '.join(str(error).split())[:200]
            self.failure = f'TF does not have {child!r} in {parent!r}: {why}'
            return None
        self.failure = ''
        return pose_from_transform(found.transform), seconds_from_time(found.header.stamp)


class TfPose:
    """The end effector in the base frame, each transform once."""

    def __init__(self, node: Node, base_frame: str, ee_frame: str) -> None:
        self._tree = TfTree(node)
        self._frames = (base_frame, ee_frame)
        self._last_stamp_s = -1.0

    @property
    def failure(self) -> str:
        """Why the last look at TF gave nothing; '' if it gave something."""
        return self._tree.failure

    def newest(self) -> tuple[Pose, float] | None:
        """Return pose and stamp [s, ROS time] if a newer one than last time is there."""
        found = self._tree.look_up(*self._frames)
        if found is None or found[1] == self._last_stamp_s:
            return None
        self._last_stamp_s = found[1]
        return found
