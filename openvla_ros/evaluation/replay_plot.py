"""The picture of a replay: predicted against recorded displacement, axis by axis, over time."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openvla_ros.evaluation.displacement_agreement import AXES, Displacements


def plot_replay(
    path: Path, stamps_s: NDArray[np.float64], predicted: Displacements, recorded: Displacements
) -> None:
    """Write a PNG with one row per axis and one for the gripper.

    Args:
        path: Where to write.
        stamps_s: float64[N] of the images.
        predicted: Of the same N images.
        recorded: NaN where nothing is recorded.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    times_s = stamps_s - stamps_s[0]
    figure, rows = pyplot.subplots(7, 1, sharex=True, figsize=(9, 11), layout='constrained')
    wanted, done = 1e3 * predicted.axes(), 1e3 * recorded.axes()
    for axis, row in enumerate(rows[:6]):
        row.axhline(0, color='0.8', linewidth=0.8)
        row.plot(times_s, done[:, axis], color='tab:green', label='recorded')
        row.plot(times_s, wanted[:, axis], color='tab:orange', label='predicted')
        row.set_ylabel(f'{AXES[axis]} [{"mm" if axis < 3 else "mrad"}]')
    rows[6].plot(times_s, recorded.gripper, color='tab:green', drawstyle='steps-post')
    rows[6].plot(times_s, predicted.gripper, color='tab:orange', drawstyle='steps-post')
    rows[6].set_ylabel('gripper')
    rows[6].set_ylim(-0.1, 1.1)
    rows[6].set_xlabel('time [s]')
    rows[0].legend(loc='upper right', ncols=2)
    rows[0].set_title('displacement per step')
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
