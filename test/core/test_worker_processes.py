import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from openvla_ros.core.worker_processes import worker_processes

SCRIPT = """
import pathlib, sys, time
from openvla_ros.core.worker_processes import worker_processes

def nothing():
    pass

def work(folder, number):
    pathlib.Path(folder, f'begun_{number}').touch()
    time.sleep(60)

if __name__ == '__main__':
    with worker_processes(2, nothing) as pool:
        for future in [pool.submit(work, sys.argv[1], number) for number in range(20)]:
            future.result()
"""
DEADLINE_S = 20.0


def test_ctrl_c_ends_work_that_runs_and_drops_what_waits(tmp_path: Path) -> None:
    script = tmp_path / 'script.py'
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, script, tmp_path], start_new_session=True, stderr=subprocess.DEVNULL
    )
    try:
        end_s = time.monotonic() + DEADLINE_S
        while len(list(tmp_path.glob('begun_*'))) < 2:
            assert time.monotonic() < end_s, 'the workers did not begin'
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(DEADLINE_S) != 0
        assert len(list(tmp_path.glob('begun_*'))) == 2
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def test_results_come_back_and_an_error_comes_through() -> None:
    with worker_processes(1, int) as pool:
        assert pool.submit(abs, -3).result() == 3
    with pytest.raises(ZeroDivisionError), worker_processes(1, int) as pool:
        pool.submit(divmod, 1, 0).result()
