"""The checkpoint's own tokenizer, from its tokenizer.json: prompt to input ids."""

import shutil
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.model.config import read_json_object

#: What Llama-2's tokenizer gives the lone '▁': the space that comes before the action.
LLAMA_SPACE_ID = 29871
_FILES = (
    'tokenizer.json',
    'tokenizer_config.json',
    'special_tokens_map.json',
    'added_tokens.json',
    'tokenizer.model',
)


class PromptTokenizer:
    """Turns a prompt into ``[BOS, ..., space]`` with the tokenizer a checkpoint came with.

    Attributes:
        vocab_size: Its vocabulary without added tokens; the last 256 ids are the actions.
        bos_id: The id the sequence starts with; the image goes right behind it.
        space_id: The id of the lone '▁', which training put between the prompt and the action.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / 'tokenizer.json'
        _refuse_unreadable(path)
        try:
            fast: Any = PreTrainedTokenizerFast(tokenizer_file=str(path))
        except Exception as error:  # the tokenizers library raises a bare Exception
            raise ConfigError(f'{path}: is not a tokenizer: {error}') from error
        self._backend = fast.backend_tokenizer
        self.vocab_size: int = self._backend.get_vocab_size(with_added_tokens=False)
        self.bos_id = self._id(self._bos_token(), path)
        self.space_id = self._id('▁', path)

    def __call__(self, prompt: str) -> list[int]:
        """Return the ids of ``prompt``, BOS in front, the space appended where it is missing."""
        ids: list[int] = self._backend.encode(prompt, add_special_tokens=False).ids
        ids = [self.bos_id, *ids]
        return ids if ids[-1] == self.space_id else [*ids, self.space_id]

    def text_ids(self, text: str) -> list[int]:
        """Return the ids of a text that follows a prompt: no BOS, nothing appended."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    @property
    def end_id(self) -> int:
        """The id of ``</s>``, which training puts behind every answer.

        Raises:
            ConfigError: the tokenizer has no such piece.
        """
        return self._id('</s>', self.folder / 'tokenizer.json')

    def save(self, folder: str | Path) -> None:
        """Copy the tokenizer's files into another checkpoint folder."""
        for name in _FILES:
            source = self.folder / name
            if source.is_file() and source.resolve() != (Path(folder) / name).resolve():
                shutil.copyfile(source, Path(folder) / name)

    def _bos_token(self) -> str:
        path = self.folder / 'tokenizer_config.json'
        token = read_json_object(path).get('bos_token') if path.is_file() else None
        if isinstance(token, dict):
            token = token.get('content')
        return token if isinstance(token, str) else '<s>'

    def _id(self, token: str, path: Path) -> int:
        token_id = self._backend.token_to_id(token)
        if token_id is None:
            raise ConfigError(
                f'{path}: has no piece {token!r}, which every OpenVLA prompt needs; it is not '
                "this checkpoint's tokenizer"
            )
        return int(token_id)


def find_tokenizer(folder: str | Path) -> PromptTokenizer | None:
    """Load the tokenizer of a checkpoint folder; None where it has no tokenizer.json."""
    if not (Path(folder) / 'tokenizer.json').is_file():
        return None
    return PromptTokenizer(folder)


def _refuse_unreadable(path: Path) -> None:
    try:
        with path.open('rb') as file:
            head = file.read(32)
    except OSError as error:
        raise ConfigError(f'{path}: cannot be read: {error.strerror or error}') from error
    if head.startswith(b'version https://git-lfs'):
        raise ConfigError(
            f'{path}: is a git-LFS pointer, not the tokenizer; run `git lfs pull` there'
        )
