"""The simulated camera: pixels, intrinsics and pose."""

import atexit
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla_ros.sim import offscreen, scene
from openvla_ros.sim.offscreen import NoOffscreenGlError

import mujoco  # isort: skip

MAX_SIDE_PX = 640


@dataclass(frozen=True)
class PinholeIntrinsics:
    """An ideal pinhole camera without distortion, in pixels."""

    width: int
    height: int
    focal_px: float
    centre_px: tuple[float, float]

    def matrix(self) -> NDArray[np.float64]:
        """Return K, float64[3,3]: pixel ~ K @ point in the optical frame."""
        cx, cy = self.centre_px
        return np.array([[self.focal_px, 0.0, cx], [0.0, self.focal_px, cy], [0.0, 0.0, 1.0]])


class _ContextPool(threading.local):
    """OpenGL contexts of one thread, used again: opening one takes 100 ms, a model's buffers 5.

    Each camera in use has one to itself: MuJoCo's buffers of two models in one context mix up.
    """

    def __init__(self) -> None:
        self._all: list[Any] = []
        self._unused: list[Any] = []
        self.generation = 0

    def take(self) -> Any:
        """Return a context that no other camera of this thread uses."""
        if self._unused:
            return self._unused.pop()
        if offscreen.GL == 'disable':
            raise NoOffscreenGlError(
                'there is no picture to be had: neither libEGL nor libOSMesa was found, or '
                f'MUJOCO_GL is disable; {offscreen.INSTALL_HINT}'
            )
        try:
            from mujoco.gl_context import GLContext

            gl = GLContext(MAX_SIDE_PX, MAX_SIDE_PX)
        except Exception as error:
            raise NoOffscreenGlError(
                f'MuJoCo cannot render offscreen with MUJOCO_GL={offscreen.GL} '
                f'({type(error).__name__}: {error}); {offscreen.INSTALL_HINT}'
            ) from error
        if not self._all:
            # mujoco's own exit handler, registered by the import above, closes the display:
            # this one has to run first, and handlers run last in, first out.
            atexit.register(self.free)
        self._all.append(gl)
        return gl

    def give_back(self, gl: Any) -> None:
        """Take a context back for the next camera."""
        self._unused.append(gl)

    def free(self) -> None:
        """Close all contexts of this thread."""
        self.generation += 1
        for gl in self._all:
            gl.free()
        self._all, self._unused = [], []


_POOL = _ContextPool()


def free_thread_contexts() -> None:
    """Close this thread's OpenGL contexts; a thread that rendered calls it before it ends."""
    _POOL.free()


class SceneCamera:
    """Renders the camera of one model, in the thread that made it (OpenGL binds it to that)."""

    def __init__(self, model: mujoco.MjModel, width: int, height: int) -> None:
        """Prepare the buffers.

        Args:
            model: From build_model.
            width: Image width in pixels, up to MAX_SIDE_PX.
            height: Image height in pixels, up to MAX_SIDE_PX.

        Raises:
            NoOffscreenGlError: there is no offscreen OpenGL; the message says what to install.
            ValueError: a size that cannot be rendered.
        """
        self._gl: Any = None
        if not (0 < width <= MAX_SIDE_PX and 0 < height <= MAX_SIDE_PX):
            raise ValueError(
                f'SceneCamera: got {width} x {height} pixels, expected 1 to {MAX_SIDE_PX} each'
            )
        self._gl = _POOL.take()
        self._made_in = (threading.get_ident(), _POOL.generation)
        self._gl.make_current()
        self._model = model
        self._scene = mujoco.MjvScene(model, maxgeom=200)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SKYBOX] = 0
        self._option = mujoco.MjvOption()
        self._view = mujoco.MjvCamera()
        self._view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._view.fixedcamid = model.camera(scene.CAMERA_NAME).id
        self._buffers = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._buffers)
        mujoco.mjr_resizeOffscreen(width, height, self._buffers)
        self._viewport = mujoco.MjrRect(0, 0, width, height)
        self._pixels = np.empty((height, width, 3), np.uint8)

    def render(self, data: mujoco.MjData) -> NDArray[np.uint8]:
        """Return what the camera sees, uint8[H,W,3] RGB."""
        self._gl.make_current()
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(
            self._model, data, self._option, None, self._view, everything, self._scene
        )
        mujoco.mjr_render(self._viewport, self._scene, self._buffers)
        mujoco.mjr_readPixels(self._pixels, None, self._viewport, self._buffers)
        return self._pixels[::-1].copy()

    def close(self) -> None:
        """Free the buffers; closing twice, or after the thread's contexts, does nothing."""
        if self._gl is not None and self._made_in == (threading.get_ident(), _POOL.generation):
            self._gl.make_current()
            self._buffers.free()
            _POOL.give_back(self._gl)
        self._gl = None

    def __del__(self) -> None:
        self.close()


def intrinsics(model: mujoco.MjModel, width: int, height: int) -> PinholeIntrinsics:
    """Return the intrinsics of the model's camera; pixel (0, 0) is the centre of the first one."""
    fov_rad = np.deg2rad(model.camera(scene.CAMERA_NAME).fovy[0])
    focal_px = float(height / 2 / np.tan(fov_rad / 2))
    return PinholeIntrinsics(width, height, focal_px, ((width - 1) / 2, (height - 1) / 2))


def optical_pose(data: mujoco.MjData) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return position [m] and quaternion xyzw of camera_optical_frame in the world (= base_link).

    The optical frame is REP-103's (x right, y down, z forward), MuJoCo's has y up and looks
    along -z: half a turn about x apart.
    """
    camera = data.camera(scene.CAMERA_NAME)
    rotation = np.array(camera.xmat).reshape(3, 3) @ np.diag([1.0, -1.0, -1.0])
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, rotation.reshape(9))
    return np.array(camera.xpos), np.roll(quaternion, -1)
