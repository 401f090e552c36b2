"""The sentence a human gives: what is accepted, when it changes, and when it may be acted on."""

import dataclasses
import unicodedata
from typing import Literal

MAX_BYTES = 512
"""A sentence for a robot is far shorter; 10 MB of text passes DDS and must stop here."""

MAX_TOKENS = 64
"""Longest instruction in tokens; those of the training data are far shorter. The bytes above are
checked on arrival, the tokens by whoever has the tokenizer."""

_TEMPLATE_WORDS = ('In:', 'Out:', 'USER:', 'ASSISTANT:')
_SPECIAL_TOKENS = ('<s>', '</s>', '<unk>', '<pad>', '<PAD>')


class InstructionRefused(ValueError):  # noqa: N818  it says what is the case
    """A text that is not used as an instruction; the message says why."""


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A checked instruction.

    Attributes:
        text: What the human wrote, stripped and in Unicode NFC; empty asks to stop.
    """

    text: str

    @property
    def is_stop(self) -> bool:
        """Whether it asks to stop."""
        return not self.text


def parse_instruction(text: str, *, allow_unicode: bool = False) -> Instruction:
    """Check a text that arrived as an instruction.

    Args:
        text: Anything; empty or white space asks to stop.
        allow_unicode: Accept letters beyond ASCII; the models were trained on English.

    Raises:
        InstructionRefused: too long, not printable on one line, not ASCII, or containing words
            that have a meaning in the prompt's template.
    """
    # The length comes first: nothing below may be done to 10 MB.
    if len(text) > MAX_BYTES or len(_utf8(text)) > MAX_BYTES:
        raise InstructionRefused(
            f'the instruction has more than {MAX_BYTES} bytes; cut it to one short sentence'
        )
    text = unicodedata.normalize('NFC', text.strip())
    for character in text:
        if unicodedata.category(character) in ('Cc', 'Cf', 'Cs', 'Co', 'Cn', 'Zl', 'Zp'):
            raise InstructionRefused(
                f'the instruction {quoted(text)} contains the control character '
                f'U+{ord(character):04X}; write one line of plain text'
            )
    if not allow_unicode and not text.isascii():
        raise InstructionRefused(
            f'the instruction {quoted(text)} is not plain ASCII; rewrite it, or set allow_unicode'
        )
    for word in (*_TEMPLATE_WORDS, *_SPECIAL_TOKENS):
        if word in text:
            raise InstructionRefused(
                f'the instruction {quoted(text)} contains {word!r}, which has a meaning in the '
                "model's prompt; leave it out"
            )
    return Instruction(text)


def quoted(text: str, limit: int = 80) -> str:
    """Return the text for a log or a status: escaped, in quotes, not longer than ``limit``."""
    escaped = ascii(text[: limit + 1])
    return escaped if len(escaped) <= limit + 2 else escaped[: limit - 2] + "...'"


def _utf8(text: str) -> bytes:
    try:
        return text.encode('utf-8')
    except UnicodeEncodeError as error:
        raise InstructionRefused(
            'the instruction contains half a character (a lone surrogate); send valid UTF-8'
        ) from error


@dataclasses.dataclass(frozen=True)
class Intake:
    """What became of an arriving text.

    Attributes:
        kind: 'same' (already active), 'changed', 'stopped', or 'refused' (which also stops).
        sentence: For the log; empty when nothing changed.
    """

    kind: Literal['same', 'changed', 'stopped', 'refused']
    sentence: str = ''


class ActiveInstruction:
    """The one instruction that may be acted on.

    Every change gets a new ``identity``: an action computed for another identity is dropped.
    After two changes within ``min_dwell_s`` nothing is acted on until the dwell is over, so that
    publishers that contradict each other make the arm rest rather than jerk. Stopping never waits.
    """

    def __init__(self, *, min_dwell_s: float = 0.5, allow_unicode: bool = False) -> None:
        """Start without an instruction."""
        self._min_dwell_s = min_dwell_s
        self._allow_unicode = allow_unicode
        self._text = ''
        self._refusal = ''
        self._identity = 0
        self._changed_s = -float('inf')
        self._rest_until_s = -float('inf')

    @property
    def text(self) -> str:
        """The active instruction; empty when there is none."""
        return self._text

    @property
    def refusal(self) -> str:
        """Why the last text was refused; empty when it was not."""
        return self._refusal

    @property
    def identity(self) -> int:
        """Number of the active instruction; changes whenever the text does."""
        return self._identity

    def offer(self, text: str, *, now_s: float) -> Intake:
        """Take an arriving text; ``now_s`` is steady time."""
        try:
            instruction = parse_instruction(text, allow_unicode=self._allow_unicode)
        except InstructionRefused as refused:
            return self.refuse(str(refused))
        if instruction.is_stop:
            had_text = bool(self._text)
            self._set('', '')
            return (
                Intake('stopped', 'stop: the instruction is empty') if had_text else Intake('same')
            )
        if instruction.text == self._text:
            return Intake('same')
        self._set(instruction.text, '')
        if now_s - self._changed_s < self._min_dwell_s:
            self._rest_until_s = self._changed_s + self._min_dwell_s
        self._changed_s = now_s
        return Intake('changed', f'instruction: {quoted(instruction.text)}')

    def refuse(self, sentence: str) -> Intake:
        """Clear the instruction because a text cannot be used."""
        self._set('', sentence)
        return Intake('refused', sentence)

    def may_act(self, now_s: float) -> bool:
        """Say whether there is an instruction and its dwell is over; ``now_s`` is steady time."""
        return bool(self._text) and now_s >= self._rest_until_s

    def _set(self, text: str, refusal: str) -> None:
        if (text, refusal) != (self._text, self._refusal):
            self._identity += 1
        self._text, self._refusal = text, refusal
