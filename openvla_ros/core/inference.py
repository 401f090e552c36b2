"""What a policy node asks of the network, wherever it runs: one image and a sentence, one action."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from openvla_ros.core.normalization import ActionStats


class BackendUnavailable(RuntimeError):  # noqa: N818 - a state that passes, not an error of ours
    """No action this time; asking again later may work (a server that is away or busy)."""


@dataclass(frozen=True, eq=False)
class PredictedAction:
    """One action of the network.

    Attributes:
        action: float64[D], un-normalised, in dataset units.
        action_tokens: int64[D], as decoded; None when a server does not tell them.
        stage_s: Wall time by stage ('preprocess', 'vision', 'prefill', 'decode', 'request') [s].
        num_passes: Passes through the language model; None when not told.
        min_margin: Smallest distance of a token's logit to the next best; None when not told.
    """

    action: NDArray[np.float64]
    action_tokens: NDArray[np.int64] | None = None
    stage_s: Mapping[str, float] = field(default_factory=dict)
    num_passes: int | None = None
    min_margin: float | None = None


class InferenceBackend(Protocol):
    """The network in this process, or a server's.

    Attributes:
        description: What runs and where, for people.
        norm_stats: Statistics by unnorm_key; None when a server does not tell them.
    """

    description: str
    norm_stats: Mapping[str, ActionStats] | None

    def warm_up(self) -> None:
        """Get ready for :meth:`predict`; raises when that cannot be."""
        ...

    def predict(self, image: NDArray[np.uint8], instruction: str) -> PredictedAction:
        """Compute one action.

        Args:
            image: uint8[H, W, 3], RGB, after the dataset's image recipe.
            instruction: What the human wrote.

        Raises:
            NonActionTokenError: the network wrote something that is not an action.
            BackendUnavailable: no action this time.
        """
        ...

    def model_input(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the image as the network sees it, uint8[h, w, 3] (what was sent, for a server)."""
        ...

    def reset(self) -> None:
        """Forget what was carried over from the previous action (drafts)."""
        ...

    def close(self) -> None:
        """Free what is held."""
        ...
