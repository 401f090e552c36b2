"""Builds test/interfaces with colcon: control_msgs is not among the ROS 2 wheels."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from harness.processes import TEST_FOLDER


def control_msgs_environment(folder: Path) -> dict[str, str]:
    """Return the variables with which a process finds control_msgs.

    Args:
        folder: Where it is built, if it is not installed (16 s on one core).
    """
    if importlib.util.find_spec('control_msgs') is not None:
        return {}
    done = subprocess.run(
        [
            *('colcon', '--log-level', 'error', '--log-base', str(folder / 'log'), 'build'),
            *('--base-paths', str(TEST_FOLDER / 'interfaces'), '--merge-install'),
            *('--build-base', str(folder / 'build'), '--install-base', str(folder / 'install')),
            *('--cmake-args', '-DBUILD_TESTING=OFF', f'-DPython3_EXECUTABLE={sys.executable}'),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, f'colcon could not build test/interfaces: {done.stderr[-2000:]}'
    prefix = folder / 'install'
    (modules,) = prefix.glob('lib/python*/site-packages')
    paths = {'AMENT_PREFIX_PATH': prefix, 'PYTHONPATH': modules, 'LD_LIBRARY_PATH': prefix / 'lib'}
    return {
        name: os.pathsep.join(filter(None, [str(path), os.environ.get(name, '')]))
        for name, path in paths.items()
    }
