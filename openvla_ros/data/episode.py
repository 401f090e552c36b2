"""One demonstration as a data set holds it."""

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from openvla_ros.core.strict_config import ConfigError

#: An action below this in all of its six numbers of motion together is none (upstream's rule).
NO_OP_NORM = 1e-4


@dataclasses.dataclass(frozen=True, eq=False)
class Episode:
    """What was seen, where the arm was, and what it did, step by step.

    Attributes:
        images: N images as JPEG or PNG files.
        states: float32[N,7]: position [m], rotation vector [rad], gripper opening.
        actions: float32[N,7] in the units of the data set's profile.
        instruction: What the arm was asked to do.
    """

    images: Sequence[bytes]
    states: NDArray[np.float32]
    actions: NDArray[np.float32]
    instruction: str

    def __post_init__(self) -> None:
        """Refuse what could not be trained on.

        Raises:
            ConfigError: lengths differ, a number is not finite, or there is no sentence.
        """
        count = len(self.images)
        for name, values in (('states', self.states), ('actions', self.actions)):
            if values.shape != (count, 7) or not np.isfinite(values).all():
                raise ConfigError(
                    f'{name}: got {list(values.shape)}, expected {count} rows of 7 finite numbers'
                )
        if not count or not self.instruction.strip():
            raise ConfigError(
                f'an episode of {count} images with the instruction {self.instruction!r}, '
                'expected at least one image and a sentence'
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def no_ops(self) -> NDArray[np.bool_]:
        """bool[N]: where nothing was done."""
        return no_ops(self.actions, float(self.actions[0, 6]))


def no_ops(actions: NDArray[np.floating[Any]], gripper_before: float) -> NDArray[np.bool_]:
    """Say of every action whether it neither moves the arm nor changes the gripper.

    Args:
        actions: float[N,7].
        gripper_before: The dataset's number for the gripper before the first of them.
    """
    still = np.linalg.norm(actions[:, :6], axis=1) < NO_OP_NORM
    before = np.concatenate([[gripper_before], actions[:-1, 6]])
    return np.asarray(still & (actions[:, 6] == before))


def decode_image(content: bytes, where: str) -> NDArray[np.uint8]:
    """Return a stored image as uint8[H,W,3], RGB.

    Raises:
        ConfigError: it is damaged.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert('RGB'))
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(f'{where}: holds an image that cannot be read: {error}') from error


def encode_image(image: NDArray[np.uint8]) -> bytes:
    """Return uint8[H,W,3] as a JPEG of quality 95 with colors at full resolution."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(
        buffer, format='JPEG', quality=95, subsampling=0
    )
    return buffer.getvalue()
