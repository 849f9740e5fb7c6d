"""Products of matrices: pixels' channels by a kernel of one pixel, and dense layers."""

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
    product = jax.lax.dot_general(lhs, rhs, numbers, precision, jnp.float32)
    return product.astype(jnp.bfloat16)
