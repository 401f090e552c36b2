"""Where the files that are not code live: config/, checkpoints/ and launch/ of this package."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path


def share_directory() -> Path:
    """Return the folder that holds config/: source tree, ament share folder or pip share folder.

    Raises:
        FileNotFoundError: none of the places holds it.
    """
    tried = list(_candidates())
    for folder in tried:
        if (folder / 'config' / 'datasets').is_dir():
            return folder
    raise FileNotFoundError(
        'the files of openvla_ros (config/datasets) were not found in '
        + ', '.join(str(folder) for folder in tried)
        + '; install the package with colcon or pip, or run from its source tree'
    )


def resource_path(relative: str) -> Path:
    """Return a file or folder below the share directory, such as 'config/robots/sim.yaml'.

    Raises:
        FileNotFoundError: it does not exist.
    """
    path = share_directory() / relative
    if not path.exists():
        raise FileNotFoundError(
            f'{path} does not exist; it belongs to the openvla_ros installation'
        )
    return path


def _candidates() -> Iterator[Path]:
    here = Path(__file__).absolute().parents[2]
    yield here
    for parent in here.parents:
        yield parent / 'share' / 'openvla_ros'
    for prefix in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep):
        if prefix:
            yield Path(prefix) / 'share' / 'openvla_ros'
    yield Path(sys.prefix) / 'share' / 'openvla_ros'
