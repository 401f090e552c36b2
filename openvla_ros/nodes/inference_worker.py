"""The one thread that owns the model: loads it, then computes one action at a time."""

import contextlib
import dataclasses
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Generic, TypeVar

from openvla_ros.policy.inference import free_memory, is_out_of_memory
from openvla_ros.policy.policy import Policy

Job = TypeVar('Job')


class StartRefused(RuntimeError):  # noqa: N818  it says what is the case
    """The policy is not started; the message says why."""

    def __init__(self, code: str, sentence: str, exit_code: int | None) -> None:
        """Carry the code; ``exit_code`` None keeps the node alive to say so."""
        super().__init__(sentence)
        self.code = code
        self.exit_code = exit_code


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why the worker does nothing more.

    Attributes:
        code: For the status.
        sentence: For people.
        exit_code: What the process ends with; None if it stays to say so.
    """

    code: str
    sentence: str
    exit_code: int | None


class InferenceWorker(Generic[Job]):
    """A thread with one slot: a job is taken only when nothing is being computed."""

    def __init__(self, start: Callable[[], Policy], handle: Callable[[Policy, Job], None]) -> None:
        """Prepare.

        Args:
            start: Makes the policy, in the thread; may raise StartRefused.
            handle: Does one job, in the thread. Whatever it raises ends the worker, except
                memory that ran out: that is freed and the same job handed over once more, so
                it must know what of it has been done.
        """
        self._start = start
        self._handle = handle
        self._slot: queue.Queue[Job | None] = queue.Queue(maxsize=1)
        self._thread = threading.Thread(target=self._run, name='inference', daemon=True)
        self._busy = False
        self.closing = threading.Event()
        self.policy: Policy | None = None
        self.failure: Failure | None = None
        self.completed = 0

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether jobs are taken."""
        return self.policy is not None and self.failure is None

    @property
    def busy(self) -> bool:
        """Whether a job is being computed."""
        return self._busy

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def submit(self, job: Job) -> bool:
        """Hand over a job; False if one is being computed."""
        if not self.ready or self._busy:
            return False
        self._busy = True
        self._slot.put_nowait(job)
        return True

    def close(self, timeout_s: float) -> bool:
        """Ask the thread to end and wait; True if it has ended."""
        self.closing.set()
        with contextlib.suppress(queue.Full):
            self._slot.put_nowait(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self.policy = self._start()
        except StartRefused as refused:
            self.failure = Failure(refused.code, str(refused), refused.exit_code)
            return
        except BaseException as error:  # the thread must not die unnoticed
            self.failure = _died('while starting', error)
            return
        while not self.closing.is_set():
            job = self._slot.get()
            if job is None:
                break
            try:
                self._handle_with_one_retry(self.policy, job)
            except BaseException as error:
                if not self.closing.is_set():
                    self.failure = self.failure or _died('during inference', error)
                return
            self.completed += 1
            self._busy = False
        self.policy.backend.close()

    def _handle_with_one_retry(self, policy: Policy, job: Job) -> None:
        try:
            self._handle(policy, job)
            return
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            first = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        # Outside the except clause: the traceback holds the tensors that are to be freed.
        policy.backend.reset()
        free_memory()
        try:
            self._handle(policy, job)
        except Exception as error:
            if is_out_of_memory(error):
                self.failure = Failure(
                    'OUT_OF_MEMORY',
                    f'memory ran out twice in a row ({first}); use a smaller quantization or free '
                    'the device',
                    3,
                )
            raise


def _died(when: str, error: BaseException) -> Failure:
    traceback.print_exception(error, file=sys.stderr)
    text = ' '.join(str(error).split())[:200]
    if is_out_of_memory(error):
        return Failure(
            'OUT_OF_MEMORY',
            f'{when}: memory ran out ({text or type(error).__name__}); use a smaller quantization '
            'or free the device',
            3,
        )
    return Failure('INFERENCE_DIED', f'{when}: {type(error).__name__}: {text}', 3)
