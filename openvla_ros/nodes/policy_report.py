"""What the policy says about itself: ``~/status``, ``/diagnostics`` and lines in the log."""

import contextlib
import re
import time
from collections.abc import Mapping

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import String

from openvla_ros.core.status import Status

READY = 'READY'
_LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
_QUIET_S = 5.0
_FLUSH_S = 0.2
_ERRORS = frozenset(
    [
        'INFERENCE_DIED',
        'INFERENCE_HUNG',
        'MODEL_FAULT',
        'MODEL_REFUSED',
        'NOT_INSTALLED',
        'OUT_OF_MEMORY',
        'QOS_MISMATCH',
        'STUCK',
        'TOO_SLOW',
    ]
)
_NO_TROUBLE = frozenset([READY, 'LOADING', 'WARMING_UP', 'NO_INSTRUCTION', 'ENDED'])


def without_figures(status: str) -> str:
    """Return a text of ``~/status`` without the rates that `PolicyReport.publish` adds."""
    return re.split(r'; \d+\.\d of \d', status, maxsplit=1)[0]


class PolicyReport:
    """Publishes a state when it changes and figures when asked."""

    def __init__(self, node: Node) -> None:
        """Create the publishers."""
        self._node = node
        self._head = ''
        self.code = ''  # of the state logged last
        self._instruction: str | None = None
        self._logged_s: dict[str, float] = {}
        self._statuses = node.create_publisher(String, '~/status', _LATCHED)
        self._instructions = node.create_publisher(String, '~/active_instruction', _LATCHED)
        self._diagnostics = node.create_publisher(
            DiagnosticArray, '/diagnostics', QoSProfile(depth=5)
        )

    def publish(self, state: Status, instruction: str, figures: str = '') -> None:
        """Publish the state on ``~/status`` as 'CODE: sentence', and the instruction.

        Args:
            state: READY, or why nothing is published.
            instruction: The active one.
            figures: Rates and counts to add; without them only a change is published.
        """
        if instruction != self._instruction:
            self._instruction = instruction
            self._instructions.publish(String(data=instruction))
        head = f'{state.code}: {state.sentence}'
        changed = head != self._head
        if state.code != self.code:
            self._log_state(state, head)
        self._head, self.code = head, state.code
        if changed or figures:
            self._statuses.publish(String(data=f'{head}; {figures}' if figures else head))

    def flush(self) -> None:
        """Wait a moment until those who listen to the status have it; then the node may end."""
        with contextlib.suppress(Exception):  # rclpy before Iron cannot wait
            self._statuses.wait_for_all_acked(Duration(seconds=_FLUSH_S))

    def publish_diagnostics(
        self, state: Status, hardware_id: str, values: Mapping[str, str]
    ) -> None:
        """Publish everything by name for robot monitors."""
        status = DiagnosticStatus(
            level=_level(state.code),
            name=f'{self._node.get_fully_qualified_name().lstrip("/")}: policy',
            message=f'{state.code}: {state.sentence}',
            hardware_id=hardware_id,
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def log_end(self, state: Status, exit_code: int) -> None:
        """Log what ends the node; publishing it logs it no second time."""
        self._node.get_logger().fatal(f'{state.code}: {state.sentence}; exit code {exit_code}')
        self.code = state.code

    def info(self, key: str, text: str) -> None:
        """Log a line, at most one per key in 5 s."""
        if self._may_log(key):
            self._node.get_logger().info(text)

    def warn(self, key: str, text: str) -> None:
        """Log a warning, at most one per key in 5 s."""
        if self._may_log(key):
            self._node.get_logger().warning(text)

    def _log_state(self, state: Status, head: str) -> None:
        if state.code in _ERRORS:
            self._node.get_logger().error(head)
        elif state.code in _NO_TROUBLE:
            self.info(f'state {state.code}', head)
        else:
            self.warn(f'state {state.code}', head)

    def _may_log(self, key: str) -> bool:
        now_s = time.monotonic()
        if now_s - self._logged_s.get(key, -_QUIET_S) < _QUIET_S:
            return False
        self._logged_s[key] = now_s
        return True


def _level(code: str) -> bytes:
    if code in _ERRORS:
        return DiagnosticStatus.ERROR
    return DiagnosticStatus.OK if code in _NO_TROUBLE else DiagnosticStatus.WARN
