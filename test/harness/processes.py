"""Processes of one run: a session each, a deadline for all, none survives the run."""

import contextlib
import fcntl
import json
import os
import queue
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

TEST_FOLDER = Path(__file__).resolve().parents[1]
REPOSITORY = TEST_FOLDER.parent

# prctl(PR_SET_PDEATHSIG, SIGKILL): the child dies with the test process, however that one ends.
_LEASH = (
    'import ctypes,os,resource,sys;ctypes.CDLL(None).prctl(1,9);'
    'resource.setrlimit(resource.RLIMIT_CORE,(0,0));os.execvp(sys.argv[1],sys.argv[1:])'
)


class DeadlineError(AssertionError):
    """Something that should have happened did not happen in time."""


class Process:
    """One running process, with an optional line protocol (actor.py) on its standard streams."""

    def __init__(self, name: str, argv: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._replies: queue.Queue[dict[str, Any]] = queue.Queue()
        self._next_id = 0
        with open(log, 'ab') as stderr:
            self._popen = subprocess.Popen(
                [sys.executable, '-I', '-S', '-c', _LEASH, *argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=dict(env),
                cwd=log.parent,
                start_new_session=True,
            )
        assert self._popen.stdout is not None
        threading.Thread(target=self._read, args=(self._popen.stdout,), daemon=True).start()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, negative signal number, or None while it runs."""
        return self._popen.poll()

    def call(self, do: str, *, deadline_s: float = 10.0, **arguments: Any) -> Any:
        """Ask an actor to do something and return its answer.

        Raises:
            DeadlineError: no answer in time (the process may be stopped or dead).
            RuntimeError: the actor says it failed.
        """
        ident = self.send(do, **arguments)
        end = time.monotonic() + deadline_s
        while True:
            try:
                reply = self._replies.get(timeout=max(0.0, min(0.2, end - time.monotonic())))
            except queue.Empty:
                if time.monotonic() >= end or self.returncode is not None:
                    raise DeadlineError(
                        f'{self.name}: no answer to {do!r} within {deadline_s} s '
                        f'(exit status {self.returncode}); its log ends: {self.log_tail()}'
                    ) from None
                continue
            if reply.get('id') == ident:
                if 'error' in reply:
                    raise RuntimeError(f'{self.name}: {do!r} failed: {reply["error"]}')
                return reply['result']

    def send(self, do: str, **arguments: Any) -> int:
        """Ask an actor to do something and do not wait; returns the request's number."""
        self._next_id += 1
        line = json.dumps({'id': self._next_id, 'do': do, **arguments}) + '\n'
        assert self._popen.stdin is not None
        self._popen.stdin.write(line.encode())
        self._popen.stdin.flush()
        return self._next_id

    def signal(self, number: int) -> float:
        """Send a signal; returns the steady time just before."""
        t_s = time.monotonic()
        self._popen.send_signal(number)
        return t_s

    def kill(self) -> float:
        """kill -9, and reap; returns the steady time just before."""
        t_s = self.signal(signal.SIGKILL)
        self._popen.wait(timeout=5.0)
        return t_s

    def wait(self, deadline_s: float) -> int:
        """Return the exit status once the process has ended by itself."""
        try:
            return self._popen.wait(timeout=deadline_s)
        except subprocess.TimeoutExpired:
            raise DeadlineError(f'{self.name}: still running after {deadline_s} s') from None

    def log_text(self) -> str:
        """Everything the process wrote to standard error."""
        return self.log.read_text(errors='replace')

    def log_tail(self, length: int = 1500) -> str:
        """The end of log_text."""
        return self.log_text()[-length:]

    def rss_mb(self) -> float:
        """Resident memory, MB."""
        pages = int(Path(f'/proc/{self.pid}/statm').read_text().split()[1])
        return pages * os.sysconf('SC_PAGE_SIZE') / 1e6

    def cpu_s(self) -> float:
        """User and system time used so far, s."""
        fields = Path(f'/proc/{self.pid}/stat').read_text().rsplit(')', 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')

    def open_files(self) -> int:
        """Number of open file descriptors."""
        return len(os.listdir(f'/proc/{self.pid}/fd'))

    def end(self) -> None:
        """Kill what is left, without complaint."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout=5.0)
        for stream in (self._popen.stdin, self._popen.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _read(self, stream: IO[bytes]) -> None:
        with contextlib.suppress(ValueError, OSError):
            for line in stream:
                if line.startswith(b'{'):
                    self._replies.put(json.loads(line))


class Processes:
    """The processes of one run on a ROS domain of their own; use as a context manager.

    All are killed at the end of the block, at ``deadline_s``, or when the test process dies.
    """

    def __init__(self, folder: str | Path, *, deadline_s: float) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._deadline_s = deadline_s
        self._running: dict[str, Process] = {}
        self._counter = 0
        self._stack = contextlib.ExitStack()
        self.env: dict[str, str] = {}

    def __enter__(self) -> 'Processes':
        domain = self._stack.enter_context(own_domain_id())
        self.env = {
            **os.environ,
            'ROS_DOMAIN_ID': str(domain),
            'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
            'ROS_LOG_DIR': str(self.folder / 'ros_log'),
            'OMP_NUM_THREADS': '1',
            'OPENBLAS_NUM_THREADS': '1',
            'PYTHONUNBUFFERED': '1',
            'PYTHONPATH': os.pathsep.join(
                part
                for part in (str(TEST_FOLDER), os.environ.get('PYTHONPATH', str(REPOSITORY)))
                if part
            ),
        }
        self._timer = threading.Timer(self._deadline_s, self._end_all)
        self._timer.daemon = True
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._end_all()
        self._stack.close()

    def __getitem__(self, name: str) -> Process:
        return self._running[name]

    def start(
        self, name: str, argv: Sequence[str], *, env: Mapping[str, str] | None = None
    ) -> Process:
        """Start ``argv`` under ``name``, instead of what ran under it before."""
        old = self._running.get(name)
        if old is not None:
            old.end()
        process = Process(name, argv, {**self.env, **(env or {})}, self.folder / f'{name}.log')
        self._running[name] = process
        return process

    def start_actor(
        self, name: str, module: str, *arguments: str, deadline_s: float = 20.0
    ) -> Process:
        """Start ``python -m harness.<module>`` and wait until it answers."""
        process = self.start(name, [sys.executable, '-m', f'harness.{module}', *arguments])
        process.call('ping', deadline_s=deadline_s)
        return process

    def end(self, name: str) -> None:
        """Kill one process, if it is there."""
        process = self._running.pop(name, None)
        if process is not None:
            process.end()

    def _end_all(self) -> None:
        for process in list(self._running.values()):
            process.end()


@contextlib.contextmanager
def own_domain_id() -> Iterator[int]:
    """Hold a ROS_DOMAIN_ID that no other run holds, in 1..101 (above, ports are ephemeral)."""
    folder = Path(tempfile.gettempdir()) / 'openvla_ros_domains'
    folder.mkdir(exist_ok=True)
    for domain in random.SystemRandom().sample(range(1, 102), 101):
        file = open(folder / str(domain), 'w')  # noqa: SIM115 - held until the run ends
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            continue
        try:
            yield domain
        finally:
            file.close()
        return
    raise RuntimeError(
        'all 101 ROS domain ids are held by runs of this harness; wait for one to end'
    )
