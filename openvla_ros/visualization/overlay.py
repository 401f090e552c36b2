"""The camera picture as an operator wants it: what was asked, where the arm goes, and why not.

Everything here is drawing; numbers arrive ready. Pictures are uint8[H, W, 3], RGB.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from openvla_ros.visualization.camera_projection import CameraProjection

READABLE_HEIGHT_PX = 480
"""Smaller pictures are enlarged by a whole factor until the text on them can be read."""
ARROW_GAIN = 5.0
"""A step of 1 cm is a few pixels: arrows are drawn this much longer, and say so."""

BAR_LABELS = ('x', 'y', 'z', 'rx', 'ry', 'rz', 'grip')
STATE_COLOURS = {
    'ACTIVE': (60, 180, 75),
    'HOLD': (70, 130, 220),
    'DISARMED': (140, 140, 140),
    'FAULT': (220, 50, 47),
    'ESTOP': (220, 50, 47),
}
WANTED_COLOUR = (255, 165, 0)
ALLOWED_COLOUR = (60, 220, 90)
UNKNOWN_COLOUR = (140, 140, 140)
_PANEL = (0, 0, 0, 165)
_TEXT = (255, 255, 255)
_STALE_TEXT = (170, 170, 170)

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, eq=False)
class OverlayState:
    """What is drawn beside the picture; None where it is not known, or too old to be shown.

    Attributes:
        instruction: The active instruction; empty when there is none.
        safety_state: 'ACTIVE', 'HOLD', 'DISARMED', 'FAULT', 'ESTOP', or None without a controller.
        sentence: Why it is (not) moving.
        policy_sentence: What the policy says of itself.
        policy_rate_hz: Actions per second achieved.
        latency_s: Camera stamp to action.
        ee_position_m: float64[3] in the base frame.
        wanted_m: float64[3], displacement of one step that the policy asks for, base frame.
        allowed_m: float64[3], displacement of one step at the speed the controller sends.
        bars: float64[7], the action as fractions of what is plausible, -1..1; the last 0..1.
    """

    instruction: str = ''
    safety_state: str | None = None
    sentence: str = ''
    policy_sentence: str = ''
    policy_rate_hz: float | None = None
    latency_s: float | None = None
    ee_position_m: NDArray[np.float64] | None = None
    wanted_m: NDArray[np.float64] | None = None
    allowed_m: NDArray[np.float64] | None = None
    bars: NDArray[np.float64] | None = None


def draw_overlay(
    image: NDArray[np.uint8], state: OverlayState, projection: CameraProjection | None
) -> NDArray[np.uint8]:
    """Return the picture with instruction, arrows, action bars, rate and safety state drawn in.

    Args:
        image: uint8[H, W, 3], RGB.
        state: What to show.
        projection: Where the camera is; without it no arrow is drawn, and a note says so.

    Returns:
        uint8[k H, k W, 3] with the whole factor k that makes the text readable.
    """
    factor = max(1, math.ceil(READABLE_HEIGHT_PX / image.shape[0]))
    canvas = Image.fromarray(np.ascontiguousarray(image)).convert('RGB')
    if factor > 1:
        canvas = canvas.resize(
            (canvas.width * factor, canvas.height * factor), Image.Resampling.BICUBIC
        )
    draw = ImageDraw.Draw(canvas, 'RGBA')
    note = _draw_arrows(draw, canvas.size, state, projection)
    _draw_instruction(draw, canvas.size, state.instruction)
    _draw_bars(draw, canvas.size, state.bars)
    _draw_footer(draw, canvas.size, state, note)
    return np.asarray(canvas)


def _draw_arrows(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    state: OverlayState,
    projection: CameraProjection | None,
) -> str:
    """Draw the wanted and the allowed displacement; return the note that belongs below."""
    if projection is None:
        return 'no arrow: camera_info or the camera pose is missing'
    if state.ee_position_m is None:
        return 'no arrow: the end-effector pose is missing or too old'
    scale = size[0] / projection.width_px, size[1] / projection.height_px
    start = _scaled(projection.pixel(state.ee_position_m), scale)
    if start is None:
        return 'no arrow: the end effector is behind the camera'
    width = max(2, size[1] // 120)
    arrows = ((state.wanted_m, WANTED_COLOUR, width + 2), (state.allowed_m, ALLOWED_COLOUR, width))
    for displacement_m, colour, stroke in arrows:
        if displacement_m is not None:
            tip_m = state.ee_position_m + ARROW_GAIN * displacement_m
            tip = _scaled(projection.pixel(tip_m), scale)
            if tip is not None:
                _arrow(draw, start, tip, colour, stroke)
    radius = 2 * width
    draw.ellipse(
        (start[0] - radius, start[1] - radius, start[0] + radius, start[1] + radius),
        outline=_TEXT,
        width=max(1, width // 2),
    )
    return f'arrows x{ARROW_GAIN:.0f}: orange wanted, green allowed'


def _scaled(
    pixel: tuple[float, float] | None, scale: tuple[float, float]
) -> tuple[float, float] | None:
    # Pixel (0, 0) is the centre of the first pixel, so that half a pixel moves with the scale.
    if pixel is None:
        return None
    return (pixel[0] + 0.5) * scale[0] - 0.5, (pixel[1] + 0.5) * scale[1] - 0.5


def _arrow(
    draw: ImageDraw.ImageDraw,
    start: tuple[float, float],
    tip: tuple[float, float],
    colour: Colour,
    stroke: int,
) -> None:
    length = math.hypot(tip[0] - start[0], tip[1] - start[1])
    if length < 2.0:
        return
    draw.line((*start, *tip), fill=colour, width=stroke)
    head = min(4.0 * stroke, 0.6 * length)
    direction = math.atan2(tip[1] - start[1], tip[0] - start[0])
    corners = [tip]
    for side in (-2.6, 2.6):
        corners.append(
            (
                tip[0] + head * math.cos(direction + side),
                tip[1] + head * math.sin(direction + side),
            )
        )
    draw.polygon(corners, fill=colour)


def _draw_instruction(draw: ImageDraw.ImageDraw, size: tuple[int, int], instruction: str) -> None:
    font = _font(max(16, size[1] // 24))
    text = f'"{instruction}"' if instruction else 'no instruction'
    lines = _wrapped(draw, text, font, size[0] - 16, most=2)
    line_height = _line_height(draw, font)
    draw.rectangle((0, 0, size[0], 8 + line_height * len(lines)), fill=_PANEL)
    for row, line in enumerate(lines):
        fill = _TEXT if instruction else _STALE_TEXT
        draw.text((8, 4 + row * line_height), line, fill=fill, font=font)


def _draw_bars(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], bars: NDArray[np.float64] | None
) -> None:
    font = _font(max(12, size[1] // 36))
    height = _line_height(draw, font)
    label_width, bar_width = int(draw.textlength('grip ', font=font)), size[1] // 7
    left = size[0] - label_width - bar_width - 14
    top = size[1] // 5
    draw.rectangle(
        (left - 6, top - 4, size[0], top + len(BAR_LABELS) * (height + 2) + 4), fill=_PANEL
    )
    for row, label in enumerate(BAR_LABELS):
        y = top + row * (height + 2)
        fill = _TEXT if bars is not None else _STALE_TEXT
        draw.text((left, y), label, fill=fill, font=font)
        box = (left + label_width, y + 2, left + label_width + bar_width, y + height - 2)
        draw.rectangle(box, outline=_STALE_TEXT)
        if bars is not None:
            _fill_bar(draw, box, float(bars[row]), signed=row < 6)


def _fill_bar(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], value: float, *, signed: bool
) -> None:
    x0, y0, x1, y1 = box
    origin = (x0 + x1) / 2 if signed else x0
    reach = (x1 - x0) / 2 if signed else x1 - x0
    value = min(1.0, max(-1.0 if signed else 0.0, value)) if math.isfinite(value) else 0.0
    end = origin + value * reach
    if value:
        draw.rectangle((min(origin, end), y0 + 1, max(origin, end), y1 - 1), fill=WANTED_COLOUR)
    if signed:
        draw.line((origin, y0, origin, y1), fill=_TEXT)


def _draw_footer(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], state: OverlayState, note: str
) -> None:
    font, small = _font(max(14, size[1] // 30)), _font(max(12, size[1] // 38))
    height, small_height = _line_height(draw, font), _line_height(draw, small)
    label = state.safety_state or 'NO CONTROLLER'
    pill = int(draw.textlength(label, font=font)) + 16
    sentence = state.sentence or state.policy_sentence
    lines = _wrapped(draw, sentence, small, size[0] - 16, most=2)
    figures = f'{_rate_text(state)}   {note}'
    extra = [*lines, _fitted(draw, figures, small, size[0] - 16)]
    top = size[1] - height - 12 - small_height * len(extra)
    draw.rectangle((0, top, size[0], size[1]), fill=_PANEL)
    colour = STATE_COLOURS.get(label, UNKNOWN_COLOUR)
    draw.rounded_rectangle((8, top + 4, 8 + pill, top + 6 + height), radius=6, fill=colour)
    draw.text((16, top + 4), label, fill=_TEXT, font=font)
    policy = _fitted(draw, state.policy_sentence, small, size[0] - pill - 30)
    draw.text((18 + pill, top + 6), policy, fill=_TEXT, font=small)
    for row, line in enumerate(extra):
        draw.text((8, top + 10 + height + row * small_height), line, fill=_TEXT, font=small)


def _rate_text(state: OverlayState) -> str:
    rate = f'{state.policy_rate_hz:.1f} Hz' if state.policy_rate_hz is not None else '- Hz'
    latency = f'{1e3 * state.latency_s:.0f} ms' if state.latency_s is not None else '- ms'
    return f'policy {rate}, {latency}'


def _wrapped(
    draw: ImageDraw.ImageDraw, text: str, font: Font, width: int, *, most: int
) -> Sequence[str]:
    """Return the text in at most ``most`` lines; what does not fit is cut with an ellipsis."""
    lines: list[str] = []
    words = text.split()
    while words and len(lines) < most:
        line = words.pop(0)
        while words and draw.textlength(f'{line} {words[0]}', font=font) <= width:
            line = f'{line} {words.pop(0)}'
        lines.append(line)
    if lines:
        if words:
            lines[-1] = f'{lines[-1]} {words[0]} ...'
        lines = [_fitted(draw, line, font, width) for line in lines]
    return lines


def _fitted(draw: ImageDraw.ImageDraw, text: str, font: Font, width: int) -> str:
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(text + '...', font=font) > width:
        text = text[: int(len(text) * 0.9)] if len(text) > 20 else text[:-1]
    return text.rstrip() + '...'


def _line_height(draw: ImageDraw.ImageDraw, font: Font) -> int:
    return int(draw.textbbox((0, 0), 'Ag', font=font)[3]) + 3


@lru_cache(maxsize=16)
def _font(size_px: int) -> Font:
    return ImageFont.load_default(size_px)
