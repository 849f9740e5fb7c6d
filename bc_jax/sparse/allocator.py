"""The host's memory allocator, which decides how fast large temporary arrays are on a CPU."""

import ctypes
import sys

import jax

# Of glibc's mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
# More heaps than a process has threads.
_HEAPS = 1024


def keep_memory() -> bool:
    """Let this process keep the memory that it frees, so that the next frame finds it ready.

    A compiled program asks for its temporary arrays at each call. On Linux the C library gets
    large ones from the kernel, which clears every page, and gives them back when the call is over.
    Call this once, at the beginning of a program, as the command-line tools and the benchmarks do:
    before JAX has computed anything, and in the thread that runs frames, the process's first.

    That one's heap alone is large enough for a network's arrays. So JAX's CPU programs are run by
    the thread that calls them (`jax_cpu_enable_async_dispatch` is False from here on), and are over
    when the call is. The other threads have heaps of their own, however many they are, for what
    products of matrices need in passing: those that shared one, as the C library lets threads do
    beyond eight for each core, would wait for each other.

    It holds for all that the process allocates, and has no effect on a GPU's memory.

    Returns:
        Whether the C library took it: True with glibc, False elsewhere, where nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    settings = {
        _MMAP_MAX: 0,
        _TRIM_THRESHOLD: 2**31 - 1,
        _TOP_PAD: 16 * 2**20,
        _ARENA_MAX: _HEAPS,
    }
    if not all([mallopt(name, value) == 1 for name, value in settings.items()]):
        return False
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    return True
