"""The scheduler canary: a 50 Hz loop that tells whether this machine ran its processes in time.

A late stop on a machine that also did not schedule the canary says nothing about the controller.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from harness import recording

PERIOD_S = 0.02
VALID_GAP_S = 0.06
# A process that only sleeps is served first; the canary works as much as a controller does.
WORK_S = 0.0015


def run(path: str) -> None:
    """Record the gap between the ends of its work until the process is ended."""
    writer = recording.Writer(path)
    before = time.monotonic()
    due = before + PERIOD_S
    while True:
        time.sleep(max(0.0, due - time.monotonic()))
        _work(WORK_S)
        now = time.monotonic()
        writer.write(recording.TICK, [now - before], now)
        due = max(due + PERIOD_S, now)
        before = now


def _work(seconds: float) -> None:
    """Use this much processor time."""
    end_s = time.thread_time() + seconds
    while time.thread_time() < end_s:
        pass


def max_gap_s(path: str | Path, since_s: float, until_s: float) -> float:
    """Return the longest gap touching the window; infinite when the canary did not cover it."""
    return max_gap_of(recording.read(path), since_s, until_s)


def max_gap_of(ticks: np.ndarray, since_s: float, until_s: float) -> float:
    """As max_gap_s, on records already read."""
    if len(ticks) == 0 or ticks['t_s'][-1] < until_s or ticks['t_s'][0] > since_s + VALID_GAP_S:
        return float('inf')
    ends, gaps = ticks['t_s'], ticks['data'][:, 0]
    touching = (ends >= since_s) & (ends - gaps <= until_s)
    return float(np.max(gaps[touching], initial=0.0))


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--record', required=True)
    run(parser.parse_args().record)
