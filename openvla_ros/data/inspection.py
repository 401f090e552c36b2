"""What is in a data set: figures in text, and a contact sheet of its images."""

from collections import Counter

import numpy as np
from PIL import Image, ImageDraw

from openvla_ros.data.data_set import DataSet
from openvla_ros.data.episode import no_ops
from openvla_ros.data.faults import suspicious

_TILE, _CAPTION = 128, 16
_NAMES = ('x', 'y', 'z', 'rotation 1', 'rotation 2', 'rotation 3', 'gripper')


def describe(data: DataSet) -> list[str]:
    """Say what is in a data set, and what looks wrong, a line each."""
    lengths = [len(data.frames_of(episode)) for episode in range(data.num_episodes)]
    step_s = data.profile.step_s
    lines = [
        f'{data.folder}: {data.num_episodes} episodes, {len(data)} frames of {step_s:g} s '
        f'({len(data) * step_s / 60.0:.1f} min), {min(lengths)} to {max(lengths)} per episode',
        f'conventions: {data.profile.unnorm_key}: frame {data.profile.frame}, rotation '
        f'{data.profile.rotation}, gripper open at {data.profile.gripper.open_value:g}',
        'sentences:',
    ]
    for text, count in Counter(data.instructions).most_common(20):
        lines.append(f'  {count:5d} x {text}')
    lines.append(f'{"action":>12} {"min":>9} {"q01":>9} {"mean":>9} {"q99":>9} {"max":>9}')
    for name, column in zip(_NAMES, data.actions.T):
        low, high = np.quantile(column, [0.01, 0.99])
        figures = (column.min(), low, column.mean(), high, column.max())
        lines.append(f'{name:>12} ' + ' '.join(f'{figure:9.4f}' for figure in figures))
    idle = sum(_idle(data, episode) for episode in range(data.num_episodes))
    lines.append(f'no-ops: {idle} of {len(data)} frames')
    wrong = suspicious(data.actions, data.states, data.profile)
    return [*lines, *(f'CHECK {sentence}' for sentence in wrong)]


def contact_sheet(data: DataSet, rows: int = 12, columns: int = 6) -> Image.Image:
    """Return one image: an episode a row, its images evenly spread from start to end."""
    episodes = sorted({round(i) for i in np.linspace(0, data.num_episodes - 1, rows)})
    height = (_TILE + _CAPTION) * len(episodes)
    sheet = Image.new('RGB', (_TILE * columns, height), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for row, episode in enumerate(episodes):
        top, frames = row * (_TILE + _CAPTION), data.frames_of(episode)
        draw.text((3, top + 2), f'{episode}: {data.instructions[episode]}', fill=(0, 0, 0))
        for column, place in enumerate(np.linspace(0, len(frames) - 1, columns)):
            image = Image.fromarray(data.frame(frames[round(place)]).image)
            sheet.paste(image.resize((_TILE, _TILE)), (column * _TILE, top + _CAPTION))
    return sheet


def _idle(data: DataSet, episode: int) -> int:
    actions = data.actions[data.frames_of(episode)]
    return int(no_ops(actions, float(actions[0, 6])).sum())
