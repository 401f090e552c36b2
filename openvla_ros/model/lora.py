"""LoRA adapters as upstream's finetune.py writes them (peft's folder), merged or kept apart.

The folder holds adapter_config.json and adapter_model.safetensors with tensors
``base_model.model.<layer>.lora_A.weight`` [r, in] and ``.lora_B.weight`` [out, r], convolutions as
[r, in, k, k] and [out, r, 1, 1]. The adapted weight is W + (alpha / r) B A (Hu et al. 2021).
Upstream's ``target_modules='all-linear'`` adapts lm_head too, and the file then holds the base's
lm_head (``lm_head.base_layer.weight``). Peft puts it in place of the checkpoint's; here it must
equal that (``model.adapter_match``): where it does not, the two do not belong together. Adapters
of blocks that never run (the towers' last block, the pooling head) are left out.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.model.config import read_json_object

CONFIG_FILE = 'adapter_config.json'
WEIGHTS_FILE = 'adapter_model.safetensors'
_PREFIX = 'base_model.model.'
_SUFFIXES = {
    '.lora_A.weight': 'A',
    '.lora_B.weight': 'B',
    '.base_layer.weight': 'base',
}
#: Settings of peft that change the formula, with the values under which it is the plain one.
_PLAIN: dict[str, tuple[Any, ...]] = {
    'peft_type': ('LORA',),
    'bias': ('none', None),
    'fan_in_fan_out': (False, None),
    'use_dora': (False, None),
    'lora_bias': (False, None),
    'modules_to_save': (None, []),
    'rank_pattern': ({}, None),
    'alpha_pattern': ({}, None),
    'layer_replication': (None,),
    'trainable_token_indices': (None,),
    'target_parameters': (None, []),
    'use_qalora': (False, None),
    'use_bdlora': (None, False),
    'kasa_config': (None,),
    'monteclora_config': (None,),
    'velora_config': (None,),
    'arrow_config': (None,),
    'alora_invocation_tokens': (None,),
}


@dataclass(frozen=True)
class LowRank:
    """One layer's adapter: A [r, ...], B [out, r, ...]."""

    A: Tensor
    B: Tensor

    def delta(self, scale: float) -> Tensor:
        """Scaled B A in the shape of the weight and the adapter's dtype.

        As in peft, half precision is multiplied in float32 and rounded once.
        """
        A, B = self.A.float(), self.B.float()
        product = (B.flatten(1) @ A.flatten(1)) * scale
        return product.view(len(B), *A.shape[1:]).to(self.B.dtype)


class LoraAdapter:
    """An adapter folder, checked and in memory.

    Attributes:
        folder: Where it came from.
        scale: alpha / r (or alpha / sqrt(r) where the adapter says rslora).
        layers: Adapters by the name of the layer, as in the checkpoint.
        bases: Base weights that the adapter file brings along, by tensor name.
    """

    def __init__(
        self,
        folder: Path,
        scale: float,
        layers: Mapping[str, LowRank],
        bases: Mapping[str, Tensor],
    ) -> None:
        self.folder = folder
        self.scale = scale
        self.layers = dict(layers)
        self.bases = dict(bases)

    @classmethod
    def load(cls, folder: str | Path) -> LoraAdapter:
        """Read an adapter folder.

        Raises:
            ConfigError: a file is missing, damaged, or of a variant other than plain LoRA.
        """
        folder = Path(folder)
        rank, scale = _read_config(folder / CONFIG_FILE)
        found = _read_weights(folder / WEIGHTS_FILE)
        layers: dict[str, LowRank] = {}
        bases: dict[str, Tensor] = {}
        for name, parts in found.items():
            if 'base' in parts:
                bases[f'{name}.weight'] = parts['base']
            if ('A' in parts) != ('B' in parts):
                raise ConfigError(
                    f'{folder / WEIGHTS_FILE}: {name} has only one of lora_A and lora_B; save the '
                    'adapter again'
                )
            if 'A' in parts:
                layers[name] = LowRank(parts['A'], parts['B'])
                _check_rank(layers[name], rank, folder / WEIGHTS_FILE, name)
        if not layers:
            raise ConfigError(f'{folder / WEIGHTS_FILE}: holds no lora_A and lora_B tensors')
        return cls(folder, scale, layers, bases)

    @property
    def statistics_file(self) -> Path | None:
        """dataset_statistics.json in the adapter's folder, where there is one."""
        path = self.folder / 'dataset_statistics.json'
        return path if path.is_file() else None

    def restrict(
        self, used: Mapping[str, tuple[int, ...]], unused: Collection[str]
    ) -> LoraAdapter:
        """The adapter without the layers that never run.

        Args:
            used: Name and shape of every tensor the network computes with.
            unused: Names of the tensors a checkpoint holds that never run.

        Raises:
            ConfigError: it adapts or brings a layer the checkpoint does not have, or of another
                shape.
        """
        layers = {name: low for name, low in self.layers.items() if f'{name}.weight' not in unused}
        for name, low in layers.items():
            expected = used.get(f'{name}.weight')
            shape = (len(low.B), *low.A.shape[1:])
            if expected != shape:
                what = f'shape {list(expected)}' if expected else 'no such layer'
                raise ConfigError(
                    f'{self.folder / WEIGHTS_FILE}: adapts {name} of shape {list(shape)}, but the '
                    f'checkpoint has {what}; use the base checkpoint it was trained on'
                )
        bases = {name: value for name, value in self.bases.items() if name not in unused}
        for name, value in bases.items():
            if used.get(name) != tuple(value.shape):
                raise ConfigError(
                    f'{self.folder / WEIGHTS_FILE}: brings {name} of shape {list(value.shape)}, '
                    f'but the checkpoint has {list(used.get(name, ()))}; use the base checkpoint '
                    'it was trained on'
                )
        return LoraAdapter(self.folder, self.scale, layers, bases)

    def merged(self, name: str, value: Tensor) -> Tensor:
        """The tensor of the checkpoint as the adapter changes it, on the CPU, in its dtype.

        Args:
            name: As in the checkpoint, such as 'language_model.lm_head.weight'.
            value: From the checkpoint; not written to.
        """
        low = self.layers.get(name.removesuffix('.weight')) if name.endswith('.weight') else None
        if low is None:
            return value
        # Added before rounding to the weight's dtype, as peft's in-place addition does.
        return (value + low.delta(self.scale)).to(value.dtype)

    def attach(self, model: nn.Module, dtype: torch.dtype, device: torch.device | str) -> None:
        """Put the adapters beside the layers of ``model``, whose weights stay as they are.

        Costs two small products per layer and pass; for quantised bases and for comparing.

        Args:
            model: With layers of the adapter's names (after ``restrict``).
            dtype: Of the adapter's arithmetic.
            device: Of its weights.
        """
        for name, low in self.layers.items():
            owner_name, _, leaf = name.rpartition('.')
            owner = model.get_submodule(owner_name)
            wrapped = AdaptedLayer(getattr(owner, leaf), low, self.scale, dtype, device)
            setattr(owner, leaf, wrapped)


class AdaptedLayer(nn.Module):
    """A linear layer or patch convolution with its adapter beside it."""

    def __init__(
        self,
        base: nn.Module,
        low: LowRank,
        scale: float,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        super().__init__()
        self.base = base
        self.lora_A = nn.Parameter(low.A.to(device, dtype))
        self.lora_B = nn.Parameter(low.B.to(device, dtype))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Base plus scale times B(A(x)), in the base's dtype."""
        result: Tensor = self.base(x)
        small = x.to(self.lora_A.dtype)
        if isinstance(self.base, nn.Conv2d):
            conv2d = nn.functional.conv2d
            narrow = conv2d(small, self.lora_A, None, self.base.stride, self.base.padding)
            wide = conv2d(narrow, self.lora_B)
        else:
            linear = nn.functional.linear
            wide = linear(linear(small, self.lora_A), self.lora_B)
        return (result + wide * self.scale).to(result.dtype)

    @property
    def weight(self) -> Tensor:
        """The base's weight."""
        return cast('Tensor', self.base.weight)


def _read_config(path: Path) -> tuple[int, float]:
    """Rank and scale of adapter_config.json."""
    if not path.is_file():
        raise ConfigError(f'{path}: is missing; give the folder that peft saved the adapter to')
    content = read_json_object(path)
    for key, plain in _PLAIN.items():
        if content.get(key, plain[0]) not in plain:
            raise ConfigError(
                f'{path}: {key} is {content[key]!r}, but only plain LoRA ({plain[0]!r}) can be '
                'read; merge the adapter with peft and load the result'
            )
    if content.get('init_lora_weights', True) not in (True, False, 'gaussian', 'eva'):
        raise ConfigError(
            f'{path}: init_lora_weights is {content["init_lora_weights"]!r}, which changes the '
            'base weights; convert it to plain LoRA with peft'
        )
    rank, alpha = content.get('r'), content.get('lora_alpha')
    if type(rank) is not int or rank < 1 or not isinstance(alpha, int | float):
        raise ConfigError(f'{path}: r is {rank!r} and lora_alpha {alpha!r}, expected numbers')
    divisor = math.sqrt(rank) if content.get('use_rslora') else rank
    return rank, float(alpha / divisor)


def _read_weights(path: Path) -> dict[str, dict[str, Tensor]]:
    """Tensors by layer and part."""
    if not path.is_file():
        pickled = path.with_suffix('.bin')
        hint = f'; {pickled.name} is a pickle and is not read' if pickled.is_file() else ''
        raise ConfigError(f'{path}: is missing{hint}; save the adapter as safetensors')
    with path.open('rb') as head:
        if head.read(23) == b'version https://git-lfs':
            raise ConfigError(
                f'{path}: is a git-LFS pointer, not the adapter; run `git lfs pull` there'
            )
    found: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, framework='pt') as file:
            for key in file.keys():  # noqa: SIM118 - not a dict
                suffix = next((s for s in _SUFFIXES if key.endswith(s)), None)
                if suffix is None or not key.startswith(_PREFIX):
                    raise ConfigError(
                        f'{path}: holds {key}, expected {_PREFIX}<layer> with one of '
                        f'{", ".join(_SUFFIXES)}; only plain LoRA can be read'
                    )
                layer = key.removeprefix(_PREFIX).removesuffix(suffix)
                found.setdefault(layer, {})[_SUFFIXES[suffix]] = file.get_tensor(key)
    except SafetensorError as error:
        raise ConfigError(f'{path}: cannot be read ({error}); download it again') from error
    return found


def _check_rank(low: LowRank, rank: int, path: Path, name: str) -> None:
    if len(low.A) != rank or low.B.shape[1] != rank or low.A.ndim != low.B.ndim:
        raise ConfigError(
            f'{path}: {name} has lora_A {list(low.A.shape)} and lora_B {list(low.B.shape)}, '
            f'expected rank {rank} as in {CONFIG_FILE}'
        )
