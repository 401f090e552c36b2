"""Merge a LoRA adapter into its checkpoint on the CPU: ``python -m openvla_ros.training.merge``.

The result is a checkpoint of its own that upstream's code loads. Nothing needs it here: the policy
takes checkpoint and adapter as they are.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from openvla_ros.action_space.dataset_profile import PROFILE_FILE
from openvla_ros.core.strict_config import ConfigError
from openvla_ros.model.checkpoint import CheckpointError
from openvla_ros.model.config import load_config, read_json_object
from openvla_ros.model.hub import checkpoint_folder
from openvla_ros.model.lora import LoraAdapter
from openvla_ros.model.openvla import OpenVLA, default_preprocessor
from openvla_ros.training.checkpoint_copy import copy_checkpoint, refuse_existing


def merge(checkpoint: str | Path, adapter: Path, out: Path) -> list[str]:
    """Write checkpoint and adapter as one checkpoint.

    Args:
        checkpoint: Folder or hub id (in the cache) of the base.
        adapter: Folder of the adapter, with its dataset_statistics.json.
        out: Must not exist.

    Returns:
        What a person should know about the result, a sentence each.

    Raises:
        ConfigError: a folder cannot be used, or the adapter belongs to another checkpoint.
        CheckpointError: the weights cannot be used.
    """
    refuse_existing(out)
    base = checkpoint_folder(checkpoint)
    config = load_config(base)
    lora = LoraAdapter.load(adapter)
    if lora.statistics_file is None:
        raise ConfigError(
            f'{adapter}: has no dataset_statistics.json, without which the merged checkpoint '
            'cannot be used; copy the file from the training run'
        )
    plain = OpenVLA(config, default_preprocessor(config), dtype=torch.float32, device='meta')
    fitting = lora.restrict(plain.used_shapes(), plain.unused_shapes())
    merged: set[str] = set()

    def change(name: str, value: Tensor) -> Tensor:
        result = fitting.merged(name, value)
        if result is not value:
            merged.add(name)
        return result

    notes = copy_checkpoint(base, out, change, read_json_object(lora.statistics_file))
    if (adapter / PROFILE_FILE).is_file():
        shutil.copyfile(adapter / PROFILE_FILE, out / PROFILE_FILE)
    return [f'{out}: {len(merged)} tensors changed by {adapter}', *notes]


def main(argv: Sequence[str] | None = None) -> int:
    """Merge; 2 where something cannot be used, with a sentence on stderr."""
    parser = argparse.ArgumentParser(prog='python -m openvla_ros.training.merge')
    parser.add_argument('--checkpoint', required=True, help='folder or hub id of the base')
    parser.add_argument('--adapter', type=Path, required=True, help='folder of the adapter')
    parser.add_argument('--out', type=Path, required=True, help='folder of the new checkpoint')
    arguments = parser.parse_args(argv)
    try:
        print('\n'.join(merge(arguments.checkpoint, arguments.adapter, arguments.out)))
    except (ConfigError, CheckpointError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
