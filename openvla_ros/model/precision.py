"""``precision: auto``: the most exact number format that fits the free memory, and why.

The ladder is the checkpoint's own format, then nf4 for the language model alone, then nf4 with
doubly quantised scales for everything but the head. int8 is never chosen for a GPU: with
bitsandbytes it is slower than either, and rate is part of correctness. On a CPU it comes before
nf4, where it is the faster one. float32 is taken on a CPU without bfloat16 instructions.

For openvla-7b on a GPU this comes to: 17 GB free or more bfloat16, down to 7.3 GB nf4, down to
5.9 GB nf4-double-all, below that a refusal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.model.checkpoint import stored_tensors
from openvla_ros.model.config import load_config
from openvla_ros.model.llama_config import LlamaConfig
from openvla_ros.model.quantization import Scheme, quantization_scheme

Shapes = Mapping[str, tuple[int, ...]]

#: Rows of image, prompt and action that memory is planned for.
_ROWS = 320
#: Activations, logits and one matrix on its way; bytes.
_WORKSPACE = 0.15e9
#: What the CUDA context, its libraries and graph pools take beside the tensors; bytes.
_CUDA_CONTEXT = 1.0e9
_MARGIN = 1.05
#: Above this many parameters a CPU cannot keep any dataset's rate (measured: 6 s per action at
#: 7.5e9 on two cores); it is only used when slow is allowed.
_MOST_ON_CPU = 1e9

_LADDERS: dict[str, tuple[str | None, ...]] = {
    'cuda': (None, 'nf4', 'nf4-double-all'),
    'cpu': (None, 'int8', 'nf4', 'nf4-double-all'),
}


@dataclass(frozen=True)
class Precision:
    """What to load a checkpoint in.

    Attributes:
        dtype: Of everything that is not quantised.
        quantization: A scheme's name, or None.
        needed_bytes: What it is expected to take.
        reason: A sentence for the log: what was picked and why.
    """

    dtype: torch.dtype
    quantization: str | None
    needed_bytes: int
    reason: str

    @property
    def name(self) -> str:
        """Such as 'bfloat16' or 'nf4'."""
        return self.quantization or str(self.dtype).removeprefix('torch.')


def weight_bytes(shapes: Shapes, itemsize: int, scheme: Scheme | None) -> int:
    """Bytes of a checkpoint's used tensors, ``itemsize`` each element unless quantised.

    Args:
        shapes: Name and shape of every tensor the network computes with.
        itemsize: Bytes of an element of the dtype.
        scheme: How matrices are quantised, if they are.
    """
    total = 0
    for name, shape in shapes.items():
        module, _, leaf = name.rpartition('.')
        if scheme and leaf == 'weight' and len(shape) == 2 and scheme.covers(module):
            total += scheme.weight_bytes(*shape)
        else:
            total += itemsize * math.prod(shape)
    return total


def needed_bytes(
    shapes: Shapes, text: LlamaConfig, dtype: torch.dtype, scheme: Scheme | None, device: str
) -> int:
    """Memory that loading and running takes: weights, cache, workspace, context, five percent."""
    kv = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim
    kv *= _ROWS * dtype.itemsize
    context = _CUDA_CONTEXT if device == 'cuda' else 0.0
    weights = weight_bytes(shapes, dtype.itemsize, scheme)
    return round(_MARGIN * weights + kv + _WORKSPACE + context)


def choose_precision(
    shapes: Shapes,
    text: LlamaConfig,
    *,
    stored: torch.dtype,
    device: str,
    free_bytes: int,
    native_bf16: bool = True,
    dtype: torch.dtype | None = None,
    quantization: str | None = 'auto',
    allow_slow: bool = False,
) -> Precision:
    """Pick what was left open ('auto') by the free memory.

    Args:
        shapes: Name and shape of every tensor the network computes with.
        text: Sizes of the language model.
        stored: Dtype that config.json names.
        device: 'cuda' or 'cpu'.
        free_bytes: Free memory there.
        native_bf16: Whether the device multiplies bfloat16 itself.
        dtype: Asked for; None chooses.
        quantization: A scheme's name, None for none, or 'auto'.
        allow_slow: Take a large model on a CPU, which no robot can be driven with.

    Raises:
        ConfigError: nothing fits, or it would be too slow to drive anything.
    """
    count = sum(math.prod(shape) for shape in shapes.values())
    if device == 'cpu' and count > _MOST_ON_CPU and not allow_slow:
        raise ConfigError(
            f'device: cpu cannot run {count / 1e9:.1f} billion parameters at a rate that drives a '
            'robot (0.1 to 0.3 Hz are to be expected); use a GPU or server_url, or set allow_slow '
            'to see it work'
        )
    exact, why = (dtype, 'as asked for') if dtype else _exact_dtype(stored, device, native_bf16)
    ladder = _LADDERS[device] if quantization == 'auto' else (quantization,)
    needs = {
        step: needed_bytes(
            shapes, text, exact, quantization_scheme(step) if step else None, device
        )
        for step in ladder
    }
    free = f'{free_bytes / 1e9:.1f} GB free on {device}'
    for step, needed in needs.items():
        if quantization != 'auto' or needed <= free_bytes:
            picked = Precision(exact, step, needed, '')
            reason = f'{picked.name}, which takes {needed / 1e9:.1f} GB, of {free}'
            if quantization != 'auto':
                reason += ' (quantization as asked for)'
            else:
                reason += f' ({_skipped(needs, step)}; dtype {why})'
            return Precision(exact, step, needed, reason)
    least = min(needs.values())
    raise ConfigError(
        f'the smallest precision of this checkpoint needs {least / 1e9:.1f} GB, but there are '
        f'{free}; free some, use another device, or infer on a server (server_url)'
    )


def precision_of_checkpoint(
    folder: str | Path,
    device: torch.device,
    *,
    dtype: torch.dtype | None = None,
    quantization: str | None = 'auto',
    allow_slow: bool = False,
) -> Precision:
    """``choose_precision`` for a checkpoint folder and the memory free now.

    Raises:
        ConfigError, CheckpointError: the folder cannot be used, or nothing fits.
    """
    config = load_config(folder)
    stored = stored_tensors(folder)
    return choose_precision(
        {name: tensor.shape for name, tensor in stored.items()},
        config.text,
        stored=config.dtype,
        device=device.type,
        free_bytes=free_memory_bytes(device),
        native_bf16=has_native_bf16(device),
        dtype=dtype,
        quantization=quantization,
        allow_slow=allow_slow,
    )


def _exact_dtype(stored: torch.dtype, device: str, native_bf16: bool) -> tuple[torch.dtype, str]:
    if device == 'cpu' and stored != torch.float32 and not native_bf16:
        return torch.float32, 'because this CPU has no bfloat16 instructions'
    return stored, 'of the checkpoint'


def _skipped(needs: Mapping[str | None, int], picked: str | None) -> str:
    """What was passed over, with what it would have taken."""
    over = []
    for step, needed in needs.items():
        if step == picked:
            break
        over.append(f'{step or "unquantised"} would take {needed / 1e9:.1f} GB')
    return ', '.join(over) or 'the most exact one fits'


def free_memory_bytes(device: torch.device) -> int:
    """Free memory of a GPU, or what Linux can give without swapping."""
    if device.type == 'cuda':
        return int(torch.cuda.mem_get_info(device)[0])
    for line in Path('/proc/meminfo').read_text(encoding='ascii').splitlines():
        if line.startswith('MemAvailable:'):
            return 1024 * int(line.split()[1])
    raise OSError('/proc/meminfo has no MemAvailable')


def has_native_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 itself rather than emulating it."""
    if device.type == 'cuda':
        return torch.cuda.get_device_capability(device) >= (8, 0)
    flags = Path('/proc/cpuinfo').read_text(encoding='utf-8', errors='replace')
    return any(flag in flags for flag in ('avx512_bf16', 'amx_bf16', ' bf16'))
