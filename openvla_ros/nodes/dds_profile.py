"""Which variable names the profile of Fast DDS, and whose profile it is.

Standard library only, for the launch files.
"""

import os
from pathlib import Path

FOR_IMAGES = 'fastdds_shm.xml'
_FAST_DDS_2 = ('humble', 'iron', 'jazzy')


def profile_variable() -> str:
    """Name of the variable that this ROS distribution's Fast DDS reads its profile from."""
    old = os.environ.get('ROS_DISTRO', '') in _FAST_DDS_2
    return 'FASTRTPS_DEFAULT_PROFILES_FILE' if old else 'FASTDDS_DEFAULT_PROFILES_FILE'


def profile_for_images(share: Path) -> tuple[str, str]:
    """The variable and what it should hold for processes that exchange images.

    Args:
        share: Folder that holds config/.

    Returns:
        What the user has set already, or this package's profile.
    """
    variable = profile_variable()
    return variable, os.environ.get(variable, str(share / 'config' / FOR_IMAGES))
