import json
from pathlib import Path

import pytest
import torch

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.model import OpenVLA
from openvla_ros.model.config import OpenVLAConfig, load_config, named_device, named_dtype

TINY = Path(__file__).parents[1] / 'golden' / 'openvla_tiny'
RAW = json.loads((TINY / 'config.json').read_text())


def config(**changes):
    raw = {**RAW, **changes}
    return OpenVLAConfig.from_dict({key: v for key, v in raw.items() if v is not ...})


def released(**changes):
    return config(timm_model_kwargs=..., **changes)


def test_a_timm_id_says_what_the_file_does_not():
    dino, siglip = released().towers
    assert (dino.embed_dim, dino.depth, dino.num_heads, dino.mlp_hidden) == (1024, 24, 16, 4096)
    assert (dino.num_prefix_tokens, dino.num_patches, dino.init_values) == (5, 256, 1e-5)
    # int(1152 * 3.7362)
    assert (siglip.embed_dim, siglip.depth, siglip.num_heads, siglip.mlp_hidden) == (
        1152,
        27,
        16,
        4304,
    )
    assert (siglip.num_prefix_tokens, siglip.init_values) == (0, None)
    assert released().vision_dim == 2176


def test_an_absent_text_config_is_llama_2_as_transformers_has_it():
    text = released(text_config={'model_type': 'llama', 'vocab_size': 32064}).text
    assert (text.hidden_size, text.num_hidden_layers, text.intermediate_size) == (4096, 32, 11008)
    assert (text.rms_norm_eps, text.rope_theta) == (1e-6, 1e4)


def test_the_vocabulary_is_the_embedding_without_its_padding():
    assert config().vocab_size == 32000
    assert config(pad_to_multiple_of=128).vocab_size == 31936


def test_an_absent_fused_flag_follows_the_name_of_the_backbone():
    assert released(use_fused_vision_backbone=...).fused
    assert released(use_fused_vision_backbone=None).fused
    single = {'vision_backbone_id': 'siglip-vit-so400m', 'use_fused_vision_backbone': ...}
    parsed = released(**single, timm_model_ids=['vit_so400m_patch14_siglip_224'])
    assert not parsed.fused
    assert len(parsed.towers) == 1


def test_a_backbone_named_alone_means_its_published_towers():
    named = released(timm_model_ids=..., image_sizes=..., timm_override_act_layers=...)
    assert [tower.timm_id for tower in named.towers] == RAW['timm_model_ids']
    large = released(
        vision_backbone_id='dinosiglip-vit-so-384px', timm_model_ids=..., image_sizes=...
    )
    assert [tower.num_patches for tower in large.towers] == [729, 729]


def test_overrides_replace_what_the_timm_id_says_and_null_does_not():
    override = {'embed_dim': 48, 'num_heads': 3, 'mlp_ratio': 2, 'init_values': None}
    dino = config(timm_model_kwargs=[override, {}]).towers[0]
    assert (dino.embed_dim, dino.mlp_hidden, dino.depth, dino.init_values) == (48, 96, 24, 1e-5)


def test_the_activation_override_is_heeded():
    first, second = config(timm_override_act_layers=['quick_gelu', None]).towers
    assert (first.act_layer, second.act_layer) == ('quick_gelu', 'gelu')


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'model_type': 'llava'}, "model_type: got 'llava', expected 'openvla'"),
        ({'model_type': ...}, 'model_type: got None'),
        ({'llm_backbone_id': 'mistral-v0.1-7b-pure'}, "llm_backbone_id: got 'mistral"),
        (
            {'timm_model_ids': ['vit_large_patch14_clip_336.openai', 'x']},
            "tower 0: timm_model_ids: got 'vit_large_patch14_clip_336.openai'",
        ),
        (
            {'timm_model_ids': [RAW['timm_model_ids'][0], 'vit_so400m_patch14_siglp_224']},
            r"tower 1: .*did you mean 'vit_so400m_patch14_siglip_224'",
        ),
        ({'timm_model_ids': [RAW['timm_model_ids'][0]]}, 'timm_model_ids: has 1 entries'),
        ({'timm_model_ids': 'vit'}, "timm_model_ids: got 'vit', expected list"),
        ({'timm_model_kwargs': [{'embed_dm': 3}, {}]}, r"'embed_dm' \(did you mean 'embed_dim'"),
        ({'timm_model_kwargs': [{'depth': '3'}, {}]}, "timm_model_kwargs.depth: got '3'"),
        ({'timm_model_kwargs': [{'depth': 1}, {}]}, 'depth: got 1, expected 2 or more'),
        ({'timm_model_kwargs': [{'num_heads': 7}, {}]}, 'not a multiple of num_heads'),
        ({'timm_override_act_layers': ['relu', None]}, "timm_override_act_layers: got 'relu'"),
        ({'image_sizes': [224, 448]}, 'give 256 and 1024 patches'),
        ({'image_sizes': [7, 7]}, 'image_sizes: got 7'),
        ({'image_sizes': ['224', 224]}, "image_sizes: got '224'"),
        ({'n_action_bins': 40000}, 'does not leave the 40000 ids'),
        ({'torch_dtype': 'int8'}, "torch_dtype: got 'int8'"),
        ({'use_fused_vision_backbone': 'yes'}, "use_fused_vision_backbone: got 'yes'"),
        ({'text_config': {'model_type': 'mistral'}}, 'mistral'),
        ({'text_config': {'rope_scaling': {'type': 'linear'}}}, 'rope_scaling'),
        ({'text_config': {'rope_parameters': 5}}, 'rope_parameters: got 5'),
        ({'text_config': {'hidden_size': '64'}}, "text_config.hidden_size: got '64', expected an"),
        ({'text_config': {'num_hidden_layers': 0}}, 'num_hidden_layers: got 0, .*above 0'),
        ({'text_config': {'num_attention_heads': 0}}, 'num_attention_heads: got 0'),
        ({'text_config': {'vocab_size': None}}, 'vocab_size: got None'),
        ({'text_config': {'rms_norm_eps': 'a'}}, "rms_norm_eps: got 'a', expected a number"),
        ({'text_config': {'rope_theta': float('nan')}}, 'rope_theta: got nan'),
        ({'architectures': ['LlavaForConditionalGeneration']}, 'architectures: got Llava'),
        ({'architectures': 'OpenVLA'}, "architectures: got 'OpenVLA', expected list"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(changes, message):
    with pytest.raises(ConfigError, match=f'^config.json: .*{message}'):
        config(**changes)


def test_null_where_transformers_takes_it_as_not_given_is_the_default():
    text = config(text_config={**RAW['text_config'], 'num_key_value_heads': None}).text
    assert text.num_key_value_heads == text.num_attention_heads


def test_a_git_lfs_pointer_is_recognised(tmp_path):
    (tmp_path / 'config.json').write_text('version https://git-lfs.github.com/spec/v1\noid a\n')
    with pytest.raises(ConfigError, match=r'config\.json: is a git-LFS pointer'):
        load_config(tmp_path)


@pytest.mark.parametrize('content', ['', '[]', '{"model_type": "openvla"', 'null'])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / 'config.json').write_text(content)
    with pytest.raises(ConfigError, match=r'config\.json: (cannot be read|holds)'):
        load_config(tmp_path)
    with pytest.raises(ConfigError, match=r'elsewhere/config\.json: cannot be read'):
        load_config(tmp_path / 'elsewhere')


def test_a_dtype_is_given_as_such_by_name_or_left_to_the_checkpoint():
    assert named_dtype(torch.float32, torch.bfloat16) == torch.float32
    assert named_dtype('float16', torch.bfloat16) == torch.float16
    assert named_dtype('auto', torch.bfloat16) == torch.bfloat16
    assert named_dtype(None, torch.float32) == torch.float32
    with pytest.raises(ConfigError, match="dtype: got 'half', expected one of auto"):
        named_dtype('half', torch.bfloat16)


def test_a_device_is_given_as_such_by_name_or_chosen(monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    monkeypatch.setattr('torch.cuda.device_count', lambda: 0)
    assert named_device('auto') == named_device(torch.device('cpu')) == torch.device('cpu')
    with pytest.raises(ConfigError, match='device: got'):
        OpenVLA.from_pretrained(TINY, device='cuda')


def test_a_checkpoint_of_openvla_oft_is_not_mistaken_for_one_of_openvla(tmp_path):
    (tmp_path / 'config.json').write_text(json.dumps(RAW))
    load_config(tmp_path)
    (tmp_path / 'action_head--150000_checkpoint.pt').touch()
    with pytest.raises(
        ConfigError, match=r'action_head--150000_checkpoint\.pt: belongs to an Open'
    ):
        load_config(tmp_path)


@pytest.mark.parametrize(
    'name', ['mps', 'xpu', 'xpu:0', 'meta', 'hpu', 'gpu', 'CUDA', 'cuda:x', '']
)
def test_a_device_that_is_not_supported_is_refused_by_name_with_what_is_there(name, monkeypatch):
    monkeypatch.setattr('torch.cuda.device_count', lambda: 1)
    monkeypatch.setattr('torch.cuda.get_device_name', lambda _: 'NVIDIA X')
    with pytest.raises(ConfigError) as refused:
        named_device(name)
    assert str(refused.value) == (
        f"device: got '{name}', which is not supported; expected 'auto', 'cpu', 'cuda' or "
        "'cuda:N' (here: cpu; cuda:0, NVIDIA X)"
    )


@pytest.mark.parametrize(
    ('gpus', 'built_for', 'device', 'said'),
    [
        (0, None, 'cuda', r'here: cpu; torch .* is built without CUDA, install one with it'),
        (0, '13.0', 'cuda', r'here: cpu; torch .* finds no GPU, nvidia-smi says whether'),
        (1, '13.0', 'cuda:1', r'here: cpu; cuda:0, NVIDIA X\)'),
        (2, '13.0', 'cuda:7', r'here: cpu; cuda:0, NVIDIA X; cuda:1, NVIDIA X\)'),
    ],
)
def test_a_gpu_that_is_not_there_is_refused_with_the_cause(
    gpus, built_for, device, said, monkeypatch
):
    monkeypatch.setattr('torch.version.cuda', built_for)
    monkeypatch.setattr('torch.cuda.device_count', lambda: gpus)
    monkeypatch.setattr('torch.cuda.get_device_name', lambda _: 'NVIDIA X')
    with pytest.raises(ConfigError, match=rf"device: got '{device}', which this .* \({said}"):
        named_device(device)
