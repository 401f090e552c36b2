"""Precision by free memory, for the released architectures and for small ones."""

import json
from pathlib import Path

import pytest
import torch

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.model.llama_config import LlamaConfig
from openvla_ros.model.precision import (
    choose_precision,
    free_memory_bytes,
    has_native_bf16,
    precision_of_checkpoint,
    weight_bytes,
)
from openvla_ros.model.quantization import SCHEMES

GOLDEN = Path(__file__).parents[1] / 'golden'
TEXT = LlamaConfig.from_dict({'vocab_size': 32064})


#: Name and shape of every tensor of the released architecture, dead ones included.
SHAPES = {
    name: tuple(shape)
    for name, shape in json.loads((GOLDEN / 'openvla-7b.manifest.json').read_text()).items()
}


def choose(free_gb, device='cuda', shapes=SHAPES, **options):
    return choose_precision(
        shapes,
        TEXT,
        stored=torch.bfloat16,
        device=device,
        free_bytes=round(free_gb * 1e9),
        **options,
    )


def test_the_released_checkpoint_is_counted_to_the_byte():
    assert weight_bytes(SHAPES, 2, None) == 15_082_474_368


def test_quantised_sizes_follow_the_published_arithmetic():
    """6,476,005,376 weights in the language model's linears; 0.5625, 0.5159 and 1 byte each."""
    linears = 6_476_005_376
    rest = weight_bytes(SHAPES, 2, None) - 2 * linears
    assert weight_bytes(SHAPES, 2, SCHEMES['nf4']) == rest + linears * 9 // 16
    doubled = weight_bytes(SHAPES, 2, SCHEMES['nf4-double'])
    assert doubled == pytest.approx(rest + linears * 0.51587, rel=1e-5)
    int8 = weight_bytes(SHAPES, 2, SCHEMES['int8'])
    assert int8 == pytest.approx(rest + linears, rel=1e-3)
    assert int8 > rest + linears


@pytest.mark.parametrize(
    ('free_gb', 'expected'),
    [
        (80.0, 'bfloat16'),
        (17.3, 'bfloat16'),
        (16.0, 'nf4'),
        (9.5, 'nf4'),
        (7.6, 'nf4'),
        (7.0, 'nf4-double-all'),
        (6.2, 'nf4-double-all'),
    ],
)
def test_a_gpu_gets_the_most_exact_that_fits(free_gb, expected):
    picked = choose(free_gb)
    assert picked.name == expected
    assert picked.needed_bytes <= free_gb * 1e9
    assert expected in picked.reason
    assert f'{free_gb:.1f} GB free' in picked.reason


def test_the_reason_says_what_was_passed_over():
    assert 'unquantised would take 17.' in choose(16.0).reason
    assert 'nf4 would take' in choose(6.5).reason


def test_too_little_memory_is_refused_with_the_numbers():
    with pytest.raises(ConfigError, match=r'needs 5\.\d GB.*4\.0 GB free'):
        choose(4.0)


def test_int8_is_taken_on_a_gpu_only_when_asked_for():
    assert all(choose(gb).quantization != 'int8' for gb in (6.5, 8, 9, 10, 12, 15, 20))
    with pytest.raises(ConfigError, match=r"got 'int3' \(did you mean 'int8'\?\)"):
        choose(24.0, quantization='int3')
    picked = choose(24.0, quantization='int8')
    assert picked.quantization == 'int8'
    assert 'as asked for' in picked.reason


def test_a_large_model_on_a_cpu_needs_permission():
    with pytest.raises(ConfigError, match='allow_slow'):
        choose(64.0, 'cpu')
    assert choose(64.0, 'cpu', allow_slow=True).name == 'bfloat16'
    assert choose(12.0, 'cpu', allow_slow=True).name == 'int8'


def test_a_cpu_without_bfloat16_instructions_gets_float32():
    small = {'language_model.model.layers.0.mlp.up_proj.weight': (512, 128)}
    picked = choose(4.0, 'cpu', small, native_bf16=False)
    assert picked.dtype == torch.float32
    assert 'no bfloat16 instructions' in picked.reason
    assert choose(4.0, 'cpu', small).dtype == torch.bfloat16


def test_what_is_asked_for_is_taken():
    picked = choose(24.0, dtype=torch.float16, quantization=None)
    assert (picked.dtype, picked.quantization) == (torch.float16, None)


def test_this_machine_can_be_asked():
    assert free_memory_bytes(torch.device('cpu')) > 1e8
    assert has_native_bf16(torch.device('cpu')) in (True, False)


def test_a_checkpoint_folder_is_enough_to_choose():
    picked = precision_of_checkpoint(GOLDEN / 'openvla_tiny', torch.device('cpu'))
    assert picked.quantization is None
    assert picked.needed_bytes < 1e9
    assert 'GB free on cpu' in picked.reason
