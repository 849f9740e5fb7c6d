"""Moving floats of 16 bits on a CPU as the whole numbers that their bits are.

XLA's CPU backend widens such floats to 32 bits for any operation on them, one that only moves them
too: to write a few tiles into an array it makes a wide copy of all of it, and a narrow one of that.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from bc_jax.lowering import backend


def moves(function: Callable) -> Callable:
    """Decorate a function that moves the values of arrays, and computes none.

    Args:
        function: of pytrees by position, whose floats are all of one dtype, to a pytree of floats
            of this dtype; linear in them. What is given by name is static.
    """

    @functools.wraps(function)
    def call(*trees, **static):
        dtypes = {jnp.dtype(x.dtype) for x in jax.tree.leaves(trees)}
        half = next((dtype for dtype in backend.HALVES if dtype in dtypes), None)
        move = functools.partial(function, **static)
        return move(*trees) if half is None or not backend.on_cpu() else _in_bits(move, half, trees)

    return call


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _in_bits(move: Callable, half: jnp.dtype, trees: tuple):
    # XLA takes a conversion of what was moved for cheap, and would move anew for each who reads it.
    moved = jax.lax.optimization_barrier(move(*_cast(trees, half, jnp.uint16)))
    return _cast(moved, jnp.uint16, half)


@_in_bits.defjvp
def _in_bits_jvp(move, half, primals, tangents):
    # Bits have no derivative, and a move is its own.
    _, moved = jax.jvp(move, *primals, *tangents)
    return _in_bits(move, half, *primals), moved


def _cast(tree, dtype, other):
    """The arrays of one dtype as another of as many bits."""

    def cast(x):
        return jax.lax.bitcast_convert_type(x, other) if x.dtype == dtype else x

    return jax.tree.map(cast, tree)


@moves
def concatenate(arrays: list[jax.Array], *, axis: int) -> jax.Array:
    """As `jnp.concatenate`, of arrays of one dtype."""
    return jnp.concatenate(arrays, axis)


@moves
def stack(arrays: list[jax.Array], *, axis: int) -> jax.Array:
    """As `jnp.stack`, of arrays of one dtype."""
    return jnp.stack(arrays, axis)
