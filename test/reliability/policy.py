"""The real policy node of the reliability runs: its own process, a backend that follows orders."""

import json
import os
from pathlib import Path

from harness.processes import TEST_FOLDER, Process
from harness.world import World
from reliability.robot import PYTHON

FAKE_BACKEND = TEST_FOLDER / 'nodes' / 'policy_with_fake_backend.py'
DATASET = 'openvla_ros_demo'  # base frame, rotation vectors, steps of 0.2 s


def start_policy(world: World) -> Process:
    """Start policy_node with the fake backend; ``order`` says what it predicts."""
    order(world, [0.0] * 6 + [1.0])
    options = ['-p', 'robot:=sim', '-p', f'unnorm_key:={DATASET}', '-p', 'allow_slow:=true']
    return world.processes.start(
        'policy',
        [PYTHON, str(FAKE_BACKEND), '--ros-args', *options],
        env={'FAKE_BACKEND': str(_orders(world))},
    )


def order(world: World, action: list[float]) -> None:
    """Let the backend predict this action (dataset units per step) from now on."""
    fresh = _orders(world).with_suffix('.new')
    fresh.write_text(json.dumps({'action': action}))
    os.replace(fresh, _orders(world))


def _orders(world: World) -> Path:
    return world.folder / 'backend.json'
