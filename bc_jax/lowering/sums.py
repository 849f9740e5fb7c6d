"""Sums of matrices' rows."""

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


def _add(these, those):
    return tuple(this + that for this, that in zip(these, those, strict=True))
