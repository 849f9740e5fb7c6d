"""Sums of matrices' rows, and vectors that go with each row."""

import math

import jax
import jax.numpy as jnp

from bc_jax.lowering import backend

# Rows that a CPU sums at first; XLA has a slower way for more.
_ROWS = 16


def sum_rows(*matrices: jax.Array) -> tuple[jax.Array, ...]:
    """The sums of the rows of matrices [R, C] of one shape and dtype, read together: [C] each."""
    if backend.on_cpu():
        rows, columns = matrices[0].shape
        shape = (-1, math.gcd(rows, _ROWS), columns)
        zeros = (jnp.zeros((), matrices[0].dtype),) * len(matrices)
        parts = tuple(matrix.reshape(shape) for matrix in matrices)
        # Several at once: each by itself takes XLA longer than all of them.
        matrices = jax.lax.reduce(parts, zeros, _add, (1,))
    return tuple(jnp.sum(matrix, axis=0) for matrix in matrices)


def for_all_rows(*vectors: jax.Array) -> tuple[jax.Array, ...]:
    """Vectors that were put together of shorter ones, to go with the rows that are summed.

    A CPU then reads them as they are. XLA would read the shorter ones in their place, by a
    remainder for each number, and a sum in such a loop takes its numbers one by one.
    """
    return tuple(jax.lax.optimization_barrier(vectors)) if backend.on_cpu() else vectors


def _add(these, those):
    return tuple(this + that for this, that in zip(these, those, strict=True))
