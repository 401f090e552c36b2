"""Where recorded episodes lie: a folder each, which appears under its name when it is complete.

An episode is written below ``.incomplete`` and renamed at its end. What a recorder that was
killed left there is never touched again: the next start names it.
"""

import datetime
import fcntl
import os
import shutil
from pathlib import Path

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.data.episode_label import EpisodeLabel, save_label

INCOMPLETE = '.incomplete'
_LOCK = '.recorder.lock'
_TIME_FORMAT = '%Y-%m-%d_%H-%M-%S'


class EpisodeFolders:
    """The episodes of one directory, which one recorder at a time may write."""

    def __init__(self, directory: str | Path) -> None:
        """Create the directory where it is missing and lock it.

        Raises:
            ConfigError: it cannot be written, or another recorder writes it.
        """
        self.directory = Path(directory).expanduser().absolute()
        self._incomplete = self.directory / INCOMPLETE
        try:
            self._incomplete.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.directory / _LOCK, os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise ConfigError(
                f'directory: {self.directory} cannot be written: {error.strerror or error}; '
                'choose another one'
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise ConfigError(
                f'directory: another recorder writes to {self.directory}; end it, or choose '
                'another directory'
            ) from error

    def lost(self) -> list[Path]:
        """Return the folders of episodes that were never finished, oldest first."""
        return sorted(path for path in self._incomplete.iterdir() if path.is_dir())

    def begin(self, now: datetime.datetime) -> Path:
        """Return the path for a new episode; nothing lies there or under its final name yet.

        Args:
            now: Local time, for the name.
        """
        stem = now.strftime(_TIME_FORMAT)
        number, name = 1, stem
        while (self.directory / name).exists() or (self._incomplete / name).exists():
            number += 1
            name = f'{stem}_{number}'
        return self._incomplete / name

    def finish(self, incomplete: Path, label: EpisodeLabel) -> Path:
        """Label a complete bag, see it onto the disk, and give it its name; returns its folder.

        Raises:
            OSError: the disk does not take it, or a folder of this name appeared meanwhile.
        """
        save_label(incomplete, label)
        for path in (*incomplete.iterdir(), incomplete):
            sync(path)
        final = self.directory / incomplete.name
        # rename(2) would replace an empty folder.
        if final.exists():
            raise FileExistsError(f'{final} exists already; the episode stays in {incomplete}')
        incomplete.rename(final)
        sync(self.directory)
        return final

    def discard(self, incomplete: Path) -> None:
        """Delete an episode that was not finished."""
        shutil.rmtree(incomplete)

    def free_bytes(self) -> int:
        """Return what the disk still takes."""
        return shutil.disk_usage(self.directory).free

    def close(self) -> None:
        """Let another recorder write here."""
        os.close(self._lock)


def sync(path: Path) -> None:
    """Wait until the disk has a file's content, or a folder's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
