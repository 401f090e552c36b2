"""Every node says what it is when asked, before it starts ROS."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.ros


@pytest.mark.parametrize('node', ['controller_node', 'marker_node', 'policy_node', 'sim_node'])
def test_every_node_says_what_it_is_when_asked_for_help(node):
    done = subprocess.run(
        [sys.executable, '-m', f'openvla_ros.nodes.{node}', '--help'],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout.startswith(f'usage: {node} ')
    assert len(done.stdout.splitlines()) >= 3
    assert done.stderr == ''
