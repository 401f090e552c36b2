"""Sizes of the language model, read from ``text_config`` of config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
#: Where transformers takes null as 'not given'.
_NULL_IS_DEFAULT = ('num_key_value_heads', 'head_dim')
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
        values = {key: _number(text_config, key, default) for key, default in _DEFAULTS.items()}
        rope = text_config.get('rope_parameters') or {}
        if not isinstance(rope, Mapping):
            raise ConfigError(f'text_config.rope_parameters: got {rope!r}, expected a mapping')
        if rope.get('rope_type', 'default') != 'default':
            raise ConfigError(
                f'text_config.rope_parameters.rope_type is {rope["rope_type"]!r}, but this '
                "decoder computes only 'default'; use a checkpoint without RoPE scaling."
            )
        values['rope_theta'] = float(_number(rope, 'rope_theta', values['rope_theta']))
        for key, only in _ONLY.items():
            if text_config.get(key, only) != only:
                raise ConfigError(
                    f'text_config.{key} is {text_config[key]!r}, but this decoder computes only '
                    f'{only!r}; use a checkpoint of the Llama-2 architecture.'
                )
        heads = values['num_attention_heads']
        kv_heads = _number(text_config, 'num_key_value_heads', heads)
        head_dim = _number(text_config, 'head_dim', values['hidden_size'] // heads)
        if values['hidden_size'] % heads or heads % kv_heads or head_dim % 2:
            raise ConfigError(
                f'text_config asks for hidden_size {values["hidden_size"]}, {heads} heads and '
                f'{kv_heads} key-value heads, which do not divide each other; correct config.json.'
            )
        return cls(num_key_value_heads=kv_heads, head_dim=head_dim, **values)


def _number(content: Mapping[str, Any], key: str, default: Any) -> Any:
    """Return a positive number of the default's type, the default where the key is absent."""
    value = content.get(key, default)
    if value is None and key in _NULL_IS_DEFAULT:
        return default
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default) or not 0 < value < float('inf'):
        kind = 'an integer' if isinstance(default, int) else 'a number'
        raise ConfigError(f'text_config.{key}: got {value!r}, expected {kind} above 0')
    return value
