"""Memory a fine-tuning takes, computed before it starts.

Weights, gradients and Adam's moments are counted. What the backward pass keeps is measured on a
network of the same sizes on the meta device, which computes shapes and no values: every tensor
that autograd saves is counted once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from openvla_ros.model.llama import DecoderLayer, rotary_table
from openvla_ros.model.openvla import OpenVLA
from openvla_ros.model.precision import weight_bytes
from openvla_ros.model.quantization import quantization_scheme
from openvla_ros.model.vision import Block
from openvla_ros.training.fine_tuning import block_groups
from openvla_ros.training.new_adapter import blank_adapter, plain_shapes
from openvla_ros.training.strategies import Strategy, select_trained, trains

#: float32 weight, gradient and two moments of AdamW.
_BYTES_TRAINED = 16
#: Ids of a prompt and an action, generously.
_TEXT_IDS = 64
_ANSWER_IDS = 9
_MARGIN = 1.05
_CUDA_CONTEXT = 1.0e9


@dataclasses.dataclass(frozen=True)
class Plan:
    """What decides how much memory a fine-tuning takes.

    Attributes:
        strategy: What is trained.
        rank: Of the adapters.
        micro_batch: Examples of one pass.
        bfloat16: Frozen weights and passes in bfloat16 rather than float32.
        quantization: Scheme of the frozen weights, such as 'nf4', or None.
        recompute: Keep only the inputs of the transformers' blocks.
        device: 'cuda' or 'cpu'.
    """

    strategy: Strategy
    rank: int
    micro_batch: int
    bfloat16: bool
    quantization: str | None
    recompute: bool
    device: str


@dataclasses.dataclass(frozen=True)
class Need:
    """Bytes by what they are for."""

    frozen: int
    trained: int
    activations: int
    overhead: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.frozen + self.trained + self.activations + self.overhead

    def __str__(self) -> str:
        """Such as '24.1 GB (weights 15.1, trained 1.8, activations 5.3)'."""
        return (
            f'{self.total / 1e9:.2f} GB (frozen weights {self.frozen / 1e9:.2f}, trained with '
            f'gradients and moments {self.trained / 1e9:.2f}, activations '
            f'{self.activations / 1e9:.2f})'
        )


def training_memory(model: OpenVLA, plan: Plan) -> Need:
    """Compute what a plan takes.

    Args:
        model: Only its configuration is looked at; may be on the meta device.
        plan: What to do with it.
    """
    shapes = plain_shapes(model)
    itemsize = 2 if plan.bfloat16 else 4
    scheme = quantization_scheme(plan.quantization) if plan.quantization else None
    layers = model.config.text.num_hidden_layers
    trained_shapes = {n: s for n, s in shapes.items() if trains(plan.strategy, n, layers)}
    frozen = {name: shape for name, shape in shapes.items() if name not in trained_shapes}
    count = sum(math.prod(shape) for shape in trained_shapes.values())
    if plan.strategy == 'lora':
        adapter = blank_adapter(model, plan.rank)
        count = sum(low.A.numel() + low.B.numel() for low in adapter.layers.values())
    # Autocast keeps a copy of the trained weights in its own format.
    per_weight = _BYTES_TRAINED + (2 if plan.bfloat16 else 0)
    weights, activations = weight_bytes(frozen, itemsize, scheme), saved_bytes(model, plan)
    context = _CUDA_CONTEXT if plan.device == 'cuda' else 0.0
    margin = (_MARGIN - 1.0) * (weights + per_weight * count + activations)
    return Need(weights, per_weight * count, activations, round(margin + context))


def saved_bytes(model: OpenVLA, plan: Plan) -> int:
    """Bytes that autograd keeps for the backward pass of one micro-batch."""
    meta = _meta(model, plan)
    if plan.strategy == 'lora':
        blank_adapter(meta, plan.rank).attach(meta, meta.dtype, 'meta')
    select_trained(meta, plan.strategy)
    for parameter in meta.parameters():  # as autocast computes
        parameter.data = parameter.data.to(torch.bfloat16 if plan.bfloat16 else torch.float32)
    weights = {parameter.untyped_storage()._cdata for parameter in meta.parameters()}
    rows = plan.micro_batch * _ANSWER_IDS
    total = _saved_by(lambda: _whole_pass(meta, plan.micro_batch, rows), weights)
    if not plan.recompute:
        return total
    largest = 0
    for number, group in enumerate(block_groups(meta)):
        if number and not any(p.requires_grad for p in group[0].parameters()):
            continue  # nothing is learnt in or before the towers: they keep nothing
        x, arguments = _block_input(meta, group[0], plan.micro_batch)
        one = _saved_by(partial(group[0], x, *arguments), weights)
        # Every block leaves its input; of one at a time the rest is computed again.
        total += len(group) * (x.nbytes - one)
        largest = max(largest, one)
    return total + largest


def _block_input(meta: OpenVLA, block: nn.Module, batch: int) -> tuple[Tensor, tuple[Any, ...]]:
    """What a block gets: its rows, and whatever else its forward takes."""
    dtype = meta.dtype
    if isinstance(block, DecoderLayer):
        embeds = _embeds(meta, batch)
        x = embeds.detach().reshape(-1, embeds.shape[-1]).requires_grad_()
        return x, (batch, _table(embeds, meta), None, embeds.shape[1])
    assert isinstance(block, Block)
    rows = meta.config.num_patches + 5  # class and register tokens
    x = torch.zeros(batch, rows, len(block.norm1.weight), dtype=dtype, device='meta')
    return x.requires_grad_(), ()


def _whole_pass(meta: OpenVLA, batch: int, rows: int) -> Tensor:
    lm, embeds = meta.language_model, _embeds(meta, batch)
    table = _table(embeds, meta)
    x = lm._layers(embeds, table, None, embeds.shape[1])[:rows]
    logits = lm._head(x).float()
    targets = torch.zeros(rows, dtype=torch.int64, device='meta')
    return torch.nn.functional.cross_entropy(logits, targets)


def _table(embeds: Tensor, meta: OpenVLA) -> Tensor:
    text = meta.config.text
    table = rotary_table(text, embeds.shape[1], embeds.device, embeds.dtype)
    return table[:, :, None]


def _embeds(meta: OpenVLA, batch: int) -> Tensor:
    channels, size = meta.image_spec.channels, meta.image_spec.size
    pixels = torch.zeros(batch, channels, size, size, device='meta')
    ids = torch.zeros(batch, _TEXT_IDS, dtype=torch.int64, device='meta')
    return meta.embed(pixels, ids)


def _meta(model: OpenVLA, plan: Plan) -> OpenVLA:
    dtype = torch.bfloat16 if plan.bfloat16 else torch.float32
    return OpenVLA(model.config, model.preprocessor, dtype=dtype, device='meta')


def _saved_by(run: Callable[[], Any], weights: set[int]) -> int:
    """Bytes of the storages that a pass saves, those of the weights excepted."""
    kept: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage  # kept alive, so that no other takes its place
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(storage.nbytes() for storage in kept.values())
