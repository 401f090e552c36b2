"""Packed weights give the same products, and only where that is what they are for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from openvla_ros.model import OpenVLA
from openvla_ros.model.checkpoint import CheckpointError
from openvla_ros.model.lora import AdaptedLayer, LowRank
from openvla_ros.model.packed_linear import PackedInt8Linear, PackedLinear, pack_weights
from openvla_ros.model.quantization import quantize

GOLDEN = Path(__file__).parents[1] / 'golden'
#: One unit in the last place of bfloat16, relative.
ULP = 2.0**-7

pytestmark = pytest.mark.skipif(
    not (torch.ops.mkldnn._is_mkldnn_bf16_supported() and torch.cpu._is_vnni_supported()),
    reason='this CPU has no bfloat16 or no int8 kernels to pack for',
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


def int8_matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-127, 128, (rows, columns), generator=generator, dtype=torch.int8)


@pytest.mark.parametrize('rows', [1, 2, 7, 280, 292])
@pytest.mark.parametrize('bias', [None, random(1536, seed=2)])
def test_a_packed_int8_layer_adds_up_integers_exactly(rows: int, bias: torch.Tensor | None):
    weight, scales = int8_matrix(1536, 1024), torch.rand(1536) + 0.5
    steps = int8_matrix(rows, 1024, seed=1)
    steps[:, 0] = 127  # the largest of its row, so that quantising gives the steps back
    scale = torch.arange(1, rows + 1)[:, None] / 127
    x = steps * scale
    expected = (steps.long() @ weight.long().T) * scale * (scales / 127)
    expected = expected if bias is None else expected + bias
    before = x.clone()
    got = PackedInt8Linear(weight, scales, bias)(x[None])
    assert got.shape == (1, rows, 1536)
    assert torch.allclose(got[0], expected, rtol=1e-5, atol=1e-3)
    assert torch.equal(x, before)


def test_the_largest_bytes_of_one_sign_do_not_saturate():
    weight = torch.full((1024, 4096), -127, dtype=torch.int8)
    got = PackedInt8Linear(weight, torch.ones(1024), None)(torch.ones(3, 4096))
    assert torch.allclose(got, torch.full((3, 1024), -4096.0), rtol=1e-6)


def test_a_row_of_zeros_stays_zero_and_a_row_that_is_not_finite_spoils_only_itself():
    layer = PackedInt8Linear(int8_matrix(1024, 1024), torch.ones(1024), None)
    x = random(4, 1024)
    x[0] = 0
    x[1, 5] = float('nan')
    x[2, 5] = float('inf')
    got = layer(x)
    assert got.dtype == torch.bfloat16
    assert bool((got[0] == 0).all())
    assert not got[1:3].isfinite().any()
    assert torch.equal(got[3], layer(x[3:])[0])


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


@pytest.mark.slow
@pytest.mark.parametrize('used', [False, True])
def test_a_packed_int8_network_is_as_near_to_bfloat16_as_bitsandbytes(used: bool):
    exact, model = wide_model(), wide_model()
    quantize(model, 'int8')

    def logits(network: OpenVLA) -> torch.Tensor:
        with torch.inference_mode():
            return network.logits(pixels, prompt).float()

    pixels, prompt = random(1, 6, 224, 224), torch.arange(1, 24)[None]
    expected, before = logits(exact), logits(model)
    if not used:  # what bitsandbytes keeps lies elsewhere before a layer's first pass
        model = wide_model()
        quantize(model, 'int8')
    pack_weights(model)
    packed = {n for n, m in model.named_modules() if isinstance(m, PackedInt8Linear)}
    assert len(packed) == 2 * 4
    after, noise = logits(model), (before - expected).norm()
    # bitsandbytes scales activations in float16, so some land on the neighbouring step.
    assert 0 < float((after - before).norm()) < float(noise)
    assert float((after - expected).norm()) < 1.1 * float(noise)


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
