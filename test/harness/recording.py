"""What a run leaves behind: binary records on one clock, readable while the run goes on."""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

# CLOCK_MONOTONIC is one clock for all processes of a machine, so their records compare.
RECORD = np.dtype([('kind', 'u1'), ('t_s', 'f8'), ('data', 'f8', (20,))])

# Kinds of records and what their data hold:
TWIST = 1  # twist[6] m/s rad/s, stamp_s, 1 if in the base frame, position[3] m, quaternion[4]
POSE = 2  # position[3] m, quaternion_xyzw[4], speed of the robot m/s
STATUS = 3  # as fake_robot.py writes it: state, ticks, overruns, accepted, rejected, ...
ACTION = 4  # twist[6], step_s, gripper, sequence, stamp_s, 1 if the scenario calls it acceptable
GRIPPER = 5  # opening
TICK = 6  # gap since the wake before, s (the scheduler canary)


class Writer:
    """Appends records; one write call each, so a killed process leaves whole records behind."""

    def __init__(self, path: str | Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._record = np.zeros(1, RECORD)

    def write(self, kind: int, data: Sequence[float], t_s: float | None = None) -> float:
        """Append one record stamped with the steady clock (or ``t_s``); returns its time."""
        record = self._record
        t_s = time.monotonic() if t_s is None else t_s
        record['kind'], record['t_s'] = kind, t_s
        record['data'] = 0.0
        record['data'][0, : len(data)] = data
        os.write(self._fd, record.tobytes())
        return t_s


class TextWriter:
    """Appends one JSON object per line, for what is not a number (sentences, reasons)."""

    def __init__(self, path: str | Path) -> None:
        self._file = open(path, 'a', buffering=1, encoding='utf-8')  # noqa: SIM115 - open for the process

    def write(self, line: dict[str, Any]) -> None:
        """Append one line."""
        self._file.write(json.dumps(line) + '\n')


def read(path: str | Path) -> np.ndarray:
    """Return all whole records of a file, oldest first; an absent file is an empty recording."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        content = b''
    whole = len(content) // RECORD.itemsize
    return np.frombuffer(content[: whole * RECORD.itemsize], RECORD)


class LineTail:
    """Follows a JSON-lines file that another process is still writing."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._offset = 0
        self._seen: list[dict[str, Any]] = []

    def all(self) -> list[dict[str, Any]]:
        """Return every whole line written so far, oldest first."""
        try:
            with open(self.path, 'rb') as file:
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return self._seen
        whole = content[: content.rfind(b'\n') + 1]
        self._offset += len(whole)
        self._seen += [json.loads(line) for line in whole.splitlines()]
        return self._seen


class Tail:
    """Follows a recording that another process is still writing."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._offset = 0
        self._seen = np.zeros(0, RECORD)

    def all(self) -> np.ndarray:
        """Return every whole record written so far, oldest first."""
        try:
            with open(self.path, 'rb') as file:
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return self._seen
        whole = len(content) // RECORD.itemsize * RECORD.itemsize
        if whole:
            self._offset += whole
            fresh = np.frombuffer(content[:whole], RECORD)
            self._seen = np.concatenate([self._seen, fresh])
        return self._seen

    def of(self, kind: int, since_s: float = -np.inf, until_s: float = np.inf) -> np.ndarray:
        """Return the records of one kind with since_s <= t <= until_s."""
        records = self.all()
        times = records['t_s']
        return records[(records['kind'] == kind) & (times >= since_s) & (times <= until_s)]
