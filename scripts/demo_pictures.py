"""What the demo leaves behind: an animation of the overlay and a plot of the run."""

import io
import itertools
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openvla_ros.visualization.overlay import STATE_COLOURS

MAX_FRAMES = 150
LEAST_SHOWN_SPEED = 0.1  # [m/s] and [rad/s]; less would make noise look like motion


@dataclass
class Recording:
    """What was seen of one run; times are steady seconds.

    Attributes:
        frames: (time, JPEG bytes) of the overlay.
        wanted: (time, speed [m/s], angular speed [rad/s], gripper opening) of each action.
        sent: (time, speed [m/s], angular speed [rad/s]) of each command to the arm.
        states: (time, name of the safety state) of each report.
        grippers: (time, opening) sent to the arm.
        positions: (time, float64[3] end effector in the base frame [m]).
    """

    frames: list[tuple[float, bytes]] = field(default_factory=list)
    wanted: list[tuple[float, float, float, float]] = field(default_factory=list)
    sent: list[tuple[float, float, float]] = field(default_factory=list)
    states: list[tuple[float, str]] = field(default_factory=list)
    grippers: list[tuple[float, float]] = field(default_factory=list)
    positions: list[tuple[float, NDArray[np.float64]]] = field(default_factory=list)

    def add_frame(self, now_s: float, pixels: NDArray[np.uint8]) -> None:
        """Keep one picture uint8[H, W, 3], compressed."""
        jpeg = io.BytesIO()
        Image.fromarray(pixels).save(jpeg, 'JPEG', quality=92)
        self.frames.append((now_s, jpeg.getvalue()))

    def way_m(self) -> float:
        """Return how far the end effector went [m]."""
        if len(self.positions) < 2:
            return 0.0
        points = np.array([position for _, position in self.positions])
        return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())

    def rate_hz(self) -> float:
        """Return the mean rate of actions, between the first and the last [Hz]."""
        times = [row[0] for row in self.wanted]
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0


def save_animation(frames: Sequence[tuple[float, bytes]], path: Path) -> bool:
    """Write the frames as a GIF that plays in real time; False if there are none."""
    stride = max(1, -(-len(frames) // MAX_FRAMES))
    kept = frames[::stride]
    if not kept:
        return False
    pictures = [
        # Median cut, the default, turns small things of a colour of their own grey: the arrows.
        Image.open(io.BytesIO(jpeg)).quantize(
            method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE
        )
        for _, jpeg in kept
    ]
    times = [at_s for at_s, _ in kept]
    # GIF counts in hundredths of a second, and some viewers take less than two for a tenth.
    lengths_ms = [max(20, round(1e3 * (b - a))) for a, b in itertools.pairwise(times)] + [1000]
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], duration=lengths_ms, loop=0, optimize=True
    )
    return True


def save_plot(recording: Recording, path: Path, title: str, from_s: float) -> None:
    """Write wanted and sent speed, gripper and safety state over time as a PNG.

    Args:
        recording: What was seen.
        path: The file to write.
        title: What stands above it.
        from_s: Steady time the plot begins with [s].
    """
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        4, 1, sharex=True, figsize=(9, 8), height_ratios=(3, 3, 2, 2), layout='constrained'
    )
    wanted, sent = _since(recording.wanted, from_s), _since(recording.sent, from_s)
    grippers = _since(recording.grippers, from_s)
    for axis, column, label in ((axes[0], 1, 'speed [m/s]'), (axes[1], 2, 'turning [rad/s]')):
        _stairs(axis, wanted, column, color='orange', label='the policy wants')
        _stairs(axis, sent, column, color='green', label='the controller allows')
        axis.set_ylabel(label)
        axis.set_ylim(0.0, max(LEAST_SHOWN_SPEED, 1.05 * axis.get_ylim()[1]))
    _stairs(axes[2], wanted, 3, color='orange')
    _stairs(axes[2], grippers, 1, color='green')
    axes[2].set_ylabel('gripper\n0 closed, 1 open')
    axes[2].set_ylim(-0.1, 1.1)
    _state_bars(axes[3], _since(recording.states, from_s))
    axes[3].set_xlabel('time [s]')
    axes[0].set_title(textwrap.shorten(title, 90, placeholder=' ...'), loc='left')
    figure.legend(*axes[0].get_legend_handles_labels(), loc='outside lower right', ncols=2)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _since(rows: Sequence[tuple[Any, ...]], from_s: float) -> list[tuple[Any, ...]]:
    return [(row[0] - from_s, *row[1:]) for row in rows if row[0] >= from_s]


def _stairs(axis: Any, rows: Sequence[tuple[Any, ...]], column: int, **style: Any) -> None:
    """Each value holds until the next one."""
    axis.step([row[0] for row in rows], [row[column] for row in rows], where='post', **style)


def _state_bars(axis: Any, states: Sequence[tuple[Any, ...]]) -> None:
    """One row per safety state, filled while it lasted."""
    names = list(STATE_COLOURS)
    for (begin_s, state), (end_s, _) in itertools.pairwise(states):
        colour = tuple(channel / 255 for channel in STATE_COLOURS[state])
        axis.broken_barh(
            [(begin_s, end_s - begin_s)], (names.index(state) - 0.4, 0.8), color=colour
        )
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_ylim(len(names) - 0.5, -0.5)
