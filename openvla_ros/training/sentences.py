"""Training sentences: prompt ids, action tokens and what the loss counts."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from openvla_ros.action_space.action_tokens import encode_action
from openvla_ros.action_space.normalization import ActionStats, normalize_action
from openvla_ros.observation.prompt import build_prompt
from openvla_ros.training.tokenizer import unpadded_vocabulary_size

IGNORED = -100
#: Answers are rounded to 1/8 of the range from its middle: 17 of the 256 tokens. One step is then
#: 3 mm, finer than the tasks need, and each token is seen fifteen times as often.
GRID = 8


@dataclasses.dataclass(frozen=True)
class Sentences:
    """Token rows and targets of the same shape; a target is the next token or IGNORED."""

    tokens: NDArray[np.int64]
    targets: NDArray[np.int64]


def on_grid(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Round values on [-1, 1] to multiples of 1/GRID."""
    return np.asarray(np.rint(np.asarray(values, np.float64) * GRID) / GRID)


class SentenceWriter:
    """Writes instruction and action as the token rows the model is trained on.

    A row is the prompt without its ``<s>``, the lone '▁', and the action's tokens; the targets are
    the action's tokens and then ``</s>``, nothing else, as OpenVLA's fine-tuning counts them.
    """

    def __init__(self, tokenizer: Tokenizer, stats: ActionStats) -> None:
        """Keep what all rows share."""
        self._tokenizer = tokenizer
        self._stats = stats
        self._vocabulary_size = unpadded_vocabulary_size(tokenizer)
        space, end = tokenizer.token_to_id('▁'), tokenizer.token_to_id('</s>')
        assert space is not None, 'the tokenizer has no lone ▁'
        assert end is not None, 'the tokenizer has no </s>'
        self._space: int = space
        self._end: int = end
        self._prompts: dict[str, list[int]] = {}

    def prompt(self, instruction: str) -> list[int]:
        """Ids of the prompt after ``<s>``, ending with the lone '▁'."""
        if instruction not in self._prompts:
            ids = self._tokenizer.encode(build_prompt(instruction, 'openvla')).ids[1:]
            self._prompts[instruction] = ids if ids[-1] == self._space else [*ids, self._space]
        return self._prompts[instruction]

    def normalize(self, action: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """An action in dataset units as the values on [-1, 1] that are written."""
        return on_grid(normalize_action(action, self._stats))

    def write(self, instructions: list[str], answers: NDArray[np.floating[Any]]) -> Sentences:
        """Write N rows.

        Args:
            instructions: N texts.
            answers: float[N,D] on [-1, 1], from ``normalize``.

        Returns:
            int64[N,T] each; T is that of the longest, padded on the right.
        """
        written = encode_action(answers, self._vocabulary_size)
        prompts = [self.prompt(text) for text in instructions]
        dimension = written.shape[1]
        length = max(map(len, prompts)) + dimension
        tokens = np.full((len(prompts), length), self._end, np.int64)
        targets = np.full((len(prompts), length), IGNORED, np.int64)
        for row, (prompt, action) in enumerate(zip(prompts, written)):
            start = len(prompt)
            tokens[row, :start] = prompt
            tokens[row, start : start + dimension] = action
            # The row at '▁' predicts the first action token, the last action token predicts </s>.
            targets[row, start - 1 : start - 1 + dimension] = action
            targets[row, start - 1 + dimension] = self._end
        return Sentences(tokens, targets)
