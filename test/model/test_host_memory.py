"""Blocks of intermediate results are kept, so that their pages are not taken and zeroed anew."""

import functools
import os
import subprocess
import sys

import pytest

COUNT = """
import ctypes, resource, threading, torch
from openvla_ros.model.host_memory import keep_freed_memory

mallopt = ctypes.CDLL(None).mallopt

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        blocks = [torch.ones(3_000_000) for _ in range(5)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def work():
    for threshold in (-1, -3):  # as a process starts; glibc raises them now and then by itself
        mallopt(threshold, 128 * 1024)
    given_back, kept = faults(), keep_freed_memory()
    faults()
    print(given_back, int(kept), faults())

inference = threading.Thread(target=work)
inference.start()
inference.join()
"""
PAGES = 5 * 3_000_000 * 4 // 4096


@functools.cache
def counts(**environment: str) -> list[int]:
    env = {k: v for k, v in os.environ.items() if 'MALLOC' not in k and k != 'GLIBC_TUNABLES'}
    run = subprocess.run(
        [sys.executable, '-c', COUNT],
        env={**env, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [int(word) for word in run.stdout.split()]


def test_no_page_of_a_freed_block_is_taken_anew_once_memory_is_kept():
    given_back, kept, faults = counts()
    assert given_back > 5 * PAGES
    assert kept
    assert faults < PAGES


@pytest.mark.parametrize(
    'settings',
    [
        {'GLIBC_TUNABLES': 'glibc.malloc.mmap_threshold=131072'},
        {'MALLOC_TRIM_THRESHOLD_': '131072'},
        {'MALLOC_MMAP_THRESHOLD_': '131072'},
    ],
)
def test_the_users_own_settings_of_malloc_stay(settings: dict[str, str]):
    given_back, kept, faults = counts(**settings)
    assert not kept
    assert faults > given_back // 2
