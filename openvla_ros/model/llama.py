"""The language model: a Llama decoder with a static key-value cache.

The parameter names are the keys of the released checkpoints after ``language_model.``, so a
plain ``state_dict`` reads and writes them. The arithmetic follows Hugging Face's
``LlamaForCausalLM`` step by step, rounding included: RMSNorm in float32, multiplied by its weight
after the cast back; rotary angles from frequencies that are float32 whatever the dtype of the
model. Tests hold the two together.

Letters in shapes: B batch, N new rows, R rows asked for, d width, H query heads, G key-value
heads, h width of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from openvla_ros.core.strict_config import ConfigError

#: What ``transformers.LlamaConfig`` (4.40 and 5.23 alike) fills in when config.json is silent.
_DEFAULTS: dict[str, Any] = {
    'vocab_size': 32000,
    'hidden_size': 4096,
    'intermediate_size': 11008,
    'num_hidden_layers': 32,
    'num_attention_heads': 32,
    'max_position_embeddings': 2048,
    'rms_norm_eps': 1e-6,
    'rope_theta': 10000.0,
    'initializer_range': 0.02,
}
#: Variants of the architecture that this decoder does not compute, with the only value it accepts.
_ONLY: dict[str, Any] = {
    'model_type': 'llama',
    'hidden_act': 'silu',
    'attention_bias': False,
    'mlp_bias': False,
    'tie_word_embeddings': False,
    'rope_scaling': None,
    'pretraining_tp': 1,
}


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes of the decoder, as in ``text_config`` of config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    initializer_range: float

    @classmethod
    def from_dict(cls, text_config: Mapping[str, Any]) -> LlamaConfig:
        """Read ``text_config``; absent keys take the defaults of Llama-2-7B as transformers does.

        Raises:
            ConfigError: if it describes a variant this decoder does not compute.
        """
        values = {key: text_config.get(key, default) for key, default in _DEFAULTS.items()}
        rope = text_config.get('rope_parameters') or {}
        if rope.get('rope_type', 'default') != 'default':
            raise ConfigError(
                f'text_config.rope_parameters.rope_type is {rope["rope_type"]!r}, but this '
                "decoder computes only 'default'; use a checkpoint without RoPE scaling."
            )
        values['rope_theta'] = float(rope.get('rope_theta', values['rope_theta']))
        for key, only in _ONLY.items():
            if text_config.get(key, only) != only:
                raise ConfigError(
                    f'text_config.{key} is {text_config[key]!r}, but this decoder computes only '
                    f'{only!r}; use a checkpoint of the Llama-2 architecture.'
                )
        heads = values['num_attention_heads']
        kv_heads = text_config.get('num_key_value_heads') or heads
        head_dim = text_config.get('head_dim') or values['hidden_size'] // heads
        if values['hidden_size'] % heads or heads % kv_heads or head_dim % 2:
            raise ConfigError(
                f'text_config asks for hidden_size {values["hidden_size"]}, {heads} heads and '
                f'{kv_heads} key-value heads, which do not divide each other; correct config.json.'
            )
        return cls(num_key_value_heads=kv_heads, head_dim=head_dim, **values)


class KVCache:
    """Keys and values of every layer in one tensor of fixed size and address.

    Rows are overwritten in place, so going back to a shorter prefix needs nothing but a smaller
    ``position`` in the next call.
    """

    def __init__(
        self,
        config: LlamaConfig,
        max_len: int,
        batch: int = 1,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = 'cpu',
    ) -> None:
        shape = (
            config.num_hidden_layers,
            2,
            batch,
            config.num_key_value_heads,
            max_len,
            config.head_dim,
        )
        self.kv = torch.zeros(shape, dtype=dtype, device=device)
        self.max_len = max_len

    @property
    def nbytes(self) -> int:
        """Bytes the cache holds."""
        return self.kv.numel() * self.kv.element_size()

    def append(self, layer: int, position: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write ``k``, ``v`` [B,G,N,h] at ``position``; return all keys and values so far."""
        end = position + k.shape[2]
        keys, values = self.kv[layer]
        keys[:, :, position:end].copy_(k)
        values[:, :, position:end].copy_(v)
        return keys[:, :, :end], values[:, :, :end]


class RMSNorm(nn.Module):
    """x / rms(x) in float32, cast back, times the weight (Zhang and Sennrich 2019)."""

    def __init__(self, width: int, eps: float, **factory: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, **factory))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis of ``x`` [..., d]; same dtype out."""
        x32 = x.float()
        scale = torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * (x32 * scale).to(x.dtype)


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


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (Su et al. 2021) of ``x`` [B,N,heads,h]; ``cos``, signed ``sin`` [N,1,h]."""
    return x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin


def causal_mask(rows: int, length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Additive mask [rows, length]: row i of the last ``rows`` sees positions up to its own."""
    mask = torch.full((rows, length), float('-inf'), dtype=dtype, device=device)
    return mask.triu_(length - rows + 1)


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, config: LlamaConfig, layer: int, **factory: Any) -> None:
        super().__init__()
        width, h = config.hidden_size, config.head_dim
        self.layer = layer
        self.heads, self.kv_heads, self.head_dim = (
            config.num_attention_heads,
            config.num_key_value_heads,
            h,
        )
        kv_width = self.kv_heads * h
        self.q_proj = nn.Linear(width, self.heads * h, bias=False, **factory)
        self.k_proj = nn.Linear(width, kv_width, bias=False, **factory)
        self.v_proj = nn.Linear(width, kv_width, bias=False, **factory)
        self.o_proj = nn.Linear(self.heads * h, width, bias=False, **factory)

    def forward(
        self, x: Tensor, table: Tensor, mask: Tensor | None, cache: KVCache | None, position: int
    ) -> Tensor:
        """Attend from ``x`` [B,N,d] to itself and the cache; ``mask`` None means plain causal."""
        B, N, _ = x.shape
        qkv = torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], -1)
        qkv = qkv.view(B, N, -1, self.head_dim)
        rotated = self.heads + self.kv_heads
        qk, v = qkv[:, :, :rotated], qkv[:, :, rotated:]
        qk = rotate(qk, table[0], table[1])
        q, k = qk[:, :, : self.heads], qk[:, :, self.heads :]
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if cache is not None:
            k, v = cache.append(self.layer, position, k, v)
        out = nn.functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=mask is None and N > 1,
            enable_gqa=self.heads != self.kv_heads,
        )
        result: Tensor = self.o_proj(out.transpose(1, 2).reshape(B, N, -1))
        return result


class MLP(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, config: LlamaConfig, **factory: Any) -> None:
        super().__init__()
        width, hidden = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(width, hidden, bias=False, **factory)
        self.up_proj = nn.Linear(width, hidden, bias=False, **factory)
        self.down_proj = nn.Linear(hidden, width, bias=False, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """[..., d] -> [..., d]."""
        result: Tensor = self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))
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
        self, x: Tensor, table: Tensor, mask: Tensor | None, cache: KVCache | None, position: int
    ) -> Tensor:
        """[B,N,d] -> [B,N,d]."""
        x = x + self.self_attn(self.input_layernorm(x), table, mask, cache, position)
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

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token embeddings [B,T,d] of ``input_ids`` int64[B,T]."""
        embeddings: Tensor = self.model.embed_tokens(input_ids)
        return embeddings

    def _rotary(self, position: int, rows: int, like: Tensor) -> Tensor:
        """[2, rows, 1, h] of the shared table, in the dtype attention runs in."""
        dtype = like.dtype
        if torch.is_autocast_enabled(like.device.type):
            dtype = torch.get_autocast_dtype(like.device.type)
        key = (like.device, dtype)
        if key not in self._tables:
            length = self.config.max_position_embeddings
            self._tables[key] = rotary_table(self.config, length, like.device, dtype)
        return self._tables[key][:, position : position + rows, None]

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
        padding changes nothing to its left). With one, the keys and values are written into it
        and the new rows see everything before ``position`` too. ``rows`` chooses the rows of
        ``embeds`` that the head is computed on (all when None).

        Raises:
            ValueError: if the rows do not fit the cache or the model's positions, or if a
                position is given without a cache.
        """
        N = embeds.shape[1]
        limit = self.config.max_position_embeddings if cache is None else cache.max_len
        limit = min(limit, self.config.max_position_embeddings)
        if position + N > limit or (cache is None and position):
            place = 'the cache' if cache else 'a pass without a cache'
            raise ValueError(
                f'Llama.forward got {N} rows at position {position}, but {place} has room '
                f'for {limit} from 0; '
                'shorten the prompt or make the cache longer.'
            )
        table = self._rotary(position, N, embeds)
        mask = None
        if position and N > 1:
            mask = causal_mask(N, position + N, table.dtype, embeds.device)
        x = embeds
        for layer in self.model.layers:
            x = layer(x, table, mask, cache, position)
        if rows is not None:
            x = x[:, rows]
        logits: Tensor = self.lm_head(self.model.norm(x))
        return logits
