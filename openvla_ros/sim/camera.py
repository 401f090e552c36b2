"""The simulated camera: pixels, intrinsics and pose."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openvla_ros.sim import offscreen, scene

import mujoco  # isort: skip


class NoOffscreenGlError(RuntimeError):
    """Nothing on this machine can render without a screen."""


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


class SceneCamera:
    """Renders one camera of one model; OpenGL binds it to the thread that made it."""

    def __init__(self, model: mujoco.MjModel, width: int, height: int) -> None:
        """Open an offscreen context.

        Raises:
            NoOffscreenGlError: there is no offscreen OpenGL; the message says what to install.
        """
        try:
            self._renderer = mujoco.Renderer(model, height=height, width=width)
        except Exception as error:
            raise NoOffscreenGlError(
                f'MuJoCo cannot render offscreen with MUJOCO_GL={offscreen.GL} '
                f'({type(error).__name__}: {error}); {offscreen.INSTALL_HINT}'
            ) from error
        self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SKYBOX] = 0

    def render(self, data: mujoco.MjData) -> NDArray[np.uint8]:
        """Return what the camera sees, uint8[H,W,3] RGB."""
        self._renderer.update_scene(data, camera=scene.CAMERA_NAME)
        return np.array(self._renderer.render())

    def close(self) -> None:
        """Free the OpenGL context."""
        self._renderer.close()


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
