"""The memory of intermediate results on a CPU: kept by the process from one pass to the next.

glibc gives freed blocks of megabytes back to the kernel, and the next operation takes the same
pages anew, each zeroed at its first touch. A prefill of 280 rows through a 7B network takes
600 000 pages so with the thresholds a process starts with, and some 15 000 once glibc has adapted
them (``benchmarks/full_size_cpu.py`` counts).
"""

import ctypes
import os
from collections.abc import Callable

#: Blocks up to this size are kept: the most that every glibc accepts on 64 bits.
LARGEST_KEPT_BLOCK = 32 * 2**20

# <malloc.h>
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_NEVER_TRIM = 2**31 - 1


def keep_freed_memory() -> bool:
    """Keep freed blocks in the process, whose size then stays at its largest.

    Call it when the weights are in place: what is larger still comes and goes by itself. Values
    do not change. Where the user has set glibc's malloc in the environment, or the C library is
    another, nothing is done.

    Returns:
        Whether freed memory is kept now.
    """
    if _user_has_set_malloc():
        return False
    try:
        mallopt: Callable[[int, int], int] = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    large_kept = mallopt(_M_MMAP_THRESHOLD, LARGEST_KEPT_BLOCK) == 1
    return large_kept and mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM) == 1


def _user_has_set_malloc() -> bool:
    environment = os.environ
    return (
        'MALLOC_TRIM_THRESHOLD_' in environment
        or 'MALLOC_MMAP_THRESHOLD_' in environment
        or 'glibc.malloc.' in environment.get('GLIBC_TUNABLES', '')
    )
