"""The vision towers: a pre-norm vision transformer that serves DINOv2 and SigLIP alike.

Parameter names are the released checkpoints' (timm's, with LayerScale's ``gamma`` called
``scale_factor``). The features are the patches after the last but one block, without a final norm;
the last block, the final norm and the pooling head of the checkpoint never run and are not built.

Letters in shapes: B batch, S side of the image, P patches, C width of a tower.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from openvla_ros.model.config import TowerConfig

_EPS = 1e-6


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _gelu_tanh(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate='tanh')


_ACTIVATION: dict[str, Callable[[Tensor], Tensor]] = {
    'gelu': functional.gelu,
    'gelu_tanh': _gelu_tanh,
    'quick_gelu': _quick_gelu,
    'silu': functional.silu,
}


class PatchEmbed(nn.Module):
    """Image to patches: a convolution whose stride is its kernel."""

    def __init__(self, config: TowerConfig, **factory: Any) -> None:
        super().__init__()
        self.proj = nn.Conv2d(
            3, config.embed_dim, config.patch_size, stride=config.patch_size, **factory
        )

    def forward(self, images: Tensor) -> Tensor:
        """[B,3,S,S] -> [B,P,C], row by row."""
        patches: Tensor = self.proj(images).flatten(2).transpose(1, 2)
        return patches


class Attention(nn.Module):
    """Full self-attention; the rows of ``qkv`` are q, then k, then v."""

    def __init__(self, config: TowerConfig, **factory: Any) -> None:
        super().__init__()
        width = config.embed_dim
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(width, 3 * width, **factory)
        self.proj = nn.Linear(width, width, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """[B,N,C] -> [B,N,C]."""
        B, N, C = x.shape
        qkv = self.qkv(x).view(B, N, 3, self.num_heads, C // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        out = functional.scaled_dot_product_attention(q, k, v)
        result: Tensor = self.proj(out.transpose(1, 2).reshape(B, N, C))
        return result


class Mlp(nn.Module):
    """Two linear layers; if gated, the activated first half of fc1 scales the second."""

    def __init__(self, config: TowerConfig, **factory: Any) -> None:
        super().__init__()
        hidden = config.mlp_hidden
        self.gated = config.gated
        self.activation = _ACTIVATION[config.act_layer]
        self.fc1 = nn.Linear(config.embed_dim, hidden, **factory)
        self.fc2 = nn.Linear(hidden // 2 if self.gated else hidden, config.embed_dim, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """[B,N,C] -> [B,N,C]."""
        hidden = self.fc1(x)
        if self.gated:
            gate, value = hidden.chunk(2, dim=-1)
            hidden = self.activation(gate) * value
        else:
            hidden = self.activation(hidden)
        result: Tensor = self.fc2(hidden)
        return result


class LayerScale(nn.Module):
    """A learned factor per channel on a residual branch."""

    def __init__(self, width: int, **factory: Any) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(torch.ones(width, **factory))

    def forward(self, x: Tensor) -> Tensor:
        """[...,C] -> [...,C]."""
        return x * self.scale_factor


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: TowerConfig, **factory: Any) -> None:
        super().__init__()
        width, scaled = config.embed_dim, config.init_values is not None
        self.norm1 = nn.LayerNorm(width, eps=_EPS, **factory)
        self.attn = Attention(config, **factory)
        self.norm2 = nn.LayerNorm(width, eps=_EPS, **factory)
        self.mlp = Mlp(config, **factory)
        self.ls1 = LayerScale(width, **factory) if scaled else nn.Identity()
        self.ls2 = LayerScale(width, **factory) if scaled else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B,N,C] -> [B,N,C]."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        result: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return result


class VisionTower(nn.Module):
    """One vision transformer without its last block."""

    def __init__(self, config: TowerConfig, **factory: Any) -> None:
        super().__init__()
        self.config = config
        width, prefix = config.embed_dim, config.num_prefix_tokens
        if config.class_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width, **factory))
        if config.reg_tokens:
            self.reg_token = nn.Parameter(torch.zeros(1, config.reg_tokens, width, **factory))
        positions = config.num_patches + (0 if config.no_embed_class else prefix)
        self.pos_embed = nn.Parameter(torch.zeros(1, positions, width, **factory))
        self.patch_embed = PatchEmbed(config, **factory)
        self.blocks = nn.ModuleList(Block(config, **factory) for _ in range(config.depth - 1))

    def forward(self, images: Tensor) -> Tensor:
        """Features of the patches.

        Args:
            images: [B,3,S,S], normalised for this tower.

        Returns:
            [B,P,C], the output of block depth - 2 (counted from 0), prefix tokens dropped.
        """
        x: Tensor = self.patch_embed(images)
        prefix = [
            token.expand(x.shape[0], -1, -1)
            for token in (getattr(self, 'cls_token', None), getattr(self, 'reg_token', None))
            if token is not None
        ]
        if self.config.no_embed_class:
            x = torch.cat([*prefix, x + self.pos_embed], dim=1)
        else:
            x = torch.cat([*prefix, x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return x[:, self.config.num_prefix_tokens :]


class VisionBackbone(nn.Module):
    """One tower, or two side by side whose features are joined patch by patch."""

    def __init__(self, towers: tuple[TowerConfig, ...], **factory: Any) -> None:
        super().__init__()
        self.featurizer = VisionTower(towers[0], **factory)
        self.fused_featurizer = VisionTower(towers[1], **factory) if len(towers) == 2 else None

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B,3 or 6,S,S] -> [B,P,C], C the sum of the towers' widths, the first tower first."""
        if self.fused_featurizer is None:
            features: Tensor = self.featurizer(pixel_values)
            return features
        first, second = pixel_values[:, :3], pixel_values[:, 3:]
        return torch.cat([self.featurizer(first), self.fused_featurizer(second)], dim=2)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Fill as training from scratch starts: normal(0, 0.02), biases 0, norms 1."""
        for name, parameter in self.named_parameters():
            if name.endswith('bias'):
                parameter.zero_()
            elif 'norm' in name:
                parameter.fill_(1.0)
            elif name.endswith('scale_factor'):
                tower = self.get_submodule(name.split('.')[0])
                parameter.fill_(cast('VisionTower', tower).config.init_values or 1.0)
            else:
                parameter.normal_(0.0, 0.02, generator=generator)


def unused_shapes(config: TowerConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors a checkpoint holds for this tower that never run.

    They are the last block, the final norm and, for SigLIP, the attention-pooling head.
    """
    width, hidden = config.embed_dim, config.mlp_hidden
    last = Block(config, device='meta').state_dict()
    shapes = {f'blocks.{config.depth - 1}.{k}': tuple(v.shape) for k, v in last.items()}
    shapes |= {'norm.weight': (width,), 'norm.bias': (width,)}
    if config.attn_pool:
        shapes['attn_pool.latent'] = (1, 1, width)
        linears = {
            'q': (width, width),
            'kv': (2 * width, width),
            'proj': (width, width),
            'mlp.fc1': (hidden, width),
            'mlp.fc2': (width, hidden),
        }
        for name, (rows, columns) in linears.items():
            shapes[f'attn_pool.{name}.weight'] = (rows, columns)
            shapes[f'attn_pool.{name}.bias'] = (rows,)
        shapes |= {'attn_pool.norm.weight': (width,), 'attn_pool.norm.bias': (width,)}
    return shapes
