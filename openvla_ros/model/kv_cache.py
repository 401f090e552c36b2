"""Keys and values of every layer in one tensor of fixed size and address."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from openvla_ros.model.llama_config import LlamaConfig

#: Views remembered at most; a prompt length needs about ten.
_MOST_WINDOWS = 64


def causal_mask(rows: int, length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Additive mask [rows, length]: each of the last ``rows`` positions sees up to itself."""
    mask = torch.full((rows, length), float('-inf'), dtype=dtype, device=device)
    return mask.triu_(length - rows + 1)


@dataclass(frozen=True)
class Window:
    """Views of the cache for a pass of some rows at some position, one entry per layer.

    Attributes:
        new: [2,B,G,N,h], where the pass writes its keys and values.
        keys: [B,G,S,h], all keys up to the last new row.
        values: [B,G,S,h].
        mask: additive [N,S], or None where plain causal (position 0) or a single row needs none.
    """

    new: tuple[Tensor, ...]
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor | None


class KVCache:
    """Static storage [layers, 2, B, G, max_len, h].

    Rows are overwritten in place, so going back to a shorter prefix needs nothing but a smaller
    ``position`` in the next pass.

    Args:
        config: sizes.
        max_len: rows it holds.
        batch: B.
        dtype: of the model's activations.
        device: where it lives, for good.
    """

    def __init__(
        self,
        config: LlamaConfig,
        max_len: int,
        batch: int = 1,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = 'cpu',
    ) -> None:
        layers, heads = config.num_hidden_layers, config.num_key_value_heads
        shape = (layers, 2, batch, heads, max_len, config.head_dim)
        self.kv = torch.zeros(shape, dtype=dtype, device=device)
        self.max_len = max_len
        self._windows: dict[tuple[int, int], Window] = {}

    @property
    def nbytes(self) -> int:
        """Bytes the cache holds."""
        return self.kv.numel() * self.kv.element_size()

    def window(self, position: int, rows: int) -> Window:
        """The views for ``rows`` new rows at ``position``; remembered, as the address is fixed."""
        key = (position, rows)
        if key not in self._windows:
            if len(self._windows) >= _MOST_WINDOWS:
                self._windows.clear()
            self._windows[key] = self._make_window(position, rows)
        return self._windows[key]

    def _make_window(self, position: int, rows: int) -> Window:
        length = position + rows
        seen = self.kv.narrow(4, 0, length)
        mask = None
        if position and rows > 1:
            mask = causal_mask(rows, length, self.kv.dtype, self.kv.device)
        return Window(
            new=self.kv.narrow(4, position, rows).unbind(0),
            keys=seen.select(1, 0).unbind(0),
            values=seen.select(1, 1).unbind(0),
            mask=mask,
        )
