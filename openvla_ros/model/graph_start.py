"""CUDA graphs at the start: captured, compared with the plain path, used where both agree.

A GPU may never be the reason that nothing starts, nor that an arm moves otherwise than the
network says. So the graphs decode a few images beside the plain path before they may drive
anything, and whatever they raise or differ in is one warning, after which the plain path runs.

What may differ is the class L1 of the design: the passes are the same algorithm on other numbers
of rows. In float32 every token is equal; in 16 bits two tokens whose logits are as good as tied
(at most 2 units in the last place apart, both ways) may change places.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openvla_ros.core.strict_config import ConfigError, did_you_mean
from openvla_ros.model.cuda_graphs import Capture, GraphError, GraphPasses, GraphVision, one_line
from openvla_ros.model.decoding import Choices, EagerPasses, greedy_decode
from openvla_ros.model.self_test import probe_images, probe_prompt
from openvla_ros.observation.image import preprocess_image
from openvla_ros.observation.instruction import MAX_TOKENS
from openvla_ros.observation.prompt import build_prompt
from openvla_ros.policy.inference import GRAPH_MODES

if TYPE_CHECKING:
    from openvla_ros.model.openvla import OpenVLA

#: Rows of a prompt beside image and instruction, where no tokenizer tells.
_TEMPLATE_ROWS = 20
#: Margins, in units in the last place of a 16-bit logit, up to which two tokens count as tied.
_TIED_ULPS = 2.0


def graphs_wanted(mode: str, device: torch.device) -> bool:
    """Whether graphs are to be tried on a device.

    Raises:
        ConfigError: an unknown mode, or 'on' for a device that has none.
    """
    if mode not in GRAPH_MODES:
        raise ConfigError(
            f'cuda_graphs: got {mode!r}{did_you_mean(mode, GRAPH_MODES)}, expected one of '
            f'{", ".join(GRAPH_MODES)}'
        )
    if mode == 'on' and device.type != 'cuda':
        raise ConfigError(
            f"cuda_graphs: got 'on', but the network runs on {device}, which has none; set it to "
            "'auto' or 'off', or device to a CUDA device"
        )
    return mode != 'off' and device.type == 'cuda'


def start_graphs(model: OpenVLA, num_tokens: int, *, capture: Capture | None = None) -> bool:
    """Let ``model`` run its stages as graphs, if they work and agree with the plain path.

    Otherwise it warns once, the model stays eager, and ``model.execution`` says why.

    Args:
        model: Weights in place; they must not move any more.
        num_tokens: D, of every action.
        capture: As in ``GraphPasses``.

    Returns:
        Whether the graphs are used.
    """
    made = _graphs_that_agree(model, num_tokens, capture)
    if isinstance(made, str):
        model.leave_graphs(made)
        return False
    model.use_graphs(*made)
    return True


def _graphs_that_agree(
    model: OpenVLA, num_tokens: int, capture: Capture | None
) -> tuple[GraphPasses, GraphVision] | str:
    """The stages, or why they are not to be used; a failed attempt leaves nothing in memory."""
    try:
        passes = GraphPasses(
            model.language_model, num_tokens, _prompt_rows(model), capture=capture
        )
        vision = GraphVision(
            model.vision_backbone, model.projector, model.image_spec.size, capture=capture
        )
        difference = find_difference(model, passes, vision, num_tokens)
    except GraphError as error:
        return str(error)
    except Exception as error:  # whatever it is, the plain path needs none of it
        return f'they could not be compared: {one_line(error)}'
    return difference or (passes, vision)


def _prompt_rows(model: OpenVLA) -> tuple[int, int]:
    """Rows of an empty instruction's prompt and of the longest, image included."""
    rows = _TEMPLATE_ROWS
    if model.tokenizer is not None:
        template = model.tokenizer(build_prompt('', model.config.prompt_family))
        rows = model.prompt_ids(template).shape[1]
    shortest = model.config.num_patches + rows
    return shortest, shortest + MAX_TOKENS


@torch.inference_mode()
def find_difference(
    model: OpenVLA, passes: GraphPasses, vision: GraphVision, num_tokens: int
) -> str | None:
    """Decode a few images by the plain path and by the graphs, every one of them.

    Args:
        model: The network, whose own way of running is not asked.
        passes: Its passes as graphs.
        vision: Its vision part as a graph.
        num_tokens: D, what both were made for.

    Returns:
        The first difference that is more than rounding, in words, or None.
    """
    plain = EagerPasses(model.language_model)
    for ids in _probe_prompts(model, passes.buckets, num_tokens):
        for name, image in probe_images(model.image_spec.size).items():
            pixels = torch.from_numpy(preprocess_image(image, model.image_spec))[None]
            pixels = pixels.to(model.device, model.dtype)
            embeds = model.join(model.project(model.vision_features(pixels)), ids)
            wanted = greedy_decode(plain, embeds, num_tokens)
            ulps = _ulps(model, embeds, wanted.tokens)
            reference = np.stack([wanted.tokens.astype(float), wanted.margins])
            embeds = model.join(vision(pixels), ids)
            for stage, first, found in _answers(passes, embeds, wanted.tokens):
                end = first + found.shape[1]
                if not np.isfinite(found).all():
                    return f'for a {name} image {stage} gives logits that are not finite'
                position = _differs(reference[:, first:end], found, ulps[first:end])
                if position is not None:
                    return (
                        f'for a {name} image {stage} gives token {int(found[0, position])} at '
                        f'position {first + position} of the action, expected '
                        f'{int(reference[0, first + position])} as without graphs'
                    )
    return None


def _probe_prompts(model: OpenVLA, buckets: list[int], num_tokens: int) -> Iterator[Tensor]:
    """For every prefill graph the ids of a prompt that runs through it."""
    ids = probe_prompt(model)
    others = num_tokens + model.config.num_patches
    below = 0
    for bucket in buckets:
        length = min(max(ids.shape[1], below + 1 - others), bucket - others)
        yield ids.repeat(1, -(-length // ids.shape[1]))[:, :length]
        below = bucket


def _answers(
    passes: GraphPasses, embeds: Tensor, tokens: NDArray[np.int64]
) -> Iterator[tuple[str, int, Choices]]:
    """Choices of every graph behind the right tokens: stage, first position, float64[2, rows]."""
    N, D = embeds.shape[1], len(tokens)
    draft = [int(token) for token in tokens[: D - 1]]
    yield 'the prefill', 0, passes.prefill(embeds, (), D)
    yield 'the prefill with a draft', 0, passes.prefill(embeds, draft, D)
    for first in range(1, D):
        guess = draft[first - 1 :]
        yield f'the step of {len(guess)} rows', first, passes.advance(guess, N + first - 1)


def _ulps(model: OpenVLA, embeds: Tensor, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """The unit in the last place of each token's logit, float64[D]; 0 in float32."""
    if model.dtype == torch.float32:
        return np.zeros(len(tokens))
    draft = torch.as_tensor(tokens[None, :-1], device=embeds.device)
    rows = torch.cat([embeds, model.language_model.embed(draft).to(embeds.dtype)], 1)
    logits = model.language_model(rows, rows=slice(embeds.shape[1] - 1, None))[0]
    largest = logits.amax(-1).abs().double().cpu().numpy()
    exponent = np.floor(np.log2(np.maximum(largest, np.finfo(np.float64).tiny)))
    ulps: NDArray[np.float64] = torch.finfo(model.dtype).eps * 2.0**exponent
    return ulps


def _differs(wanted: Choices, found: Choices, ulps: NDArray[np.float64]) -> int | None:
    """Index of the first token that differs by more than a tie; all are behind the same tokens."""
    for i in range(found.shape[1]):
        tied = max(wanted[1, i], found[1, i]) <= _TIED_ULPS * ulps[i] and ulps[i] > 0.0
        if wanted[0, i] != found[0, i] and not tied:
            return i
    return None
