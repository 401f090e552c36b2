"""A training run: a folder in which everything it made lies, and from which it goes on."""

import shutil
from pathlib import Path

import numpy as np
import torch

from openvla_ros.action_space.normalization import STATISTICS_FILE, ActionStats, load_norm_stats
from openvla_ros.model.openvla import OpenVLA
from openvla_ros.model.tokenizer import PromptTokenizer
from openvla_ros.training.batches import Demonstrations, all_instructions, pixel_values
from openvla_ros.training.cloning import Schedule, TrainingState
from openvla_ros.training.demonstrations import read_shards
from openvla_ros.training.sentences import SentenceWriter
from openvla_ros.training.small_model import (
    SmallModel,
    initialise,
    standardise_projector,
    whiten_patches,
)
from openvla_ros.training.statistics import dataset_statistics, write_statistics
from openvla_ros.training.tokenizer import (
    build_tokenizer,
    load_tokenizer,
    save_tokenizer,
    unpadded_vocabulary_size,
)

_WHITENING_IMAGES = 300
_CONVENTIONS = (STATISTICS_FILE, 'tokenizer.json', 'tokenizer_config.json')
UNNORM_KEY = 'openvla_ros_demo'


class Run:
    """Where a run keeps its data, tokenizer, statistics, state and exported checkpoint.

    Tokenizer and statistics are made once, from the first demonstrations, and then stay: actions
    that were normalised with them mean the same for the whole run.
    """

    def __init__(self, folder: Path, sizes: SmallModel, start: Path | None = None) -> None:
        """Open or start the run in a folder.

        Args:
            folder: Of the run.
            sizes: Of the network.
            start: A checkpoint whose weights, tokenizer and statistics the run begins with.
        """
        self.folder = folder
        self.start = start
        self.sizes = sizes
        self.data = folder / 'data'
        self.state_path = folder / 'state.pt'
        self.data.mkdir(parents=True, exist_ok=True)

    def shards(self) -> list[Path]:
        """The whole shards there are, by name."""
        return sorted(p for p in self.data.iterdir() if not p.name.endswith('.partial'))

    def prepare(self, data: Demonstrations) -> None:
        """Make tokenizer and statistics where they are missing, or take those of the start."""
        if self.start is not None:
            for name in _CONVENTIONS:
                shutil.copyfile(self.start / name, self.folder / name)
        if not (self.folder / 'tokenizer.json').exists():
            save_tokenizer(build_tokenizer(all_instructions()), self.folder)
        if not (self.folder / STATISTICS_FILE).exists():
            entry = dataset_statistics(data.actions(), data.num_episodes())
            write_statistics(self.folder, {UNNORM_KEY: entry})

    def stats(self) -> ActionStats:
        """The statistics that actions are normalised with."""
        return load_norm_stats(self.folder, None)[UNNORM_KEY]

    def writer(self) -> SentenceWriter:
        """What writes this run's token rows."""
        return SentenceWriter(load_tokenizer(self.folder), self.stats())

    def new_model(self, seed: int) -> OpenVLA:
        """A fresh network, float32, ready to learn."""
        vocabulary_size = unpadded_vocabulary_size(load_tokenizer(self.folder))
        model = OpenVLA.from_config(
            self.sizes.config(vocabulary_size),
            preprocessor=self.sizes.preprocessor_config(),
            tokenizer=PromptTokenizer(self.folder),
            seed=seed,
        )
        initialise(model, vocabulary_size, seed)
        return model

    def state(self, schedule: Schedule) -> TrainingState:
        """The state the run is in: saved, or new."""
        model = self.new_model(schedule.seed)
        if self.state_path.exists():
            pass
        elif self.start is not None:
            started = OpenVLA.from_pretrained(self.start, dtype=torch.float32)
            if started.image_spec != model.image_spec:
                raise ValueError(
                    f'{self.start}: its image settings are {started.image_spec}, expected '
                    f'{model.image_spec} as in this run; start from a checkpoint of this training'
                )
            model.load_state_dict(started.state_dict())
        else:
            shard = next(read_shards(self.shards()))
            images = torch.from_numpy(np.array(shard.images[:_WHITENING_IMAGES]))
            pixels = pixel_values(images, self.sizes.preprocessor_config())
            whiten_patches(model, pixels, schedule.seed)
            standardise_projector(model, pixels[:64])
        state = TrainingState.start(model, schedule)
        if self.state_path.exists():
            state.load(self.state_path)
        return state

    def step(self) -> int:
        """How far it has been trained."""
        if not self.state_path.exists():
            return 0
        return int(torch.load(self.state_path, weights_only=True, mmap=True)['step'])

    def export(self, target: Path) -> Path:
        """Write the averaged weights as a checkpoint in the released layout, bf16.

        ``target`` is there only when it is whole: whoever finds no such folder exports again.

        Raises:
            FileNotFoundError: nothing has been trained yet.
        """
        content = torch.load(self.state_path, weights_only=True)
        model = self.new_model(0)
        model.load_state_dict(content['average'])
        partial = _emptied(target.with_name(f'{target.name}.partial'))
        partial.mkdir(parents=True)
        model.to(torch.bfloat16).save_pretrained(partial)
        for name in _CONVENTIONS:
            shutil.copyfile(self.folder / name, partial / name)
        for file in partial.iterdir():
            file.chmod(0o644)
        # A folder cannot be replaced in one step; stopped between the two it is missing, not half.
        replaced = _emptied(target.with_name(f'{target.name}.replaced'))
        if target.exists():
            target.rename(replaced)
        partial.rename(target)
        _emptied(replaced)
        return target


def _emptied(folder: Path) -> Path:
    """Remove what an export that was stopped has left there."""
    if folder.exists():
        shutil.rmtree(folder)
    return folder
