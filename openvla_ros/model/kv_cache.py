"""Keys and values of every layer in one tensor of fixed size and address."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from openvla_ros.model.llama_config import LlamaConfig

#: Views remembered at most; a prompt length needs about ten.
_MOST_WINDOWS = 64


def causal_mask(rows: int, length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Additive mask [rows, length]: each of the last ``rows`` positions sees up to itself."""
    mask = torch.full((rows, length), float('-inf'), dtype=dtype, device=device)
    return mask.triu_(length - rows + 1)


class Window(Protocol):
    """What a pass of N new rows sees of a cache.

    Attributes:
        keys: [B,G,S,h] for every layer, all that the new rows may look at.
        values: [B,G,S,h] for every layer.
        mask: additive [N,S], or None where plain causal (position 0) or a single row needs none.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor | None

    def write(self, layer: int, kv: Tensor) -> None:
        """Put the new rows' keys and values [2,B,G,N,h] of a layer in the cache."""
        ...


class _Views:
    """Views of the cache for a position the host knows."""

    def __init__(self, kv: Tensor, position: int, rows: int) -> None:
        length = position + rows
        seen = kv.narrow(4, 0, length)
        self._new = kv.narrow(4, position, rows).unbind(0)
        self.keys = seen.select(1, 0).unbind(0)
        self.values = seen.select(1, 1).unbind(0)
        self.mask: Tensor | None = None
        if position and rows > 1:
            self.mask = causal_mask(rows, length, kv.dtype, kv.device)

    def write(self, layer: int, kv: Tensor) -> None:
        """See ``Window``."""
        self._new[layer].copy_(kv)


class IndexedWindow:
    """The whole cache, for positions that only the device knows: the shapes never change.

    Args:
        cache: Whose rows behind the new ones must be finite; they are masked.
        positions: int64[N] of the new rows, on the cache's device.
    """

    def __init__(self, cache: KVCache, positions: Tensor) -> None:
        self._kv = cache.kv.unbind(0)
        self._positions = positions
        self.keys = cache.kv.select(1, 0).unbind(0)
        self.values = cache.kv.select(1, 1).unbind(0)
        column = torch.arange(cache.max_len, device=positions.device)
        hidden = column[None, :] > positions[:, None]
        mask = torch.zeros(hidden.shape, dtype=cache.kv.dtype, device=positions.device)
        self.mask: Tensor | None = mask.masked_fill_(hidden, float('-inf'))

    def write(self, layer: int, kv: Tensor) -> None:
        """See ``Window``."""
        self._kv[layer].index_copy_(3, self._positions, kv)


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
            self._windows[key] = _Views(self.kv, position, rows)
        return self._windows[key]
