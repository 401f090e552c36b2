"""`pip install .`: the wheel holds the modules without ROS, their types and their data."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = ('pyproject.toml', 'setup.py', 'setup.cfg', 'MANIFEST.in', 'README.md', 'LICENSE')
FOLDERS = ('openvla_ros', 'config', 'checkpoints', 'msg', 'requirements')


@pytest.fixture(scope='module')
def names(tmp_path_factory) -> set[str]:
    # A copy: setuptools leaves build/ and *.egg-info beside the sources.
    tree = tmp_path_factory.mktemp('tree')
    for file in FILES:
        shutil.copy(ROOT / file, tree)
    for folder in FOLDERS:
        ignore = shutil.ignore_patterns('__pycache__')
        shutil.copytree(ROOT / folder, tree / folder, ignore=ignore)
    command = ('-m', 'pip', 'wheel', '.', '--no-deps', '--no-build-isolation', '--no-index')
    ran = subprocess.run(
        [sys.executable, *command, '-w', 'out'],
        cwd=tree,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (wheel,) = (tree / 'out').glob('*.whl')
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_every_module_but_the_nodes_is_in_the_wheel(names):
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / 'openvla_ros').rglob('*.py')}
    assert {name for name in names if name.endswith('.py') and '.data/' not in name} == {
        module for module in modules if not module.startswith('openvla_ros/nodes/')
    }


def test_the_wheel_says_that_it_is_typed(names):
    assert 'openvla_ros/py.typed' in names


def test_every_profile_checkpoint_file_and_message_is_in_the_wheel(names):
    data = {name.split('/data/share/openvla_ros/')[1] for name in names if '/data/share/' in name}
    expected = {
        str(path.relative_to(ROOT))
        for top in ('config', 'checkpoints', 'msg')
        for path in (ROOT / top).rglob('*')
        if path.is_file()
    }
    assert data == expected
