import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ('torch', 'transformers', 'bitsandbytes', 'peft', 'safetensors', 'huggingface_hub')


def _lint(folder: Path) -> subprocess.CompletedProcess[str]:
    # The console script of this very interpreter; the folder's own copy comes first.
    linter = Path(sys.executable).with_name('lint-imports')
    return subprocess.run(
        [str(linter), '--no-cache'],
        cwd=folder,
        env={**os.environ, 'PYTHONPATH': str(folder), 'COLUMNS': '200'},
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.fixture
def copied_tree(tmp_path):
    ignore = shutil.ignore_patterns('__pycache__')
    shutil.copytree(ROOT / 'openvla_ros', tmp_path / 'openvla_ros', ignore=ignore)
    shutil.copy(ROOT / '.importlinter', tmp_path)
    return tmp_path


def test_the_tree_keeps_its_contracts(copied_tree):
    checked = _lint(copied_tree)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(
    ('file', 'line', 'contract'),
    [
        ('safety/clamp.py', 'import torch', 'never reach torch'),
        ('safety/clamp.py', 'import openvla_ros.model', 'A room imports only rooms below it'),
        ('safety/clamp.py', 'import mujoco', 'core and safety know NumPy, SciPy and PyYAML only'),
        ('sim/arm.py', 'from geometry_msgs.msg import Twist', 'Only nodes imports ROS'),
        ('safety/clamp.py', 'import openvla_ros.observation', 'safety imports nothing but core'),
        ('safety/clamp.py', 'import openvla_ros.action_space', 'safety imports nothing but core'),
        ('sim/arm.py', 'import openvla_ros.policy', 'A room imports only rooms below it'),
        # Not even by way of another module, and not inside a function either.
        (
            'nodes/controller_node.py',
            'def late():\n    import openvla_ros.evaluation.planted',
            'never reach torch',
        ),
        ('serving/client.py', 'import fastapi', 'stay in their own rooms'),
    ],
)
def test_a_planted_violation_is_caught(copied_tree, file, line, contract):
    (copied_tree / 'openvla_ros' / 'evaluation' / 'planted.py').write_text('import torch\n')
    path = copied_tree / 'openvla_ros' / file
    path.write_text((path.read_text() if path.exists() else '') + f'\n\n{line}\n')
    checked = _lint(copied_tree)
    assert checked.returncode != 0
    broken = [row for row in checked.stdout.splitlines() if 'BROKEN' in row]
    assert any(contract in row for row in broken), checked.stdout


def test_a_room_nobody_listed_is_caught(copied_tree):
    (copied_tree / 'openvla_ros' / 'stray').mkdir()
    (copied_tree / 'openvla_ros' / 'stray' / '__init__.py').write_text('')
    checked = _lint(copied_tree)
    assert checked.returncode != 0
    assert 'stray' in checked.stdout


@pytest.mark.ros
@pytest.mark.parametrize(
    'node', ['controller_node', 'sim_node', 'marker_node', 'policy_node', 'recorder_node']
)
def test_importing_a_node_does_not_load_torch(node):
    code = (
        f'import sys, openvla_ros.nodes.{node}; '
        f'print([name for name in {HEAVY!r} if name in sys.modules])'
    )
    ran = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == '[]'
