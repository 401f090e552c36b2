"""Questions about images with their answers, to be mixed into a fine-tuning (co-training).

A folder with ``questions.jsonl``, one object a line: ``{"image": "scene_1.jpg", "question": "what
color is the block?", "answer": "red"}``, images by their path in the folder.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.data.episode import decode_image

QUESTIONS_FILE = 'questions.jsonl'
_KEYS = ('image', 'question', 'answer')


@dataclasses.dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        image: Path of the image.
        question: What is asked.
        answer: What is to be written.
    """

    image: Path
    question: str
    answer: str


class QuestionSet:
    """Questions about images, checked when opened.

    Attributes:
        folder: Where it lies.
        questions: All of them.

    Raises:
        ConfigError: a line is not a question, or its image is not there.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / QUESTIONS_FILE
        try:
            lines = path.read_text(encoding='utf-8').splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f'{path}: cannot be read: {error}') from error
        numbered = [(n, line) for n, line in enumerate(lines, start=1) if line.strip()]
        self.questions = [self._parsed(line, f'{path}: line {n}') for n, line in numbered]
        if not self.questions:
            raise ConfigError(f'{path}: holds no question')

    def __len__(self) -> int:
        return len(self.questions)

    def image(self, index: int) -> NDArray[np.uint8]:
        """Return the image of a question, uint8[H,W,3].

        Raises:
            ConfigError: it cannot be read.
        """
        path = self.questions[index].image
        return decode_image(path.read_bytes(), str(path))

    def _parsed(self, line: str, where: str) -> Question:
        try:
            row: Any = json.loads(line)
        except ValueError as error:
            raise ConfigError(f'{where}: is not JSON: {error}') from error
        if not isinstance(row, dict) or set(row) != set(_KEYS):
            got = sorted(row) if isinstance(row, dict) else type(row).__name__
            raise ConfigError(f'{where}: got {got}, expected the keys {", ".join(_KEYS)}')
        for key in _KEYS:
            if not isinstance(row[key], str) or not row[key].strip():
                raise ConfigError(f'{where}: {key}: got {row[key]!r}, expected some text')
        image = self.folder / row['image']
        if not image.is_file():
            raise ConfigError(f'{where}: image: {image} is not there')
        return Question(image, row['question'].strip(), row['answer'].strip())
