"""The processes of the demo: each ends with the demo, however that ends."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

# The kernel kills the child when the demo dies, even by SIGKILL; a parent that died before the
# request was made is noticed by the changed parent process.
_LEASH = """
import ctypes, os, runpy, signal, sys
parent, module = int(sys.argv[1]), sys.argv[2]
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != parent:
    sys.exit(1)
sys.argv = [module, *sys.argv[3:]]
runpy.run_module(module, run_name='__main__', alter_sys=True)
"""


class NodeProcess:
    """One of our nodes as a process of its own, outside the terminal's group of processes.

    Ctrl-C then reaches the demo alone, which ends the nodes in the order that leaves the arm at
    rest.
    """

    def __init__(
        self, name: str, ros_args: Sequence[str], log_folder: Path, command: Sequence[str] = ()
    ) -> None:
        """Start it; ``command`` is another module and its arguments to run in the node's place."""
        self.name = name
        self._log = log_folder / f'{name}.log'
        arguments = ['--ros-args', *ros_args] if ros_args else []
        with self._log.open('wb') as log:
            self._popen = subprocess.Popen(
                [
                    *(sys.executable, '-c', _LEASH, str(os.getpid())),
                    *(command or [f'openvla_ros.nodes.{name}']),
                    *arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ended(self) -> str | None:
        """Return what it said last if it has ended, else None."""
        if self._popen.poll() is None:
            return None
        lines = self._log.read_text(errors='replace').strip().splitlines() or ['(it said nothing)']
        return (
            f'{self.name} ended with {self._popen.returncode}: {lines[-1]} (more in {self._log})'
        )

    def interrupt(self) -> None:
        """Ask it to end, as Ctrl-C would."""
        self._send(signal.SIGINT)

    def kill(self) -> None:
        """End it at once and reap it."""
        self._send(signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout=1.0)

    def _send(self, number: int) -> None:
        if self._popen.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, number)


def wait_for(processes: Iterable[NodeProcess], deadline_s: float) -> bool:
    """Wait until all have ended; False if one still runs at ``deadline_s`` (steady time)."""
    processes = list(processes)
    while any(process.ended() is None for process in processes):
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(0.01)
    return True
