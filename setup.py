"""pip-installs the tiers without ROS, on a GPU server or a training machine.

On a robot colcon builds the package with its messages and nodes (CMakeLists.txt).
"""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def requirements(name: str) -> list[str]:
    """Return the requirements of one tier, as pinned for the tests."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    return [line.split('  #')[0] for line in lines if line and not line.startswith(('#', '-'))]


def shared_files() -> list[tuple[str, list[str]]]:
    """Return config/, checkpoints/ and msg/, for where core/resources.py finds them."""
    folders: dict[str, list[str]] = {}
    for top in ('config', 'checkpoints', 'msg'):
        for path in sorted((ROOT / top).rglob('*')):
            if path.is_file():
                relative = path.relative_to(ROOT)
                folders.setdefault(f'share/openvla_ros/{relative.parent}', []).append(
                    str(relative)
                )
    return list(folders.items())


setup(
    name='openvla_ros',
    version='0.1.0',
    description='Drives a robot arm with OpenVLA over ROS 2',
    license='Apache-2.0',
    python_requires='>=3.10,<3.15',
    packages=find_packages(
        include=['openvla_ros', 'openvla_ros.*'], exclude=['openvla_ros.nodes']
    ),
    data_files=shared_files(),
    # Not pinned: a robot's NumPy must stay the one its cv_bridge was built with.
    install_requires=['numpy>=1.21', 'scipy>=1.8', 'Pillow>=9.0', 'PyYAML>=5.4'],
    extras_require={
        name: requirements(name)
        for name in ('model', 'data', 'sim', 'serving', 'evaluation', 'test')
    },
)
