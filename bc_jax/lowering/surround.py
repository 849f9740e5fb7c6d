"""Putting a halo around tiles."""

import jax
import jax.numpy as jnp

from bc_jax.lowering import backend


def surround(tiles: jax.Array, around: dict[tuple[int, int], jax.Array]) -> jax.Array:
    """Put pieces around tiles, those that a CPU copies least for, or a GPU starts least kernels.

    Args:
        tiles: [K, h, w, *rest].
        around: by the step (dy, dx) to where it lies, a piece [K, *, *, *rest]: at sides (-1, 0),
            (1, 0), (0, -1) and (0, 1), and at the corners between those that there are.

    Returns:
        [K, top + h + bottom, left + w + right, *rest].
    """
    fits = surround_in_place if backend.on_cpu() else surround_plainly
    return fits(tiles, around)


def surround_plainly(tiles, around) -> jax.Array:
    """The pieces and the tiles side by side."""
    pieces = around | {(0, 0): tiles}
    rows = [
        jnp.concatenate([pieces[dy, dx] for dx in (-1, 0, 1) if (dy, dx) in pieces], axis=2)
        for dy in (-1, 0, 1)
        if (dy, 0) in pieces
    ]
    return jnp.concatenate(rows, axis=1)


def surround_in_place(tiles, around) -> jax.Array:
    """One padded copy of the tiles, fused with what computes them, and the pieces written to it."""
    h, w = tiles.shape[1:3]

    def size(dy, dx):
        return around[dy, dx].shape[1 if dy else 2] if (dy, dx) in around else 0

    top, left = size(-1, 0), size(0, -1)
    pads = [(0, 0, 0), (top, size(1, 0), 0), (left, size(0, 1), 0)]
    pads += [(0, 0, 0)] * (tiles.ndim - 3)
    result = jax.lax.pad(tiles, jnp.zeros((), tiles.dtype), pads)
    rows, columns = {-1: 0, 0: top, 1: top + h}, {-1: 0, 0: left, 1: left + w}
    for (dy, dx), piece in around.items():
        start = (0, rows[dy], columns[dx], *(0,) * (tiles.ndim - 3))
        result = jax.lax.dynamic_update_slice(result, piece, start)
    return result
