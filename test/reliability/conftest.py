"""Worlds shared by the cases of a module: starting processes costs more than most faults."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.world import World
from reliability.runner import start_main_world, start_sim_time_world


@pytest.fixture(scope='module')
def main_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Controller, robot, operator, policy; the arm moves before every case."""
    with start_main_world(Path(tmp_path_factory.mktemp('main'))) as world:
        yield world


@pytest.fixture(scope='module')
def sim_time_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The same on a fake /clock."""
    with start_sim_time_world(Path(tmp_path_factory.mktemp('sim_time'))) as world:
        yield world
