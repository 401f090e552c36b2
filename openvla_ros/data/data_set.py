"""Reads a data set: LeRobotDataset v3.0 on disk with images in its parquet files."""

import dataclasses
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from openvla_ros.action_space.dataset_profile import DatasetProfile
from openvla_ros.core.strict_config import ConfigError, parse_file
from openvla_ros.data import layout
from openvla_ros.data.episode import decode_image

#: Encoded images kept in memory; beyond that files are read again.
_CACHE_BYTES = 2_000_000_000


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """One step of an episode.

    Attributes:
        image: uint8[H,W,3], RGB.
        action: float64[7] in the units of the profile.
        instruction: What the arm was asked to do.
    """

    image: NDArray[np.uint8]
    action: NDArray[np.float64]
    instruction: str


@dataclasses.dataclass(frozen=True)
class _EpisodeEntry:
    file: Path
    start: int
    stop: int


class DataSet:
    """A data set on disk.

    Attributes:
        folder: Where it lies.
        profile: What the numbers of its actions mean.
        image_key: The column of its camera.
        actions: float64[N,7], of all frames in order.
        states: float64[N,7]: position [m], rotation vector [rad], gripper opening.
        episode_index: int64[N], the episode of each frame.
        instructions: By episode.

    Raises:
        ConfigError: it cannot be used for training; file and fault are named.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        info = self._info()
        self.image_key = self._camera(info)
        self.profile = self._profile(info)
        self._episodes, self.instructions = self._read_episodes(info)
        self._images: OrderedDict[Path, list[bytes]] = OrderedDict()
        self._cached_bytes = 0
        tables = [self._numbers(file) for file in dict.fromkeys(e.file for e in self._episodes)]
        self.actions = np.concatenate([table[0] for table in tables])
        self.states = np.concatenate([table[1] for table in tables])
        self.episode_index = np.concatenate([table[2] for table in tables])
        indices = np.concatenate([table[3] for table in tables])
        self._rows_in_file = np.concatenate([np.arange(len(table[2])) for table in tables])
        self._check_totals(info, indices)

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def num_episodes(self) -> int:
        """How many episodes there are."""
        return len(self._episodes)

    def frame(self, index: int) -> Frame:
        """Return frame ``index``, 0 to N - 1.

        Raises:
            ConfigError: its image is damaged.
        """
        episode = int(self.episode_index[index])
        content = self.encoded_image(index)
        image = decode_image(content, f'{self._episodes[episode].file}: frame {index}')
        return Frame(image, self.actions[index], self.instructions[episode])

    def encoded_image(self, index: int) -> bytes:
        """Return the image of frame ``index`` as the file it is stored as."""
        file = self._episodes[int(self.episode_index[index])].file
        return self._images_of(file)[int(self._rows_in_file[index])]

    def frames_of(self, episode: int) -> range:
        """Indices of an episode's frames."""
        entry = self._episodes[episode]
        return range(entry.start, entry.stop)

    def _info(self) -> dict[str, Any]:
        path = self.folder / layout.INFO
        try:
            info = json.loads(path.read_text(encoding='utf-8'))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f'{path}: cannot be read ({error}); expected a data set made by '
                '`python -m openvla_ros.data prepare`'
            ) from error
        version = info.get('codebase_version') if isinstance(info, dict) else None
        if version != layout.CODEBASE_VERSION:
            raise ConfigError(
                f'{path}: codebase_version: got {version!r}, expected '
                f'{layout.CODEBASE_VERSION!r}; convert the data set with lerobot first'
            )
        for key in ('features', 'data_path', 'total_frames', 'total_episodes', 'fps'):
            if key not in info:
                raise ConfigError(f'{path}: key {key!r} is missing; make the data set again')
        return dict(info)

    def _camera(self, info: dict[str, Any]) -> str:
        path, features = self.folder / layout.INFO, info['features']
        kinds = {
            name: feature.get('dtype')
            for name, feature in features.items()
            if feature.get('dtype') in ('image', 'video')
        }
        images = [name for name, kind in kinds.items() if kind == 'image']
        if len(images) != 1:
            raise ConfigError(
                f'{path}: features: got the cameras {kinds or "(none)"}, expected exactly one of '
                "dtype 'image'; videos cannot be read yet, and OpenVLA sees one camera"
            )
        shape = features.get(layout.ACTION, {}).get('shape')
        if list(shape or ()) != [7]:
            raise ConfigError(
                f'{path}: features.action.shape: got {shape}, expected [7]: x, y, z, three of '
                'rotation, gripper'
            )
        return str(images[0])

    def _profile(self, info: dict[str, Any]) -> DatasetProfile:
        path = self.folder / layout.PROFILE
        if not path.is_file():
            raise ConfigError(
                f'{path}: is missing; without it nobody knows what the actions mean: fill in '
                'config/datasets/template.yaml for this data set and put it there'
            )
        profile = parse_file(DatasetProfile, path)
        if abs(float(info['fps']) * profile.step_s - 1.0) > 1e-3:
            raise ConfigError(
                f'{path}: step_s: got {profile.step_s}, expected {1.0 / info["fps"]:g} as '
                f'{layout.INFO} has fps {info["fps"]}'
            )
        return profile

    def _read_episodes(self, info: dict[str, Any]) -> tuple[list[_EpisodeEntry], list[str]]:
        rows: list[dict[str, Any]] = []
        for path in sorted((self.folder / 'meta/episodes').glob('*/*.parquet')):
            columns = ['episode_index', 'tasks', 'data/chunk_index', 'data/file_index']
            columns += ['dataset_from_index', 'dataset_to_index']
            rows += _read_table(path, columns).to_pylist()
        rows.sort(key=lambda row: int(row['episode_index']))
        if [row['episode_index'] for row in rows] != list(range(info['total_episodes'])):
            raise ConfigError(
                f'{self.folder / "meta/episodes"}: lists {len(rows)} episodes, expected 0 to '
                f'{info["total_episodes"] - 1}; the data set is incomplete'
            )
        entries, sentences = [], []
        for row in rows:
            place = info['data_path'].format(
                chunk_index=row['data/chunk_index'], file_index=row['data/file_index']
            )
            start, stop = row['dataset_from_index'], row['dataset_to_index']
            entries.append(_EpisodeEntry(self.folder / place, start, stop))
            sentences.append(str(row['tasks'][0]) if row['tasks'] else '')
        without = [number for number, text in enumerate(sentences) if not text.strip()]
        if without:
            raise ConfigError(
                f'{self.folder}: {len(without)} of {len(rows)} episodes have no sentence, the '
                f'first is episode {without[0]}; a policy cannot learn what they are for'
            )
        return entries, sentences

    def _numbers(self, file: Path) -> tuple[NDArray[np.float64], ...]:
        names = [layout.ACTION, layout.STATE, 'episode_index', 'index']
        present = pq_schema(file)
        if layout.STATE not in present:
            names.remove(layout.STATE)
        table = _read_table(file, names)
        actions = _matrix(table[layout.ACTION], file)
        states = np.full((len(actions), 7), np.nan)
        if layout.STATE in present:
            found = _matrix(table[layout.STATE], file)
            states = found if found.shape[1] == 7 else states
        return actions, states, table['episode_index'].to_numpy(), table['index'].to_numpy()

    def _check_totals(self, info: dict[str, Any], indices: NDArray[np.int64]) -> None:
        whole = np.array_equal(indices, np.arange(info['total_frames']))
        if not whole or self._episodes[-1].stop != len(self):
            raise ConfigError(
                f'{self.folder}: holds {len(self)} frames, expected {info["total_frames"]} as '
                f'{layout.INFO} says; a file is missing or truncated'
            )
        if self.actions.shape[1] != 7 or not np.isfinite(self.actions).all():
            raise ConfigError(
                f'{self.folder}: actions: got {list(self.actions.shape)} with '
                f'{int((~np.isfinite(self.actions)).sum())} numbers that are not finite, expected '
                'seven finite numbers a frame'
            )

    def _images_of(self, file: Path) -> list[bytes]:
        if file in self._images:
            self._images.move_to_end(file)
            return self._images[file]
        column = _read_table(file, [self.image_key])[self.image_key].to_pylist()
        images: list[bytes] = [row['bytes'] for row in column if row and row['bytes']]
        if len(images) != len(column):
            raise ConfigError(
                f'{file}: {self.image_key} holds paths instead of images; embed the images'
            )
        self._images[file] = images
        self._cached_bytes += sum(map(len, images))
        while self._cached_bytes > _CACHE_BYTES and len(self._images) > 1:
            _, old = self._images.popitem(last=False)
            self._cached_bytes -= sum(map(len, old))
        return images


def pq_schema(file: Path) -> list[str]:
    """Names of a parquet file's columns.

    Raises:
        ConfigError: it is missing, truncated or none.
    """
    try:
        return list(pq.read_schema(file).names)
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(
            f'{file}: cannot be read as parquet: {" ".join(str(error).split())[:160]}'
        ) from error


def _read_table(file: Path, columns: list[str]) -> pa.Table:
    missing = [name for name in columns if name not in pq_schema(file)]
    if missing:
        raise ConfigError(f'{file}: column {missing[0]!r} is missing; make the data set again')
    try:
        return pq.read_table(file, columns=columns, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(
            f'{file}: cannot be read as parquet: {" ".join(str(error).split())[:160]}'
        ) from error


def _matrix(column: pa.ChunkedArray, file: Path) -> NDArray[np.float64]:
    rows = column.to_pylist()
    lengths = {len(row) if row is not None else 0 for row in rows}
    if len(lengths) != 1:
        raise ConfigError(f'{file}: rows of {sorted(lengths)} numbers, expected one length')
    return np.array(rows, np.float64)
