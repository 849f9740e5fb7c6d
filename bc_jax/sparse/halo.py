"""Halos: what a tile sees of its neighbours, and the memory that makes this possible.

A windowed operation on a tile reads pixels of the blocks around it. Those of a block that is
executed in this frame are this frame's; those of any other block are from the frame in which it was
last executed. So each tensor that is read through a window has a memory. It holds, for every block,
only what a neighbour may ask for: four strips along the block's sides (`Strips`), or whole tiles
where the strips would overlap or the window reaches beyond the next block (`Tiles`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from bc_jax.sparse.blocks import Blocks


class Halo(NamedTuple):
    """Pixels that a window reads beyond each side of a tile; never negative."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    def union(self, other: "Halo") -> "Halo":
        """The smallest halo that covers both."""
        return Halo(*map(max, self, other))


@struct.dataclass
class Strips:
    """The sides of every block of one tensor; B = N * Gh * Gw.

    Attributes:
        top: [B, halo.bottom, w, *rest], the first rows, which the block above reads.
        bottom: [B, halo.top, w, *rest], the last rows, which the block below reads.
        left: [B, h, halo.right, *rest], the first columns, for the block on the left.
        right: [B, h, halo.left, *rest], the last columns, for the block on the right.
    """

    top: jax.Array
    bottom: jax.Array
    left: jax.Array
    right: jax.Array


@struct.dataclass
class Tiles:
    """All of every block of one tensor.

    Attributes:
        tiles: [B, h, w, *rest].
    """

    tiles: jax.Array


Memory = Strips | Tiles


def memory_shape(halo: Halo, total: int, tile_shape: tuple[int, ...], dtype) -> Memory:
    """Shapes of the memory for a tensor whose tiles are `[h, w, *rest]`, `total` blocks in all."""
    h, w, *rest = tile_shape

    def of(*shape):
        return jax.ShapeDtypeStruct((total, *shape, *rest), dtype)

    strips = (halo.top + halo.bottom) * w + (halo.left + halo.right) * h
    if max(halo.top, halo.bottom) > h or max(halo.left, halo.right) > w or strips >= h * w:
        return Tiles(of(h, w))
    return Strips(
        top=of(halo.bottom, w),
        bottom=of(halo.top, w),
        left=of(h, halo.right),
        right=of(h, halo.left),
    )


def store(memory: Memory, tiles: jax.Array, blocks: Blocks) -> Memory:
    """Remember this frame's executed tiles for their neighbours."""

    def write(kept, new):
        return kept.at[blocks.index].set(new, mode="drop") if kept.size else kept

    if isinstance(memory, Tiles):
        return Tiles(write(memory.tiles, tiles))
    h, w = tiles.shape[1:3]
    return Strips(
        top=write(memory.top, tiles[:, : memory.top.shape[1]]),
        bottom=write(memory.bottom, tiles[:, h - memory.bottom.shape[1] :]),
        left=write(memory.left, tiles[:, :, : memory.left.shape[2]]),
        right=write(memory.right, tiles[:, :, w - memory.right.shape[2] :]),
    )


def _last(strip: jax.Array, count: int, axis: int) -> jax.Array:
    size = strip.shape[axis]
    return jax.lax.slice_in_dim(strip, size - count, size, axis=axis)


def _first(strip: jax.Array, count: int, axis: int) -> jax.Array:
    return jax.lax.slice_in_dim(strip, 0, count, axis=axis)


def _read(memory: Memory, index, dy: int, dx: int, rows, columns) -> jax.Array:
    """What is kept of the blocks `index`, which lie (dy, dx) from their readers.

    `rows` and `columns` are (first, last) pixels of the neighbour; a strip that is kept ends, or
    begins, at the neighbour's side that faces the reader.
    """
    (y0, y1), (x0, x1) = rows, columns
    if isinstance(memory, Tiles):
        return memory.tiles[index, y0:y1, x0:x1]
    if dy:
        strip = memory.bottom[index] if dy < 0 else memory.top[index]
        strip = _last(strip, y1 - y0, 1) if dy < 0 else _first(strip, y1 - y0, 1)
        return strip[:, :, x0:x1]
    strip = memory.right[index] if dx < 0 else memory.left[index]
    strip = _last(strip, x1 - x0, 2) if dx < 0 else _first(strip, x1 - x0, 2)
    return strip[:, y0:y1]


def _reach(before: int, after: int, size: int) -> list[tuple[int, tuple[int, int]]]:
    """Steps to the blocks that a halo touches along one axis, and the pixels it takes of each."""
    steps = []
    for step in range(-(-before // size), 0, -1):
        steps.append((-step, (max(0, step * size - before), size)))
        # Of the farthest block only its last pixels are read; of those between, all.
    steps.append((0, (0, size)))
    for step in range(1, -(-after // size) + 1):
        steps.append((step, (0, min(size, after - (step - 1) * size))))
    return steps


def exchange_halo(
    tiles: jax.Array,
    memory: Memory,
    blocks: Blocks,
    *,
    halo: Halo,
    pad_value: float = 0,
) -> tuple[jax.Array, Memory]:
    """Give each tile the pixels around it, and remember its own for its neighbours.

    Args:
        tiles: [K, h, w, *rest], this frame's executed blocks.
        memory: what is kept of the tensor's blocks, zeros of `memory_shape` at first, for a halo
            at least as wide as this one.
        blocks: the executed blocks.
        halo: how many pixels to add at each side.
        pad_value: stands for everything outside the image.

    Returns:
        tiles [K, top + h + bottom, left + w + right, *rest], and the memory with this frame's
        blocks.
    """
    memory = store(memory, tiles, blocks)
    return read_halo(tiles, memory, blocks, halo=halo, pad_value=pad_value), memory


def read_halo(tiles, memory: Memory, blocks: Blocks, *, halo: Halo, pad_value=0) -> jax.Array:
    """As `exchange_halo`, where the memory holds this frame's blocks already."""
    h, w = tiles.shape[1:3]
    outside = jnp.asarray(pad_value, tiles.dtype)
    padded_rows = []
    for dy, rows in _reach(halo.top, halo.bottom, h):
        pieces = []
        for dx, columns in _reach(halo.left, halo.right, w):
            if dy == 0 and dx == 0:
                pieces.append(tiles)
                continue
            index, inside = blocks.neighbour(dy, dx)
            piece = _read(memory, index, dy, dx, rows, columns)
            inside = inside.reshape(-1, *(1,) * (tiles.ndim - 1))
            pieces.append(jnp.where(inside, piece, outside))
        padded_rows.append(jnp.concatenate(pieces, axis=2))
    return jnp.concatenate(padded_rows, axis=1)


def window_halo(dense: jax.Array, blocks: Blocks, *, halo: Halo, pad_value=0) -> jax.Array:
    """Tiles with their halo out of an array [N, H, W, *rest] that is known in full."""
    _, gh, gw = blocks.grid_shape
    h, w, rest = dense.shape[1] // gh, dense.shape[2] // gw, dense.shape[3:]
    pads = [(0, 0), (halo.top, halo.bottom), (halo.left, halo.right)] + [(0, 0)] * len(rest)
    padded = jnp.pad(dense, pads, constant_values=jnp.asarray(pad_value, dense.dtype))
    size = (1, h + halo.top + halo.bottom, w + halo.left + halo.right, *rest)

    def cut(stream, row, column):
        start = (stream, row * h, column * w, *(0,) * len(rest))
        return jax.lax.dynamic_slice(padded, start, size)[0]

    return jax.vmap(cut)(*blocks.coordinates())
