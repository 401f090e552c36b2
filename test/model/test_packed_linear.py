"""Packed weights give the same products, and only where that is what they are for."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from openvla_ros.model import OpenVLA
from openvla_ros.model.checkpoint import CheckpointError
from openvla_ros.model.lora import AdaptedLayer, LowRank
from openvla_ros.model.packed_linear import PackedLinear, pack_weights

GOLDEN = Path(__file__).parents[1] / 'golden'
#: One unit in the last place of bfloat16, relative.
ULP = 2.0**-7

pytestmark = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    reason='this CPU has no bfloat16 kernels to pack for',
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).bfloat16()


@pytest.mark.parametrize('rows', [1, 2, 7, 280, 292])
@pytest.mark.parametrize('bias', [None, random(1536, seed=2)])
def test_a_packed_layer_gives_the_products_of_the_plain_one(rows: int, bias: torch.Tensor | None):
    weight, x = random(1536, 1024) * 0.02, random(1, rows, 1024, seed=1)
    packed = PackedLinear(weight, bias)(x)
    plain = nn.functional.linear(x, weight, bias)
    assert packed.shape == plain.shape
    assert packed.dtype == torch.bfloat16
    assert torch.allclose(packed.float(), plain.float(), rtol=ULP, atol=ULP)


def wide_model(hidden_size: int = 1024) -> OpenVLA:
    raw = json.loads((GOLDEN / 'openvla_tiny' / 'config.json').read_text())
    raw['text_config'] |= {
        'hidden_size': hidden_size,
        'intermediate_size': 1024,
        'num_hidden_layers': 2,
    }
    return OpenVLA.from_config(raw, dtype=torch.bfloat16, seed=0).eval()


def packed_names(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, PackedLinear)}


@pytest.mark.slow
def test_a_packed_network_decodes_the_same_tokens_from_the_same_memory():
    model = wide_model()
    pixels, prompt = random(6, 224, 224), torch.arange(1, 24)
    model.language_model.fuse()
    before = model.decode(pixels, prompt, 7)
    count = pack_weights(model)
    after = model.decode(pixels, prompt, 7, draft=before.tokens)
    assert count == len(packed_names(model))
    assert {
        f'language_model.model.layers.{layer}.{name}'
        for layer in (0, 1)
        for name in ('self_attn.qkv', 'self_attn.o_proj', 'mlp.gate_up', 'mlp.down_proj')
    } <= packed_names(model)
    large = [p for p in model.parameters() if p.ndim == 2 and min(p.shape) >= 1024]
    assert [p.shape for p in large] == [model.language_model.model.embed_tokens.weight.shape]
    assert after.tokens.tolist() == before.tokens.tolist()


def test_narrow_float32_and_adapted_layers_stay_as_they_are():
    assert pack_weights(wide_model(hidden_size=256).language_model) == 0
    assert pack_weights(nn.Sequential(nn.Linear(1024, 1024))) == 0
    plain = nn.Linear(1024, 1024, dtype=torch.bfloat16)
    low = LowRank(random(4, 1024), random(1024, 4))
    adapted = AdaptedLayer(plain, low, 1.0, torch.bfloat16, 'cpu')
    assert pack_weights(nn.Sequential(adapted)) == 0
    assert pack_weights(nn.Sequential(plain)) == 1


def test_a_packed_network_is_not_saved_as_if_it_were_whole(tmp_path: Path):
    model = wide_model()
    pack_weights(model)
    with pytest.raises(CheckpointError, match='packed for a CPU'):
        model.save_pretrained(tmp_path / 'copy')
    assert not (tmp_path / 'copy').exists()
