"""Writes a data set: LeRobotDataset v3.0 on disk, a parquet file an episode, whole or not at all.

The folder is made under another name beside its place and renamed at the end, so that nobody sees
half of it, and what is there already is never written to.
"""

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from openvla_ros.action_space.dataset_profile import DatasetProfile
from openvla_ros.core.strict_config import ConfigError
from openvla_ros.data import layout
from openvla_ros.data.column_statistics import (
    Histogram,
    image_histogram,
    image_statistics,
    number_statistics,
)
from openvla_ros.data.episode import Episode, decode_image


class DataSetWriter:
    """Adds episodes; used in a ``with`` statement, at whose end the data set is there.

    Raises:
        ConfigError: the folder exists already.
    """

    def __init__(self, folder: Path, profile: DatasetProfile, robot_type: str = '') -> None:
        """Begin a data set.

        Args:
            folder: Must not exist.
            profile: Conventions of the actions; its camera names the image column.
            robot_type: For LeRobot's info.json.
        """
        if folder.exists():
            raise ConfigError(
                f'{folder}: exists already, and nothing recorded is overwritten; name another '
                'folder, or move that one away'
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._profile = profile
        self._robot_type = robot_type
        self._image_key = layout.IMAGE_PREFIX + profile.camera.name
        self._partial = Path(tempfile.mkdtemp(prefix=f'.{folder.name}.', dir=folder.parent))
        self._rows: list[dict[str, Any]] = []
        self._tasks: dict[str, int] = {}
        self._shape: tuple[int, ...] | None = None
        self._numbers: dict[str, list[Any]] = {}
        self._levels: Histogram = np.zeros((3, 256), np.int64)
        self._num_images = 0

    def __enter__(self) -> 'DataSetWriter':
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the data set in its place, or take away what was written of it."""
        try:
            if kind is None:
                self._finish()
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)

    @property
    def num_frames(self) -> int:
        """Frames written so far."""
        return int(self._rows[-1]['dataset_to_index']) if self._rows else 0

    def add(self, episode: Episode) -> None:
        """Write one episode.

        Raises:
            ConfigError: its images have another size than those before, or cannot be read.
        """
        number, start = len(self._rows), self.num_frames
        self._check_size(decode_image(episode.images[0], f'episode {number}').shape, number)
        task = self._tasks.setdefault(episode.instruction, len(self._tasks))
        columns = self._number_columns(episode, number, start, task)
        path = self._partial / layout.data_file(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(self._table(episode, columns, number), path)
        row: dict[str, Any] = {
            'episode_index': number,
            'tasks': [episode.instruction],
            'length': len(episode),
            'data/chunk_index': number // layout.CHUNK,
            'data/file_index': number % layout.CHUNK,
            'dataset_from_index': start,
            'dataset_to_index': start + len(episode),
            'meta/episodes/chunk_index': 0,
            'meta/episodes/file_index': 0,
        }
        self._rows.append(row | self._statistics_of(episode, columns, number))

    def _check_size(self, shape: tuple[int, ...], number: int) -> None:
        if self._shape is not None and shape != self._shape:
            raise ConfigError(
                f'episode {number}: its images are {list(shape)}, those before are '
                f'{list(self._shape)}; a data set has images of one size, so prepare recordings '
                'of another camera or resolution on their own'
            )
        self._shape = shape

    def _number_columns(
        self, episode: Episode, number: int, start: int, task: int
    ) -> dict[str, Any]:
        count = len(episode)
        frames = np.arange(count)
        return {
            layout.STATE: np.asarray(episode.states, np.float32),
            layout.ACTION: np.asarray(episode.actions, np.float32),
            layout.NO_OP: episode.no_ops,
            'timestamp': (frames * self._profile.step_s).astype(np.float32),
            'frame_index': frames,
            'episode_index': np.full(count, number),
            'index': start + frames,
            'task_index': np.full(count, task),
        }

    def _table(self, episode: Episode, columns: dict[str, Any], number: int) -> pa.Table:
        names = [f'frame-{i:06d}.jpg' for i in range(len(episode))]
        images = [{'bytes': data, 'path': name} for data, name in zip(episode.images, names)]
        kind = pa.struct([('bytes', pa.binary()), ('path', pa.string())])
        arrays = {self._image_key: pa.array(images, kind)}
        for name, values in columns.items():
            if values.ndim == 2:
                flat = pa.array(values.ravel())
                arrays[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
            else:
                arrays[name] = pa.array(values)
        return pa.table(arrays)

    def _statistics_of(
        self, episode: Episode, columns: dict[str, Any], number: int
    ) -> dict[str, Any]:
        counts, looked_at = image_histogram(episode.images, f'episode {number}')
        self._levels += counts
        self._num_images += looked_at
        by_column = {self._image_key: image_statistics(counts, looked_at)}
        for name, values in columns.items():
            self._numbers.setdefault(name, []).append(values)
            by_column[name] = number_statistics(values)
        return {
            f'stats/{name}/{key}': value
            for name, statistics in by_column.items()
            for key, value in statistics.items()
        }

    def _finish(self) -> None:
        if not self._rows:
            raise ConfigError(f'{self.folder}: not written: there is no episode to put into it')
        (self._partial / 'meta/episodes/chunk-000').mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(self._rows), self._partial / layout.EPISODES)
        pq.write_table(_tasks_table(self._tasks), self._partial / layout.TASKS)
        statistics = {
            name: number_statistics(np.concatenate(parts)) for name, parts in self._numbers.items()
        }
        statistics[self._image_key] = image_statistics(self._levels, self._num_images)
        _write_json(self._partial / layout.STATS, statistics)
        _write_json(self._partial / layout.INFO, self._info())
        write_profile(self._profile, self._partial / layout.PROFILE)
        self._partial.chmod(0o755)  # mkdtemp makes it its owner's only
        self._partial.rename(self.folder)

    def _info(self) -> dict[str, Any]:
        assert self._shape is not None
        seven = {'dtype': 'float32', 'shape': [7]}
        one = {'shape': [1], 'names': None}
        return {
            'codebase_version': layout.CODEBASE_VERSION,
            'robot_type': self._robot_type or None,
            'total_episodes': len(self._rows),
            'total_frames': self.num_frames,
            'total_tasks': len(self._tasks),
            'chunks_size': layout.CHUNK,
            'data_files_size_in_mb': 100,
            'video_files_size_in_mb': 200,
            'fps': _whole(1.0 / self._profile.step_s),
            'splits': {'train': f'0:{len(self._rows)}'},
            'data_path': layout.DATA_PATH,
            'video_path': None,
            'features': {
                self._image_key: {
                    'dtype': 'image',
                    'shape': list(self._shape),
                    'names': ['height', 'width', 'channels'],
                },
                layout.STATE: {**seven, 'names': list(layout.STATE_NAMES)},
                layout.ACTION: {
                    **seven,
                    'names': list(layout.ACTION_NAMES[self._profile.rotation]),
                },
                layout.NO_OP: {'dtype': 'bool', **one},
                'timestamp': {'dtype': 'float32', **one},
                **{
                    name: {'dtype': 'int64', **one}
                    for name in ('frame_index', 'episode_index', 'index', 'task_index')
                },
            },
        }


def write_profile(profile: DatasetProfile, path: Path) -> None:
    """Write a dataset profile as YAML, to be read by ``parse_file(DatasetProfile, path)``."""
    text = yaml.safe_dump(dataclasses.asdict(profile), sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding='utf-8')


def _tasks_table(tasks: dict[str, int]) -> pa.Table:
    """The frame pandas would write: one column task_index, the sentences as index."""
    index = '__index_level_0__'
    columns = [
        {'name': 'task_index', 'field_name': 'task_index', 'pandas_type': 'int64',
         'numpy_type': 'int64', 'metadata': None},
        {'name': None, 'field_name': index, 'pandas_type': 'unicode',
         'numpy_type': 'object', 'metadata': None},
    ]  # fmt: skip
    described = {
        'index_columns': [index],
        'column_indexes': [],
        'columns': columns,
        'creator': {'library': 'pyarrow', 'version': pa.__version__},
        'pandas_version': '2.0.0',
    }
    table = pa.table({'task_index': pa.array(list(tasks.values())), index: pa.array(list(tasks))})
    return table.replace_schema_metadata({'pandas': json.dumps(described)})


def _whole(rate_hz: float) -> int | float:
    """LeRobot's fps is a whole number where it can be one."""
    return round(rate_hz) if abs(rate_hz - round(rate_hz)) < 1e-6 else rate_hz


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
