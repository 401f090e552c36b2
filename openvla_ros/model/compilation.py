"""torch.compile for the vision towers and the projector, where somebody asks for it.

Class L2, numerically equivalent: fused operations round once where the original rounds after each,
so logits move in the last bits and, in bfloat16, tokens that are nearly tied may change (of random
weights 8 % were seen to). That is why nothing is compiled unless asked for. The decoder is left
alone: its passes are bound by memory and its launches are gone with CUDA graphs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openvla_ros.model.openvla import OpenVLA


def compile_vision(model: OpenVLA, *, backend: str = 'inductor') -> None:
    """Compile towers and projector in place; the first image takes a minute or more.

    Call it before CUDA graphs are captured, which then hold the compiled kernels.

    Args:
        model: Weights in place; names and values of its parameters stay.
        backend: Of torch.compile; 'inductor' needs a C++ compiler on a CPU, Triton on a GPU.
    """
    backbone = model.vision_backbone
    for module in (backbone.featurizer, backbone.fused_featurizer, model.projector):
        if module is not None:
            module.compile(backend=backend, dynamic=False)
