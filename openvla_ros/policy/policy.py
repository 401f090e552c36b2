"""The policy: an image and an instruction in, a displacement of the end effector out.

The node, the rollouts and the replay of recordings all go through ``Policy.act``.
"""

import dataclasses
import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from openvla_ros.action_space.dataset_profile import DatasetProfile, to_eef_delta
from openvla_ros.action_space.eef_delta import EefDelta
from openvla_ros.observation.image import apply_recipe
from openvla_ros.policy.inference import InferenceBackend, PredictedAction


@dataclasses.dataclass(frozen=True, eq=False)
class PolicyStep:
    """What the policy decided for one observation.

    Attributes:
        delta: The displacement, checked to be finite.
        predicted: What the backend computed.
        prepared: uint8[h, w, 3], the image after the recipe of the dataset, as the backend got it.
        stage_s: Wall time by stage [s]: 'recipe', 'inference' (all of the backend), then the
            backend's own stages as 'inference.<stage>'.
    """

    delta: EefDelta
    predicted: PredictedAction
    prepared: NDArray[np.uint8]
    stage_s: Mapping[str, float]


class Policy:
    """A backend with the conventions of the dataset it was trained on."""

    def __init__(self, backend: InferenceBackend, profile: DatasetProfile) -> None:
        """Join a backend and a profile."""
        self.backend = backend
        self.profile = profile

    def act(self, image: NDArray[np.uint8], instruction: str) -> PolicyStep:
        """Decide what to do.

        Args:
            image: uint8[H, W, 3], RGB, as the camera gave it.
            instruction: What the human wrote.

        Raises:
            ValueError: the image or the action has a wrong shape, or the action is not finite.
            NonActionTokenError: the network wrote something that is not an action.
            BackendUnavailable: no action now, perhaps later.
        """
        started_s = time.perf_counter()
        prepared = self.prepare(image)
        prepared_s = time.perf_counter()
        predicted = self.backend.predict(prepared, instruction)
        inferred_s = time.perf_counter()
        stages = {'recipe': prepared_s - started_s, 'inference': inferred_s - prepared_s}
        stages |= {f'inference.{name}': value for name, value in predicted.stage_s.items()}
        delta = to_eef_delta(predicted.action, self.profile)
        return PolicyStep(delta, predicted, prepared, stages)

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the image after the recipe of the dataset: what the backend gets."""
        return apply_recipe(image, self.profile.image, self.backend.image_size)

    def model_input(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return uint8[h, w, 3]: the camera's image as the network sees it."""
        return self.backend.model_input(self.prepare(image))
