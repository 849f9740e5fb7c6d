"""Pooling tiles."""

import functools

import jax
import jax.numpy as jnp

from bc_jax.lowering.places import places

POOL = {
    "reduce_window_max": jnp.maximum,
    "reduce_window_min": jnp.minimum,
    "reduce_window_sum": jnp.add,
}


def pool(tiles: jax.Array, name: str, *, size, strides, dilation) -> jax.Array:
    """Pool tiles that carry their halo, one axis after the other, by shifted slices."""
    for window in zip((1, 2), size, strides, dilation, strict=True):
        tiles = functools.reduce(POOL[name], places(tiles, *window))
    return tiles
