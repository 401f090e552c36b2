"""A gripper's action server that does what its test says: accepts, rejects, aborts or stalls."""

import argparse
import time
from typing import Any

from control_msgs import action
from rclpy.action import ActionServer, GoalResponse

from harness.actor import Actor, run


class GripperServer(Actor):
    """Answers goals as told and remembers every one it was asked for."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__('gripper_server')
        self._kind = getattr(action, options.type)
        self._mode = options.mode
        self._name = options.name
        self._goals: list[dict[str, Any]] = []
        self.do_come_back()

    def do_mode(self, mode: str) -> float:
        """Treat goals so from now on: accept, reject, abort, or stall (abort as stalled)."""
        self._mode = mode
        return time.monotonic()

    def do_leave(self) -> float:
        """Take the action off the graph, as a driver that is deactivated does."""
        self._server.destroy()
        return time.monotonic()

    def do_come_back(self) -> float:
        """Offer the action."""
        self._server = ActionServer(
            self, self._kind, self._name, self._execute, goal_callback=self._judge
        )
        return time.monotonic()

    def do_goals(self) -> list[dict[str, Any]]:
        """Answer every goal asked for."""
        return self._goals

    def _judge(self, goal: Any) -> GoalResponse:
        command = goal.command
        if hasattr(command, 'max_effort'):
            content = {'position': command.position, 'effort': command.max_effort}
        else:
            content = {
                'joint': list(command.name),
                'position': list(command.position),
                'effort': list(command.effort),
            }
        self._goals.append({'t_s': time.monotonic(), **content})
        return GoalResponse.REJECT if self._mode == 'reject' else GoalResponse.ACCEPT

    def _execute(self, handle: Any) -> Any:
        result = self._kind.Result()
        if self._mode in ('abort', 'stall'):
            result.stalled = self._mode == 'stall'
            handle.abort()
        else:
            result.reached_goal = True
            handle.succeed()
        return result


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--type', default='GripperCommand')
    parser.add_argument('--name', default='/gripper_controller/gripper_cmd')
    parser.add_argument('--mode', default='accept')
    chosen = parser.parse_known_args()[0]
    run(lambda: GripperServer(chosen))
