"""Products of matrices: pixels' channels by a kernel of one pixel, and dense layers."""

import math

import jax
import jax.numpy as jnp

from bc_jax.lowering import backend


def multiply(tiles: jax.Array, matrix: jax.Array, precision=None, preferred=None) -> jax.Array:
    """Multiply each pixel's channels: [K, h, w, C] by [C, D]."""
    return dot_general(tiles, matrix, (((3,), (0,)), ((), ())), precision, preferred)


def dot_general(lhs, rhs, numbers, precision=None, preferred=None) -> jax.Array:
    """As `jax.lax.dot_general`. A CPU's units for bfloat16 give float32, which is then rounded."""
    halves = {lhs.dtype, rhs.dtype, jnp.dtype(preferred or lhs.dtype)} == {jnp.dtype(jnp.bfloat16)}
    if not (halves and backend.on_cpu()):
        return jax.lax.dot_general(lhs, rhs, numbers, precision, preferred)
    contract, batch = numbers
    if not batch[0]:
        product = jax.lax.dot_general(lhs, rhs, numbers, precision, jnp.float32)
        return product.astype(jnp.bfloat16)
    # As a batch of matrices: XLA has no other that gives float32, where its result is transposed.
    lhs, *sides = _matrices(lhs, contract[0], batch[0])
    rhs, *others = _matrices(rhs, contract[1], batch[1])
    numbers = (((2,), (2,)), ((0,), (0,)))
    product = jax.lax.dot_general(lhs, rhs, numbers, precision, jnp.float32)
    return product.astype(jnp.bfloat16).reshape(*sides[0], *sides[1], *others[1])


def _matrices(x, contract, batch) -> tuple[jax.Array, list[int], list[int]]:
    """An array as [batch, free, contracted], and the sides of its batch and free axes."""
    free = [a for a in range(x.ndim) if a not in (*contract, *batch)]
    groups = [[x.shape[a] for a in axes] for axes in (batch, free, contract)]
    matrices = jnp.transpose(x, (*batch, *free, *contract)).reshape([*map(math.prod, groups)])
    return matrices, *groups[:2]
