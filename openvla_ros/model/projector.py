"""The projector: patch features to the language model's embedding space."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Projector(nn.Module):
    """A GELU network: three layers behind two towers, two layers behind one.

    Args:
        vision_dim: Width of the features.
        llm_dim: Width of the language model.
        fused: Two towers: the first layer widens four times, and a third layer follows.
    """

    def __init__(self, vision_dim: int, llm_dim: int, fused: bool, **factory: Any) -> None:
        super().__init__()
        hidden = 4 * vision_dim if fused else llm_dim
        self.fc1 = nn.Linear(vision_dim, hidden, **factory)
        self.fc2 = nn.Linear(hidden, llm_dim, **factory)
        self.fc3 = nn.Linear(llm_dim, llm_dim, **factory) if fused else None

    def forward(self, features: Tensor) -> Tensor:
        """[B,P,vision_dim] -> [B,P,llm_dim]; the activation is the exact (erf) GELU."""
        x: Tensor = self.fc2(functional.gelu(self.fc1(features)))
        return x if self.fc3 is None else self.fc3(functional.gelu(x))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Fill as training from scratch starts: normal(0, 0.02), biases 0."""
        for name, parameter in self.named_parameters():
            if name.endswith('bias'):
                parameter.zero_()
            else:
                parameter.normal_(0.0, 0.02, generator=generator)
