"""Do predicted and recorded displacements agree, and if not, which convention is wrong?

Used on recordings before anything moves: a flipped axis, swapped axes, wrong units or an inverted
gripper show as such, with their names, instead of as an arm that goes the wrong way.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

AXES = ('x', 'y', 'z', 'rx', 'ry', 'rz')
MOVING_M = 2e-3
"""Recorded translations shorter than this along an axis say nothing about its sign."""
MOVING_RAD = 1e-2
LEAST_SAMPLES = 10
FLIPPED_BELOW = 0.3
SWAP_CORRELATION = 0.6
UNIT_RATIO = 4.0

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Displacements:
    """Displacements of N steps, in the base frame.

    Attributes:
        translation_m: float64[N, 3].
        rotation_rad: float64[N, 3], rotation vectors.
        gripper: float64[N], opening 0..1; NaN where it is not known.
    """

    translation_m: Array
    rotation_rad: Array
    gripper: Array

    def axes(self) -> Array:
        """Return float64[N, 6]: x, y, z [m], then the rotation vector [rad]."""
        return np.hstack([self.translation_m, self.rotation_rad])


@dataclass(frozen=True)
class AxisAgreement:
    """How one axis compares.

    Attributes:
        name: 'x', 'y', 'z', 'rx', 'ry' or 'rz'.
        unit: 'mm' or 'mrad'.
        moving: Steps in which the recording moves along this axis.
        mean_abs_error: Over all steps.
        recorded_rms: Root mean square of the recording.
        predicted_rms: Root mean square of the prediction.
        sign_agreement: Fraction of the moving steps with the same sign; None without any.
        correlation: Of predicted and recorded over all steps; None where one is constant.
    """

    name: str
    unit: str
    moving: int
    mean_abs_error: float
    recorded_rms: float
    predicted_rms: float
    sign_agreement: float | None
    correlation: float | None


@dataclass(frozen=True)
class Agreement:
    """The comparison of two sequences of displacements.

    Attributes:
        steps: N.
        axes: The six axes.
        direction_cosine: Mean cosine between the translations, where both move; None where never.
        within_30_deg: Fraction of those steps whose directions differ by less than 30 degrees.
        gripper_agreement: Fraction of steps that agree on open or closed; None where not recorded.
        findings: What looks wrong, one sentence each; empty where nothing does.
    """

    steps: int
    axes: tuple[AxisAgreement, ...]
    direction_cosine: float | None
    within_30_deg: float | None
    gripper_agreement: float | None
    findings: tuple[str, ...]


def compare(predicted: Displacements, recorded: Displacements) -> Agreement:
    """Compare N predicted with N recorded displacements.

    Raises:
        ValueError: there is none, or they are not equally many.
    """
    wanted, done = predicted.axes(), recorded.axes()
    if len(wanted) != len(done) or not len(wanted):
        raise ValueError(f'got {len(wanted)} predicted and {len(done)} recorded displacements')
    axes = tuple(_axis(i, wanted[:, i], done[:, i]) for i in range(6))
    cosines = _cosines(predicted.translation_m, recorded.translation_m)
    gripper = _gripper_agreement(predicted.gripper, recorded.gripper)
    return Agreement(
        steps=len(wanted),
        axes=axes,
        direction_cosine=float(cosines.mean()) if cosines.size else None,
        within_30_deg=float((cosines > np.cos(np.deg2rad(30))).mean()) if cosines.size else None,
        gripper_agreement=gripper,
        findings=(
            *_flips(axes),
            *_swaps(wanted, done),
            *_units(predicted, recorded),
            *_gripper_finding(gripper, recorded.gripper),
        ),
    )


def _axis(index: int, wanted: Array, done: Array) -> AxisAgreement:
    moving = np.abs(done) > (MOVING_M if index < 3 else MOVING_RAD)
    same = np.sign(wanted[moving]) == np.sign(done[moving])
    return AxisAgreement(
        name=AXES[index],
        unit='mm' if index < 3 else 'mrad',
        moving=int(moving.sum()),
        mean_abs_error=float(1e3 * np.abs(wanted - done).mean()),
        recorded_rms=float(1e3 * np.sqrt((done**2).mean())),
        predicted_rms=float(1e3 * np.sqrt((wanted**2).mean())),
        sign_agreement=float(same.mean()) if same.size else None,
        correlation=_correlation(wanted, done),
    )


def _correlation(a: Array, b: Array) -> float | None:
    if len(a) < 2 or a.std() < 1e-9 or b.std() < 1e-9:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _cosines(wanted_m: Array, done_m: Array) -> Array:
    lengths = np.linalg.norm(wanted_m, axis=1), np.linalg.norm(done_m, axis=1)
    both = (lengths[0] > MOVING_M) & (lengths[1] > MOVING_M)
    dots = (wanted_m[both] * done_m[both]).sum(axis=1)
    return np.asarray(dots / (lengths[0][both] * lengths[1][both]), np.float64)


def _gripper_agreement(wanted: Array, done: Array) -> float | None:
    known = np.isfinite(wanted) & np.isfinite(done)
    if not known.any():
        return None
    return float(((wanted[known] > 0.5) == (done[known] > 0.5)).mean())


def _flips(axes: tuple[AxisAgreement, ...]) -> list[str]:
    found = []
    for axis in axes:
        if axis.moving < LEAST_SAMPLES or axis.sign_agreement is None:
            continue
        opposite = axis.correlation is not None and axis.correlation < -FLIPPED_BELOW
        if axis.sign_agreement < FLIPPED_BELOW and opposite:
            found.append(
                f'axis {axis.name} looks flipped: predicted and recorded have opposite signs in '
                f'{100 * (1 - axis.sign_agreement):.0f} % of {axis.moving} moving steps'
            )
    return found


def _swaps(wanted: Array, done: Array) -> list[str]:
    """Name pairs of axes where each follows the other one rather than itself."""
    found = []
    for first, second in ((0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5)):
        crossed = (
            _correlation(wanted[:, first], done[:, second]),
            _correlation(wanted[:, second], done[:, first]),
        )
        straight = (
            _correlation(wanted[:, first], done[:, first]),
            _correlation(wanted[:, second], done[:, second]),
        )
        if any(c is None for c in crossed + straight):
            continue
        if (
            min(abs(c or 0.0) for c in crossed)
            > SWAP_CORRELATION
            > 2 * max(abs(c or 0.0) for c in straight)
        ):
            found.append(f'axes {AXES[first]} and {AXES[second]} look swapped')
    return found


def _units(predicted: Displacements, recorded: Displacements) -> list[str]:
    found = []
    pairs = (
        ('translations', predicted.translation_m, recorded.translation_m, MOVING_M),
        ('rotations', predicted.rotation_rad, recorded.rotation_rad, MOVING_RAD),
    )
    for name, wanted, done, moving in pairs:
        lengths = np.linalg.norm(wanted, axis=1), np.linalg.norm(done, axis=1)
        either = (lengths[0] > moving) | (lengths[1] > moving)
        if either.sum() < LEAST_SAMPLES:
            continue
        ratio = (lengths[0][either].mean() + 1e-9) / (lengths[1][either].mean() + 1e-9)
        if not 1 / UNIT_RATIO < ratio < UNIT_RATIO:
            found.append(
                f'predicted {name} are {ratio:.2g} times as long as the recorded ones: check the '
                'unit scale and step_s of the dataset profile, and unnorm_key'
            )
    return found


def _gripper_finding(agreement: float | None, recorded: Array) -> list[str]:
    known = recorded[np.isfinite(recorded)]
    both = (known > 0.5).any() and (known <= 0.5).any()
    if agreement is not None and agreement < FLIPPED_BELOW and both:
        return [
            f'the gripper looks inverted: open and closed agree in {100 * agreement:.0f} % of the '
            'steps only'
        ]
    return []
