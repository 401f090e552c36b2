"""What the numbers of a dataset's actions mean: config/datasets/<unnorm_key>.yaml."""

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openvla_ros.action_space.eef_delta import EefDelta, Frame
from openvla_ros.action_space.normalization import ActionStats
from openvla_ros.core.resources import resource_path
from openvla_ros.core.rotation import euler_xyz_from_rotvec, rotvec_from_euler_xyz
from openvla_ros.core.strict_config import ConfigError, did_you_mean, parse_file
from openvla_ros.observation.image import ImageRecipe

_FACTS = ('frame', 'rotation', 'translation_scale_m', 'rotation_scale_rad', 'step_s')
_SOURCED = (*_FACTS, 'gripper', 'image', 'camera')
_TEMPLATE = 'template'
#: What an arm may plausibly be asked for in one step, where nothing else is set.
PLAUSIBLE_STEP_M = 0.10
PLAUSIBLE_STEP_RAD = 0.60
_NO_NOOPS = '_no_noops'
#: The conventions that travel in the folder of a fine-tuned checkpoint or adapter.
PROFILE_FILE = 'dataset_profile.yaml'


@dataclasses.dataclass(frozen=True)
class GripperConvention:
    """What the last number of an action says about the gripper.

    Attributes:
        open_value: The dataset's number for an open gripper.
        closed_value: The dataset's number for a closed gripper.
        threshold: Opening from which the gripper is commanded fully open, below it fully closed;
            None passes the opening on as it is.
    """

    open_value: float
    closed_value: float
    threshold: float | None = dataclasses.field(default=None, metadata={'lo': 0.0, 'hi': 1.0})

    def __post_init__(self) -> None:
        """Refuse a convention that cannot tell open from closed."""
        if self.open_value == self.closed_value:
            raise ConfigError(
                f'gripper: open_value and closed_value are both {self.open_value}, '
                'expected two different numbers'
            )

    def opening(self, value: float) -> float:
        """Return the opening 0 closed .. 1 open of a dataset value, clipped to that range."""
        opening = (value - self.closed_value) / (self.open_value - self.closed_value)
        opening = min(max(opening, 0.0), 1.0)
        return opening if self.threshold is None else float(opening >= self.threshold)

    def value(self, opening: float) -> float:
        """Return the dataset value of an opening 0 closed .. 1 open."""
        return self.closed_value + opening * (self.open_value - self.closed_value)


@dataclasses.dataclass(frozen=True)
class NominalCamera:
    """The camera the dataset was recorded with; what the model expects to see.

    Attributes:
        name: The dataset's name of the camera.
        width: Pixels of its image, horizontally.
        height: Pixels of its image, vertically.
        view: Where it stands and what it sees, in words.
    """

    name: str
    width: int = dataclasses.field(metadata={'lo': 1})
    height: int = dataclasses.field(metadata={'lo': 1})
    view: str = ''


@dataclasses.dataclass(frozen=True)
class DatasetProfile:
    """The conventions of one dataset; they travel with a checkpoint trained on it.

    Attributes:
        unnorm_key: Name of the dataset in the checkpoint's statistics.
        description: Robot, setting and what to know, in words.
        frame: Axes of the displacement: 'base' or 'ee'.
        rotation: Meaning of the three rotation numbers: fixed-axis Euler angles
            (R = Rz Ry Rx) or a rotation vector.
        translation_scale_m: Metres per dataset unit.
        rotation_scale_rad: Radians per dataset unit.
        step_s: Duration of one step [s].
        gripper: What the last number says.
        image: What happened to training images before the processor.
        camera: The camera of the dataset.
        sources: For every fact above, where it comes from.
    """

    unnorm_key: str
    description: str
    frame: Frame
    rotation: Literal['euler_xyz', 'rotvec']
    translation_scale_m: float = dataclasses.field(metadata={'lo': 1e-4, 'hi': 10.0})
    rotation_scale_rad: float = dataclasses.field(metadata={'lo': 1e-4, 'hi': 10.0})
    step_s: float = dataclasses.field(metadata={'lo': 0.005, 'hi': 2.0})
    gripper: GripperConvention
    image: ImageRecipe
    camera: NominalCamera
    sources: dict[str, str]

    def __post_init__(self) -> None:
        """Refuse a fact without its source."""
        missing = [fact for fact in _SOURCED if not self.sources.get(fact, '').strip()]
        if missing:
            raise ConfigError(
                f'sources: nothing is written for {", ".join(missing)}; say where each fact '
                'comes from, a wrong one moves the arm the wrong way'
            )
        unknown = [fact for fact in self.sources if fact not in _SOURCED]
        if unknown:
            hint = did_you_mean(unknown[0], _SOURCED)
            raise ConfigError(f'sources: unknown fact {unknown[0]!r}{hint}')


def list_dataset_profiles(directory: str | Path | None = None) -> list[str]:
    """Return the keys of the profiles there are, sorted.

    Args:
        directory: Folder of ``<unnorm_key>.yaml`` files; the package's own if None.
    """
    folder = _folder(directory)
    return sorted(p.stem for p in folder.glob('*.yaml') if p.stem != _TEMPLATE)


def load_dataset_profile(unnorm_key: str, directory: str | Path | None = None) -> DatasetProfile:
    """Read the profile of a dataset.

    ``X_no_noops`` (a dataset from which idle steps were removed) has the conventions of ``X``.

    Args:
        unnorm_key: The dataset; there is no default.
        directory: Folder of ``<unnorm_key>.yaml`` files; the package's own if None.

    Raises:
        ConfigError: no such profile (the message lists the keys there are), or the file is not
            a complete profile of this key.
    """
    folder = _folder(directory)
    known = list_dataset_profiles(folder)
    name = next((n for n in (unnorm_key, unnorm_key.removesuffix(_NO_NOOPS)) if n in known), None)
    if name is None:
        got = 'is not set' if not unnorm_key else f'{unnorm_key!r} has no dataset profile'
        raise ConfigError(
            f'unnorm_key: {got}{did_you_mean(unnorm_key, known)} in {folder}; expected one of '
            f'{", ".join(known)}, or a profile of your own made from {_TEMPLATE}.yaml'
        )
    path = folder / f'{name}.yaml'
    profile = parse_file(DatasetProfile, path)
    if profile.unnorm_key != name:
        raise ConfigError(
            f'{path}: unnorm_key: got {profile.unnorm_key!r}, expected {name!r} as the file name'
        )
    return profile


def find_dataset_profile(
    unnorm_key: str, directory: str | Path | None = None
) -> DatasetProfile | None:
    """Read the profile of a dataset as ``load_dataset_profile``; None where there is none.

    Raises:
        ConfigError: there is one that cannot be used.
    """
    known = list_dataset_profiles(directory)
    if unnorm_key in known or unnorm_key.removesuffix(_NO_NOOPS) in known:
        return load_dataset_profile(unnorm_key, directory)
    return None


def profile_of_policy(
    unnorm_key: str, directory: str | Path | None, *folders: str | Path | None
) -> DatasetProfile:
    """Read the profile a policy is used with: the one that came with its weights comes first.

    Args:
        unnorm_key: The dataset; there is no default.
        directory: Folder of profiles that the user named; it is then the only place looked at.
        folders: Of the adapter and the checkpoint, which may hold dataset_profile.yaml.

    Raises:
        ConfigError: as ``load_dataset_profile``.
    """
    for folder in folders if not directory else ():
        path = Path(folder or '').expanduser() / PROFILE_FILE
        if folder and path.is_file():
            profile = parse_file(DatasetProfile, path)
            if profile.unnorm_key == unnorm_key:
                return profile
    return load_dataset_profile(unnorm_key, directory or None)


def to_eef_delta(action: ArrayLike, profile: DatasetProfile) -> EefDelta:
    """Turn an action in dataset units into a displacement in metres and radians.

    Args:
        action: float[7]: three of translation, three of rotation, the gripper.
        profile: The conventions of the dataset.

    Raises:
        ValueError: not seven finite numbers.
    """
    values = _seven_finite(action)
    turn = values[3:6] * profile.rotation_scale_rad
    return EefDelta(
        translation_m=values[:3] * profile.translation_scale_m,
        rotation_rad=rotvec_from_euler_xyz(turn) if profile.rotation == 'euler_xyz' else turn,
        gripper=profile.gripper.opening(float(values[6])),
        frame=profile.frame,
        step_s=profile.step_s,
    )


def from_eef_delta(delta: EefDelta, profile: DatasetProfile) -> NDArray[np.float64]:
    """Turn a displacement into an action float64[7] in dataset units; inverse of to_eef_delta.

    Raises:
        ValueError: the displacement is in another frame or for another step than the dataset's.
    """
    if delta.frame != profile.frame or abs(delta.step_s - profile.step_s) > 1e-9:
        raise ValueError(
            f'displacement in frame {delta.frame!r} for a step of {delta.step_s} s, expected '
            f'frame {profile.frame!r} and {profile.step_s} s of dataset {profile.unnorm_key}'
        )
    turn = delta.rotation_rad
    if profile.rotation == 'euler_xyz':
        turn = euler_xyz_from_rotvec(turn)
    return np.concatenate(
        [
            delta.translation_m / profile.translation_scale_m,
            turn / profile.rotation_scale_rad,
            [profile.gripper.value(delta.gripper)],
        ]
    )


def step_envelope(stats: ActionStats, profile: DatasetProfile) -> tuple[float, float]:
    """Return the largest displacement the statistics allow in one step: (metres, radians).

    The norm of the corner: every axis at its larger quantile at once. For Euler angles the sum
    is an upper bound of the angle to first order.

    Raises:
        ConfigError: the statistics are not of seven-number actions.
    """
    if stats.action_dim != 7:
        raise ConfigError(
            f'statistics of {profile.unnorm_key}: got {stats.action_dim} values per action, '
            'expected 7: x, y, z, three of rotation, gripper'
        )
    low, high = stats.envelope()
    reach = np.maximum(np.abs(low), np.abs(high))
    return (
        float(np.linalg.norm(reach[:3])) * profile.translation_scale_m,
        float(np.linalg.norm(reach[3:6])) * profile.rotation_scale_rad,
    )


def check_step_envelope(
    stats: ActionStats,
    profile: DatasetProfile,
    *,
    plausible_step_m: float = PLAUSIBLE_STEP_M,
    plausible_step_rad: float = PLAUSIBLE_STEP_RAD,
) -> None:
    """Refuse statistics whose actions would be implausibly large for an arm.

    A wrong key or a wrong unit is a factor of 20 to 35; it shows here before anything moves.

    Args:
        stats: Of the dataset that is used.
        profile: Its conventions.
        plausible_step_m: Largest displacement of one step [m].
        plausible_step_rad: Largest rotation of one step [rad].

    Raises:
        ConfigError: they are, or they are not of seven-number actions.
    """
    step_m, step_rad = step_envelope(stats, profile)
    if step_m > plausible_step_m or step_rad > plausible_step_rad:
        raise ConfigError(
            f'the statistics of {profile.unnorm_key} allow {step_m:.3f} m and {step_rad:.3f} rad '
            f'in one step, plausible are {plausible_step_m:g} m and {plausible_step_rad:g} rad: a '
            'wrong key or a wrong unit; if it is right, raise plausible_step_m and '
            'plausible_step_rad'
        )


def _folder(directory: str | Path | None) -> Path:
    folder = (
        resource_path('config/datasets') if directory is None else Path(directory).expanduser()
    )
    if not folder.is_dir():
        raise ConfigError(f'{folder}: is not a folder; expected one of dataset profiles')
    return folder


def _seven_finite(action: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(action, np.float64)
    if values.shape != (7,):
        raise ValueError(
            f'action: got {list(values.shape)} values, expected 7: x, y, z, three of rotation, '
            'gripper'
        )
    if not np.isfinite(values).all():
        raise ValueError(f'action: got {values.tolist()}, expected finite numbers')
    return values
