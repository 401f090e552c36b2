"""Which OpenGL MuJoCo renders with; imported before mujoco, whose choice is made at import."""

import ctypes.util
import os
from collections.abc import Callable, MutableMapping

INSTALL_HINT = (
    'on Debian or Ubuntu: apt install libegl1 libgl1-mesa-dri (or libosmesa6, MUJOCO_GL=osmesa)'
)
_LIBRARIES = {'egl': 'EGL', 'osmesa': 'OSMesa'}


class NoOffscreenGlError(RuntimeError):
    """Nothing on this machine can render without a screen."""


def select_gl(
    environment: MutableMapping[str, str],
    find_library: Callable[[str], str | None] = ctypes.util.find_library,
) -> str:
    """Set MUJOCO_GL where it is unset: EGL, else OSMesa, else no rendering at all.

    mujoco fails to import when it is told to use a library that is not there, and opens a
    window system when it is told nothing; physics must work on a machine with neither.

    Returns:
        The value in force: 'egl', 'osmesa', 'disable', or what the user had set.

    Raises:
        NoOffscreenGlError: the user chose EGL or OSMesa and its library is not there.
    """
    if not environment.get('MUJOCO_GL'):
        if find_library('EGL'):
            choice = 'egl'
        elif find_library('OSMesa'):
            choice = 'osmesa'
        else:
            choice = 'disable'
        environment['MUJOCO_GL'] = choice
    library = _LIBRARIES.get(environment['MUJOCO_GL'].lower())
    if library and not find_library(library):
        raise NoOffscreenGlError(
            f'MUJOCO_GL={environment["MUJOCO_GL"]} needs lib{library}, which was not found; unset '
            f'MUJOCO_GL or install it; {INSTALL_HINT}'
        )
    return environment['MUJOCO_GL']


GL = select_gl(os.environ)
