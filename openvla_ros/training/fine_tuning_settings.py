"""What a fine-tuning is made with, as it is kept in its folder."""

import dataclasses
import json
from pathlib import Path

from openvla_ros.core.strict_config import ConfigError

SETTINGS_FILE = 'settings.json'
#: Settings that may differ when a run goes on.
_MAY_CHANGE = ('steps', 'save_every', 'evaluate_every', 'held_out_frames', 'micro_batch')


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run is made with; kept in its folder.

    Attributes:
        checkpoint: Name or path of the base.
        data: Data sets with their weights.
        strategy: What is trained.
        steps: Optimizer steps in all.
        batch: Examples of a step.
        micro_batch: Examples of a pass.
        rate: Learning rate.
        decay: Weight decay.
        clip: Largest norm of a gradient; 0 for none.
        rank: Of the adapter.
        alpha: Of its scale alpha / rank.
        seed: Of everything drawn.
        augment: Whether training images are augmented.
        bfloat16: Frozen weights and passes in bfloat16.
        quantization: Of the frozen weights.
        held_out: Part of the episodes set aside.
        held_out_frames: How many of their frames are judged at most.
        evaluate_every: Steps between judgements.
        save_every: Steps between saved states.
    """

    checkpoint: str
    data: tuple[str, ...]
    strategy: str
    steps: int
    batch: int
    micro_batch: int
    rate: float
    decay: float
    clip: float
    rank: int
    alpha: int
    seed: int
    augment: bool
    bfloat16: bool
    quantization: str | None
    held_out: float
    held_out_frames: int
    evaluate_every: int
    save_every: int


def check_folder(folder: Path, settings: Settings) -> None:
    """Refuse a folder that holds something else than this run.

    Raises:
        ConfigError: it does; the first setting that differs is named.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(f'{folder}: exists and is not a fine-tuning; take another --out')
        return
    before = json.loads(path.read_text(encoding='utf-8'))
    now = json.loads(json.dumps(dataclasses.asdict(settings)))
    for name, value in now.items():
        if name not in _MAY_CHANGE and before.get(name) != value:
            raise ConfigError(
                f'{path}: {name}: the run was begun with {before.get(name)!r}, got {value!r}; '
                'start it again as it was, or take another --out'
            )
