"""Short forms of the long runs of release.py: fuzzed messages, and everything together."""

import warnings
from pathlib import Path

import pytest
from reliability.message_fuzz import fuzz_messages
from reliability.soak import soak

pytestmark = [pytest.mark.ros, pytest.mark.slow]


def test_thousands_of_fuzzed_messages_leave_both_nodes_alive_and_small(tmp_path: Path) -> None:
    """H8, H15, H20, H37, H60: actions, poses, images and instructions, mostly broken."""
    result = fuzz_messages(tmp_path, 4000)
    assert result.total == 4000
    assert result.met_armed >= 2


def test_the_whole_graph_runs_stops_and_goes_on(tmp_path: Path) -> None:
    """H60, H11: camera at 30 Hz, policy node, controller, robot; the long form is the soak."""
    result = soak(tmp_path, 12.0)
    assert result.instructions >= 2
    for problem in result.problems():
        if 'latched' in problem or 'missed' in problem:
            raise AssertionError(problem)
        warnings.warn(problem, stacklevel=1)
