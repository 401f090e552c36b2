"""The gripper as a control_msgs/GripperCommand action, where control_msgs is installed."""

from rclpy.action import ActionClient
from rclpy.node import Node

from openvla_ros.core.robot_profile import GripperAction
from openvla_ros.core.strict_config import ConfigError


class GripperActionClient:
    """Sends a goal when the opening changes; a goal is not repeated once it was accepted."""

    def __init__(self, node: Node, settings: GripperAction) -> None:
        try:
            from control_msgs.action import GripperCommand
        except ImportError as error:
            raise ConfigError(
                f'gripper.action is set but control_msgs cannot be imported ({error}); install it '
                '(apt: ros-$ROS_DISTRO-control-msgs), or remove gripper.action from the robot '
                'profile and use ~/gripper_cmd'
            ) from error
        self._goal_type = GripperCommand.Goal
        self._settings = settings
        self._client = ActionClient(node, GripperCommand, settings.name)
        self._sent: float | None = None

    def send(self, opening: float) -> None:
        """Send the opening (0 closed .. 1 open) as a goal unless it is the one sent last."""
        if opening == self._sent or not self._client.server_is_ready():
            return
        goal = self._goal_type()
        goal.command.position = self._settings.position(opening)
        goal.command.max_effort = self._settings.max_effort
        self._client.send_goal_async(goal)
        self._sent = opening
