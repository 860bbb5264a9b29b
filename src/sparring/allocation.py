"""How a process of our own keeps memory between steps."""

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h of glibc
MOST, PADDING, LARGE = 2**31 - 1, 64 * 2**20, 32 * 2**20  # LARGE is the highest threshold that glibc takes


def keep_freed_memory() -> None:
    """Let the C library keep what a step frees for the next step, instead of giving it back and faulting it in again.

    For a process that trains and does little else. Blocks of 32 MB and more still come from the system and go back to it: in
    the heap the next one may not fit where the last one was, for a few bytes, and the heap would grow. Other C libraries than
    glibc go on as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, LARGE)
    mallopt(M_TRIM_THRESHOLD, MOST)
    mallopt(M_TOP_PAD, PADDING)
