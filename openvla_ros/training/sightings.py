"""Where each coloured block is in an image: a second thing to ask about every picture.

Learning what to do from a sentence, an image and an arm takes finding the named block first, and
an action says little about where that was. So part of the training sentences ask for nothing but
blocks and places, answered with the same action tokens, in small steps: 'the red block' is
answered (colour, along, down, 0, 0, 0, 0), so that the colour is said before it is looked for;
'over the block' (along, down, colour, 0, 0, 0, 0), any block, so that the colour must be read off
the image; and 'over the red block' (along, down, 0, 0, 0, 0, 0), which takes both at once. No such
sentence is used at run time. Places come from the pixels: blocks are the only saturated things in
these scenes.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from openvla_ros.sim.scene import COLOURS, Rgb
from openvla_ros.training.sentences import on_grid

FIND = 'the {} block'
WHICH = 'over the block'
DIRECT = 'over the {} block'
_NEAR_HUE = 20.0 / 360.0
_LEAST_PIXELS = 4


def question(name: str, place: NDArray[np.float32], which: int) -> tuple[str, NDArray[np.float64]]:
    """A sentence about a block and its answer, float64[7] on [-1, 1].

    Args:
        name: The block's colour.
        place: Where it is, a row of ``sightings``.
        which: 0, 1 or 2: both at once, colour first, or any block.
    """
    along, down = on_grid(place)
    code = np.linspace(-1.0, 1.0, len(COLOURS))[list(COLOURS).index(name)]
    if which == 0:
        return DIRECT.format(name), np.array([along, down, 0.0, 0.0, 0.0, 0.0, 0.0])
    if which == 1:
        return FIND.format(name), np.array([code, along, down, 0.0, 0.0, 0.0, 0.0])
    return WHICH, np.array([along, down, code, 0.0, 0.0, 0.0, 0.0])


def sightings(
    images: NDArray[np.uint8], colours: Mapping[str, Rgb] = COLOURS
) -> NDArray[np.float32]:
    """Find the blocks.

    Args:
        images: uint8[N,S,S,3].
        colours: Name to colour.

    Returns:
        float32[N,COLOURS,2]: centre of the visible part, along and down the image, each from -1 to
        1; NaN where a colour is not to be seen.
    """
    found = np.full((len(images), len(colours), 2), np.nan, np.float32)
    hues = [float(hue_and_saturation(np.array(rgb))[0]) for rgb in colours.values()]
    size = images.shape[1]
    for n, image in enumerate(images):
        hue, saturation = hue_and_saturation(image / 255.0)
        strong = saturation > 0.6
        for c, wanted in enumerate(hues):
            apart = np.abs((hue - wanted + 0.5) % 1.0 - 0.5)
            down, along = np.nonzero(strong & (apart < _NEAR_HUE))
            if len(down) >= _LEAST_PIXELS:
                centre = np.array([np.median(along), np.median(down)])
                found[n, c] = 2.0 * (centre + 0.5) / size - 1.0
    return found


def hue_and_saturation(
    rgb: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Hue from 0 to 1 around the circle and saturation from 0 to 1 of float[...,3]."""
    high, low = rgb.max(-1), rgb.min(-1)
    span = np.maximum(high - low, 1e-6)
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    sector = np.where(
        high == red,
        (green - blue) / span % 6.0,
        np.where(high == green, (blue - red) / span + 2.0, (red - green) / span + 4.0),
    )
    return sector / 6.0, (high - low) / np.maximum(high, 0.15)
