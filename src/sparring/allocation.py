"""How a process of our own keeps memory between steps."""

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h of glibc
LARGEST, PADDING = 2**31 - 1, 64 * 2**20


def keep_freed_memory() -> None:
    """Let the C library keep what a step frees for the next step, instead of giving it back and faulting it in again.

    For a process that trains and does little else: what it has once used stays with it. Other C libraries than glibc go on as
    they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, LARGEST)
    mallopt(M_TOP_PAD, PADDING)
