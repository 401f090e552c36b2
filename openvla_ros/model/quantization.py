"""Quantising linear layers with bitsandbytes while their weights arrive.

A scheme has a name. Without a suffix it covers the linear layers of the language model's blocks;
with ``-all`` those of the vision towers and the projector too. Embedding, lm_head, norms and the
patch convolution keep the model's dtype in every scheme: the head decides between neighbouring
actions, and the rest is small.

What bitsandbytes would do by default and is not done here: outlier decomposition in int8
(threshold 6.0, a host synchronisation in every layer and 20 times as long on a GPU), FP4 with
float32 arithmetic for "4-bit", and a warning on every single call.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from openvla_ros.core.strict_config import ConfigError, did_you_mean
from openvla_ros.model.llama import MLP, Attention

_LANGUAGE_MODEL = ('language_model.model.layers.', 'model.layers.')
_REST = ('vision_backbone.', 'projector.')
_NF4_BLOCK = 64
#: bitsandbytes' AVX512 kernel asserts whole tiles of this many rows.
_CPU_TILE = 32


@dataclass(frozen=True)
class Scheme:
    """One way to quantise.

    Attributes:
        name: What a user writes.
        bits: 4 (NormalFloat, blocks of 64) or 8 (rows, LLM.int8 without outliers).
        double: The blocks' scales are quantised too.
        everywhere: Vision towers and projector are covered as well.
    """

    name: str
    bits: int
    double: bool = False
    everywhere: bool = False

    def covers(self, name: str) -> bool:
        """Whether the linear layer of this module name is quantised."""
        return name.startswith(_LANGUAGE_MODEL) or (self.everywhere and name.startswith(_REST))

    def weight_bytes(self, rows: int, columns: int) -> int:
        """Bytes that a quantised matrix and its scales take."""
        if self.bits == 8:
            return rows * columns + 4 * rows
        blocks = -(-rows * columns // _NF4_BLOCK)
        # float32 per block; doubled: a byte per block, and float32 per 256 of those.
        scales = blocks + 4 * -(-blocks // 256) if self.double else 4 * blocks
        return -(-rows * columns // 2) + scales


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme('int8', 8),
        Scheme('int8-all', 8, everywhere=True),
        Scheme('nf4', 4),
        Scheme('nf4-double', 4, double=True),
        Scheme('nf4-all', 4, everywhere=True),
        Scheme('nf4-double-all', 4, double=True, everywhere=True),
    )
}


def quantization_scheme(name: str) -> Scheme:
    """The scheme of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in SCHEMES:
        raise ConfigError(
            f'quantization: got {name!r}{did_you_mean(name, SCHEMES)}; expected one of '
            f'{", ".join(SCHEMES)}'
        )
    return SCHEMES[name]


@dataclass(frozen=True)
class QuantizationReport:
    """Bytes of a model's parameters before and after."""

    scheme: str
    layers: int
    before_bytes: int
    after_bytes: int

    def __str__(self) -> str:
        return (
            f'quantised {self.layers} matrices to {self.scheme}: '
            f'{self.before_bytes / 1e9:.3f} GB -> {self.after_bytes / 1e9:.3f} GB'
        )


class Quantizer:
    """Replaces linear layers by quantised ones, one weight at a time.

    q, k, v and gate, up of a decoder layer become one quantised product each, as soon as the last
    of them has arrived, unless ``join`` is false (for LoRA kept apart).

    Args:
        model: Built on the meta device or in memory; its layers are replaced.
        scheme: Which layers, and how.
        device: Where the quantised weights go.
        join: Join the products of a decoder layer.
    """

    def __init__(
        self,
        model: nn.Module,
        scheme: Scheme,
        device: torch.device | str = 'cpu',
        *,
        join: bool = True,
    ) -> None:
        self._model = model
        self._scheme = scheme
        self._device = torch.device(device)
        self._names = set(_covered(model, scheme))
        self._groups = dict(_groups(model)) if join else {}
        self._waiting: dict[str, Tensor] = {}
        self._count = 0
        self._before = sum(parameter.nbytes for parameter in model.parameters())
        _bitsandbytes()

    def place(self, name: str, weight: Tensor) -> bool:
        """Take a tensor of the checkpoint, if it is a weight to quantise.

        Args:
            name: Its name, such as 'language_model.model.layers.0.mlp.up_proj.weight'.
            weight: float[rows, columns].

        Returns:
            Whether it was taken.
        """
        module_name, _, leaf = name.rpartition('.')
        if leaf != 'weight' or module_name not in self._names:
            return False
        owner_name, _, part = module_name.rpartition('.')
        group = self._groups.get((owner_name, part))
        if group is None:
            owner = self._model.get_submodule(owner_name)
            bias = self._model.get_submodule(module_name).bias
            setattr(owner, part, self._quantised(weight, cast('nn.Parameter | None', bias)))
            return True
        self._waiting[module_name] = weight
        names = [f'{owner_name}.{sibling}' for sibling in group.parts]
        if all(sibling in self._waiting for sibling in names):
            whole = torch.cat([self._waiting.pop(sibling) for sibling in names])
            for sibling in group.parts:
                delattr(group.owner, sibling)
            setattr(group.owner, group.attribute, self._quantised(whole, None))
        return True

    def finish(self) -> QuantizationReport:
        """Check that every weight came; print and return the memory before and after.

        Raises:
            ValueError: weights of a joined product are missing.
        """
        if self._waiting:
            raise ValueError(
                f'Quantizer.finish: {sorted(self._waiting)[0]} arrived without the weights it is '
                'joined with; give every tensor of the checkpoint to place'
            )
        after = model_bytes(self._model)
        report = QuantizationReport(self._scheme.name, self._count, self._before, after)
        print(report, file=sys.stderr, flush=True)
        return report

    def _quantised(self, weight: Tensor, bias: nn.Parameter | None) -> nn.Module:
        self._count += 1
        make = _int8_linear if self._scheme.bits == 8 else _nf4_linear
        layer = make(weight.detach(), self._scheme, self._device)
        if bias is not None:
            layer.bias = bias
        return layer.eval()


def quantize(model: nn.Module, name: str, *, join: bool = True) -> QuantizationReport:
    """Quantise a model whose weights are in memory, in place, on the device they are on.

    Raises:
        ConfigError: there is no such scheme, or bitsandbytes is missing.
    """
    scheme = quantization_scheme(name)
    device = next(model.parameters()).device
    quantizer = Quantizer(model, scheme, device, join=join)
    for layer_name in _covered(model, scheme):
        weight = model.get_parameter(f'{layer_name}.weight')
        quantizer.place(f'{layer_name}.weight', weight.detach())
    return quantizer.finish()


def model_bytes(model: nn.Module) -> int:
    """Bytes of all parameters, buffers and quantisation scales."""
    total = sum(parameter.nbytes for parameter in model.parameters())
    total += sum(buffer.nbytes for buffer in model.buffers())
    for module in model.modules():
        total += sum(scales.nbytes for scales in _scales(module))
    return total


def _scales(module: Any) -> Iterator[Tensor]:
    """What bitsandbytes keeps beside the weight, in attributes that are not buffers."""
    weight = getattr(module, 'weight', None)
    state = getattr(weight, 'quant_state', None)
    if state is not None:
        yield state.absmax
        if state.nested:
            yield state.state2.absmax
    # Before the first pass an int8 weight holds its scales, afterwards the layer does.
    for holder in (weight, getattr(module, 'state', None)):
        scales = getattr(holder, 'SCB', None)
        if scales is not None:
            yield scales
            return


def int8_weight(layer: nn.Module) -> tuple[Tensor, Tensor] | None:
    """int8[out, in] on a CPU and its rows' scales float32[out], where a layer holds such."""
    weight = getattr(layer, 'weight', None)
    if not isinstance(weight, Tensor) or weight.dtype != torch.int8 or weight.device.type != 'cpu':
        return None
    return weight.detach(), next(_scales(layer))


@dataclass(frozen=True)
class _Group:
    """Linear layers of one module that run as one product."""

    owner: nn.Module
    attribute: str
    parts: tuple[str, ...]


def _groups(model: nn.Module) -> Iterator[tuple[tuple[str, str], _Group]]:
    for name, module in model.named_modules():
        if isinstance(module, Attention | MLP):
            group = _Group(module, *module.JOINED)
            yield from (((name, part), group) for part in group.parts)


def _covered(model: nn.Module, scheme: Scheme) -> list[str]:
    return [
        name
        for name, module in model.named_modules()
        if type(module) is nn.Linear and scheme.covers(name)
    ]


def _nf4_linear(weight: Tensor, scheme: Scheme, device: torch.device) -> nn.Module:
    bnb = _bitsandbytes()
    rows, columns = weight.shape
    layer = bnb.nn.Linear4bit(
        columns,
        rows,
        bias=False,
        compute_dtype=weight.dtype,
        compress_statistics=scheme.double,
        quant_type='nf4',
        device='meta',
    )
    layer.weight = bnb.nn.Params4bit(
        weight,
        requires_grad=False,
        compress_statistics=scheme.double,
        quant_type='nf4',
        module=layer,
    ).to(device)
    # Its AVX512 kernel asserts whole tiles and computes in bfloat16 whatever the model's dtype.
    whole_tiles = rows % _CPU_TILE == 0 and columns % _NF4_BLOCK == 0
    layer.support_avx512bf16_for_cpu &= whole_tiles and weight.dtype == torch.bfloat16
    return layer  # type: ignore[no-any-return]


def _int8_linear(weight: Tensor, scheme: Scheme, device: torch.device) -> nn.Module:
    bnb = _bitsandbytes()
    rows, columns = weight.shape
    layer = bnb.nn.Linear8bitLt(
        columns, rows, bias=False, has_fp16_weights=False, threshold=0.0, device='meta'
    )
    # Quantised on arrival only when it comes from the CPU.
    parameter = bnb.nn.Int8Params(weight.cpu(), requires_grad=False, has_fp16_weights=False)
    layer.weight = parameter.to(device)
    return layer  # type: ignore[no-any-return]


def _bitsandbytes() -> Any:
    # Before the import: it warns about optional CPU kernels, and int8 on every call.
    logging.getLogger('bitsandbytes').setLevel(logging.ERROR)
    try:
        import bitsandbytes
    except ImportError as error:
        raise ConfigError(
            f'quantization: needs bitsandbytes, which cannot be imported ({error}); install it or '
            'load the model without quantization'
        ) from error
    return bitsandbytes
