"""One image, several sentences, one pass.

The image stands before the sentence in OpenVLA's sequence, so its rows do not depend on the
sentence. Training with K sentences per image therefore needs them once: the sequence is
``<s> patches sentence_1 .. sentence_K``, each sentence at the positions it would have alone,
attending to the prefix and to itself. The logits are those of K separate sequences.

Letters in shapes: B images, K sentences per image, T tokens of a sentence (padded), P patches,
d width, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn

from openvla_ros.model.llama import rotary_table
from openvla_ros.model.openvla import OpenVLA


def sentence_logits(
    model: OpenVLA, pixel_values: Tensor, sentences: Tensor, wanted: Tensor
) -> Tensor:
    """Logits at the wanted tokens of every sentence.

    Args:
        model: OpenVLA.
        pixel_values: float32[B,C,S,S].
        sentences: int64[B,K,T], the prompt's ids after ``<s>`` with what follows them; padding on
            the right changes nothing to its left.
        wanted: bool[B,K,T], where the head is computed.

    Returns:
        [number wanted,V], as ``model.logits`` would give for each sentence alone.
    """
    B, K, T = sentences.shape
    patches = model.project(model.vision_features(pixel_values))
    llama = model.language_model
    first = llama.embed(torch.ones((B, 1), dtype=torch.int64, device=sentences.device))
    text = llama.embed(sentences.reshape(B, K * T))
    x = torch.cat([first.to(patches.dtype), patches, text.to(patches.dtype)], 1)
    prefix = 1 + patches.shape[1]
    positions = _positions(prefix, K, T, x.device)
    table = rotary_table(llama.config, prefix + T, x.device, _attention_dtype(x))[:, positions]
    mask = prefix_mask(prefix, K, T, x.device).to(table.dtype)
    decoder: Any = llama.model
    for layer in decoder.layers:
        x = x + _attend(layer.self_attn, layer.input_layernorm(x), table[:, :, None], mask)
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    logits: Tensor = llama.lm_head(decoder.norm(x[:, prefix:][wanted.view(B, K * T)]))
    return logits


def _attend(attention: Any, x: Tensor, table: Tensor, mask: Tensor) -> Tensor:
    """Self-attention of a decoder layer with a mask that its own forward does not know."""
    B, N, _ = x.shape
    shape = (B, N, -1, attention.head_dim)
    q, k = (_rotated(proj(x).view(shape), table) for proj in (attention.q_proj, attention.k_proj))
    v = attention.v_proj(x).view(shape)
    out = nn.functional.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask
    )
    result: Tensor = attention.o_proj(out.transpose(1, 2).reshape(B, N, -1))
    return result


def _rotated(x: Tensor, table: Tensor) -> Tensor:
    return x * table[0] + x.roll(x.shape[-1] // 2, dims=-1) * table[1]


def _attention_dtype(x: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _positions(prefix: int, K: int, T: int, device: torch.device) -> Tensor:
    sentence = prefix + torch.arange(T, device=device)
    return torch.cat([torch.arange(prefix, device=device), sentence.repeat(K)])


def prefix_mask(prefix: int, K: int, T: int, device: torch.device) -> Tensor:
    """Additive float32[N,N]: causal in the prefix; a sentence sees the prefix and its own past."""
    owner = torch.cat(
        [
            torch.zeros(prefix, device=device),
            1 + torch.arange(K, device=device).repeat_interleave(T),
        ]
    )
    causal = torch.ones((len(owner), len(owner)), dtype=torch.bool, device=device).tril()
    same = owner[:, None] == owner[None, :]
    allowed = causal & (same | (owner == 0)[None, :])
    return torch.zeros_like(allowed, dtype=torch.float32).masked_fill(~allowed, float('-inf'))
