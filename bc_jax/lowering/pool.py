"""Pooling tiles."""

import functools

import jax
import jax.numpy as jnp

from bc_jax.lowering import backend
from bc_jax.lowering.bits import concatenate
from bc_jax.lowering.places import places
from bc_jax.lowering.surround import surround

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


def pool_together(tiles: jax.Array, around: dict[tuple[int, int], jax.Array], window) -> jax.Array:
    """`pool` of `surround`; `window` is (name, size, strides)."""
    name, size, strides = window
    return pool(surround(tiles, around), name, size=size, strides=strides, dilation=(1, 1))


def pools_apart(tile: tuple[int, int], halo: tuple[int, int, int, int], window) -> bool:
    """Whether tiles are pooled faster without a copy of each that carries its halo.

    Args:
        tile: (h, w).
        halo: pixels around it: top, bottom, left, right.
        window: (name, size, strides).
    """
    _, size, strides = window
    axes = zip((halo[:2], halo[2:]), tile, size, strides, strict=True)
    parts = (_results(sides, *axis) for sides, *axis in axes)
    # Most results should read the tile alone.
    return backend.on_cpu() and all(inner > first + last for first, inner, last in parts)


def pool_apart(tiles: jax.Array, around: dict[tuple[int, int], jax.Array], window) -> jax.Array:
    """As `pool_together`: results at the sides, and those of the tiles alone.

    Args:
        tiles: [K, h, w, C].
        around: as `surround` takes it.
        window: (name, size, strides), of which `pools_apart` must hold.
    """
    name, size, strides = window
    sides = [
        tuple(around[step].shape[axis] if step in around else 0 for step in steps)
        for axis, steps in ((1, ((-1, 0), (1, 0))), (2, ((0, -1), (0, 1))))
    ]
    spans = [
        _spans(_results(*axis), *axis[2:])
        for axis in zip(sides, tiles.shape[1:3], size, strides, strict=True)
    ]
    pieces = around | {(0, 0): tiles}
    edges = [(0, low, low + n) for (low, _), n in zip(sides, tiles.shape[1:3], strict=True)]

    def pooled(rows, columns):
        seen = _cut(pieces, edges, rows, columns)
        return pool(seen, name, size=size, strides=strides, dilation=(1, 1))

    rows, columns = spans
    made = [concatenate([pooled(row, column) for column in columns], axis=2) for row in rows]
    return concatenate(made, axis=1)


def _results(sides: tuple[int, int], pixels: int, size: int, stride: int) -> tuple[int, int, int]:
    """How many results read what is before a tile, the tile alone, and what is behind it."""
    before, after = sides
    every = (before + pixels + after - size) // stride + 1
    first = -(-before // stride)
    inner = (before + pixels - size) // stride + 1 - first
    return first, inner, every - first - inner


def _spans(results: tuple[int, int, int], size: int, stride: int) -> list[tuple[int, int]]:
    """The pixels, from one up to another, halo included, that each of three groups reads."""
    first, inner, last = results
    groups = ((0, first), (first, first + inner), (first + inner, first + inner + last))
    return [(a * stride, (b - 1) * stride + size) for a, b in groups if a < b]


def _cut(pieces, edges, rows: tuple[int, int], columns: tuple[int, int]) -> jax.Array:
    """Some rows and columns of tiles with what is around them, put together of the pieces."""
    (tops, lefts) = (dict(zip((-1, 0, 1), edge, strict=True)) for edge in edges)

    def part(dy, dx):
        piece = pieces[dy, dx]
        top, left = tops[dy], lefts[dx]
        return piece[
            :,
            max(rows[0] - top, 0) : max(rows[1] - top, 0),
            max(columns[0] - left, 0) : max(columns[1] - left, 0),
        ]

    met = []
    for dy in (-1, 0, 1):
        row = [part(dy, dx) for dx in (-1, 0, 1) if (dy, dx) in pieces]
        row = [piece for piece in row if piece.size]
        met += [concatenate(row, axis=2) if len(row) > 1 else row[0]] if row else []
    return concatenate(met, axis=1) if len(met) > 1 else met[0]
