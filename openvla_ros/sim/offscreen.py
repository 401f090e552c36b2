"""Which OpenGL MuJoCo renders with; imported before mujoco, whose choice is made at import."""

import ctypes.util
import os
from collections.abc import Callable, MutableMapping

INSTALL_HINT = 'on Debian or Ubuntu: apt install libegl1 libopengl0 libgl1-mesa-dri'
# PyOpenGL's EGL cannot do without desktop OpenGL, which it takes from the first of two libraries.
_LIBRARIES = {'egl': (('EGL',), ('OpenGL', 'GL')), 'osmesa': (('OSMesa',),)}


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

    def missing(backend: str) -> str:
        for names in _LIBRARIES.get(backend, ()):
            if not any(find_library(name) for name in names):
                return f'lib{names[0]}'
        return ''

    if not environment.get('MUJOCO_GL'):
        usable = (backend for backend in _LIBRARIES if not missing(backend))
        environment['MUJOCO_GL'] = next(usable, 'disable')
    chosen = environment['MUJOCO_GL']
    if library := missing(chosen.lower()):
        raise NoOffscreenGlError(
            f'MUJOCO_GL={chosen} needs {library}, which was not found; unset MUJOCO_GL or install '
            f'it; {INSTALL_HINT}'
        )
    return chosen


GL = select_gl(os.environ)
