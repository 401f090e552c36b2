"""What the tiers below ROS log (Python's ``logging``) as lines of a node's own log."""

import logging
from typing import Any

_ROOT = logging.getLogger('openvla_ros')


class NodeLogHandler(logging.Handler):
    """Hands records to a node's logger, which writes them to the console and to /rosout."""

    def __init__(self, logger: Any) -> None:
        """Forward to ``logger``, an ``rclpy`` logger."""
        super().__init__(logging.INFO)
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; rclpy allows a line of code one severity only."""
        text = ' '.join(record.getMessage().split())
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)


def forward_log(logger: Any) -> None:
    """Write this package's log records to ``logger`` from now on, instead of any node before."""
    stop_forwarding()
    _ROOT.addHandler(NodeLogHandler(logger))


def stop_forwarding() -> None:
    """Write them to no node any more."""
    for handler in [h for h in _ROOT.handlers if isinstance(h, NodeLogHandler)]:
        _ROOT.removeHandler(handler)
