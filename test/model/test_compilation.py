"""Compiling is a choice that leaves names, weights and results where they were."""

from pathlib import Path

import pytest
import torch

from openvla_ros.model import OpenVLA
from openvla_ros.model.compilation import compile_vision

CHECKPOINT = Path(__file__).parents[1] / 'golden' / 'openvla_tiny'


@pytest.mark.slow
def test_a_compiled_model_keeps_its_tensors_and_its_tokens():
    model = OpenVLA.from_pretrained(CHECKPOINT, dtype=torch.float32)
    pixels = torch.randn(6, 224, 224, generator=torch.Generator().manual_seed(0))
    names, expected = list(model.state_dict()), model.decode(pixels, [1, 512], 7).tokens
    compile_vision(model, backend='eager')
    assert list(model.state_dict()) == names
    assert model.decode(pixels, [1, 512], 7).tokens.tolist() == expected.tolist()
