"""What a person said about a recorded episode: `episode.yaml` in the folder of its bag."""

import dataclasses
from pathlib import Path
from typing import Literal, get_args

import yaml

from openvla_ros.core.strict_config import ConfigError, did_you_mean, parse_file
from openvla_ros.observation.instruction import InstructionRefused, parse_instruction, quoted

FILE = 'episode.yaml'
Outcome = Literal['success', 'failure']
OUTCOMES: tuple[str, ...] = get_args(Outcome)
DISCARD = 'discard'


@dataclasses.dataclass(frozen=True)
class EpisodeLabel:
    """The label and the conditions of one episode.

    Attributes:
        outcome: Whether what the sentence says was achieved.
        sentence: What was done.
        unnorm_key: Dataset the episode was recorded for.
        robot: Name of the robot's profile.
        base_frame: The robot's base frame.
        ee_frame: Its end-effector frame.
        topics: Topic in the bag by what it holds, such as ``image`` or ``gripper_command``.
        lost_messages: Messages that the disk was too slow for.
    """

    outcome: Outcome
    sentence: str
    unnorm_key: str
    robot: str
    base_frame: str
    ee_frame: str
    topics: dict[str, str]
    lost_messages: int = dataclasses.field(default=0, metadata={'lo': 0})

    def __post_init__(self) -> None:
        """Refuse a label without a sentence.

        Raises:
            ConfigError: the sentence is empty or no instruction.
        """
        checked_sentence(self.sentence)


def checked_outcome(text: str) -> str:
    """Return a requested outcome: one of OUTCOMES or DISCARD.

    Raises:
        ConfigError: it is none.
    """
    known = (*OUTCOMES, DISCARD)
    if text not in known:
        raise ConfigError(
            f'outcome: got {quoted(text)}{did_you_mean(text, known)}, expected one of '
            f'{", ".join(known)}'
        )
    return text


def checked_sentence(text: str) -> str:
    """Return the sentence of an episode, stripped.

    Raises:
        ConfigError: it is empty, or cannot be an instruction.
    """
    try:
        sentence = parse_instruction(text, allow_unicode=True).text
    except InstructionRefused as refused:
        raise ConfigError(f'sentence: {refused}') from refused
    if not sentence:
        raise ConfigError(
            'sentence: is empty and no instruction was heard; say in the request what was done'
        )
    return sentence


def save_label(folder: Path, label: EpisodeLabel) -> None:
    """Write the label beside a bag."""
    content = yaml.safe_dump(dataclasses.asdict(label), sort_keys=False, allow_unicode=True)
    (folder / FILE).write_text(content, encoding='utf-8')


def load_label(folder: Path) -> EpisodeLabel | None:
    """Return the label of a recording's folder; None for a recording that has none.

    Raises:
        ConfigError: the file is there and cannot be used.
    """
    path = folder / FILE
    return parse_file(EpisodeLabel, path) if path.exists() else None
