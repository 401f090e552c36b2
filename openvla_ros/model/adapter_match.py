"""Whether an adapter and a checkpoint belong together; on another one it moves the arm wrong."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from openvla_ros.action_space.normalization import STATISTICS_FILE, ActionStats, load_norm_stats
from openvla_ros.core.strict_config import ConfigError
from openvla_ros.model.checkpoint import StoredTensor, read_tensor
from openvla_ros.model.lora import WEIGHTS_FILE, LoraAdapter

_ROWS = 1024


def check_adapter_match(
    adapter: LoraAdapter, stored: Mapping[str, StoredTensor], folder: str | Path
) -> str:
    """Compare the base weights that an adapter brings along with the checkpoint's own.

    Args:
        adapter: After ``restrict``.
        stored: The checkpoint's tensors.
        folder: The checkpoint's.

    Returns:
        Why the two may not belong together although nothing contradicts it; mostly ''.

    Raises:
        ConfigError: they do not belong together.
    """
    for name, brought in adapter.bases.items():
        _refuse_other_base(adapter, stored[name], brought)
    if adapter.bases or not _has_same_statistics(adapter, Path(folder)):
        return ''
    return (
        f'{adapter.folder}: its {STATISTICS_FILE} says the same as the one of {folder}, and it '
        'brings no base_layer to compare: it may be merged into this checkpoint already, and '
        'would then count twice; if so leave the adapter out'
    )


def _refuse_other_base(adapter: LoraAdapter, stored: StoredTensor, brought: Tensor) -> None:
    with stored.file.open('rb', buffering=0) as file:
        own = read_tensor(file, stored)
    differing = 0
    # A few rows at a time: openvla-7b's head has 131 million values.
    for start in range(0, len(own), _ROWS):
        a, b = own[start : start + _ROWS], brought[start : start + _ROWS]
        differing += int((_rounded(a, b) != _rounded(b, a)).sum())
    if differing:
        raise ConfigError(
            f'{adapter.folder / WEIGHTS_FILE}: was trained on another {stored.name} than '
            f'{stored.file} holds ({differing} of {own.numel()} values differ): it belongs to '
            'another checkpoint, or it is merged into this one already; use the checkpoint it was '
            'trained on, or leave the adapter out'
        )


def _rounded(value: Tensor, like: Tensor) -> Tensor:
    """``value`` after both dtypes: upstream trains in bfloat16 whatever the checkpoint's dtype."""
    return value.to(like.dtype).to(value.dtype).to(torch.float32)


def _has_same_statistics(adapter: LoraAdapter, folder: Path) -> bool:
    """Whether the checkpoint's own file (not config.json) says all that the adapter's says."""
    if adapter.statistics_file is None or not (folder / STATISTICS_FILE).is_file():
        return False
    own = load_norm_stats(folder, None)
    theirs = load_norm_stats(adapter.folder, None)
    return all(key in own and _equal(own[key], stats) for key, stats in theirs.items())


def _equal(one: ActionStats, other: ActionStats) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ('q01', 'q99', 'mask')
    )
