"""bfloat16 weights in the blocks in which a CPU's kernels multiply them, for inference.

From a plain matrix oneDNN gathers those blocks anew in every product: a pass of few rows then
reads weights at half the rate (``benchmarks/full_size_cpu.py`` has both). torch offers the blocks
to its compiler only, by operators with an underscore; where they are missing, or a layer is not
what they are for, the layer stays as it is.

Class L2 as a rule, since another kernel may add up in another order; on the CPU it was measured
on the products are bit-identical.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openvla_ros.model.llama import MLP, Attention
from openvla_ros.model.lora import AdaptedLayer
from openvla_ros.model.stacked_linear import StackedLinear

#: Narrower matrices stay in the CPU's caches and gain nothing.
_LEAST_WIDTH = 1024
#: Rows that the blocks are chosen for: a picture and a sentence. Passes of few rows do as well.
_ROWS = 292


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


@torch.no_grad()
def pack_weights(network: nn.Module) -> int:
    """Pack the large bfloat16 layers of a network on a CPU, in place, one after the other.

    Takes the memory of one layer while it works and none afterwards. Call it last, after
    ``Llama.fuse``: packed layers cannot be saved, moved, adapted or quantised. Layers that are
    quantised or carry an adapter stay as they are.

    Returns:
        How many matrices were packed.
    """
    return _pack_below(network) if _this_machine_packs() else 0


def _this_machine_packs() -> bool:
    operators = torch.ops.mkldnn
    needed = ('_is_mkldnn_bf16_supported', '_reorder_linear_weight', '_linear_pointwise')
    return all(hasattr(operators, name) for name in needed) and bool(
        operators._is_mkldnn_bf16_supported()
    )


def _pack_below(owner: nn.Module) -> int:
    count = 0
    if isinstance(owner, Attention | MLP):
        attribute, parts = owner.JOINED
        joined = getattr(owner, attribute)
        if isinstance(joined, StackedLinear) and _is_large(joined.weight):
            for part in parts:
                delattr(owner, part)
            setattr(owner, attribute, PackedLinear(joined.weight, None))
            count += 1
    for name, child in list(owner.named_children()):
        if type(child) is nn.Linear and _is_large(child.weight):
            setattr(owner, name, PackedLinear(child.weight, child.bias))
            count += 1
        elif not isinstance(child, AdaptedLayer):
            count += _pack_below(child)
    return count


def _is_large(weight: Tensor) -> bool:
    on_cpu = weight.device.type == 'cpu'
    return on_cpu and weight.dtype == torch.bfloat16 and min(weight.shape) >= _LEAST_WIDTH
