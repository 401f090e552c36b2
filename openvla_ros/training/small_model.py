"""The small OpenVLA: the released architecture with everything made narrow and shallow."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from openvla_ros.model.openvla import OpenVLA
from openvla_ros.training.tokenizer import NUM_ACTION_BINS, PAD_TO_MULTIPLE_OF

#: What has a row for each token.
TOKEN_TABLES = ('embed_tokens.weight', 'lm_head.weight')
# What adds to the residual stream starts small.
_RESIDUAL = ('attn.proj.weight', 'fc2.weight', 'o_proj.weight', 'down_proj.weight')
# Components weaker than this (pixels have variance about 1) are noise and stay quiet.
_LEAST_VARIANCE = 0.05
_IMAGENET_MEAN, _IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@dataclasses.dataclass(frozen=True)
class SmallModel:
    """Sizes; the depth of a tower counts its last block, which OpenVLA holds but never runs."""

    image_size: int = 112
    vision_width: int = 128
    vision_depth: int = 5
    vision_heads: int = 4
    width: int = 192
    hidden: int = 512
    layers: int = 5
    heads: int = 4

    def config(self, vocabulary_size: int) -> dict[str, Any]:
        """Return the content of config.json for a tokenizer of ``vocabulary_size`` pieces."""
        tower = {
            'embed_dim': self.vision_width,
            'depth': self.vision_depth,
            'num_heads': self.vision_heads,
        }
        return {
            'model_type': 'openvla',
            'architectures': ['OpenVLAForActionPrediction'],
            'vision_backbone_id': 'dinosiglip-vit-so-224px',
            'llm_backbone_id': 'llama2-7b-pure',
            'arch_specifier': 'no-align+fused-gelu-mlp',
            'use_fused_vision_backbone': True,
            'timm_model_ids': [
                'vit_large_patch14_reg4_dinov2.lvd142m',
                'vit_so400m_patch14_siglip_224',
            ],
            'timm_override_act_layers': [None, None],
            # LayerScale starts at 1: there is no time to grow it from DINOv2's 1e-5.
            'timm_model_kwargs': [{**tower, 'init_values': 1.0}, {**tower, 'mlp_ratio': 4.0}],
            'image_sizes': [self.image_size, self.image_size],
            'image_resize_strategy': 'resize-naive',
            'n_action_bins': NUM_ACTION_BINS,
            'pad_token_id': vocabulary_size,
            'pad_to_multiple_of': PAD_TO_MULTIPLE_OF,
            'torch_dtype': 'bfloat16',
            'text_config': {
                'model_type': 'llama',
                'vocab_size': vocabulary_size + PAD_TO_MULTIPLE_OF,
                'hidden_size': self.width,
                'intermediate_size': self.hidden,
                'num_hidden_layers': self.layers,
                'num_attention_heads': self.heads,
                'num_key_value_heads': self.heads,
                'max_position_embeddings': 512,
                'rms_norm_eps': 1e-6,
                'pad_token_id': vocabulary_size,
                'torch_dtype': 'bfloat16',
            },
        }

    def preprocessor_config(self) -> dict[str, Any]:
        """Return the content of preprocessor_config.json."""
        size = [3, self.image_size, self.image_size]
        return {
            'processor_class': 'PrismaticProcessor',
            'image_processor_type': 'PrismaticImageProcessor',
            'use_fused_vision_backbone': True,
            'image_resize_strategy': 'resize-naive',
            'input_sizes': [size, size],
            'interpolations': ['bicubic', 'bicubic'],
            'means': [_IMAGENET_MEAN, [0.5, 0.5, 0.5]],
            'stds': [_IMAGENET_STD, [0.5, 0.5, 0.5]],
        }


@torch.no_grad()
def initialise(model: nn.Module, vocabulary_size: int, seed: int) -> None:
    """Fill the weights so that a small model learns within few passes.

    Linear layers start at the scale that keeps variance (Glorot), position embeddings as
    two-dimensional sines, and the rows of the action tokens, in the embedding and in the head,
    as smooth functions of the value they stand for: neighbouring bins begin as neighbours. The
    loss is unchanged; only the start is.

    Args:
        model: ``vision_backbone``, ``projector`` and ``language_model``, freshly built.
        vocabulary_size: V; the action tokens are [V-256, V-1].
        seed: Of all random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith('pos_embed'):
            parameter.copy_(_sines(parameter.shape[1], parameter.shape[2]))
        elif name.endswith('scale_factor') or 'norm' in name.rsplit('.', 2)[-2]:
            parameter.fill_(0.0 if name.endswith('bias') else 1.0)
        elif name.endswith('bias'):
            parameter.zero_()
        elif 'embed_tokens' in name or name.endswith(('cls_token', 'reg_token')):
            parameter.normal_(0.0, 1.0 if 'embed_tokens' in name else 0.02, generator=generator)
        else:
            rows, columns = parameter.shape[0], parameter[0].numel()
            parameter.normal_(0.0, (2.0 / (rows + columns)) ** 0.5, generator=generator)
            if name.endswith(_RESIDUAL):
                parameter.mul_(0.3)
    for name, parameter in model.named_parameters():
        if name.endswith(TOKEN_TABLES):
            actions = slice(vocabulary_size - NUM_ACTION_BINS, vocabulary_size)
            smooth = _smooth_rows(parameter.shape[1], generator)
            parameter[actions] = smooth * parameter[actions].std()


@torch.no_grad()
def standardise_projector(model: OpenVLA, pixel_values: Tensor) -> None:
    """Scale and shift each projector layer so that its outputs have mean 0 and variance 1.

    Measured on training images (Salimans and Kingma 2016): patches then enter the language model
    as large as words do, and as different from each other.
    """
    x = model.vision_features(pixel_values)
    projector = model.projector
    for number, layer in enumerate((projector.fc1, projector.fc2, projector.fc3)):
        assert layer is not None
        x = nn.functional.gelu(x) if number else x
        out = layer(x).flatten(0, 1)
        scale = 1.0 / out.std(0)
        layer.weight.mul_(scale[:, None])
        layer.bias.copy_(-out.mean(0) * scale)
        x = layer(x)


@torch.no_grad()
def whiten_patches(model: OpenVLA, pixel_values: Tensor, seed: int) -> None:
    """Start the patch embeddings as the principal components of real patches, all equally loud.

    Most of what varies between patches is brightness; which colour something has is a hundredth
    of it, and a network that starts with random filters takes long to hear it (Page et al. 2018
    whiten the first layer for the same reason).

    Args:
        model: Initialised.
        pixel_values: float32[N,6,S,S] of training images.
        seed: Of the rotation of the second tower, so that the two do not start the same.
    """
    generator = torch.Generator().manual_seed(seed)
    towers = (model.vision_backbone.featurizer, model.vision_backbone.fused_featurizer)
    for number, (tower, images) in enumerate(zip(towers, pixel_values.chunk(2, dim=1))):
        assert tower is not None
        filters, bias = tower.patch_embed.proj.weight, tower.patch_embed.proj.bias
        assert bias is not None
        side, width = filters.shape[-1], filters.shape[0]
        patches = nn.functional.unfold(images, side, stride=side).transpose(1, 2).flatten(0, 1)
        mean = patches.mean(0)
        values, vectors = torch.linalg.eigh((patches - mean).T.cov().double())
        loudest = vectors[:, -width:] / (values[-width:] + _LEAST_VARIANCE).sqrt()
        if number:
            random = torch.randn((width, width), generator=generator, dtype=torch.float64)
            loudest = loudest @ torch.linalg.qr(random)[0]
        filters.copy_(loudest.T.reshape(filters.shape))
        bias.copy_(-(loudest.T @ mean.double()))


def _smooth_rows(width: int, generator: torch.Generator) -> Tensor:
    """256 rows of unit variance, each column a random smooth function of the bin."""
    value = torch.linspace(-1.0, 1.0, NUM_ACTION_BINS)[:, None]
    # Half of the columns vary over the whole range, the others over as little as 4 bins.
    frequency = torch.pi * 2.0 ** (6.0 * torch.rand(width, generator=generator) ** 2)
    phase = 2.0 * torch.pi * torch.rand(width, generator=generator)
    rows: Tensor = torch.cos(value * frequency + phase) * 2.0**0.5
    return rows


def _sines(patches: int, width: int) -> Tensor:
    """Two-dimensional sine and cosine positions [1, patches, width] (Dosovitskiy et al. 2021)."""
    side = round(patches**0.5)
    quarter = width // 4
    frequency = 100.0 ** (-torch.arange(quarter) / quarter)
    angle = torch.arange(side)[:, None] * frequency
    one_axis = torch.cat([angle.sin(), angle.cos()], -1)
    rows = one_axis[:, None].expand(side, side, -1)
    columns = one_axis[None].expand(side, side, -1)
    return torch.cat([rows, columns], -1).reshape(1, patches, -1)
