"""The gripper as an action of control_msgs, where that is installed.

Everything is polled from the control loop: no call waits, and no callback runs between two ticks.
"""

from collections.abc import Callable
from typing import Any

from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient, get_action_names_and_types
from rclpy.node import Node

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.safety.gripper import CLOSED
from openvla_ros.safety.gripper_goals import GripperGoals
from openvla_ros.safety.robot_profile import GripperAction

_LOOK_PERIOD_S = 0.5


class GripperActionClient:
    """Sends a goal when the opening changes, and again when the server failed or restarted."""

    def __init__(self, node: Node, settings: GripperAction) -> None:
        """Create the client.

        Raises:
            ConfigError: control_msgs lacks the action, or its name is not one.
        """
        action_type = _import_action_type(settings.type)
        self._node = node
        self._settings = settings
        self._make_goal = _GOALS[settings.type]
        self._goal_type = action_type.Goal
        try:
            # The client of a wrong name would complain twice before it raises.
            self.server = node.resolve_topic_name(settings.name)
            self._client = ActionClient(node, action_type, settings.name)
        except Exception as error:  # rclpy has an exception for every way a name can be wrong
            raise ConfigError(
                f'gripper.action: name {settings.name!r} is not the name of an action: '
                f'{" ".join(str(error).split())}'
            ) from error
        self.goals = GripperGoals(f'{self.server!r} ({settings.type})')
        self._answer: Any = None
        self._result: Any = None
        self._opening = CLOSED
        self._look_due_s = 0.0

    def update(self, opening: float | None, now_s: float) -> None:
        """Look at the server and its answers, and send a goal if one is due; never waits.

        Args:
            opening: Wanted (0 closed .. 1 open); None sends nothing.
            now_s: Steady time [s].
        """
        try:
            if now_s >= self._look_due_s:
                self._look_due_s = now_s + _LOOK_PERIOD_S
                self._look_at_server(now_s)
            self._collect_answer(now_s)
            self._collect_result(now_s)
            if self.goals.check_deadline(now_s):
                self._drop_futures()
            if opening is not None and self.goals.is_due(opening, now_s):
                self._send(opening, now_s)
        except Exception as error:  # a gripper that fails must not stop the arm
            self._drop_futures()
            self.goals.failed_to_send(' '.join(str(error).split())[:120], now_s)

    def _look_at_server(self, now_s: float) -> None:
        available = self._client.server_is_ready()
        infos = self._node.get_publishers_info_by_topic(f'{self.server}/_action/feedback')
        identities = frozenset(bytes(info.endpoint_gid).hex() for info in infos)
        advice = '' if available else self._advice()
        if self.goals.see_server(available, identities, now_s, advice=advice):
            self._drop_futures()

    def _advice(self) -> str:
        wanted = f'control_msgs/action/{self._settings.type}'
        for name, types in get_action_names_and_types(self._node):
            others = [kind for kind in types if kind != wanted]
            if name == self.server and others:
                return (
                    f'{", ".join(others)} is offered under this name: correct gripper.action.type '
                    'in the robot profile'
                )
        return 'start it, or correct gripper.action in the robot profile'

    def _send(self, opening: float, now_s: float) -> None:
        goal = self._make_goal(self._goal_type(), self._settings, opening)
        self._answer = self._client.send_goal_async(goal)
        self._result = None
        self._opening = opening
        self.goals.sent(opening, now_s)

    def _collect_answer(self, now_s: float) -> None:
        if self._answer is None or not self._answer.done():
            return
        handle, self._answer = self._answer.result(), None
        if handle.accepted:
            self._result = handle.get_result_async()
            self.goals.accepted(now_s)
        else:
            self.goals.rejected(now_s)

    def _collect_result(self, now_s: float) -> None:
        if self._result is None or not self._result.done():
            return
        response, self._result = self._result.result(), None
        # ros2_control aborts a goal that an object between the fingers keeps from being reached.
        holds = self._opening == CLOSED and response.result.stalled
        if response.status == GoalStatus.STATUS_SUCCEEDED or holds:
            self.goals.succeeded()
        elif response.status == GoalStatus.STATUS_CANCELED:
            self.goals.canceled()
        else:
            self.goals.aborted(now_s)

    def _drop_futures(self) -> None:
        # Cancelled futures leave rclpy's tables; an answer of a server that is gone never would.
        for future in (self._answer, self._result):
            if future is not None:
                future.cancel()
        self._answer = self._result = None


def _import_action_type(name: str) -> Any:
    try:
        from control_msgs import action
    except ImportError as error:
        raise ConfigError(
            f'gripper.action is set but control_msgs cannot be imported ({error}); install it '
            '(apt: ros-$ROS_DISTRO-control-msgs), or remove gripper.action from the robot '
            'profile and use ~/gripper_cmd'
        ) from error
    if not hasattr(action, name):
        raise ConfigError(
            f'gripper.action: the installed control_msgs has no action {name}; update it (apt: '
            'ros-$ROS_DISTRO-control-msgs), or set another gripper.action.type'
        )
    return getattr(action, name)


def _gripper_command(goal: Any, settings: GripperAction, opening: float) -> Any:
    goal.command.position = settings.position(opening)
    goal.command.max_effort = settings.max_effort
    return goal


def _parallel_gripper_command(goal: Any, settings: GripperAction, opening: float) -> Any:
    goal.command.name = [settings.joint]
    goal.command.position = [settings.position(opening)]
    # An effort that is not there is the server's own.
    goal.command.effort = [settings.max_effort] if settings.max_effort else []
    return goal


_GOALS: dict[str, Callable[[Any, GripperAction, float], Any]] = {
    'GripperCommand': _gripper_command,
    'ParallelGripperCommand': _parallel_gripper_command,
}
