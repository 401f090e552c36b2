"""`make demo` as it is used: all nodes as processes, ended by itself, by Ctrl-C and by a kill."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.processes import own_domain_id
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.ros, pytest.mark.slow]


class DemoRun:
    """One run of the demo; everything it starts carries a mark in its environment."""

    def __init__(self, folder: Path, domain: int, *arguments: str) -> None:
        self.out = folder / 'out'
        self.mark = f'OPENVLA_ROS_TEST_MARK={folder}'
        self.log = folder / 'demo.log'
        name, _, value = self.mark.partition('=')
        with self.log.open('wb') as log:
            self.process = subprocess.Popen(
                [sys.executable, 'scripts/demo.py', '--out', str(self.out), *arguments],
                cwd=ROOT,
                env={**os.environ, name: value, 'ROS_DOMAIN_ID': str(domain)},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def said(self) -> str:
        return self.log.read_text(errors='replace')

    def wait_until_said(self, pattern: str, limit_s: float) -> None:
        deadline_s = time.monotonic() + limit_s
        while not re.search(pattern, self.said()):
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline_s, f'no {pattern!r} in: {self.said()}'
            time.sleep(0.1)

    def running(self) -> list[int]:
        """Process ids of the demo and of all it started, however they are called now."""
        found = []
        for folder in Path('/proc').glob('[0-9]*'):
            with contextlib.suppress(OSError):
                if self.mark.encode() in (folder / 'environ').read_bytes().split(b'\0'):
                    found.append(int(folder.name))
        return found

    def seconds_until_gone(self, limit_s: float) -> float:
        started_s = time.monotonic()
        while self.process.poll() is None or self.running():
            assert time.monotonic() < started_s + limit_s, f'still there: {self.running()}'
            time.sleep(0.02)
        return time.monotonic() - started_s


@pytest.fixture
def demo(tmp_path) -> Iterator:
    runs = []

    def start(*arguments: str) -> DemoRun:
        runs.append(DemoRun(tmp_path, domain, *arguments))
        return runs[-1]

    with own_domain_id() as domain:
        yield start
        for run in runs:
            for pid in run.running():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            run.process.wait()


def test_ctrl_c_ends_everything_within_two_seconds_with_the_arm_at_rest(
    demo, untrained_checkpoint
):
    run = demo('--checkpoint', str(untrained_checkpoint), '--seconds', '60')
    # The arm moves because camera frames went through the network and the clamp let it.
    run.wait_until_said(r'ACTIVE: .* mm left', 80.0)
    run.wait_until_said(r'went 0\.(0[1-9]|[1-9])', 20.0)
    assert len(run.running()) == 6  # the demo, four nodes and policy_node's guard
    run.process.send_signal(signal.SIGINT)
    assert run.seconds_until_gone(5.0) < 2.0
    assert run.process.returncode == 130
    assert 'the arm is at rest' in run.said()


def test_a_killed_demo_leaves_no_process(demo, untrained_checkpoint):
    run = demo('--checkpoint', str(untrained_checkpoint))
    run.wait_until_said('starting', 30.0)
    time.sleep(1.0)
    run.process.kill()
    run.seconds_until_gone(2.0)


def test_a_missing_checkpoint_is_one_sentence_and_nothing_is_armed(demo, tmp_path):
    run = demo('--checkpoint', str(tmp_path / 'nowhere'))
    assert run.process.wait(timeout=60) == 1
    assert 'nowhere' in run.said()
    assert 'arming' not in run.said()
    run.seconds_until_gone(2.0)


def test_the_demo_does_its_task_and_leaves_pictures(demo):
    run = demo('--seconds', '25')
    assert run.process.wait(timeout=110) == 0, run.said()
    assert 'the arm is at rest' in run.said()
    went_m = float(re.search(r'end effector +went ([0-9.]+) m', run.said())[1])
    assert went_m > 0.02
    with Image.open(run.out / 'demo.gif') as animation:
        assert animation.n_frames > 5
    with Image.open(run.out / 'demo.png') as plot:
        assert min(plot.size) > 400
    run.seconds_until_gone(2.0)
