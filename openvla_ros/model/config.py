"""config.json of an OpenVLA checkpoint, parsed once into sizes this package can compute.

Only what the file says counts. What a vision tower is beyond that is named by its timm id, a name
in the registry of pytorch-image-models; the ids known here are the DINOv2 and SigLIP families.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from openvla_ros.core.strict_config import ConfigError, did_you_mean
from openvla_ros.model.llama_config import LlamaConfig
from openvla_ros.observation.prompt import PromptFamily, prompt_family

_DTYPES = {
    'bfloat16': torch.bfloat16,
    'float16': torch.float16,
    'float32': torch.float32,
}
_IMAGENET = {'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)}
_HALF = {'mean': (0.5, 0.5, 0.5), 'std': (0.5, 0.5, 0.5)}


@dataclasses.dataclass(frozen=True)
class TowerConfig:
    """One vision transformer: what timm's create_model would build for ``timm_id``.

    Attributes:
        embed_dim: Width C.
        mlp_ratio: Hidden width of the MLP is int(embed_dim * mlp_ratio).
        reg_tokens: Register tokens, after the class token and before the patches.
        no_embed_class: Position embeddings cover the patches only, not the prefix tokens.
        init_values: Start of LayerScale; None is a tower without it.
        act_layer: Activation of the MLP: gelu (exact, erf), gelu_tanh, quick_gelu or silu.
        gated: The MLP is SwiGLU-like: half of its hidden width gates the other half.
        attn_pool: The checkpoint holds an attention-pooling head (which OpenVLA never uses).
    """

    timm_id: str
    img_size: int
    embed_dim: int
    depth: int
    num_heads: int
    patch_size: int
    mlp_ratio: float = 4.0
    class_token: bool = True
    reg_tokens: int = 0
    no_embed_class: bool = False
    init_values: float | None = None
    act_layer: str = 'gelu'
    gated: bool = False
    attn_pool: bool = False
    mean: tuple[float, float, float] = _IMAGENET['mean']
    std: tuple[float, float, float] = _IMAGENET['std']

    @property
    def num_patches(self) -> int:
        """Patches of one image; a border narrower than a patch is left out."""
        return (self.img_size // self.patch_size) ** 2

    @property
    def num_prefix_tokens(self) -> int:
        """Class and register tokens, which are dropped from the output."""
        return int(self.class_token) + self.reg_tokens

    @property
    def mlp_hidden(self) -> int:
        """Width of fc1's output."""
        return int(self.embed_dim * self.mlp_ratio)


def _dinov2(embed_dim: int, depth: int, num_heads: int, **rest: Any) -> dict[str, Any]:
    sizes = {'embed_dim': embed_dim, 'depth': depth, 'num_heads': num_heads}
    return {**sizes, 'patch_size': 14, 'init_values': 1e-5, **_IMAGENET, **rest}


def _siglip(
    embed_dim: int, depth: int, num_heads: int, patch_size: int, **rest: Any
) -> dict[str, Any]:
    sizes = {'embed_dim': embed_dim, 'depth': depth, 'num_heads': num_heads}
    pool = {'class_token': False, 'attn_pool': True}
    return {**sizes, 'patch_size': patch_size, **pool, **_HALF, **rest}


_REGISTERS = {'reg_tokens': 4, 'no_embed_class': True}
_SWIGLU = {'mlp_ratio': 2.66667 * 2, 'gated': True, 'act_layer': 'silu'}
#: The towers of timm 0.9 that this package computes, by the part of the id before its tag.
_TOWERS: dict[str, dict[str, Any]] = {
    'vit_small_patch14_dinov2': _dinov2(384, 12, 6),
    'vit_base_patch14_dinov2': _dinov2(768, 12, 12),
    'vit_large_patch14_dinov2': _dinov2(1024, 24, 16),
    'vit_giant_patch14_dinov2': _dinov2(1536, 40, 24, **_SWIGLU),
    'vit_small_patch14_reg4_dinov2': _dinov2(384, 12, 6, **_REGISTERS),
    'vit_base_patch14_reg4_dinov2': _dinov2(768, 12, 12, **_REGISTERS),
    'vit_large_patch14_reg4_dinov2': _dinov2(1024, 24, 16, **_REGISTERS),
    'vit_giant_patch14_reg4_dinov2': _dinov2(1536, 40, 24, **_REGISTERS, **_SWIGLU),
    'vit_base_patch16_siglip_224': _siglip(768, 12, 12, 16),
    'vit_base_patch16_siglip_256': _siglip(768, 12, 12, 16),
    'vit_base_patch16_siglip_384': _siglip(768, 12, 12, 16),
    'vit_base_patch16_siglip_512': _siglip(768, 12, 12, 16),
    'vit_large_patch16_siglip_256': _siglip(1024, 24, 16, 16),
    'vit_large_patch16_siglip_384': _siglip(1024, 24, 16, 16),
    'vit_so400m_patch14_siglip_224': _siglip(1152, 27, 16, 14, mlp_ratio=3.7362),
    'vit_so400m_patch14_siglip_384': _siglip(1152, 27, 16, 14, mlp_ratio=3.7362),
}
_ARCHITECTURE = 'OpenVLAForActionPrediction'
_ACTIVATIONS = ('gelu', 'gelu_tanh', 'quick_gelu', 'silu')
_DINO_L = 'vit_large_patch14_reg4_dinov2.lvd142m'
#: What a config.json that names only its vision_backbone_id means.
_BACKBONES: dict[str, tuple[list[str], int]] = {
    'siglip-vit-so400m': (['vit_so400m_patch14_siglip_224'], 224),
    'siglip-vit-so400m-384px': (['vit_so400m_patch14_siglip_384'], 384),
    'dinov2-vit-l': ([_DINO_L], 224),
    'dinosiglip-vit-so-224px': ([_DINO_L, 'vit_so400m_patch14_siglip_224'], 224),
    'dinosiglip-vit-so-384px': ([_DINO_L, 'vit_so400m_patch14_siglip_384'], 384),
}


@dataclasses.dataclass(frozen=True)
class OpenVLAConfig:
    """What config.json says, checked; ``raw`` is the file's content."""

    towers: tuple[TowerConfig, ...]
    text: LlamaConfig
    llm_backbone_id: str
    pad_to_multiple_of: int
    n_action_bins: int
    image_resize_strategy: str
    dtype: torch.dtype
    raw: Mapping[str, Any] = dataclasses.field(repr=False)

    @property
    def fused(self) -> bool:
        """Two towers, a projector of three layers; otherwise one tower and two layers."""
        return len(self.towers) == 2

    @property
    def vision_dim(self) -> int:
        """Width of a patch's features: the towers' widths together."""
        return sum(tower.embed_dim for tower in self.towers)

    @property
    def num_patches(self) -> int:
        """P, the rows an image takes in the language model's sequence."""
        return self.towers[0].num_patches

    @property
    def vocab_size(self) -> int:
        """V, the tokenizer's vocabulary: the embedding's rows without the padding rows."""
        return self.text.vocab_size - self.pad_to_multiple_of

    @property
    def prompt_family(self) -> PromptFamily:
        """The template of the instruction."""
        return prompt_family(self.llm_backbone_id)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], where: str = 'config.json') -> 'OpenVLAConfig':
        """Parse the content of a config.json.

        Raises:
            ConfigError: it is not an OpenVLA checkpoint, or of an architecture not known here.
        """
        if raw.get('model_type') != 'openvla':
            raise ConfigError(
                f'{where}: model_type: got {raw.get("model_type")!r}, expected '
                "'openvla'; only OpenVLA checkpoints in the Hugging Face layout can be loaded"
            )
        try:
            return cls._parsed(raw)
        except ConfigError as error:
            raise ConfigError(f'{where}: {error}') from error

    @classmethod
    def _parsed(cls, raw: Mapping[str, Any]) -> 'OpenVLAConfig':
        architectures = _typed(raw, 'architectures', list, [])
        if architectures and _ARCHITECTURE not in architectures:
            raise ConfigError(
                f'architectures: got {", ".join(map(str, architectures))}, expected '
                f'{_ARCHITECTURE}, the one this package computes'
            )
        towers = _towers(raw)
        if len({tower.num_patches for tower in towers}) > 1:
            raise ConfigError(
                'the towers give '
                + ' and '.join(str(tower.num_patches) for tower in towers)
                + ' patches, expected as many from each: their features are joined patch by patch'
            )
        text = LlamaConfig.from_dict(_typed(raw, 'text_config', dict, {}))
        llm_backbone_id = _typed(raw, 'llm_backbone_id', str, 'vicuna-v15-7b')
        prompt_family(llm_backbone_id)
        pad = _typed(raw, 'pad_to_multiple_of', int, 64)
        bins = _typed(raw, 'n_action_bins', int, 256)
        if pad < 0 or bins < 2 or text.vocab_size - pad < bins:
            raise ConfigError(
                f'text_config.vocab_size {text.vocab_size} without pad_to_multiple_of {pad} does '
                f'not leave the {bins} ids of n_action_bins'
            )
        return cls(
            towers=towers,
            text=text,
            llm_backbone_id=llm_backbone_id,
            pad_to_multiple_of=pad,
            n_action_bins=bins,
            image_resize_strategy=_typed(raw, 'image_resize_strategy', str, 'letterbox'),
            dtype=_dtype(raw),
            raw=raw,
        )


def load_config(folder: str | Path) -> OpenVLAConfig:
    """Read ``folder``/config.json.

    Raises:
        ConfigError: it cannot be used, or belongs to OpenVLA-OFT; the file is named.
    """
    path = Path(folder) / 'config.json'
    for pattern in ('action_head--*', 'proprio_projector--*', 'noisy_action_projector--*'):
        # config.json looks the same there, but the actions come from another head.
        for found in path.parent.glob(pattern):
            raise ConfigError(
                f'{found}: belongs to an OpenVLA-OFT checkpoint, whose architecture this package '
                'does not compute; use an OpenVLA checkpoint'
            )
    return OpenVLAConfig.from_dict(read_json_object(path), str(path))


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object; raises ConfigError naming the file."""
    try:
        text = path.read_text(encoding='utf-8')
    except FileNotFoundError as error:
        raise ConfigError(f'{path}: cannot be read, there is no such file') from error
    except (OSError, ValueError) as error:
        raise ConfigError(f'{path}: cannot be read as text: {error}') from error
    if text.startswith('version https://git-lfs'):
        raise ConfigError(
            f'{path}: is a git-LFS pointer, not the file; run `git lfs pull` in its repository'
        )
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ConfigError(f'{path}: cannot be read as JSON: {error}') from error
    if not isinstance(content, dict):
        raise ConfigError(f'{path}: holds {type(content).__name__}, expected a JSON object')
    return content


def _towers(raw: Mapping[str, Any]) -> tuple[TowerConfig, ...]:
    backbone = _typed(raw, 'vision_backbone_id', str, 'siglip-vit-so400m')
    fused = _typed(raw, 'use_fused_vision_backbone', bool, None)
    if fused is None:
        fused = backbone.startswith(('dinoclip', 'dinosiglip'))
    count = 2 if fused else 1
    known_ids, known_size = _BACKBONES.get(backbone, (None, None))
    ids = _per_tower(raw, 'timm_model_ids', known_ids, count)
    sizes = _per_tower(raw, 'image_sizes', [known_size] * count if known_size else None, count)
    activations = _per_tower(raw, 'timm_override_act_layers', [None] * count, count)
    overrides = _per_tower(raw, 'timm_model_kwargs', [{}] * count, count)
    return tuple(
        _tower(*entry, f'tower {i}')
        for i, entry in enumerate(zip(ids, sizes, activations, overrides))
    )


def _tower(timm_id: Any, size: Any, activation: Any, overrides: Any, where: str) -> TowerConfig:
    name = timm_id.split('.')[0] if isinstance(timm_id, str) else timm_id
    if name not in _TOWERS:
        raise ConfigError(
            f'{where}: timm_model_ids: got {timm_id!r}{did_you_mean(str(name), _TOWERS)}; the '
            f'towers this package computes are {", ".join(_TOWERS)}'
        )
    if not isinstance(overrides, Mapping):
        raise ConfigError(f'{where}: timm_model_kwargs: got {overrides!r}, expected a mapping')
    values = {**_TOWERS[name], 'img_size': size}
    if activation is not None:
        values['act_layer'] = activation
    for key, value in overrides.items():
        if key not in _OVERRIDES:
            raise ConfigError(
                f'{where}: timm_model_kwargs: unknown key {key!r}{did_you_mean(key, _OVERRIDES)}; '
                f'known keys: {", ".join(_OVERRIDES)}'
            )
        if value is not None:  # timm reads None as 'not given'
            values[key] = _checked(value, _OVERRIDES[key], f'{where}: timm_model_kwargs.{key}')
    values['init_values'] = values.get('init_values') or None
    _check_tower(values, where)
    return TowerConfig(timm_id=timm_id, **values)


_OVERRIDES: dict[str, type] = {
    'embed_dim': int,
    'depth': int,
    'num_heads': int,
    'mlp_ratio': float,
    'patch_size': int,
    'img_size': int,
    'init_values': float,
    'class_token': bool,
    'reg_tokens': int,
    'no_embed_class': bool,
    'act_layer': str,
}


def _check_tower(values: Mapping[str, Any], where: str) -> None:
    size = values['img_size']
    if type(size) is not int or size < values['patch_size']:
        raise ConfigError(
            f'{where}: image_sizes: got {size!r}, expected a side of at least one patch of '
            f'{values["patch_size"]} pixels'
        )
    if values.get('act_layer', 'gelu') not in _ACTIVATIONS:
        raise ConfigError(
            f'{where}: timm_override_act_layers: got {values["act_layer"]!r}, expected null or '
            f'one of {", ".join(_ACTIVATIONS)}'
        )
    # The output is taken before the last block, so there must be one before it.
    least = {'embed_dim': 1, 'depth': 2, 'num_heads': 1, 'patch_size': 1, 'mlp_ratio': 0}
    for key, low in least.items():
        if values.get(key, low) < low:
            raise ConfigError(f'{where}: {key}: got {values[key]}, expected {low} or more')
    if values['embed_dim'] % values['num_heads']:
        raise ConfigError(
            f'{where}: embed_dim {values["embed_dim"]} is not a multiple of num_heads '
            f'{values["num_heads"]}'
        )


def _per_tower(raw: Mapping[str, Any], key: str, default: list[Any] | None, count: int) -> Any:
    values = _typed(raw, key, list, default)
    if values is None:
        raise ConfigError(f'key {key!r} is missing')
    if len(values) < count:
        raise ConfigError(f'{key}: has {len(values)} entries, expected one for each of {count}')
    return values[:count]


def _typed(raw: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    value = raw.get(key)
    return default if value is None else _checked(value, kind, key)


def _checked(value: Any, kind: type, where: str) -> Any:
    if kind is float and type(value) is int:
        value = float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise ConfigError(f'{where}: got {value!r}, expected {kind.__name__}')
    return value


def named_dtype(dtype: torch.dtype | str | None, default: torch.dtype) -> torch.dtype:
    """Return a dtype given as such or by name; None and 'auto' are ``default``.

    Raises:
        ConfigError: no float dtype has that name.
    """
    if dtype is None or dtype == 'auto':
        return default
    if dtype in _DTYPES.values():
        return cast('torch.dtype', dtype)
    if dtype not in _DTYPES:
        raise ConfigError(f'dtype: got {dtype!r}, expected one of auto, {", ".join(_DTYPES)}')
    return _DTYPES[dtype]


def named_device(device: torch.device | str) -> torch.device:
    """Return a device given as such or by name; 'auto' is a GPU where there is one.

    Raises:
        ConfigError: the device is not supported, or this computer has none of that name.
    """
    if device == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        found = None
    if found is None or found.type not in ('cpu', 'cuda'):
        raise ConfigError(
            f"device: got '{device}', which is not supported; expected 'auto', 'cpu', 'cuda' or "
            f"'cuda:N' (here: {_devices_here()})"
        )
    if found.type == 'cuda' and (found.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device: got '{found}', which this computer does not have (here: {_devices_here()}); "
            "use one of these or 'auto'"
        )
    return found


def _devices_here() -> str:
    """The devices that can be used, and why no GPU is among them."""
    names = ['cpu']
    for index in range(torch.cuda.device_count()):
        names.append(f'cuda:{index}, {torch.cuda.get_device_name(index)}')
    here = '; '.join(names)
    if len(names) > 1:
        return here
    if torch.version.cuda is None and torch.version.hip is None:
        return f'{here}; torch {torch.__version__} is built without CUDA, install one with it'
    return f'{here}; torch {torch.__version__} finds no GPU, nvidia-smi says whether there is one'


def _dtype(raw: Mapping[str, Any]) -> torch.dtype:
    name = raw.get('torch_dtype') or raw.get('dtype') or 'bfloat16'
    if name not in _DTYPES:
        raise ConfigError(f'torch_dtype: got {name!r}, expected one of {", ".join(_DTYPES)}')
    return _DTYPES[name]
