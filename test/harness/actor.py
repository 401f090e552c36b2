"""Base of the harness's own ROS processes: commands as JSON lines on stdin, answers on stdout.

A command ``{"id": 3, "do": "press"}`` calls the method ``do_press`` on the executor's thread, so
an actor needs no locks and a command needs no discovery.
"""

import contextlib
import json
import queue
import sys
import threading
import time
from typing import Any

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.timer import Timer

from openvla_ros.nodes.transport import keep_out_of_shared_memory

STEADY = Clock(clock_type=ClockType.STEADY_TIME)


class Actor(Node):
    """A node that does what its test says."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._requests: queue.Queue[dict[str, Any]] = queue.Queue()
        self._wake = self.create_guard_condition(self._serve)
        # Once in a great many commands the executor does not see the guard condition.
        self.every(0.05, self._serve)

    def do_ping(self) -> float:
        """Answer the steady time."""
        return time.monotonic()

    def every(self, period_s: float, callback: Any) -> Timer:
        """Call ``callback`` every ``period_s`` on the steady clock."""
        return self.create_timer(period_s, callback, clock=STEADY)

    def ros_now_s(self) -> float:
        """ROS time in seconds."""
        return self.get_clock().now().nanoseconds * 1e-9

    def listen(self) -> None:
        """Read commands until stdin closes (the test process is gone), then end the process."""
        for line in sys.stdin:
            self._requests.put(json.loads(line))
            self._wake.trigger()
        rclpy.try_shutdown()

    def _serve(self) -> None:
        while not self._requests.empty():
            request = self._requests.get()
            ident, name = request.pop('id'), request.pop('do')
            try:
                reply = {'id': ident, 'result': getattr(self, f'do_{name}')(**request)}
            except Exception as error:
                reply = {'id': ident, 'error': f'{type(error).__name__}: {error}'}
            print(json.dumps(reply), flush=True)


def run(make_actor: Any, *, shared_memory: bool = False) -> None:
    """Start ROS, build the actor and serve until the process is told to end.

    Args:
        make_actor: Builds it.
        shared_memory: It may use the shared memory of Fast DDS, in which a killed process holds
            up others; a driver, an e-stop and a clock should not.
    """
    if not shared_memory:
        keep_out_of_shared_memory()
    rclpy.init()
    actor = make_actor()
    executor = SingleThreadedExecutor()
    executor.add_node(actor)
    threading.Thread(target=actor.listen, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        executor.spin()


def split_stamp(t_s: float) -> tuple[int, int]:
    """Split seconds into sec and nanosec of builtin_interfaces/Time, within their ranges."""
    nanoseconds = round(t_s * 1e9)
    sec, nanosec = divmod(nanoseconds, 1_000_000_000)
    return min(max(sec, -(2**31)), 2**31 - 1), nanosec
