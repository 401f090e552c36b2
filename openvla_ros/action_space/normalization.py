"""Dataset statistics: between normalised actions on [-1, 1] and actions in dataset units."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openvla_ros.core.strict_config import ConfigError, did_you_mean

STATISTICS_FILE = 'dataset_statistics.json'
_NO_NOOPS = '_no_noops'


class UnnormKeyError(ValueError):
    """The statistics to use are not determined; the message lists the keys there are."""


@dataclasses.dataclass(frozen=True, eq=False)
class ActionStats:
    """Statistics of one dataset's actions; D values each, checked when built.

    Attributes:
        q01: float64[D], 1 % quantile in dataset units (the value of normalised -1).
        q99: float64[D], 99 % quantile (the value of normalised +1).
        mask: bool[D], True where the dimension is normalised; False passes through (the gripper).
        minimum: float64[D] or None where the file has none.
        maximum: float64[D] or None.
    """

    q01: NDArray[np.float64]
    q99: NDArray[np.float64]
    mask: NDArray[np.bool_]
    minimum: NDArray[np.float64] | None = None
    maximum: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        """Refuse statistics that would make wrong motion, and freeze the arrays."""
        for name in ('q01', 'q99', 'minimum', 'maximum'):
            values = getattr(self, name)
            if values is not None:
                object.__setattr__(self, name, _frozen(_finite(values, name)))
        object.__setattr__(self, 'mask', _frozen(np.array(self.mask, bool)))
        for name in ('q99', 'mask', 'minimum', 'maximum'):
            values = getattr(self, name)
            if values is not None and values.shape != self.q01.shape:
                raise ConfigError(
                    f'{_JSON_NAME.get(name, name)} has {values.size} values, expected '
                    f'{self.q01.size} as q01 has'
                )
        self._check_order()

    @property
    def action_dim(self) -> int:
        """D, the number of values of one action and of tokens the model writes for it."""
        return int(self.q01.size)

    def envelope(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (low, high) float64[D]: what an action can reach, in dataset units per step."""
        return np.where(self.mask, self.q01, -1.0), np.where(self.mask, self.q99, 1.0)

    @classmethod
    def from_mapping(cls, content: Any, where: str) -> 'ActionStats':
        """Read one dataset's ``action`` entry: q01, q99, and, where present, mask, min and max.

        Raises:
            ConfigError: an entry is missing, of another type, another length, not finite or out of
                order.
        """
        if not isinstance(content, Mapping):
            raise ConfigError(f'{where}: got {content!r}, expected a mapping with q01 and q99')
        arrays: dict[str, Any] = {}
        for name in ('q01', 'q99', 'min', 'max'):
            if name in content:
                arrays[name] = _numbers(content[name], f'{where}.{name}')
            elif name in ('q01', 'q99'):
                hint = did_you_mean(name, content)
                raise ConfigError(f'{where}: key {name!r} is missing{hint}')
        mask = content.get('mask', [True] * arrays['q01'].size)
        if not isinstance(mask, list) or any(not isinstance(value, bool) for value in mask):
            raise ConfigError(f'{where}.mask: got {mask!r}, expected a list of true and false')
        try:
            return cls(
                arrays['q01'],
                arrays['q99'],
                np.array(mask, bool),
                arrays.get('min'),
                arrays.get('max'),
            )
        except ConfigError as error:
            raise ConfigError(f'{where}: {error}') from error

    def _check_order(self) -> None:
        if self.q01.size == 0:
            raise ConfigError('q01 is empty, expected one value per action dimension')
        low, high = self.q01[self.mask], self.q99[self.mask]
        if (low > high).any():
            raise ConfigError(
                f'q99 {self.q99.tolist()} is below q01 {self.q01.tolist()} in a normalised '
                'dimension; the statistics are corrupt'
            )
        # One constant dimension is a fact of some datasets (a robot that never turns); all of them
        # constant is a damaged file.
        if low.size and (low == high).all():
            raise ConfigError(
                f'q01 and q99 are both {self.q01.tolist()}: every action would be the same'
            )
        if self.minimum is None or self.maximum is None:
            return
        if (self.minimum > self.maximum).any():
            raise ConfigError(
                f'max {self.maximum.tolist()} is below min {self.minimum.tolist()}; the '
                'statistics are corrupt'
            )


def normalize_action(action: ArrayLike, stats: ActionStats) -> NDArray[np.float64]:
    """Map float[..., D] in dataset units to the training targets on [-1, 1].

    Masked dimensions become 2 (x - q01) / (q99 - q01 + 1e-8) - 1, clipped to [-1, 1]; the others
    pass; dimensions that are constant in the dataset (min equals max) become 0. As in OpenVLA's
    data loader (BOUNDS_Q99). The inverse is ``unnormalize_action``.

    Raises:
        ValueError: the last axis is not D.
    """
    values = _of_dimension(action, stats)
    span = stats.q99 - stats.q01 + 1e-8
    scaled = np.clip(2.0 * (values - stats.q01) / span - 1.0, -1.0, 1.0)
    normalised = np.where(stats.mask, scaled, values)
    if stats.minimum is not None and stats.maximum is not None:
        normalised = np.where(stats.minimum == stats.maximum, 0.0, normalised)
    return np.asarray(normalised, np.float64)


def unnormalize_action(action_norm: ArrayLike, stats: ActionStats) -> NDArray[np.float64]:
    """Map float[..., D] on [-1, 1] to dataset units: 0.5 (n + 1) (q99 - q01) + q01 where masked.

    The inverse of ``normalize_action`` on the dataset's range, as OpenVLA's predict_action.

    Raises:
        ValueError: the last axis is not D.
    """
    values = _of_dimension(action_norm, stats)
    scaled = 0.5 * (values + 1.0) * (stats.q99 - stats.q01) + stats.q01
    return np.asarray(np.where(stats.mask, scaled, values), np.float64)


def resolve_unnorm_key(stats_by_key: Iterable[str], key: str | None) -> str:
    """Return the key to use: the given one, its ``_no_noops`` alias, or the only one.

    Args:
        stats_by_key: The keys the checkpoint has (a mapping by key will do).
        key: What the user asked for; None or '' only where there is exactly one.

    Raises:
        UnnormKeyError: no such key, or several and none asked for.
    """
    keys = list(stats_by_key)
    listed = ', '.join(keys) if keys else 'none'
    if not key:
        if len(keys) == 1:
            return keys[0]
        raise UnnormKeyError(
            f'unnorm_key is not set and the checkpoint has {len(keys)} sets of statistics; choose '
            f'one of: {listed}'
        )
    alias = key.removesuffix(_NO_NOOPS) if key.endswith(_NO_NOOPS) else key + _NO_NOOPS
    for candidate in (key, alias):
        if candidate in keys:
            return candidate
    raise UnnormKeyError(
        f'unnorm_key: got {key!r}{did_you_mean(key, keys)}, expected one of: {listed}'
    )


def load_norm_stats(
    checkpoint_dir: str | Path, config: Mapping[str, Any] | None
) -> dict[str, ActionStats]:
    """Read a checkpoint's statistics by unnorm_key.

    A dataset_statistics.json next to the weights replaces the config's ``norm_stats``: a
    fine-tuned checkpoint's config.json still lists the datasets of its base model.

    Args:
        checkpoint_dir: The checkpoint's (or adapter's) folder.
        config: The content of its config.json.

    Raises:
        ConfigError: there are none, or one of them is not usable (file and key are named).
    """
    path = Path(checkpoint_dir) / STATISTICS_FILE
    if path.is_file():
        return parse_norm_stats(_load_json(path), str(path))
    content = (config or {}).get('norm_stats')
    if content is None:
        raise ConfigError(
            f'{checkpoint_dir}: has neither {STATISTICS_FILE} nor norm_stats in config.json; '
            'without the statistics of its training data the model cannot be used to move'
        )
    return parse_norm_stats(content, f'{checkpoint_dir}/config.json: norm_stats')


def parse_norm_stats(content: Any, where: str) -> dict[str, ActionStats]:
    """Read ``{unnorm_key: {action: {q01, q99, ...}}}``; raises ConfigError naming ``where``."""
    if not isinstance(content, Mapping) or not content:
        raise ConfigError(f'{where}: holds no statistics, expected a mapping by dataset')
    _refuse_nameless(content, where)
    stats = {}
    for key, entry in content.items():
        if not isinstance(entry, Mapping) or 'action' not in entry:
            raise ConfigError(f"{where}: {key}: key 'action' is missing")
        stats[str(key)] = ActionStats.from_mapping(entry['action'], f'{where}: {key}.action')
    return stats


_JSON_NAME = {'minimum': 'min', 'maximum': 'max'}


def _refuse_nameless(content: Mapping[str, Any], where: str) -> None:
    """Refuse the statistics of one dataset that do not say which, as RLDS' loader caches them."""
    action = content.get('action')
    if isinstance(action, Mapping) and 'action' not in action:
        raise ConfigError(
            f'{where}: holds the statistics of one dataset without its name, as the RLDS loader '
            'caches them beside the data (dataset_statistics_<hash>.json); expected a mapping by '
            'dataset: take the dataset_statistics.json of the training run, or put this content '
            'under the name of its dataset'
        )


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise ConfigError(f'{path}: cannot be read as JSON: {error}') from error


def _numbers(values: Any, where: str) -> NDArray[np.float64]:
    if (
        not isinstance(values, list)
        or not values
        or any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in values)
    ):
        raise ConfigError(f'{where}: got {values!r}, expected a list of numbers')
    try:
        return np.array(values, np.float64)
    except OverflowError as error:
        raise ConfigError(f'{where}: holds a number too large to be one') from error


def _finite(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.array(values, np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ConfigError(
            f'{_JSON_NAME.get(name, name)} is {array.tolist()}, expected a list of finite numbers'
        )
    return array


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array.setflags(write=False)
    return array


def _of_dimension(values: ArrayLike, stats: ActionStats) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.ndim == 0 or array.shape[-1] != stats.action_dim:
        raise ValueError(
            f'action: got shape {list(array.shape)}, expected [..., {stats.action_dim}] as the '
            'statistics have'
        )
    return array
