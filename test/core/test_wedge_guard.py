"""A process that gives no sign of life is killed, one that was stopped is not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = str(Path(__file__).parents[2])
WATCHED = """
import ctypes, sys, time
from openvla_ros.core.wedge_guard import WedgeGuard
guard = WedgeGuard(1.0)
for _ in range(5):
    guard.beat(); time.sleep(0.1)
print('alive', flush=True)
if sys.argv[1] == 'wedge':
    ctypes.PyDLL(None).sleep(60)
for _ in range(20):
    guard.beat(); time.sleep(0.1)
guard.close()
time.sleep(1.5)
"""


@pytest.fixture
def start(tmp_path):
    running = []

    def run(what):
        env = {**os.environ, 'PYTHONPATH': ROOT}
        log = open(tmp_path / 'log', 'w')  # noqa: SIM115
        process = subprocess.Popen(
            [sys.executable, '-c', WATCHED, what],
            stdout=subprocess.PIPE, stderr=log, text=True, env=env, cwd=tmp_path,
        )  # fmt: skip
        running.append(process)
        assert process.stdout.readline().strip() == 'alive'
        return process

    yield run
    for process in running:
        process.kill()
        process.wait()


def test_native_code_that_keeps_pythons_lock_is_killed_and_its_stack_told(start, tmp_path):
    process = start('wedge')
    assert process.wait(10.0) == -signal.SIGKILL
    log = (tmp_path / 'log').read_text()
    assert 'no sign of life for 1 s' in log
    assert 'line 9 in <module>' in log, 'where it hangs'


def test_a_process_that_was_stopped_for_longer_goes_on(start, tmp_path):
    process = start('live')
    process.send_signal(signal.SIGSTOP)
    time.sleep(2.5)
    process.send_signal(signal.SIGCONT)
    assert process.wait(15.0) == 0, 'it also outlives the guard it has closed'
    assert 'sign of life' not in (tmp_path / 'log').read_text()
