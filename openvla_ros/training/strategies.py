"""What a fine-tuning trains: low-rank adapters, or some of the weights (OpenVLA, table 1)."""

from typing import Literal, get_args

from torch import nn

from openvla_ros.core.strict_config import ConfigError, did_you_mean
from openvla_ros.model.openvla import OpenVLA

Strategy = Literal['lora', 'full', 'sandwich', 'frozen_vision', 'last_layer']
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

_EMBEDDING = 'language_model.model.embed_tokens.'
_HEAD = 'language_model.lm_head.'


def check_strategy(name: str) -> Strategy:
    """Return the strategy of this name.

    Raises:
        ConfigError: there is none.
    """
    for strategy in STRATEGIES:
        if strategy == name:
            return strategy
    raise ConfigError(
        f'strategy: got {name!r}{did_you_mean(name, STRATEGIES)}, expected one of '
        f'{", ".join(STRATEGIES)}'
    )


def trains(strategy: Strategy, name: str, num_layers: int) -> bool:
    """Say whether a strategy trains a weight of the checkpoint itself.

    The final norm stays as it is in ``last_layer`` and ``sandwich``, as upstream.

    Args:
        strategy: With ``lora`` no weight of the checkpoint is trained.
        name: As in the checkpoint.
        num_layers: Of the language model.
    """
    last = f'language_model.model.layers.{num_layers - 1}.'
    prefixes: dict[Strategy, tuple[str, ...]] = {
        'lora': (),
        'full': ('',),
        'sandwich': ('vision_backbone.', 'projector.', _EMBEDDING, last, _HEAD),
        'frozen_vision': ('projector.', 'language_model.'),
        'last_layer': (_EMBEDDING, last, _HEAD),
    }
    return name.startswith(prefixes[strategy])


def select_trained(model: OpenVLA, strategy: Strategy) -> dict[str, nn.Parameter]:
    """Freeze a network but for what a strategy trains, which becomes float32.

    Half precision has no room for small steps: at a rate of 2e-5 most of them vanish.

    Args:
        model: With its adapters attached where the strategy is ``lora``.
        strategy: What to train.

    Returns:
        The trained parameters by name.
    """
    num_layers = model.config.text.num_hidden_layers
    trained: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        if strategy == 'lora':
            wanted = name.endswith(('.lora_A', '.lora_B'))
        else:
            wanted = trains(strategy, name, num_layers)
        parameter.requires_grad_(wanted and parameter.is_floating_point())
        if wanted:
            parameter.data = parameter.data.float()
            trained[name] = parameter
    return trained
