"""A LoRA adapter before, during and after training: made, put beside the layers, written."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from openvla_ros.model.lora import CONFIG_FILE, WEIGHTS_FILE, AdaptedLayer, LoraAdapter, LowRank
from openvla_ros.model.openvla import OpenVLA

#: Upstream's: the scale of an adapter never exceeds 16 / rank.
MOST_ALPHA = 16
_PREFIX = 'base_model.model.'


def new_adapter(model: OpenVLA, rank: int, alpha: int, seed: int) -> LoraAdapter:
    """Make an adapter of every linear layer and patch convolution that changes nothing yet.

    A is drawn from normal(0, 1 / rank) and B is zero, as peft's 'gaussian' does it. The order of
    the draws is that of the layers' names, so the same seed gives the same adapter.

    Args:
        model: With its layers as in the checkpoint; of its weights only shapes are looked at.
        rank: r.
        alpha: The adapter is scaled by alpha / r.
        seed: Of A.
    """
    shapes = adapted_shapes(model)
    generator = torch.Generator().manual_seed(seed)
    layers: dict[str, LowRank] = {}
    for name in sorted(shapes):
        rows, *inner = shapes[name]
        A = torch.empty(rank, *inner).normal_(0.0, 1.0 / rank, generator=generator)
        layers[name] = LowRank(A, torch.zeros(rows, rank, *(1 for _ in inner[1:])))
    return LoraAdapter(Path(), alpha / rank, layers, {})


def blank_adapter(model: OpenVLA, rank: int) -> LoraAdapter:
    """The same adapter without values, on the meta device, for counting."""
    layers = {
        name: LowRank(
            torch.empty(rank, *inner, device='meta'),
            torch.empty(rows, rank, *(1 for _ in inner[1:]), device='meta'),
        )
        for name, (rows, *inner) in adapted_shapes(model).items()
    }
    return LoraAdapter(Path(), 1.0, layers, {})


def adapted_shapes(model: OpenVLA) -> dict[str, tuple[int, ...]]:
    """Name and shape of the weight of every layer that upstream adapts and that runs."""
    return {
        name.removesuffix('.weight'): shape
        for name, shape in plain_shapes(model).items()
        if _is_adapted(name, shape)
    }


def plain_shapes(model: OpenVLA) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight of the architecture, quantized or not."""
    plain = OpenVLA(model.config, model.preprocessor, dtype=torch.float32, device='meta')
    return plain.used_shapes()


def adapted_layers(model: nn.Module) -> dict[str, AdaptedLayer]:
    """The layers of a network that an adapter stands beside, by name."""
    return {
        name: layer for name, layer in model.named_modules() if isinstance(layer, AdaptedLayer)
    }


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """A and B of every adapted layer, float32 on the CPU, by their names in peft's file."""
    tensors: dict[str, Tensor] = {}
    for name, layer in adapted_layers(model).items():
        for part, value in (('lora_A', layer.lora_A), ('lora_B', layer.lora_B)):
            tensors[f'{_PREFIX}{name}.{part}.weight'] = value.detach().float().cpu().clone()
    return tensors


def write_adapter(
    tensors: Mapping[str, Tensor], folder: Path, *, rank: int, alpha: int, base: str
) -> None:
    """Write adapter_config.json and adapter_model.safetensors, readable by peft from 0.11.1 on.

    Args:
        tensors: From ``adapter_tensors``.
        folder: Exists; both files are replaced one by one, each as a whole.
        rank: r.
        alpha: Of the scale alpha / r.
        base: Name or path of the checkpoint that the adapter belongs to.
    """
    names = {key.removeprefix(_PREFIX).rsplit('.', 2)[0] for key in tensors}
    config = _peft_config(rank, alpha, base, sorted({name.rsplit('.', 1)[-1] for name in names}))
    partial = folder / f'.{WEIGHTS_FILE}.partial'
    save_file(dict(tensors), str(partial), metadata={'format': 'pt'})
    partial.chmod(0o644)  # safetensors makes it readable for its owner only
    partial.replace(folder / WEIGHTS_FILE)
    partial = folder / f'.{CONFIG_FILE}.partial'
    partial.write_text(json.dumps(config, indent=2) + '\n', encoding='utf-8')
    partial.replace(folder / CONFIG_FILE)


def _is_adapted(name: str, shape: tuple[int, ...]) -> bool:
    """Every linear layer and convolution, as upstream's 'all-linear'; no embedding."""
    tables = ('embed_tokens.weight', 'pos_embed', 'cls_token', 'reg_token')
    return math.prod(shape) > max(shape) and len(shape) > 1 and not name.endswith(tables)


def _peft_config(rank: int, alpha: int, base: str, targets: list[str]) -> dict[str, Any]:
    # Exactly the keys that peft 0.11.1 knows: it refuses a file with others.
    return {
        'alpha_pattern': {},
        'auto_mapping': {
            'base_model_class': 'OpenVLAForActionPrediction',
            'parent_library': 'prismatic.extern.hf.modeling_prismatic',
        },
        'base_model_name_or_path': base,
        'bias': 'none',
        'fan_in_fan_out': False,
        'inference_mode': True,
        'init_lora_weights': 'gaussian',
        'layer_replication': None,
        'layers_pattern': None,
        'layers_to_transform': None,
        'loftq_config': {},
        'lora_alpha': alpha,
        'lora_dropout': 0.0,
        'megatron_config': None,
        'megatron_core': 'megatron.core',
        'modules_to_save': None,
        'peft_type': 'LORA',
        'r': rank,
        'rank_pattern': {},
        'revision': None,
        'target_modules': targets,
        'task_type': None,
        'use_dora': False,
        'use_rslora': False,
    }
