"""The end-effector pose from TF, where tf2_ros is installed."""

from rclpy.node import Node
from rclpy.time import Time

from openvla_ros.core.pose_tracker import Pose
from openvla_ros.core.strict_config import ConfigError
from openvla_ros.nodes.conversions import pose_from_transform, seconds_from_time


class TfPose:
    """Looks up the newest transform from the base to the end effector."""

    def __init__(self, node: Node, base_frame: str, ee_frame: str) -> None:
        try:
            import tf2_ros
        except ImportError as error:
            raise ConfigError(
                f"pose.source is 'tf' but tf2_ros cannot be imported ({error}); install it "
                '(apt: ros-$ROS_DISTRO-tf2-ros-py), or publish the pose on ee_pose and write '
                "source: topic in the robot's profile"
            ) from error
        self._failures = (tf2_ros.TransformException,)
        self._frames = (base_frame, ee_frame)
        self._buffer = tf2_ros.Buffer(node=node)
        # The listener's callbacks run in the controller's own executor, between two ticks.
        self._listener = tf2_ros.TransformListener(self._buffer, node, spin_thread=False)
        self._last_stamp_s = -1.0

    def newest(self) -> tuple[Pose, float] | None:
        """Return pose and stamp [s, ROS time] if a newer one than last time is there."""
        try:
            found = self._buffer.lookup_transform(*self._frames, Time())
        except self._failures:
            return None
        stamp_s = seconds_from_time(found.header.stamp)
        if stamp_s == self._last_stamp_s:
            return None
        self._last_stamp_s = stamp_s
        return pose_from_transform(found.transform), stamp_s
