"""The language model: a Llama decoder with a static key-value cache.

The parameter names are the keys of the released checkpoints after ``language_model.``, so a
plain ``state_dict`` reads and writes them. The arithmetic follows Hugging Face's
``LlamaForCausalLM`` step by step, rounding included: RMSNorm in float32, multiplied by its weight
after the cast back; rotary angles from frequencies that are float32 whatever the dtype of the
model. Tests hold the two together.

Letters in shapes: B batch, N new rows, S rows seen, R rows asked for, d width, H query heads,
G key-value heads, h width of a head, V vocabulary.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from openvla_ros.model.kv_cache import KVCache, Window, causal_mask
from openvla_ros.model.llama_config import LlamaConfig
from openvla_ros.model.stacked_linear import stack

__all__ = ['KVCache', 'Llama', 'LlamaConfig']


class RMSNorm(nn.Module):
    """x / rms(x) in float32, cast back, times the weight (Zhang and Sennrich 2019)."""

    def __init__(self, width: int, eps: float, **factory: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, **factory))
        self.shape = (width,)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis of ``x`` [..., d]; same dtype out."""
        # The weight is not given to rms_norm: it would be applied before the cast, once rounded
        # less than in the original.
        return nn.functional.rms_norm(x, self.shape, None, self.eps) * self.weight


def rotary_table(
    config: LlamaConfig, length: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Cosine and signed sine of positions 0..length-1, [2, length, h].

    The frequencies and angles are float32, and only the result takes ``dtype``. The first half of
    the sine carries the minus sign of ``rotate_half``, so that rotating is x*cos + roll(x)*sin.
    """
    exponent = torch.arange(0, config.head_dim, 2, device=device).float() / config.head_dim
    inv_freq = 1.0 / (config.rope_theta**exponent)
    angle = torch.arange(length, device=device).float()[:, None] * inv_freq[None, :]
    sin = angle.sin()
    cos = angle.cos()
    return torch.stack([torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)]).to(dtype)


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    #: Where one product for several layers is kept, and for which.
    JOINED = 'qkv', ('q_proj', 'k_proj', 'v_proj')

    def __init__(self, config: LlamaConfig, layer: int, **factory: Any) -> None:
        super().__init__()
        width, h = config.hidden_size, config.head_dim
        self.layer = layer
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = h
        self.q_proj = nn.Linear(width, self.heads * h, bias=False, **factory)
        self.k_proj = nn.Linear(width, self.kv_heads * h, bias=False, **factory)
        self.v_proj = nn.Linear(width, self.kv_heads * h, bias=False, **factory)
        self.o_proj = nn.Linear(self.heads * h, width, bias=False, **factory)
        #: q, k and v as one product, in their place: by ``Llama.fuse``, or quantised.
        self.qkv: nn.Module | None = None

    def forward(
        self, x: Tensor, batch: int, table: Tensor, window: Window | None, rows: int
    ) -> Tensor:
        """Attend from the last ``rows`` rows to all of ``x`` and what the cache holds.

        Args:
            x: new rows [B*N,d].
            batch: B.
            table: cosine and sine [2,N,1,h] of their positions.
            window: where the cache takes and keeps them; None for a pass without a cache.
            rows: R, how many results are wanted.

        Returns:
            [B*R,d].
        """
        qkv = self._project(x).view(batch, -1, self.heads + 2 * self.kv_heads, self.head_dim)
        N = qkv.shape[1]
        q, k, v = self._remember(qkv, table, window)
        mask = None if window is None else window.mask
        if rows < N:
            q = q[:, :, N - rows :]
            mask = None
            if rows > 1:
                mask = causal_mask(rows, k.shape[2], q.dtype, q.device)
        out = nn.functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=mask is None and rows > 1,
            enable_gqa=self.heads != self.kv_heads,
        )
        result: Tensor = self.o_proj(out.transpose(1, 2).reshape(batch * rows, -1))
        return result

    def _project(self, x: Tensor) -> Tensor:
        joined = self.qkv
        if joined is None:
            return torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], -1)
        # Past __call__ and its hooks, which nobody has: 0.7 of 4.4 us at the width of B1.
        result: Tensor = joined.forward(x)
        return result

    def _remember(
        self, qkv: Tensor, table: Tensor, window: Window | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rotate queries and keys (Su et al. 2021) and put keys and values in the cache.

        Args:
            qkv: [B,N,H+2G,h], overwritten when there is a cache.
            table: cosine and sine [2,N,1,h].
            window: the cache's, or None.

        Returns:
            Queries [B,H,N,h], keys and values [B,G,S,h].
        """
        turned = qkv.narrow(2, 0, self.heads + self.kv_heads)
        along = turned * table[0]
        across = turned.roll(self.head_dim // 2, dims=-1) * table[1]
        if window is None:
            turned = along + across
            k = turned.narrow(2, self.heads, self.kv_heads)
            v = qkv.narrow(2, self.heads + self.kv_heads, self.kv_heads)
            q = turned.narrow(2, 0, self.heads)
            return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        torch.add(along, across, out=turned)
        kv = qkv.narrow(2, self.heads, 2 * self.kv_heads)
        kv = kv.view(*qkv.shape[:2], 2, self.kv_heads, self.head_dim)
        window.write(self.layer, kv.permute(2, 0, 3, 1, 4))
        q = qkv.narrow(2, 0, self.heads).transpose(1, 2)
        return q, window.keys[self.layer], window.values[self.layer]


class MLP(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    #: As in ``Attention``.
    JOINED = 'gate_up', ('gate_proj', 'up_proj')

    def __init__(self, config: LlamaConfig, **factory: Any) -> None:
        super().__init__()
        width, hidden = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(width, hidden, bias=False, **factory)
        self.up_proj = nn.Linear(width, hidden, bias=False, **factory)
        self.down_proj = nn.Linear(hidden, width, bias=False, **factory)
        #: gate and up as one product, as in ``Attention``.
        self.gate_up: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[..., d] -> [..., d]."""
        joined = self.gate_up
        if joined is None:
            gate, up = self.gate_proj(x), self.up_proj(x)
        else:
            gate, up = joined.forward(x).chunk(2, -1)
        result: Tensor = self.down_proj(nn.functional.silu(gate) * up)
        return result


class DecoderLayer(nn.Module):
    """Pre-norm block."""

    def __init__(self, config: LlamaConfig, layer: int, **factory: Any) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer, **factory)
        self.mlp = MLP(config, **factory)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, **factory)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, **factory)

    def forward(
        self, x: Tensor, batch: int, table: Tensor, window: Window | None, rows: int
    ) -> Tensor:
        """[B*N,d] -> the last rows of each sequence [B*R,d]; see ``Attention.forward``."""
        attended = self.self_attn(self.input_layernorm(x), batch, table, window, rows)
        if len(x) > len(attended):
            x = x.view(batch, -1, x.shape[-1])[:, -rows:].reshape(attended.shape)
        x = x + attended
        result: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return result


class LlamaBody(nn.Module):
    """Embedding, layers and final norm: the ``model.`` part of the checkpoint."""

    def __init__(self, config: LlamaConfig, **factory: Any) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, **factory)
        self.layers = nn.ModuleList(
            DecoderLayer(config, layer, **factory) for layer in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, **factory)


class Llama(nn.Module):
    """The decoder with its output head.

    Args:
        config: sizes.
        dtype: of the parameters.
        device: 'meta' builds it without memory; ``to_empty`` or assignment fills it later.
    """

    def __init__(
        self,
        config: LlamaConfig,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = 'cpu',
    ) -> None:
        super().__init__()
        self.config = config
        self.model = LlamaBody(config, dtype=dtype, device=device)
        self.lm_head = nn.Linear(
            config.hidden_size, config.vocab_size, bias=False, dtype=dtype, device=device
        )
        self._tables: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    @property
    def layers(self) -> list[DecoderLayer]:
        """The blocks, first to last."""
        return cast('list[DecoderLayer]', list(self.model.layers))

    @torch.no_grad()
    def reset_parameters(self, seed: int = 0) -> None:
        """Fill as Llama's training starts: normal(0, initializer_range), norms 1."""
        device = self.lm_head.weight.device
        generator = torch.Generator(device=device).manual_seed(seed)
        for name, parameter in self.named_parameters():
            if name.endswith('norm.weight'):
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, self.config.initializer_range, generator=generator)

    @torch.no_grad()
    def fuse(self) -> None:
        """Join q, k, v and gate, up of every layer into one layer each, for good.

        Needs the memory of one layer while it works. Layers that are quantised or adapted stay as
        they are. Saving and loading still go by the released names.
        """
        for layer in self.layers:
            for owner in (layer.self_attn, layer.mlp):
                stack(owner, *owner.JOINED)

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token embeddings [B,T,d] of ``input_ids`` int64[B,T]."""
        embeddings: Tensor = self.model.embed_tokens(input_ids)
        return embeddings

    def _rotary(self, like: Tensor) -> Tensor:
        """Table [2, positions, h] in the dtype attention runs in."""
        dtype = like.dtype
        if torch.is_autocast_enabled(like.device.type):
            dtype = torch.get_autocast_dtype(like.device.type)
        key = (like.device, dtype)
        if key not in self._tables:
            length = self.config.max_position_embeddings
            self._tables[key] = rotary_table(self.config, length, like.device, dtype)
        return self._tables[key]

    def forward(
        self,
        embeds: Tensor,
        *,
        cache: KVCache | None = None,
        position: int = 0,
        rows: slice | None = None,
    ) -> Tensor:
        """Logits [B,R,V] of ``embeds`` [B,N,d] placed at ``position``.

        Without a cache this is the whole sequence, differentiable, plainly causal (so right
        padding changes nothing to its left). With one (no gradients then), the keys and values
        are written into it and the new rows see everything before ``position`` too. ``rows``
        chooses the rows of ``embeds`` that the head is computed on (all when None).

        Raises:
            ValueError: if the rows do not fit the cache or the model's positions, or if a
                position is given without a cache.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and cache is None):
            return self._run(embeds, cache, position, rows)

    def _run(
        self, embeds: Tensor, cache: KVCache | None, position: int, rows: slice | None
    ) -> Tensor:
        B, N, _ = embeds.shape
        limit = self.config.max_position_embeddings
        if cache is not None:
            limit = min(limit, cache.max_len)
        if position + N > limit or (cache is None and position):
            place = 'the cache' if cache else 'a pass without a cache'
            raise ValueError(
                f'Llama.forward got {N} rows at position {position}, but {place} has room '
                f'for {limit} from 0; shorten the prompt or make the cache longer.'
            )
        start, stop, stride = (rows or slice(None)).indices(N)
        table = self._rotary(embeds)[:, position : position + N, None]
        window = None if cache is None else cache.window(position, N)
        # Of the last layer only the rows from ``start`` on are ever looked at.
        x = self._layers(embeds, table, window, N - start).view(B, N - start, -1)
        if stop < N or stride > 1:
            x = x[:, : stop - start : stride]
        return self._head(x)

    def logits_at(self, embeds: Tensor, wanted: Tensor) -> Tensor:
        """Logits of chosen rows, in a differentiable pass over whole sequences.

        The head is the largest product for short answers, and most rows have none.

        Args:
            embeds: [B,N,d] from position 0; right padding changes nothing to its left.
            wanted: bool[B,N].

        Returns:
            [number wanted,V], sequence after sequence.

        Raises:
            ValueError: the sequence is longer than the model's positions.
        """
        N, limit = embeds.shape[1], self.config.max_position_embeddings
        if limit < N:
            raise ValueError(
                f'Llama.logits_at got {N} rows, the model has {limit} positions; shorten the '
                'prompt'
            )
        table = self._rotary(embeds)[:, :N, None]
        x = self._layers(embeds, table, None, N)
        return self._head(x[wanted.flatten()])

    @torch.no_grad()
    def picked(self, embeds: Tensor, cache: KVCache, first: Tensor, count: int) -> Tensor:
        """Prefill of fixed shape: logits [count,V] from row ``first`` (int64[]) on.

        Args:
            embeds: [1,N,d], prompt and draft, then anything finite.
            cache: Filled from position 0.
            first: Known to the device only.
            count: Rows wanted.
        """
        N = embeds.shape[1]
        table = self._rotary(embeds)[:, :N, None]
        x = self._layers(embeds, table, cache.window(0, N), N)
        rows = first + torch.arange(count, device=first.device)
        return self._head(x.index_select(0, rows))

    @torch.no_grad()
    def step(self, embeds: Tensor, window: Window, positions: Tensor) -> Tensor:
        """Pass of fixed shape: logits [N,V] of ``embeds`` [1,N,d] at ``positions`` int64[N].

        The positions are known to the device only; ``window`` must see the whole cache.
        """
        table = self._rotary(embeds).index_select(1, positions)[:, :, None]
        return self._head(self._layers(embeds, table, window, embeds.shape[1]))

    def _layers(self, embeds: Tensor, table: Tensor, window: Window | None, rows: int) -> Tensor:
        """All layers: [B,N,d] -> the last ``rows`` of each sequence [B*R,d]."""
        B, N, width = embeds.shape
        # Two axes rather than three all the way: torch spends less on every product.
        x = embeds.reshape(-1, width)
        *most, last = self.layers
        for layer in most:
            x = layer(x, B, table, window, N)
        result: Tensor = last(x, B, table, window, rows)
        return result

    def _head(self, x: Tensor) -> Tensor:
        logits: Tensor = self.lm_head(self.model.norm(x))
        return logits
