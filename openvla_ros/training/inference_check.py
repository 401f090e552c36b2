"""Training frames through the policy's own way from camera image to tokens.

A policy that does worse on the frames it was trained on than training says gets other images,
another prompt or other weights than training had; this finds out before a robot moves.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openvla_ros.action_space.action_tokens import NonActionTokenError
from openvla_ros.action_space.dataset_profile import PROFILE_FILE, DatasetProfile
from openvla_ros.core.strict_config import parse_file
from openvla_ros.data.data_set import DataSet
from openvla_ros.model.local_backend import LocalBackend
from openvla_ros.policy.policy import Policy

#: Most that the two accuracies may differ by.
_TOLERANCE = 0.01

Tokens = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class InferenceCheck:
    """Part of the tokens that is right on the same places, computed both ways.

    Attributes:
        policy: By the policy's way.
        training: By training's way.
        num_tokens: How many were compared.
        num_refused: Frames for which the policy wrote something that is no action.
    """

    policy: float
    training: float
    num_tokens: int
    num_refused: int

    @property
    def passed(self) -> bool:
        """Whether both agree within a point."""
        return abs(self.policy - self.training) <= _TOLERANCE

    def __str__(self) -> str:
        """One sentence."""
        verdict = 'agree within a point' if self.passed else (
            'DIFFER: the policy gets other images, prompts or weights than training had'
        )  # fmt: skip
        refused = f'; {self.num_refused} frames gave no action' if self.num_refused else ''
        return (
            f'training frames: {100 * self.policy:.1f} % of {self.num_tokens} tokens right by the '
            f"policy's way, {100 * self.training:.1f} % by training's{refused}: they {verdict}"
        )


def check_inference(
    checkpoint: str | Path,
    folder: Path,
    data: DataSet,
    frames: Sequence[int],
    predicted: Tokens,
    wanted: Tokens,
    *,
    device: str,
) -> InferenceCheck:
    """Compare the policy with what training predicted.

    Args:
        checkpoint: The base where ``folder`` holds an adapter, else not used.
        folder: Adapter or checkpoint, with statistics and profile.
        data: Where the frames are.
        frames: Which.
        predicted: int64[N,D], of training's way, each token after the true ones before it.
        wanted: int64[N,D], the true tokens.
        device: Of the policy.
    """
    profile = parse_file(DatasetProfile, folder / PROFILE_FILE)
    adapter = folder if (folder / 'adapter_config.json').is_file() else None
    backend = LocalBackend.load(
        checkpoint if adapter else folder,
        profile.unnorm_key,
        adapter=adapter,
        device=device,
        allow_slow=True,
    )
    policy = Policy(backend, profile)
    right: list[NDArray[np.bool_]] = []
    right_in_training: list[NDArray[np.bool_]] = []
    refused = 0
    for row, index in enumerate(frames):
        frame = data.frame(index)
        try:
            tokens = policy.act(frame.image, frame.instruction).predicted.action_tokens
        except NonActionTokenError:
            refused += 1
            continue
        same = tokens == wanted[row]
        # After a wrong token the two have different texts before them and cannot be compared.
        upto = int(np.argmin(same)) + 1 if not same.all() else len(same)
        right.append(same[:upto])
        right_in_training.append((predicted[row] == wanted[row])[:upto])
    backend.close()
    if not right:
        return InferenceCheck(0.0, 1.0, 0, refused)
    ours, theirs = np.concatenate(right), np.concatenate(right_in_training)
    return InferenceCheck(float(ours.mean()), float(theirs.mean()), len(ours), refused)
