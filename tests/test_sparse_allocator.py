"""`keep_memory`: a program's temporary arrays are not fetched from the kernel again and again."""

import platform
import subprocess
import sys

import pytest

# Page faults per call of a program with two temporary arrays of 64 MB: the last of many calls.
FAULTS = """
import resource, sys
import jax, jax.numpy as jnp
from bc_jax.sparse import keep_memory
print(keep_memory() if sys.argv[1] == "keep" else None)
program = jax.jit(lambda x, w: jnp.max(jnp.sin(x @ w) @ w))
x, w = jnp.ones((2**22, 4)), jnp.ones((4, 4))
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    program(x, w).block_until_ready()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min([faults() for _ in range(30)][-10:]))
"""


def run(root, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, *arguments],
        cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    took, faults = done.stdout.split()
    return took, int(faults)


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc's allocator can be told to keep memory"
)
def test_a_program_finds_its_memory_ready(root):
    took, kept = run(root, "keep")
    _, fetched = run(root, "leave")
    assert took == "True"
    assert fetched > 10_000  # the arrays' pages, 4 kB each
    assert kept < fetched / 10
