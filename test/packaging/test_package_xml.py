"""package.xml is what rosdep installs on a robot: every ROS package imported must be in it."""

import ast
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ElementTree.parse(ROOT / 'package.xml').getroot()
# Names of rosdep for what is imported under another.
ROSDEP = {
    'PIL': 'python3-pil',
    'numpy': 'python3-numpy',
    'scipy': 'python3-scipy',
    'yaml': 'python3-yaml',
}


def _imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split('.')[0])
    return found - set(sys.stdlib_module_names) - {'openvla_ros'}


def _declared(*kinds: str) -> set[str]:
    return {element.text for kind in kinds for element in PACKAGE.iter(kind)}


def test_whatever_nodes_and_launch_files_import_is_declared():
    paths = [*(ROOT / 'openvla_ros/nodes').glob('*.py'), *(ROOT / 'launch').glob('*.py')]
    imported = set().union(*map(_imported, paths))
    assert {'rclpy', 'launch', 'diagnostic_msgs'} <= imported  # the search finds something
    needed = {ROSDEP.get(name, name) for name in imported}
    assert needed - _declared('depend', 'exec_depend') == set()


def test_the_released_version_is_the_same_everywhere():
    version = PACKAGE.findtext('version')
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    assert project['version'] == version
    changelog = (ROOT / 'CHANGELOG.rst').read_text().splitlines()
    # Below what is forthcoming comes the version the package has.
    released = [line for line in changelog if line[:1].isdigit()]
    assert released[0].split()[0] == version
