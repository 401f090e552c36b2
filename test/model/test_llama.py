"""The decoder against transformers' LlamaForCausalLM."""

import pytest
import torch
from transformers import LlamaConfig as HfLlamaConfig
from transformers import LlamaForCausalLM

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.model.llama import KVCache, Llama, LlamaConfig

TEXT_CONFIG = {
    'vocab_size': 160,
    'hidden_size': 64,
    'intermediate_size': 160,
    'num_hidden_layers': 3,
    'num_attention_heads': 4,
    'rms_norm_eps': 1e-6,
}


def make_pair(dtype=torch.float32, **overrides):
    """Our decoder and the oracle with the same random weights."""
    text_config = {**TEXT_CONFIG, **overrides}
    ours = Llama(LlamaConfig.from_dict(text_config), dtype=torch.float32)
    ours.reset_parameters(seed=3)
    oracle = LlamaForCausalLM(HfLlamaConfig(**text_config, attn_implementation='sdpa'))
    missing = oracle.load_state_dict(ours.state_dict(), strict=True)
    assert not missing.missing_keys
    assert not missing.unexpected_keys
    ours.to(dtype)
    # The oracle's inv_freq must stay float32, as it does when a checkpoint is loaded in bfloat16.
    for name, parameter in oracle.named_parameters():
        parameter.data = parameter.data.to(dtype)
        assert 'inv_freq' not in name
    return ours.eval(), oracle.eval()


def random_ids(batch, length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, TEXT_CONFIG['vocab_size'], (batch, length), generator=generator)


@torch.no_grad()
@pytest.mark.parametrize('overrides', [{}, {'num_key_value_heads': 2}, {'rms_norm_eps': 1e-3}])
def test_logits_equal_the_oracle_in_float32(overrides):
    ours, oracle = make_pair(**overrides)
    ids = random_ids(2, 300)
    expected = oracle(ids).logits
    got = ours(ours.embed(ids))
    assert (got - expected).abs().max() <= 1e-6 * expected.abs().max()


@torch.no_grad()
def test_logits_equal_the_oracle_in_bfloat16():
    ours, oracle = make_pair(torch.bfloat16)
    ids = random_ids(1, 290)
    expected = oracle(ids).logits.float()
    got = ours(ours.embed(ids)).float()
    assert (got - expected).abs().max() <= 2**-7 * expected.abs().max()


@torch.no_grad()
def test_a_prefill_and_steps_through_the_cache_equal_one_pass():
    ours, _ = make_pair()
    ids = random_ids(2, 40)
    whole = ours(ours.embed(ids))
    cache = KVCache(ours.config, 48, batch=2, dtype=torch.float32)
    parts = [ours(ours.embed(ids[:, :30]), cache=cache)]
    parts.append(ours(ours.embed(ids[:, 30:31]), cache=cache, position=30))
    parts.append(ours(ours.embed(ids[:, 31:40]), cache=cache, position=31))
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_stale_rows_of_the_cache_are_never_seen():
    ours, _ = make_pair()
    ids = random_ids(1, 20)
    cache = KVCache(ours.config, 32, dtype=torch.float32)
    ours(ours.embed(random_ids(1, 32, seed=9)), cache=cache)
    got = ours(ours.embed(ids), cache=cache)
    torch.testing.assert_close(got, ours(ours.embed(ids)), atol=1e-6, rtol=1e-5)
    cache.kv[..., 12:, :] = float('nan')
    assert torch.isfinite(ours(ours.embed(ids[:, 12:]), cache=cache, position=12)).all()


@torch.no_grad()
def test_the_head_is_computed_on_the_rows_asked_for_only():
    ours, _ = make_pair()
    ids = random_ids(1, 20)
    whole = ours(ours.embed(ids))
    got = ours(ours.embed(ids), rows=slice(13, 20))
    assert got.shape == (1, 7, TEXT_CONFIG['vocab_size'])
    torch.testing.assert_close(got, whole[:, 13:20], atol=1e-6, rtol=1e-5)


def test_gradients_equal_the_oracle():
    ours, oracle = make_pair()
    ids = random_ids(3, 24)
    ours(ours.embed(ids)).square().mean().backward()
    oracle(ids).logits.square().mean().backward()
    expected = dict(oracle.named_parameters())
    for name, parameter in ours.named_parameters():
        scale = expected[name].grad.abs().max()
        assert (parameter.grad - expected[name].grad).abs().max() <= 1e-5 * scale, name


@torch.no_grad()
def test_right_padding_changes_nothing_to_its_left():
    ours, _ = make_pair()
    ids = random_ids(1, 20)
    padded = torch.cat([ids, random_ids(1, 5, seed=4)], 1)
    torch.testing.assert_close(
        ours(ours.embed(padded))[:, :20], ours(ours.embed(ids)), atol=1e-6, rtol=1e-5
    )


@torch.no_grad()
def test_casting_the_model_leaves_the_rotary_frequencies_in_float32():
    ours, _ = make_pair()
    ours.to(torch.bfloat16)
    table = ours._rotary(torch.zeros(1, dtype=torch.bfloat16))
    position, pair = 287, 1
    angle = position / 10000 ** (2 * pair / 16)
    assert table[0, position, pair] == torch.tensor(angle).double().cos().to(torch.bfloat16)


def test_an_empty_text_config_is_llama_2_7b():
    config = LlamaConfig.from_dict({'vocab_size': 32064})
    assert (config.hidden_size, config.num_hidden_layers, config.head_dim) == (4096, 32, 128)
    assert config.rms_norm_eps == 1e-6


@pytest.mark.parametrize(
    'change',
    [
        {'hidden_act': 'gelu'},
        {'rope_scaling': {'type': 'linear', 'factor': 2.0}},
        {'rope_parameters': {'rope_type': 'llama3', 'rope_theta': 1e4}},
        {'attention_bias': True},
        {'model_type': 'mistral'},
        {'num_key_value_heads': 3},
    ],
)
def test_a_variant_it_does_not_compute_is_refused(change):
    with pytest.raises(ConfigError, match='text_config'):
        LlamaConfig.from_dict({**TEXT_CONFIG, **change})


@torch.no_grad()
def test_more_rows_than_the_cache_holds_are_refused():
    ours, _ = make_pair()
    cache = KVCache(ours.config, 8, dtype=torch.float32)
    with pytest.raises(ValueError, match='room for 8'):
        ours(ours.embed(random_ids(1, 6)), cache=cache, position=4)
    with pytest.raises(ValueError, match='without a cache'):
        ours(ours.embed(random_ids(1, 6)), position=4)


@torch.no_grad()
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('rows', [1, 7, 290])
def test_joined_products_change_no_bit(dtype, rows):
    ours, _ = make_pair(dtype, num_key_value_heads=2)
    embeds = ours.embed(random_ids(1, rows))
    apart = ours(embeds, cache=KVCache(ours.config, 300, dtype=dtype))
    ours.fuse()
    joined = ours(embeds, cache=KVCache(ours.config, 300, dtype=dtype))
    assert torch.equal(apart, joined)


@torch.no_grad()
def test_joining_keeps_the_released_names_and_takes_no_memory_of_its_own():
    ours, _ = make_pair()
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    ours.fuse()
    after = ours.state_dict()
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    key = after['model.layers.0.self_attn.k_proj.weight']
    assert key.data_ptr() == ours.layers[0].self_attn.qkv.weight[64:].data_ptr()
    assert sum(p.numel() for p in ours.parameters()) == sum(v.numel() for v in before.values())


@torch.no_grad()
def test_weights_that_arrive_after_joining_are_used():
    ours, _ = make_pair()
    ours.fuse()
    other = Llama(ours.config)
    other.reset_parameters(seed=8)
    embeds = other.embed(random_ids(1, 9))
    expected = other(embeds)
    for assign in (False, True):
        ours.reset_parameters(seed=3)
        loaded = ours.load_state_dict(other.state_dict(), assign=assign)
        assert (loaded.missing_keys, loaded.unexpected_keys) == ([], [])
        torch.testing.assert_close(ours(embeds), expected, atol=1e-6, rtol=1e-5)
        got = ours(embeds, cache=KVCache(ours.config, 16, dtype=torch.float32))
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)
    ours.to(torch.bfloat16).to(torch.float32)
    ours.load_state_dict(other.state_dict())
    got = ours(embeds, cache=KVCache(ours.config, 16, dtype=torch.float32))
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)


def test_gradients_reach_every_parameter_of_joined_layers():
    ours, _ = make_pair()
    ours.fuse()
    ours(ours.embed(random_ids(2, 9))).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in ours.parameters())
