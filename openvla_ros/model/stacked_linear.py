"""Several linear layers of the same input as one matrix product."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class StackedLinear:
    """Several linear layers of the same input as one matrix product, for inference.

    Their parameters become views of one matrix, so loading, saving and moving still see them one
    by one, and it takes no memory of its own. Gradients reach the layers themselves only.
    """

    def __init__(self, parts: Sequence[nn.Linear]) -> None:
        self.weight = torch.cat([part.weight.detach() for part in parts])
        self._parts = tuple(parts)
        start = 0
        for part in parts:
            part.weight.data = self.weight[start : start + part.out_features]
            start += part.out_features

    def __call__(self, x: Tensor) -> Tensor:
        """[..., d] -> [..., sum of the parts' widths]."""
        return nn.functional.linear(x, self.weight)

    def stands_for(self, *parts: nn.Module) -> bool:
        """Whether it may run in their place: the same layers still, and no gradients recorded."""
        return parts == self._parts and not torch.is_grad_enabled()

    @property
    def stale(self) -> bool:
        """Whether the parameters were moved or replaced since."""
        return self._parts[0].weight.data_ptr() != self.weight.data_ptr()


#: Layers that run as one: plain ones stacked, or a quantised layer in place of them.
Joined = StackedLinear | nn.Module


def stack(*parts: nn.Module) -> StackedLinear | None:
    """``parts`` as one product, or None unless all are plain linear layers without bias."""
    plain: list[nn.Linear] = []
    for part in parts:
        if type(part) is not nn.Linear or part.bias is not None:
            return None
        plain.append(part)
    return StackedLinear(plain)
