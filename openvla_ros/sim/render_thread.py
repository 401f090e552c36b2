"""Renders in a thread of its own, so that a slow picture never delays the arm."""

import copy
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla_ros.sim import camera
from openvla_ros.sim.arm import EePose, SimArm

import mujoco  # isort: skip


@dataclass(frozen=True)
class Picture:
    """One rendered image and what is needed to publish it."""

    pixels: NDArray[np.uint8]
    intrinsics: camera.PinholeIntrinsics
    camera_pose: EePose
    tag: Any


class RenderThread:
    """One worker, one slot: a picture is refused while the one before it is not done."""

    def __init__(
        self,
        width: int,
        height: int,
        on_picture: Callable[[Picture], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        """Start the worker.

        Args:
            width: Image width in pixels.
            height: Image height in pixels.
            on_picture: Called in the worker's thread with every picture.
            on_error: Called in the worker's thread when rendering or ``on_picture`` failed.
        """
        self._size = (width, height)
        self._on_picture = on_picture
        self._on_error = on_error
        self._wake = threading.Condition()
        self._job: tuple[mujoco.MjModel, mujoco.MjData, Any] | None = None
        self._busy = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name='render', daemon=True)
        self._thread.start()

    def offer(self, arm: SimArm, tag: Any) -> bool:
        """Ask for a picture of the arm as it is now; False if the worker is still busy.

        Args:
            arm: Its state is copied before this returns.
            tag: Handed back with the picture, such as a time stamp.
        """
        with self._wake:
            if self._busy or self._closing:
                return False
            self._job = (arm.model, copy.copy(arm.data), tag)
            self._busy = True
            self._wake.notify()
        return True

    def close(self, timeout_s: float = 2.0) -> None:
        """End the worker and free its OpenGL context."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        current: camera.SceneCamera | None = None
        model: mujoco.MjModel | None = None
        while (job := self._next()) is not None:
            try:
                if current is None or job[0] is not model:
                    if current is not None:
                        current.close()
                    model, current = job[0], camera.SceneCamera(job[0], *self._size)
                self._deliver(current, *job)
            except Exception as error:
                self._on_error(error)
            with self._wake:
                self._busy = False
        if current is not None:
            current.close()
        camera.free_thread_contexts()

    def _next(self) -> tuple[mujoco.MjModel, mujoco.MjData, Any] | None:
        with self._wake:
            self._wake.wait_for(lambda: self._job is not None or self._closing)
            job, self._job = self._job, None
            return None if self._closing else job

    def _deliver(
        self, view: camera.SceneCamera, model: mujoco.MjModel, data: mujoco.MjData, tag: Any
    ) -> None:
        pose = EePose(*camera.optical_pose(data))
        intrinsics = camera.intrinsics(model, *self._size)
        self._on_picture(Picture(view.render(data), intrinsics, pose, tag))
