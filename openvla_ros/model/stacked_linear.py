"""Several linear layers of the same input as one matrix product."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn


def stack(owner: nn.Module, attribute: str, parts: Sequence[str]) -> bool:
    """Put one linear layer in the place of several of the same input, for good.

    Reading and loading a ``state_dict`` still goes by the parts' names.

    Args:
        owner: The module that has them; it must use ``attribute`` where that is set.
        attribute: Where the one layer is kept.
        parts: Attributes of the layers, in the order in which their results follow each other.

    Returns:
        False where they are not all plain linear layers without bias, and stay as they are.
    """
    layers = [getattr(owner, part, None) for part in parts]
    if any(
        type(layer) is not nn.Linear or getattr(layer, 'bias', None) is not None
        for layer in layers
    ):
        return False
    weights = [layer.weight for layer in layers if isinstance(layer, nn.Linear)]
    whole = nn.Linear(weights[0].shape[1], sum(map(len, weights)), bias=False, device='meta')
    whole.weight = nn.Parameter(
        torch.cat([weight.detach() for weight in weights]), weights[0].requires_grad
    )
    for part in parts:
        delattr(owner, part)
    setattr(owner, attribute, whole.train(owner.training))
    rows = dict(zip(parts, map(len, weights), strict=True))
    split = partial(_split, attribute=attribute, rows=rows)
    join = partial(_join, attribute=attribute, parts=parts)
    owner.register_state_dict_post_hook(split)  # type: ignore[no-untyped-call]
    owner.register_load_state_dict_pre_hook(join)  # type: ignore[no-untyped-call]
    return True


def _split(
    owner: nn.Module,
    state: dict[str, Any],
    prefix: str,
    _: Any,
    *,
    attribute: str,
    rows: dict[str, int],
) -> None:
    """Give a state_dict the parts, as views, in place of the whole."""
    if type(getattr(owner, attribute)) is not nn.Linear:  # quantised or packed meanwhile
        return
    whole = state.pop(f'{prefix}{attribute}.weight')
    for part, weight in zip(rows, whole.split(list(rows.values())), strict=True):
        state[f'{prefix}{part}.weight'] = weight


def _join(
    owner: nn.Module,
    state: dict[str, Any],
    prefix: str,
    *_: Any,
    attribute: str,
    parts: Sequence[str],
) -> None:
    """Give a state_dict that is being loaded the whole in place of the parts."""
    names = [f'{prefix}{part}.weight' for part in parts]
    if type(getattr(owner, attribute)) is nn.Linear and all(name in state for name in names):
        state[f'{prefix}{attribute}.weight'] = torch.cat([state.pop(name) for name in names])
