"""The mutation job as a test: a planted fault that no test notices is a test that is missing."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_planted_fault_is_noticed() -> None:
    run = Path(__file__).with_name('run.py')
    result = subprocess.run([sys.executable, run], capture_output=True, text=True, timeout=890)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
