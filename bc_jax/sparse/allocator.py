"""The host's memory allocator, which decides how fast large temporary arrays are on a CPU."""

import ctypes
import sys

# Of glibc's mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def keep_memory() -> bool:
    """Let this process keep the memory that it frees, so that the next frame finds it ready.

    A compiled program asks for its temporary arrays at each call. On Linux the C library gets
    large ones from the kernel, which clears every page, and gives them back when the call is over.
    Call this once, at the beginning of a program, as the command-line tools and the benchmarks do:
    threads that JAX has started before keep heaps of their own, and programs with large temporary
    arrays then run up to a third slower. It holds for all that the process allocates, and has no
    effect on a GPU's memory.

    Returns:
        Whether the C library took it: True with glibc, False elsewhere, where nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    # One heap for all threads: the others' heaps are too small for a network's arrays.
    settings = {_ARENA_MAX: 1, _MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 16 * 2**20}
    return all([mallopt(name, value) == 1 for name, value in settings.items()])
