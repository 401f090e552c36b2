"""A checkpoint that acts without having learnt anything: what has to move, not to succeed."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope='session')
def untrained_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demonstration's architecture with random weights that can only write action tokens."""
    # Here, so that the other tests of this folder need no torch.
    import torch

    from openvla_ros.action_space.action_tokens import NUM_BINS
    from openvla_ros.training.batches import all_instructions
    from openvla_ros.training.run import UNNORM_KEY, Run
    from openvla_ros.training.small_model import SmallModel
    from openvla_ros.training.statistics import dataset_statistics, write_statistics
    from openvla_ros.training.tokenizer import (
        build_tokenizer,
        load_tokenizer,
        save_tokenizer,
        unpadded_vocabulary_size,
    )

    folder = tmp_path_factory.mktemp('run')
    run = Run(folder, SmallModel())
    save_tokenizer(build_tokenizer(all_instructions()), folder)
    rng = np.random.default_rng(0)
    motion, gripper = rng.uniform(-0.03, 0.03, (500, 6)), rng.integers(0, 2, (500, 1))
    actions = np.concatenate([motion, gripper], axis=1)
    write_statistics(folder, {UNNORM_KEY: dataset_statistics(actions, num_trajectories=10)})
    model = run.new_model(seed=0)
    head = next(p for name, p in model.named_parameters() if name.endswith('lm_head.weight'))
    end = unpadded_vocabulary_size(load_tokenizer(folder))
    with torch.no_grad():
        head.zero_()
        head[end - NUM_BINS : end].normal_(0.0, 0.05, generator=torch.Generator().manual_seed(0))
    checkpoint = tmp_path_factory.mktemp('checkpoint') / 'untrained'
    model.save_pretrained(checkpoint)
    for path in folder.glob('*.json'):
        (checkpoint / path.name).write_bytes(path.read_bytes())
    return checkpoint
