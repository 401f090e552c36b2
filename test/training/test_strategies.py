"""What the strategies train: counts of OpenVLA's table, and what really changes."""

import json
import math
from pathlib import Path

import pytest
import torch

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.model import OpenVLA
from openvla_ros.training.new_adapter import new_adapter
from openvla_ros.training.strategies import STRATEGIES, check_strategy, select_trained, trains

GOLDEN = Path(__file__).parents[1] / 'golden'
RELEASED = json.loads((GOLDEN / 'openvla-7b.manifest.json').read_text())


@pytest.mark.parametrize(
    ('strategy', 'millions'),
    [('full', 7541.2), ('sandwich', 1267.3), ('frozen_vision', 6810.3), ('last_layer', 465.1)],
)
def test_the_parameters_of_openvla_7b_are_those_of_the_papers_table(strategy, millions):
    """The paper counts the blocks that never run too, as the released file holds them."""
    count = sum(math.prod(s) for name, s in RELEASED.items() if trains(strategy, name, 32))
    assert round(count / 1e6, 1) == millions


@pytest.fixture
def model():
    return OpenVLA.from_pretrained(GOLDEN / 'openvla_tiny', dtype='bfloat16')


@pytest.mark.parametrize('strategy', STRATEGIES)
def test_exactly_what_is_trained_takes_part_in_the_gradient(model, strategy):
    if strategy == 'lora':
        new_adapter(model, 2, 2, 0).attach(model, torch.float32, 'cpu')
    trained = select_trained(model, strategy)
    assert trained
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (name in trained), name
        assert parameter.dtype == (torch.float32 if name in trained else torch.bfloat16), name


def test_the_final_norm_is_frozen_unless_the_whole_language_model_is_trained(model):
    norm = 'language_model.model.norm.weight'
    assert norm not in select_trained(model, 'last_layer')
    assert norm not in select_trained(model, 'sandwich')
    assert norm in select_trained(model, 'frozen_vision')


def test_an_unknown_strategy_is_refused_with_the_near_one():
    with pytest.raises(
        ConfigError, match=r"got 'sandwhich' \(did you mean 'sandwich'\?\), expected one of lora"
    ):
        check_strategy('sandwhich')
