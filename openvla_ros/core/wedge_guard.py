"""Ends a process whose threads all wait for native code that keeps Python's lock.

Nothing inside such a process can act, not even a signal handler of Python's. A small process of
its own waits for a sign of life; without one it has the stacks written to the log and kills. It
counts only time in which the watched process could run: one that was stopped (SIGSTOP, a
debugger, a suspended computer) and continued is not wedged.
"""

import contextlib
import faulthandler
import os
import select
import signal
import subprocess
import sys
import time

_POLL_S = 0.25
_TO_DUMP_S = 0.5


class WedgeGuard:
    """Watches this process from a child process."""

    def __init__(self, limit_s: float) -> None:
        """Start watching: without a ``beat`` for ``limit_s`` this process is killed."""
        faulthandler.register(signal.SIGUSR2, all_threads=True)
        # -I -S: it needs nothing but the standard library, and starts in 20 ms.
        self._child = subprocess.Popen(
            [sys.executable, '-I', '-S', __file__, str(os.getpid()), str(limit_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._child.stdin is not None
        self._pipe = self._child.stdin.fileno()
        os.set_blocking(self._pipe, False)

    def beat(self) -> None:
        """Give a sign of life; never waits."""
        with contextlib.suppress(OSError):  # the guard is stopped, or gone
            os.write(self._pipe, b'.')

    def close(self) -> None:
        """Stop watching."""
        assert self._child.stdin is not None
        with contextlib.suppress(OSError):
            self._child.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(1.0)


def watch(pid: int, limit_s: float) -> None:
    """Read signs of life from standard input; kill ``pid`` after ``limit_s`` without one."""
    silent_s, before_s = 0.0, time.monotonic()
    while silent_s < limit_s:
        heard = bool(select.select([0], [], [], _POLL_S)[0])
        if heard and not os.read(0, 4096):
            return  # the pipe is closed: the process ended, or wants to
        now_s = time.monotonic()
        # A guard that was itself stopped knows nothing about the time in between.
        silent_s += 0.0 if is_stopped(pid) else min(now_s - before_s, 2 * _POLL_S)
        silent_s = 0.0 if heard else silent_s
        before_s = now_s
    print(
        f'process {pid} gave no sign of life for {limit_s:g} s: native code keeps it. Its stacks '
        'follow, then it is killed',
        file=sys.stderr,
        flush=True,
    )
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGUSR2)
        time.sleep(_TO_DUMP_S)
        os.kill(pid, signal.SIGKILL)


def is_stopped(pid: int) -> bool:
    """Tell whether a process is stopped by a signal or a debugger (False where /proc is not)."""
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rsplit(')', 1)[1].split()[0] in 'Tt'
    except (OSError, IndexError):
        return False


if __name__ == '__main__':
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # it ends with the process it watches
    watch(int(sys.argv[1]), float(sys.argv[2]))
