"""Every node ends quietly at a signal that comes while it imports."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from openvla_ros import nodes

MODULES = sorted(path.stem for path in Path(nodes.__path__[0]).glob('*_node.py'))
# Stands for rclpy's long import: the signal comes in the middle of it.
SIGNAL_IN_IMPORT = """
import os, time
os.kill(os.getpid(), int(os.environ['SIGNAL_IN_IMPORT']))
time.sleep(20)
"""


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('module', MODULES)
def test_a_signal_during_the_imports_ends_a_node_without_a_word(module, number, tmp_path):
    (tmp_path / 'rclpy').mkdir()
    (tmp_path / 'rclpy' / '__init__.py').write_text(SIGNAL_IN_IMPORT)
    env = {
        **os.environ,
        'PYTHONPATH': f'{tmp_path}:{os.environ.get("PYTHONPATH", "")}',
        'SIGNAL_IN_IMPORT': str(int(number)),
    }
    argv = [sys.executable, '-m', f'openvla_ros.nodes.{module}']
    ended = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, '', '')
