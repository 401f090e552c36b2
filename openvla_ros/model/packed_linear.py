"""bfloat16 and int8 weights in the blocks in which a CPU's kernels multiply them, for inference.

From a plain matrix oneDNN gathers those blocks anew in every product: a pass of few rows then
reads weights at half the rate (``benchmarks/full_size_cpu.py`` has both). torch offers the blocks
to its compiler only; where its operators are missing, or a layer is not what they are for, the
layer stays as it is.

bfloat16 is of class L2 as a rule, since another kernel may add up in another order; on the CPU it
was measured on the products are bit-identical. int8 adds up integers, exactly as bitsandbytes
does; only that bitsandbytes rounds the activations to float16 first.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from openvla_ros.model.lora import AdaptedLayer
from openvla_ros.model.quantization import int8_weight

#: Narrower matrices stay in the CPU's caches and gain nothing.
_LEAST_WIDTH = 1024
#: Rows that the blocks are chosen for: a picture and a sentence. Passes of few rows do as well.
_ROWS = 292
#: Largest value of int8 in LLM.int8; activations are shifted by one more, to be unsigned.
_LARGEST = 127
_ZERO = 128


class PackedLinear(nn.Module):
    """A linear layer whose weights are in blocks; they can be multiplied with, not read."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Pack.

        Args:
            weight: bfloat16[out, in] on a CPU.
            bias: bfloat16[out], or None.
        """
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS)
        self._bias = None if bias is None else bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        result: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._weight, self._bias, 'none', [], ''
        )
        return result


class PackedInt8Linear(nn.Module):
    """LLM.int8 without outliers (Dettmers et al. 2022): rows of int8 on both sides.

    Each row of activations is scaled by its own largest value. It is handed over as uint8 around
    128: for signed ones oneDNN has only a reference kernel here, which takes minutes per product.
    """

    def __init__(self, weight: Tensor, scales: Tensor, bias: Tensor | None) -> None:
        """Pack.

        Args:
            weight: int8[out, in] on a CPU.
            scales: float32[out], the value that 127 stands for in each row.
            bias: [out], or None.
        """
        super().__init__()
        shape = [_ROWS, weight.shape[1]]
        self._weight = torch.ops.onednn.qlinear_prepack(weight.detach(), shape)
        self._scales = scales.detach().float() / _LARGEST
        self._zeros = torch.zeros(len(scales), dtype=torch.int32)
        self._bias = None if bias is None else bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out] in the same dtype; a row that is not finite stays so."""
        rows = x.reshape(-1, x.shape[-1]).float()
        largest = rows.abs().amax(-1, keepdim=True)
        # The least keeps a row of zeros from 0 / 0; NaN and infinity pass through the scale.
        steps = rows * (_LARGEST / largest.clamp_min(torch.finfo(torch.float32).tiny))
        source = (steps.round_().add_(_ZERO).to(torch.uint8), 1.0, _ZERO)
        weight = (self._weight, self._scales, self._zeros)
        result = (1.0, 0, torch.float32)
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            *source, *weight, None, *result, 'none', [], ''
        )
        out.mul_(largest / _LARGEST)
        if self._bias is not None:
            out.add_(self._bias)
        return out.to(x.dtype).view(*x.shape[:-1], -1)


@torch.no_grad()
def pack_weights(network: nn.Module) -> int:
    """Pack the large bfloat16 and int8 layers of a network on a CPU, in place, one by one.

    Takes the memory of one layer while it works and none afterwards. Call it last, after
    ``Llama.fuse``: packed layers cannot be saved, moved, adapted or quantised. Layers in four
    bits and those that carry an adapter stay as they are.

    Returns:
        How many matrices were packed.
    """
    return _pack_below(network, bf16=_packs_bf16(), int8=_packs_int8())


def _packs_int8() -> bool:
    """Whether products of unsigned and signed bytes are fast and exact here.

    Before VNNI, x86 adds pairs of such products in 16 bits, where large ones saturate.
    """
    operators = torch.ops.onednn
    needed = ('qlinear_prepack', 'qlinear_pointwise')
    return all(hasattr(operators, name) for name in needed) and bool(
        getattr(torch.cpu, '_is_vnni_supported', bool)()
    )


def _packs_bf16() -> bool:
    operators = torch.ops.mkldnn
    needed = ('_is_mkldnn_bf16_supported', '_reorder_linear_weight', '_linear_pointwise')
    return all(hasattr(operators, name) for name in needed) and bool(
        operators._is_mkldnn_bf16_supported()
    )


def _pack_below(owner: nn.Module, *, bf16: bool, int8: bool) -> int:
    count = 0
    for name, child in list(owner.named_children()):
        packed = _packed(child, bf16=bf16, int8=int8)
        if packed is not None:
            setattr(owner, name, packed)
            count += 1
        elif not isinstance(child, AdaptedLayer):
            count += _pack_below(child, bf16=bf16, int8=int8)
    return count


def _packed(layer: nn.Module, *, bf16: bool, int8: bool) -> nn.Module | None:
    if bf16 and type(layer) is nn.Linear and _is_large(layer.weight):
        return PackedLinear(layer.weight, layer.bias)
    quantised = int8_weight(layer) if int8 else None
    if quantised is None or min(quantised[0].shape) < _LEAST_WIDTH:
        return None
    return PackedInt8Linear(*quantised, cast('Tensor | None', layer.bias))


def _is_large(weight: Tensor) -> bool:
    on_cpu = weight.device.type == 'cpu'
    return on_cpu and weight.dtype == torch.bfloat16 and min(weight.shape) >= _LEAST_WIDTH
