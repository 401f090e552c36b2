"""Quantised linear layers: which, how close, how small, and through every path of the decoder."""

import logging

import numpy as np
import pytest
import torch
from torch import nn

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.model.decoding import EagerPasses, greedy_decode, jacobi_decode
from openvla_ros.model.kv_cache import KVCache
from openvla_ros.model.llama import Llama, LlamaConfig
from openvla_ros.model.quantization import (
    SCHEMES,
    Quantizer,
    model_bytes,
    quantization_scheme,
    quantize,
)

pytest.importorskip('bitsandbytes')

CONFIG = LlamaConfig.from_dict(
    {
        'vocab_size': 384,
        'hidden_size': 128,
        'intermediate_size': 352,
        'num_hidden_layers': 2,
        'num_attention_heads': 4,
    }
)


def make_llama(dtype=torch.bfloat16):
    llama = Llama(CONFIG, dtype=torch.float32)
    llama.reset_parameters(seed=2)
    return llama.to(dtype).eval()


@torch.no_grad()
def logits(llama, rows=20):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, CONFIG.vocab_size, (1, rows), generator=generator)
    dtype = llama.lm_head.weight.dtype
    cache = KVCache(llama.config, rows, dtype=dtype)
    return llama(llama.embed(ids), cache=cache).float()


def relative_error(got, expected):
    return float((got - expected).norm() / expected.norm())


#: Rounding noise of one matrix of normal weights (nf4 9.2 %, int8 1.2 %), added in quadrature over
#: the eight products.
BOUNDS = {'int8': 0.012 * 8**0.5, 'nf4': 0.092 * 8**0.5, 'nf4-double': 0.092 * 8**0.5}


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
@pytest.mark.parametrize('name', list(BOUNDS))
def test_logits_stay_close(name, dtype):
    exact = logits(make_llama(dtype))
    llama = make_llama(dtype)
    quantize(llama, name)
    error = relative_error(logits(llama), exact)
    assert 0 < error < BOUNDS[name]


@pytest.mark.parametrize('name', list(BOUNDS))
def test_joined_products_equal_separate_ones(name):
    joined, apart = make_llama(), make_llama()
    quantize(joined, name, join=True)
    quantize(apart, name, join=False)
    assert isinstance(joined.layers[0].self_attn.qkv, nn.Module)
    assert apart.layers[0].self_attn.qkv is None
    # Doubly quantised scales share an offset per matrix, so joining moves them a little.
    tolerance = 0.02 if name == 'nf4-double' else 1e-6
    assert relative_error(logits(joined), logits(apart)) <= tolerance


def test_layers_joined_before_are_quantised_as_those_joined_meanwhile():
    before, meanwhile = make_llama(), make_llama()
    before.fuse()
    quantize(before, 'int8')
    quantize(meanwhile, 'int8')
    assert type(before.layers[0].self_attn.qkv) is type(meanwhile.layers[0].self_attn.qkv)
    assert relative_error(logits(before), logits(meanwhile)) <= 1e-6
    before.fuse()  # nothing is left to join
    assert 'model.layers.0.self_attn.qkv.weight' in before.state_dict()


@pytest.mark.parametrize('name', list(BOUNDS))
def test_it_gets_as_small_as_the_scheme_says(name, capsys):
    llama = make_llama()
    before = model_bytes(llama)
    report = quantize(llama, name)
    scheme = quantization_scheme(name)
    shapes = [(384, 128), (128, 128), (704, 128), (128, 352)] * CONFIG.num_hidden_layers
    saved = sum(
        2 * rows * columns - scheme.weight_bytes(rows, columns) for rows, columns in shapes
    )
    assert report.layers == len(shapes)
    assert report.before_bytes == before
    assert report.after_bytes == model_bytes(llama) == pytest.approx(before - saved, rel=0.01)
    assert f'GB -> {report.after_bytes / 1e9:.3f} GB' in capsys.readouterr().err


def test_memory_is_counted_the_same_before_and_after_the_first_pass():
    llama = make_llama()
    report = quantize(llama, 'int8')
    logits(llama)
    assert model_bytes(llama) == report.after_bytes


def test_head_embedding_and_norms_keep_their_dtype():
    llama = make_llama()
    quantize(llama, 'nf4-all')
    kept = {name for name, p in llama.named_parameters() if p.dtype == torch.bfloat16}
    assert {'lm_head.weight', 'model.embed_tokens.weight', 'model.norm.weight'} <= kept
    assert not any('proj' in name for name in kept)


@pytest.mark.parametrize('scheme', SCHEMES.values())
def test_schemes_cover_what_their_names_say(scheme):
    assert scheme.covers('language_model.model.layers.3.mlp.up_proj')
    assert not scheme.covers('language_model.lm_head')
    assert scheme.covers('vision_backbone.featurizer.blocks.0.mlp.fc1') == scheme.everywhere
    assert scheme.covers('projector.fc1') == scheme.everywhere


def test_weights_are_quantised_while_they_arrive():
    """In any order, with the biases of the rest left where they are."""

    class Network(nn.Module):
        def __init__(self, device):
            super().__init__()
            self.projector = nn.Sequential(nn.Linear(64, 128, device=device))
            self.language_model = Llama(CONFIG, dtype=torch.bfloat16, device=device)

    source = Network('cpu').to(torch.bfloat16)
    source.language_model.reset_parameters(4)
    target = Network('meta').to(torch.bfloat16)
    quantizer = Quantizer(target, quantization_scheme('int8-all'))
    state = source.state_dict()
    for name in sorted(state):
        if not quantizer.place(name, state[name]):
            owner = target.get_submodule(name.rpartition('.')[0])
            setattr(owner, name.rpartition('.')[2], nn.Parameter(state[name]))
    quantizer.finish()
    assert not any(p.is_meta for p in target.parameters())
    expected, got = logits(source.language_model), logits(target.language_model)
    assert relative_error(got, expected) < BOUNDS['int8']
    x = torch.ones(1, 64, dtype=torch.bfloat16)
    torch.testing.assert_close(target.projector(x), source.projector(x), atol=0.05, rtol=0.05)


def test_a_weight_that_never_came_is_noticed():
    quantizer = Quantizer(make_llama(), quantization_scheme('int8'))
    quantizer.place('model.layers.0.mlp.gate_proj.weight', torch.zeros(352, 128))
    with pytest.raises(ValueError, match=r'layers\.0\.mlp\.gate_proj'):
        quantizer.finish()


@pytest.mark.parametrize('name', ['int8', 'nf4'])
def test_drafts_work_on_quantised_layers(name):
    llama = make_llama(torch.float32)
    quantize(llama, name)
    passes = EagerPasses(llama)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        embeds = torch.randn(1, 12, CONFIG.hidden_size, generator=generator)
        greedy = greedy_decode(passes, embeds, 7)
        again = jacobi_decode(passes, embeds, 7, greedy.tokens)
        np.testing.assert_array_equal(again.tokens, greedy.tokens)
        assert again.num_passes == 1
        other = jacobi_decode(passes, embeds, 7, [5] * 7)
        np.testing.assert_array_equal(other.tokens, greedy.tokens)


def test_it_does_not_spam_the_log(caplog):
    llama = make_llama()
    with caplog.at_level(logging.WARNING):
        quantize(llama, 'int8')
        logits(llama)
    assert not caplog.records


def test_an_unknown_scheme_is_refused_with_the_names_there_are():
    with pytest.raises(ConfigError, match=r"'nf5'.*nf4.*int8|'nf5'.*int8.*nf4"):
        quantization_scheme('nf5')
