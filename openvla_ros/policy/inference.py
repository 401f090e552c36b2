"""What a policy node asks of the network, wherever it runs: image and sentence in, action out."""

import dataclasses
import gc
import sys
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from openvla_ros.action_space.normalization import ActionStats

GRAPH_MODES = ('auto', 'on', 'off')
"""Whether a network runs as CUDA graphs: 'auto' on a CUDA device if they give the plain path's
tokens, 'on' the same but other devices are refused, 'off' never."""


class BackendUnavailable(RuntimeError):  # noqa: N818  it says what is the case
    """No action now, perhaps later (a server that does not answer); nothing is broken here."""


@dataclasses.dataclass(frozen=True, eq=False)
class PredictedAction:
    """What a backend computed from one image and one instruction.

    Attributes:
        action: float64[D], un-normalised, in the units of the dataset.
        action_tokens: int64[D], one token per dimension, or None where the backend has none.
        stage_s: Wall time by stage [s], such as {'preprocess': ..., 'prefill': ...}.
        num_passes: Passes of the language model, or None if not known.
        min_margin: Smallest difference of the two largest logits, or None if not known.
        execution: How the network ran: 'CUDA graphs', or 'eager' with the reason if it was to be
            graphs; empty if not known.
    """

    action: NDArray[np.float64]
    action_tokens: NDArray[np.int64] | None = None
    stage_s: Mapping[str, float] = dataclasses.field(default_factory=dict)
    num_passes: int | None = None
    min_margin: float | None = None
    execution: str = ''


class InferenceBackend(Protocol):
    """Computes actions. Built and called by one thread, never by two at a time.

    Attributes:
        image_size: Side of the network's square input in pixels.
        norm_stats: Statistics by unnorm_key, or None where the backend does not tell them.
    """

    image_size: int
    norm_stats: Mapping[str, ActionStats] | None

    @property
    def description(self) -> str:
        """What computes, in one line: checkpoint, device and how it runs, or the server."""

    def warm_up(self) -> None:
        """Test itself and compute once, so that the next ``predict`` takes its usual time."""

    def predict(self, image: NDArray[np.uint8], instruction: str) -> PredictedAction:
        """Compute one action.

        Args:
            image: uint8[H, W, 3], RGB, after the recipe of the dataset profile.
            instruction: What the human wrote.

        Raises:
            ValueError: what the network wrote is not an action (NonActionTokenError, where it
                is known that a token was not one).
            BackendUnavailable: no action now, perhaps later.
            InstructionRefused: the instruction does not fit the network.
        """

    def model_input(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return uint8[h, w, 3]: the image as the network sees it, before normalisation."""

    def reset(self) -> None:
        """Forget what was kept from the last action; the instruction or the episode changed."""

    def close(self) -> None:
        """Free what is held; the backend is not used afterwards."""


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an exception means that memory ran out, of the host or of an accelerator.

    By name, because what is below the backends must not import torch.
    """
    kinds = type(error).__mro__
    return any(kind.__name__ in ('OutOfMemoryError', 'MemoryError') for kind in kinds)


def free_memory() -> None:
    """Give memory back to the system: Python's, and torch's cache if torch is in use."""
    gc.collect()
    torch = sys.modules.get('torch')
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
