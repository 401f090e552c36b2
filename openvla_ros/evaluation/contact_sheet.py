"""One picture of many episodes: a row each, start to end, what was said and how it went."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

_TILE = 128
_CAPTION = 16
_GREEN, _RED = (20, 130, 40), (190, 30, 30)


class Strip(NamedTuple):
    """Pictures uint8[H,W,3] of one episode in order, its caption, and whether it succeeded."""

    pictures: Sequence[NDArray[np.uint8]]
    caption: str
    success: bool


def contact_sheet(strips: Sequence[Strip], columns: int = 6) -> Image.Image:
    """Return one image: a strip per row, ``columns`` pictures spread evenly over each episode."""
    height = (_TILE + _CAPTION) * max(1, len(strips))
    sheet = Image.new('RGB', (_TILE * columns, height), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for row, strip in enumerate(strips):
        top = row * (_TILE + _CAPTION)
        verdict = 'done' if strip.success else 'NOT done'
        colour = _GREEN if strip.success else _RED
        draw.text((3, top + 2), f'{strip.caption}: {verdict}', fill=colour)
        for column, index in enumerate(_spread(len(strip.pictures), columns)):
            picture = Image.fromarray(strip.pictures[index]).resize((_TILE, _TILE))
            sheet.paste(picture, (column * _TILE, top + _CAPTION))
    return sheet


def _spread(count: int, wanted: int) -> list[int]:
    if count == 0:
        return []
    return [round(i * (count - 1) / max(1, wanted - 1)) for i in range(wanted)]
