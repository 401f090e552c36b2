"""The test every loaded model passes before it may move anything: does it look at its image?

A known failure of OpenVLA's original code on newer libraries is a model that runs, answers in
action tokens, and gives the same answer to a black image and a white one.
"""

import dataclasses
import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openvla_ros.model.openvla import OpenVLA
from openvla_ros.observation.image import preprocess_image
from openvla_ros.observation.prompt import build_prompt

_INSTRUCTION = 'pick up the block'
_LLAMA_BOS = 1
#: Below this share of the largest logit a difference is rounding, not sight.
_LEAST_DIFFERENCE = 1e-5


class SelfTestError(ValueError):
    """The model must not be used to move anything; the message says what it does wrong."""


@dataclasses.dataclass(frozen=True)
class SelfTestReport:
    """What the self-test saw.

    Attributes:
        differences: By pair of images, the largest difference of the logits after the prompt,
            relative to the largest logit.
        tokens: By image, the first token the model writes.
    """

    differences: dict[str, float]
    tokens: dict[str, int]

    def sentence(self) -> str:
        """Say in one line what was seen."""
        pairs = ', '.join(f'{pair} {value:.2g}' for pair, value in self.differences.items())
        return f'the image counts: relative difference of the logits {pairs}'


@torch.inference_mode()
def run_self_test(model: OpenVLA, num_tokens: int = 1) -> SelfTestReport:
    """Show the model a black, a white and a noise image with the same prompt.

    The decoder that drives the arm is asked too, not only the plain pass.

    Args:
        model: The network.
        num_tokens: How many tokens the decoder is asked for; an action's number asks the very
            passes that drive the arm, CUDA graphs included.

    Raises:
        SelfTestError: the logits are not finite, or two images give the same ones.
    """
    ids = probe_prompt(model)
    logits: dict[str, NDArray[np.float32]] = {}
    answers: dict[str, tuple[tuple[int, ...], tuple[float, ...]]] = {}
    for name, image in probe_images(model.image_spec.size).items():
        pixel_values = torch.from_numpy(preprocess_image(image, model.image_spec))
        embeds = model.embed(pixel_values[None], ids)
        logits[name] = (
            model.language_model(embeds, rows=slice(-1, None))[0, 0].float().cpu().numpy()
        )
        if not np.isfinite(logits[name]).all():
            raise SelfTestError(
                f'self-test: the logits for a {name} image are not finite; the weights are '
                'damaged or the precision is too low'
            )
        decoded = model.decode_embeds(embeds, num_tokens)
        answers[name] = (tuple(decoded.tokens.tolist()), tuple(decoded.margins.tolist()))
    differences = _differences(logits)
    for pair, difference in differences.items():
        if difference < _LEAST_DIFFERENCE:
            raise SelfTestError(
                f'self-test: {pair} images give the same logits (relative difference '
                f'{difference:.1g}, expected more than {_LEAST_DIFFERENCE:.0e}): the model '
                'ignores its image'
            )
    if len(set(answers.values())) == 1:
        tokens, margins = next(iter(answers.values()))
        raise SelfTestError(
            f'self-test: the decoder answers every image with token {tokens[0]} and margin '
            f'{margins[0]:g}: it ignores the image'
        )
    return SelfTestReport(differences, {name: found[0] for name, (found, _) in answers.items()})


def probe_images(size: int) -> dict[str, NDArray[np.uint8]]:
    """A black, a white and a noise image, uint8[size, size, 3]."""
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return {
        'black': np.zeros((size, size, 3), np.uint8),
        'white': np.full((size, size, 3), 255, np.uint8),
        'noise': noise,
    }


def probe_prompt(model: OpenVLA) -> Tensor:
    """int64[1, T]: a short instruction in the model's prompt, or BOS without a tokenizer."""
    if model.tokenizer is None:
        return model.prompt_ids([_LLAMA_BOS])
    prompt = build_prompt(_INSTRUCTION, model.config.prompt_family)
    return model.prompt_ids(model.tokenizer(prompt))


def _differences(logits: dict[str, NDArray[np.float32]]) -> dict[str, float]:
    scale = max(float(np.abs(values).max()) for values in logits.values()) or 1.0
    return {
        f'{a} and {b}': float(np.abs(logits[a] - logits[b]).max()) / scale
        for a, b in itertools.combinations(logits, 2)
    }
