"""Work in several processes, which a stop from the keyboard ends at once."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any


@contextlib.contextmanager
def worker_processes(
    workers: int, initializer: Callable[..., None], *arguments: Any
) -> Iterator[ProcessPoolExecutor]:
    """Start a pool of fresh processes; leave it when all is done or, after an error, soon.

    By itself the pool does all work that is waiting before it lets an error through, Ctrl-C
    included. Here what waits is dropped, and Ctrl-C in a terminal, which reaches the workers too,
    ends them in the middle of what they do: their work must be written whole or not at all.

    Args:
        workers: Processes.
        initializer: Called in each process first.
        arguments: What it is called with.
    """
    pool = ProcessPoolExecutor(
        workers,
        mp_context=get_context('spawn'),
        initializer=_start,
        initargs=(initializer, *arguments),
    )
    try:
        yield pool
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


def _start(initializer: Callable[..., None], *arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    initializer(*arguments)
