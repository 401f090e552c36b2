"""Adds what pyproject.toml cannot say: whole folders of data, each file where its folder is."""

from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent


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


setup(data_files=shared_files())
