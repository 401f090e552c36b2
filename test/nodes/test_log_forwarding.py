import logging

import pytest

from openvla_ros.nodes.log_forwarding import forward_log, stop_forwarding


class Logger:
    """Keeps what an rclpy logger would write."""

    def __init__(self):
        self.lines = []

    def info(self, text):
        self.lines.append(('info', text))

    def warning(self, text):
        self.lines.append(('warning', text))

    def error(self, text):
        self.lines.append(('error', text))


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    yield
    stop_forwarding()


def test_records_of_the_package_reach_the_node_with_their_severity_in_one_line():
    logger = Logger()
    forward_log(logger)
    log = logging.getLogger('openvla_ros.model')
    log.warning('no graphs: %s', 'memory\nran out')
    log.error('broken')
    logging.getLogger('httpx').warning('somebody else')
    assert logger.lines == [('warning', 'no graphs: memory ran out'), ('error', 'broken')]


def test_only_the_newest_node_gets_them_and_none_after_the_end():
    first, second = Logger(), Logger()
    forward_log(first)
    forward_log(second)
    log = logging.getLogger('openvla_ros.model')
    log.warning('x')
    stop_forwarding()
    log.warning('y')
    assert (first.lines, second.lines) == ([], [('warning', 'x')])
