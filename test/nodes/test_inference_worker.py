"""The worker computes one job at a time and never dies unnoticed."""

import threading
import time

import pytest

from openvla_ros.nodes.inference_worker import InferenceWorker, StartRefused


class Backend:
    """Counts what is asked of it."""

    def __init__(self):
        self.resets, self.closed = 0, False

    def reset(self):
        self.resets += 1

    def close(self):
        self.closed = True


class Policy:
    """Has a backend."""

    def __init__(self):
        self.backend = Backend()


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


def wait(condition):
    end_s = time.monotonic() + 5.0
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.002)


def running(handle, start=Policy):
    worker = InferenceWorker(start, handle)
    worker.start()
    return worker


def test_it_takes_a_job_only_when_it_is_ready_and_idle():
    release, done = threading.Event(), []

    def handle(_, job):
        release.wait(5.0)
        done.append(job)

    worker = InferenceWorker(Policy, handle)
    assert not worker.submit(0)
    worker.start()
    wait(lambda: worker.ready)
    assert worker.submit(1)
    assert worker.busy
    assert not worker.submit(2)
    release.set()
    wait(lambda: not worker.busy)
    assert worker.submit(3)
    wait(lambda: worker.completed == 2)
    assert done == [1, 3]
    assert worker.close(2.0)
    assert worker.policy.backend.closed


def test_everything_runs_in_its_one_thread():
    threads = set()

    def start():
        threads.add(threading.current_thread())
        return Policy()

    worker = running(lambda *_: threads.add(threading.current_thread()), start)
    wait(lambda: worker.ready)
    worker.submit(1)
    wait(lambda: worker.completed == 1)
    assert len(threads) == 1
    assert threading.current_thread() not in threads
    worker.close(2.0)


@pytest.mark.parametrize('exit_code', [None, 2])
def test_a_refused_start_says_why(exit_code):
    def start():
        raise StartRefused('TOO_SLOW', 'x', exit_code)

    worker = running(None, start)
    wait(lambda: worker.failure)
    assert (worker.failure.code, worker.failure.exit_code) == ('TOO_SLOW', exit_code)
    assert not worker.ready
    assert not worker.submit(1)


def test_an_exception_of_a_job_ends_it_with_exit_code_3(capsys):
    def handle(_, job):
        raise KeyError('x\ny')

    worker = running(handle)
    wait(lambda: worker.ready)
    worker.submit(1)
    wait(lambda: not worker.alive)
    assert worker.failure.code == 'INFERENCE_DIED'
    assert worker.failure.exit_code == 3
    assert '\n' not in worker.failure.sentence
    assert 'KeyError' in capsys.readouterr().err


def test_memory_that_ran_out_is_freed_once_and_the_job_done_again():
    attempts = []

    def handle(_, job):
        attempts.append(job)
        if len(attempts) == 1:
            raise OutOfMemoryError('CUDA out of memory')

    worker = running(handle)
    wait(lambda: worker.ready)
    worker.submit('job')
    wait(lambda: worker.completed == 1)
    assert attempts == ['job', 'job']
    assert worker.policy.backend.resets == 1
    assert worker.failure is None
    worker.close(2.0)


def test_memory_that_runs_out_twice_in_a_row_is_a_fault():
    def handle(_, job):
        raise OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')

    worker = running(handle)
    wait(lambda: worker.ready)
    worker.submit(1)
    wait(lambda: not worker.alive)
    assert worker.failure.code == 'OUT_OF_MEMORY'
    assert worker.failure.exit_code == 3
    assert 'Tried to allocate 2 GiB' in worker.failure.sentence


@pytest.mark.parametrize('error', [OutOfMemoryError('CUDA out of memory'), MemoryError()])
def test_memory_that_runs_out_while_starting_is_called_so(error):
    def start():
        raise error

    worker = running(None, start)
    wait(lambda: worker.failure)
    assert (worker.failure.code, worker.failure.exit_code) == ('OUT_OF_MEMORY', 3)
    assert worker.failure.sentence.startswith('while starting: memory ran out (')
    assert 'smaller quantization' in worker.failure.sentence


def test_closing_does_not_wait_for_a_job_that_never_ends():
    worker = running(lambda *_: time.sleep(60))
    wait(lambda: worker.ready)
    worker.submit(1)
    started_s = time.monotonic()
    assert not worker.close(0.1)
    assert time.monotonic() - started_s < 1.0
