"""The image processor's settings in a checkpoint folder, in either form they are saved in."""

from pathlib import Path
from typing import Any, NamedTuple

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.model.config import read_json_object
from openvla_ros.observation.image import ImageSpec

PREPROCESSOR_FILE = 'preprocessor_config.json'
#: What transformers 5 writes in its place; the same settings stand under one of its keys.
PROCESSOR_FILE = 'processor_config.json'
_KEY = 'image_processor'


class Preprocessor(NamedTuple):
    """The settings and, for messages, where they stand."""

    content: dict[str, Any]
    where: str


def read_preprocessor(folder: str | Path) -> Preprocessor:
    """Read preprocessor_config.json, or transformers 5's processor_config.json (one of its keys).

    Older versions of transformers write a processor_config.json without image settings beside the
    other file; it is passed over. Where both files hold image settings they must mean the same.

    Raises:
        ConfigError: neither is there, one cannot be read, or the two contradict each other.
    """
    folder = Path(folder)
    plain, nested = folder / PREPROCESSOR_FILE, folder / PROCESSOR_FILE
    found = [Preprocessor(read_json_object(plain), str(plain))] if plain.is_file() else []
    if nested.is_file():
        content = read_json_object(nested).get(_KEY)
        where = f'{nested}: {_KEY}'
        if content is not None and not isinstance(content, dict):
            raise ConfigError(f"{where}: got {content!r}, expected the image processor's settings")
        if content is not None:
            found.append(Preprocessor(content, where))
    if not found:
        raise ConfigError(
            f'{plain}: is missing, and {nested} '
            + (f'has no {_KEY}' if nested.is_file() else 'too')
            + '; one of them says how images become pixel values; download it again'
        )
    first, *others = found
    for other in others:
        _refuse_disagreement(first, other)
    return first


def _refuse_disagreement(one: Preprocessor, other: Preprocessor) -> None:
    specs = [ImageSpec.from_config(*each) for each in (one, other)]
    if specs[0] != specs[1]:
        raise ConfigError(
            f'{one.where}: gives images other pixel values than {other.where}; remove the one '
            'that the checkpoint was not trained with'
        )
