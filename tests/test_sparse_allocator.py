"""`keep_memory`: temporary arrays are not fetched from the kernel anew, and no thread waits."""

import platform
import subprocess
import sys

import pytest

# Page faults per call of a program with a temporary array of 64 MB: the last of many calls.
FAULTS = """
import resource, sys
import jax, jax.numpy as jnp
from bc_jax.sparse import keep_memory
print(keep_memory() if sys.argv[1] == "keep" else None)
program = jax.jit(lambda x, i: jnp.max(x.at[i].set(0)))
x, i = jnp.ones(2**24), jnp.arange(4)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    program(x, i).block_until_ready()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min([faults() for _ in range(30)][-10:]))
"""

# More threads than glibc has heaps for by itself, eight for each core; all live at once.
THREADS = """
import os, sys, threading
from bc_jax.sparse import keep_memory
if sys.argv[1] == "keep":
    keep_memory()
threads = 8 * os.cpu_count() + 8
print(threads)
met = threading.Barrier(threads + 1)
for _ in range(threads):
    threading.Thread(target=lambda: [bytearray(2**16), met.wait(), met.wait()]).start()
met.wait()
"""

# The heaps of a process that has convolved.
CONVOLVED = """
import jax, jax.numpy as jnp
from bc_jax.sparse import compiler_options, keep_memory
keep_memory()
convolve = jax.jit(
    lambda x, w: jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    ),
    compiler_options=compiler_options(),
)
for _ in range(5):
    convolve(jnp.ones((8, 32, 32, 64)), jnp.ones((3, 3, 64, 64))).block_until_ready()
"""

# Heaps, of which malloc_info(3) tells in XML.
HEAPS = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fdopen(os.dup(1), b"w"))
sys.stdout.flush()
libc.malloc_info(0, file)
libc.fclose(file)
"""

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc's allocator can be told to keep memory"
)


def run(root, script, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def faults_of(root, argument):
    took, faults = run(root, FAULTS, argument).split()
    return took, int(faults)


def test_a_program_finds_its_memory_ready(root):
    took, kept = faults_of(root, "keep")
    _, fetched = faults_of(root, "leave")
    assert took == "True"
    assert fetched > 10_000  # the arrays' pages, 4 kB each
    assert kept < fetched / 10


def heaps(text):
    return text.count("<heap nr=")


def test_threads_that_multiply_do_not_share_a_heap(root):
    # oneDNN takes memory for each of a product's blocks: with one heap threads wait for it.
    assert heaps(run(root, CONVOLVED + HEAPS)) > 1


@pytest.mark.parametrize("argument", ["keep", "leave"])
def test_every_thread_has_a_heap(root, argument):
    out = run(root, THREADS + HEAPS + "met.wait()", argument)
    threads = int(out.split(maxsplit=1)[0])
    assert (heaps(out) >= threads) == (argument == "keep")
