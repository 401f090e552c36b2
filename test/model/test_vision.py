import dataclasses
import json
from pathlib import Path

import pytest
import torch
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from openvla_ros.model.config import OpenVLAConfig
from openvla_ros.model.vision import VisionBackbone, VisionTower, unused_shapes

GOLDEN = Path(__file__).parents[1] / 'golden'
DINO, SIGLIP = 'vit_large_patch14_reg4_dinov2.lvd142m', 'vit_so400m_patch14_siglip_224'


def tower(timm_id, size, **kwargs):
    raw = json.loads((GOLDEN / 'openvla_tiny' / 'config.json').read_text())
    raw |= {
        'use_fused_vision_backbone': False,
        'timm_model_ids': [timm_id],
        'image_sizes': [size],
        'timm_model_kwargs': [kwargs],
    }
    return OpenVLAConfig.from_dict(raw).towers[0]


def with_random_weights(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return module.eval()


def split_qkv(value):
    return dict(zip('qkv', value.chunk(3)))


def as_dinov2(config, state, depth):
    width = config.embed_dim
    oracle = Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=config.num_heads,
            mlp_ratio=int(config.mlp_ratio),
            hidden_act='gelu',
            layer_norm_eps=1e-6,
            image_size=config.img_size,
            patch_size=config.patch_size,
            num_register_tokens=config.reg_tokens,
        )
    )
    renamed = {
        'embeddings.cls_token': state['cls_token'],
        'embeddings.register_tokens': state['reg_token'],
        'embeddings.mask_token': torch.zeros(1, width),
        'embeddings.position_embeddings': torch.cat(
            [torch.zeros(1, 1, width), state['pos_embed']], 1
        ),
        'layernorm.weight': torch.ones(width),
        'layernorm.bias': torch.zeros(width),
    }
    for name, value in state.items():
        if name.startswith('patch_embed.proj'):
            name = name.replace('patch_embed.proj', 'embeddings.patch_embeddings.projection')
            renamed[name] = value
        elif name.startswith('blocks'):
            name = name.replace('blocks', 'encoder.layer')
            name = name.replace('attn.proj', 'attention.o_proj')
            for i in '12':
                name = name.replace(f'ls{i}.scale_factor', f'layer_scale{i}.lambda1')
            if 'attn.qkv' in name:
                for part, rows in split_qkv(value).items():
                    renamed[name.replace('attn.qkv', f'attention.{part}_proj')] = rows
            else:
                renamed[name] = value
    oracle.load_state_dict(renamed)
    return oracle.eval()


def as_siglip(config, state, depth):
    oracle = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=config.embed_dim,
            intermediate_size=config.mlp_hidden,
            num_hidden_layers=depth,
            num_attention_heads=config.num_heads,
            image_size=config.img_size,
            patch_size=config.patch_size,
            hidden_act='gelu',
            layer_norm_eps=1e-6,
            vision_use_head=False,
        )
    )
    renamed = {
        'embeddings.position_embedding.weight': state['pos_embed'][0],
        'post_layernorm.weight': torch.ones(config.embed_dim),
        'post_layernorm.bias': torch.zeros(config.embed_dim),
    }
    for name, value in state.items():
        if name.startswith('patch_embed.proj'):
            renamed[name.replace('patch_embed.proj', 'embeddings.patch_embedding')] = value
        elif name.startswith('blocks'):
            name = name.replace('blocks', 'encoder.layers').replace('norm', 'layer_norm')
            name = name.replace('attn.proj', 'self_attn.out_proj')
            if 'attn.qkv' in name:
                for part, rows in split_qkv(value).items():
                    renamed[name.replace('attn.qkv', f'self_attn.{part}_proj')] = rows
            else:
                renamed[name] = value
    oracle.load_state_dict(renamed)
    return oracle.eval()


@pytest.mark.parametrize(
    ('timm_id', 'size', 'kwargs'),
    [
        (DINO, 224, {'embed_dim': 64, 'depth': 4, 'num_heads': 4}),
        (DINO, 98, {'embed_dim': 48, 'depth': 2, 'num_heads': 2, 'mlp_ratio': 3.0}),
        ('vit_small_patch14_reg4_dinov2', 56, {'depth': 3}),
    ],
)
@torch.inference_mode()
def test_dinov2_equals_transformers_before_its_last_block(timm_id, size, kwargs):
    config = tower(timm_id, size, **kwargs)
    ours = with_random_weights(VisionTower(config))
    oracle = as_dinov2(config, ours.state_dict(), config.depth - 1)
    images = torch.randn(2, 3, size, size)
    states = oracle(images, output_hidden_states=True).hidden_states
    want = states[-1][:, 5:]
    assert ours(images).shape == (2, (size // 14) ** 2, config.embed_dim)
    torch.testing.assert_close(ours(images), want, rtol=1e-4, atol=1e-4 * want.abs().max().item())


@pytest.mark.parametrize(
    ('timm_id', 'size', 'kwargs'),
    [
        (SIGLIP, 224, {'embed_dim': 72, 'depth': 4, 'num_heads': 3}),
        ('vit_so400m_patch14_siglip_384', 112, {'embed_dim': 48, 'depth': 3, 'num_heads': 4}),
        ('vit_base_patch16_siglip_256', 64, {'embed_dim': 64, 'depth': 3, 'num_heads': 4}),
        ('vit_large_patch16_siglip_384', 96, {'embed_dim': 32, 'depth': 2, 'num_heads': 2}),
    ],
)
@torch.inference_mode()
def test_siglip_equals_transformers_with_the_exact_gelu(timm_id, size, kwargs):
    config = tower(timm_id, size, **kwargs)
    ours = with_random_weights(VisionTower(config))
    oracle = as_siglip(config, ours.state_dict(), config.depth - 1)
    images = torch.randn(2, 3, size, size)
    want = oracle(images, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(ours(images), want, rtol=1e-4, atol=1e-4 * want.abs().max().item())


@torch.inference_mode()
def test_a_border_narrower_than_a_patch_is_not_looked_at():
    config = tower(SIGLIP, 100, embed_dim=24, depth=2, num_heads=2)
    ours = with_random_weights(VisionTower(config))
    images = torch.randn(1, 3, 100, 100)
    touched = images.clone()
    touched[:, :, 98:] = 9.0
    assert ours(images).shape == (1, 49, 24)
    assert torch.equal(ours(images), ours(touched))


@torch.inference_mode()
def test_two_towers_are_joined_patch_by_patch_the_first_one_first():
    first = tower(DINO, 56, embed_dim=16, depth=2, num_heads=2)
    second = tower(SIGLIP, 56, embed_dim=24, depth=2, num_heads=2)
    backbone = with_random_weights(VisionBackbone((first, second)))
    pixel_values = torch.randn(1, 6, 56, 56)
    features = backbone(pixel_values)
    assert torch.equal(features[..., :16], backbone.featurizer(pixel_values[:, :3]))
    assert torch.equal(features[..., 16:], backbone.fused_featurizer(pixel_values[:, 3:]))


def test_the_unused_tensors_are_the_last_block_the_norm_and_the_pooling_head():
    config = tower(SIGLIP, 56, embed_dim=24, depth=3, num_heads=2)
    names = unused_shapes(config)
    assert {name.split('.')[0] for name in names} == {'blocks', 'norm', 'attn_pool'}
    assert {name.split('.')[1] for name in names if name.startswith('blocks')} == {'2'}
    without = unused_shapes(dataclasses.replace(config, attn_pool=False))
    assert {name.split('.')[0] for name in without} == {'blocks', 'norm'}
