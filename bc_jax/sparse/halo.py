"""Halos: what a tile sees of its neighbours, and the memory that makes this possible.

A windowed operation on a tile reads pixels of the blocks around it. Those of a block that is
executed in this frame are this frame's; those of any other block are from the frame in which it was
last executed. So each tensor that is read through a window has a memory. It holds, for every block,
only what a neighbour may ask for: four strips along the block's sides (`Strips`); or all of it,
where the strips would be much of it or a window reaches beyond the next block (`Frames`).
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from bc_jax import lowering
from bc_jax.sparse.blocks import Blocks, by_block, combine
from bc_jax.sparse.windows import cut, origins, windows


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
        array: [B, P, *rest], a block's P pixels one after the other: `halo.bottom` first rows,
            which the block above reads; `halo.top` last rows; `halo.right` first columns, each row
            of them after the other, for the block on the left; `halo.left` last columns.
        halo: static, the widest that any reader asks for.
    """

    array: jax.Array
    halo: Halo = struct.field(pytree_node=False)


@struct.dataclass
class Frames:
    """All of one tensor, with a border for what its readers see beyond the image.

    Attributes:
        array: [N, top + H + bottom, left + W + right, *rest]; the border is zero.
        halo: static, the border's width at each side.
    """

    array: jax.Array
    halo: Halo = struct.field(pytree_node=False)


Memory = Strips | Frames


def memory_shape(
    halo: Halo, grid_shape: tuple[int, int, int], tile_shape: tuple[int, ...], dtype
) -> Memory:
    """Shapes of the memory for a tensor whose tiles are `[h, w, *rest]`."""
    (n, gh, gw), (h, w, *rest) = grid_shape, tile_shape
    if keeps_frames(halo, (h, w)):
        height, width = halo.top + gh * h + halo.bottom, halo.left + gw * w + halo.right
        return Frames(jax.ShapeDtypeStruct((n, height, width, *rest), dtype), halo)

    pixels = (halo.top + halo.bottom) * w + (halo.left + halo.right) * h
    return Strips(jax.ShapeDtypeStruct((n * gh * gw, pixels, *rest), dtype), halo)


def keeps_frames(halo: Halo, tile: tuple[int, int]) -> bool:
    """Whether all of a tensor is kept, and not strips; if for one halo, then for any wider one."""
    h, w = tile
    strips = (halo.top + halo.bottom) * w + (halo.left + halo.right) * h
    # Reading windows of a frame is fast; strips, which take more copies, are there to save memory.
    far = max(halo.top, halo.bottom) > h or max(halo.left, halo.right) > w
    return far or 2 * strips >= h * w


@lowering.moves
def store(memory: Memory, tiles: jax.Array, blocks: Blocks) -> Memory:
    """Remember this frame's executed tiles for their neighbours."""
    if isinstance(memory, Frames):
        return memory.replace(array=_store_windows(memory, tiles, blocks))

    new = _sides(tiles, memory.halo)
    return memory.replace(array=memory.array.at[blocks.index].set(new, mode="drop"))


def _sides(tiles: jax.Array, halo: Halo) -> jax.Array:
    """What `Strips` have of each tile of [K, h, w, *rest]: [K, P, *rest]."""
    h, w = tiles.shape[1:3]
    sides = [
        tiles[:, : halo.bottom],
        tiles[:, h - halo.top :],
        tiles[:, :, : halo.right],
        tiles[:, :, w - halo.left :],
    ]
    pixels = [side.reshape(len(tiles), -1, *tiles.shape[3:]) for side in sides if side.size]
    return jnp.concatenate(pixels, axis=1)


@lowering.moves
def remember_all(frames: jax.Array, *, halo: Halo, grid_shape: tuple[int, int, int]) -> Memory:
    """The memory of a tensor [N, H, W, *rest] that is known in full."""
    parts = by_block(frames, grid_shape)
    h, w, rest = parts.shape[2], parts.shape[4], parts.shape[5:]
    if keeps_frames(halo, (h, w)):
        around = [(0, 0), (halo.top, halo.bottom), (halo.left, halo.right)]
        return Frames(jnp.pad(frames, around + [(0, 0)] * len(rest)), halo)
    return Strips(_sides(jnp.swapaxes(parts, 2, 3).reshape(-1, h, w, *rest), halo), halo)


def _store_windows(memory: Frames, tiles: jax.Array, blocks: Blocks) -> jax.Array:
    border = jnp.array([(0, memory.halo.top, memory.halo.left)], jnp.int32)
    starts = origins(blocks, tiles.shape) + border
    # A window that begins outside the array is dropped.
    beyond = jnp.array([(memory.array.shape[0], 0, 0)], jnp.int32)
    starts = jnp.where((blocks.index < blocks.total)[:, None], starts, beyond)
    numbers = jax.lax.ScatterDimensionNumbers(
        update_window_dims=tuple(range(1, tiles.ndim)),
        inserted_window_dims=(0,),
        scatter_dims_to_operand_dims=(0, 1, 2),
    )
    mode = jax.lax.GatherScatterMode.FILL_OR_DROP
    return jax.lax.scatter(memory.array, starts, tiles, numbers, mode=mode)


def _read(memory: Strips, index, step: tuple[int, int], size, rows, columns) -> jax.Array:
    """Some pixels of the blocks `index`, which lie `step` (dy, dx) from their readers.

    `size` is (h, w) of a tile; `rows` and `columns` are (first, last) pixels of the neighbour.
    """
    (dy, dx), (h, w), kept = step, size, memory.halo
    (y0, y1), (x0, x1) = rows, columns
    bottom = kept.bottom * w
    left = bottom + kept.top * w
    right = left + h * kept.right
    # What is read of each: where it begins among the pixels, its rows and their width.
    if dy:
        first, width = (bottom + (kept.top - h + y0) * w if dy < 0 else y0 * w), w
    elif dx < 0:
        first, width = right + y0 * kept.left, kept.left
        x0, x1 = x0 - w + width, x1 - w + width
    else:
        first, width = left + y0 * kept.right, kept.right
    rest = memory.array.shape[2:]
    starts = jnp.pad(index[:, None], ((0, 0), (0, 1)), constant_values=first)
    pixels = cut(memory.array, starts, ((y1 - y0) * width, *rest))
    return pixels.reshape(len(index), y1 - y0, width, *rest)[:, :, x0:x1]


def _reach(before: int, after: int, size: int) -> list[tuple[int, tuple[int, int]]]:
    """Steps to the neighbours that a halo touches along one axis, and the pixels it takes."""
    steps = [(-1, (size - before, size))] if before else []
    steps.append((0, (0, size)))
    if after:
        steps.append((1, (0, after)))
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
        memory: what is kept of the tensor's blocks, for a halo at least as wide as this one; zeros
            of `bc_jax.sparse.halo.memory_shape` at first.
        blocks: the executed blocks.
        halo: how many pixels to add at each side.
        pad_value: stands for everything outside the image.

    Returns:
        tiles [K, top + h + bottom, left + w + right, *rest], and the memory with this frame's
        blocks.
    """
    how = _how(tiles, memory, blocks, halo, pad_value)
    if lowering.exchanges_at_once(tiles, memory.array, how):
        return _at_once(how, lowering.exchange, None, tiles, memory, blocks)
    return exchange_plainly(tiles, memory, blocks, halo=halo, pad_value=pad_value)


def exchange_and_pool(
    tiles, memory: Memory, blocks: Blocks, *, window, halo: Halo, pad_value
) -> tuple[jax.Array, Memory] | None:
    """As `exchange_halo` and then `lowering.pool`, where one kernel does both; None elsewhere.

    `window` is (name, size, strides) as `lowering.pool` takes them; `pad_value` changes no result.
    """
    how = _how(tiles, memory, blocks, halo, pad_value)
    if not lowering.pools_at_once(tiles, memory.array, how, window):
        return None

    def plainly(padded, _):
        name, size, strides = window
        return lowering.pool(padded, name, size=size, strides=strides, dilation=(1, 1))

    kernel = functools.partial(lowering.exchange_and_pool, window=window)
    return _at_once(how, kernel, plainly, tiles, memory, blocks)


def exchange_and_resize(
    tiles, memory: Memory, blocks: Blocks, *, maps, dtype, halo: Halo
) -> tuple[jax.Array, Memory] | None:
    """As `exchange_halo` and then `resize`, where one kernel does both; None elsewhere."""
    how = _how(tiles, memory, blocks, halo, 0)
    if not lowering.resizes_at_once(tiles, memory.array, how, maps, dtype):
        return None

    plainly = functools.partial(resize, maps=maps, dtype=dtype)
    kernel = functools.partial(lowering.exchange_and_resize, maps=maps)
    return _at_once(how, kernel, plainly, tiles, memory, blocks)


def resize(tiles: jax.Array, blocks: Blocks, *, maps, dtype) -> jax.Array:
    """Tiles with their halo by maps of `lowering.axis_map`, or None, along rows and columns."""
    for along, axis_map in enumerate(maps):
        if axis_map is not None:
            place = blocks.coordinates[1 + along]
            tiles = lowering.apply_axis_map(tiles, axis_map, place, 1 + along, dtype)
    return tiles


def pools_apart(tiles, memory: Memory, window, halo: Halo) -> bool:
    """Whether `pool_apart` is the fastest."""
    return isinstance(memory, Strips) and lowering.pools_apart(tiles.shape[1:3], halo, window)


def pool_apart(
    tiles, memory: Strips, blocks: Blocks, *, window, halo: Halo, pad_value
) -> jax.Array:
    """As `read_halo` and then `lowering.pool`, without a copy of each tile that has a halo."""
    outside = _outside(pad_value, tiles.dtype)
    around = _read_strips(tiles, memory, blocks, outside, halo=halo, apart=True)
    return lowering.pool_apart(tiles, around, window)


def write_tiles(dense: jax.Array, tiles: jax.Array, blocks: Blocks) -> jax.Array:
    """As `bc_jax.sparse.blocks.combine`: frames without a border are a memory without a halo."""
    memory, tiles = Frames(dense, Halo()), tiles.astype(dense.dtype)
    how = _how(tiles, memory, blocks, Halo(), 0)
    if lowering.exchanges_at_once(tiles, dense, how):
        return _at_once(how, lowering.exchange, None, tiles, memory, blocks)[1].array
    return combine(dense, tiles, blocks)


def _how(tiles, memory: Memory, blocks: Blocks, halo: Halo, pad_value) -> lowering.Exchange:
    _, h, w, *rest = tiles.shape
    return lowering.Exchange(
        grid_shape=blocks.grid_shape,
        tile=(h, w, math.prod(rest)),
        halo=tuple(halo),
        kept=tuple(memory.halo),
        frames=isinstance(memory, Frames),
        pad_value=pad_value,
    )


def exchange_plainly(tiles, memory: Memory, blocks: Blocks, *, halo: Halo, pad_value: float = 0):
    """As `exchange_halo`, in operations that every backend has."""
    memory = store(memory, tiles, blocks)
    return read_halo(tiles, memory, blocks, halo=halo, pad_value=pad_value), memory


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _at_once(how: lowering.Exchange, kernel, then, tiles, memory: Memory, blocks: Blocks):
    """One kernel for halos and what comes `then`: None, or a function of tiles with their halo."""
    flat = tiles.reshape(*tiles.shape[:3], -1)
    made, array = kernel(flat, memory.array, blocks.index, blocks.slots, how)
    return made.reshape(*made.shape[:3], *tiles.shape[3:]), memory.replace(array=array)


@_at_once.defjvp
def _at_once_jvp(how: lowering.Exchange, kernel, then, primals, tangents):
    *primals, blocks = primals

    def plainly(tiles, memory):
        halo = {"halo": Halo(*how.halo), "pad_value": how.pad_value}
        made, memory = exchange_plainly(tiles, memory, blocks, **halo)
        return then(made, blocks) if then else made, memory

    _, tangents = jax.jvp(plainly, tuple(primals), tuple(tangents[:2]))
    return _at_once(how, kernel, then, *primals, blocks), tangents


def read_halo(tiles, memory: Memory, blocks: Blocks, *, halo: Halo, pad_value=0) -> jax.Array:
    """As `exchange_halo`, where the memory holds this frame's blocks already."""
    outside = _outside(pad_value, tiles.dtype)
    if isinstance(memory, Frames):
        return _read_frames(memory, blocks, outside, tile=tiles.shape, halo=halo)
    return _read_strips(tiles, memory, blocks, outside, halo=halo)


def _outside(pad_value, dtype) -> jax.Array | None:
    """What stands for everything outside the image; None where it is zero."""
    return None if pad_value == 0 else jnp.asarray(pad_value, dtype)


@lowering.moves
def _read_frames(memory: Frames, blocks: Blocks, outside, *, tile, halo: Halo) -> jax.Array:
    border = memory.halo
    inner = (border.top - halo.top, border.left - halo.left)
    return windows(memory.array, tile, blocks, inner, halo, outside)


@lowering.moves
def _read_strips(tiles, memory: Strips, blocks: Blocks, outside, *, halo: Halo, apart=False):
    """Tiles with what is around them; apart, what is, by the step (dy, dx) to where it lies."""
    h, w = tiles.shape[1:3]
    outside = jnp.zeros((), tiles.dtype) if outside is None else outside
    around = {}
    for dy, rows in _reach(halo.top, halo.bottom, h):
        for dx, columns in _reach(halo.left, halo.right, w):
            if (dy, dx) != (0, 0):
                index, inside = blocks.neighbour(dy, dx)
                inside = inside.reshape(-1, *(1,) * (tiles.ndim - 1))
                piece = _read(memory, index, (dy, dx), (h, w), rows, columns)
                around[dy, dx] = jnp.where(inside, piece, outside)
    return around if apart else lowering.surround(tiles, around)


def read_shifted(
    memory: Frames, tiles: jax.Array, blocks: Blocks, steps: list[tuple[int, int]]
) -> list[jax.Array]:
    """What each tile would be, moved by (rows, columns); zero beyond the image.

    Args:
        memory: of the tensor, which holds this frame's blocks.
        tiles: [K, h, w, *rest], of which only the shape matters.
        blocks: the executed blocks.
        steps: none leads further than the memory's halo.

    Returns:
        Arrays like `tiles`, one per step.
    """
    return _read_shifted(memory, blocks, tile=tiles.shape, steps=steps)


@lowering.moves
def _read_shifted(memory: Frames, blocks: Blocks, *, tile, steps) -> list[jax.Array]:
    border, begins = memory.halo, origins(blocks, tile)
    moved = [(0, border.top + dy, border.left + dx) for dy, dx in steps]
    return [cut(memory.array, begins + jnp.array([step], jnp.int32), tile[1:]) for step in moved]


def surround_alone(tiles: jax.Array, *, halo: Halo, pad_value=0) -> jax.Array:
    """Tiles that have no neighbours, with what stands for everything outside the image."""
    return _surround_alone(tiles, jnp.asarray(pad_value, tiles.dtype), halo=halo)


@lowering.moves
def _surround_alone(tiles: jax.Array, outside, *, halo: Halo) -> jax.Array:
    pads = [(0, 0), (halo.top, halo.bottom), (halo.left, halo.right)]
    return jnp.pad(tiles, pads + [(0, 0)] * (tiles.ndim - 3), constant_values=outside)


def window_halo(dense: jax.Array, blocks: Blocks, *, halo: Halo, pad_value=0) -> jax.Array:
    """Tiles with their halo out of an array [N, H, W, *rest] that is known in full."""
    return _window_halo(dense, blocks, _outside(pad_value, dense.dtype), halo=halo)


@lowering.moves
def _window_halo(dense: jax.Array, blocks: Blocks, outside, *, halo: Halo) -> jax.Array:
    _, gh, gw = blocks.grid_shape
    h, w, rest = dense.shape[1] // gh, dense.shape[2] // gw, dense.shape[3:]
    pads = [(0, 0), (halo.top, halo.bottom), (halo.left, halo.right)] + [(0, 0)] * len(rest)
    return windows(jnp.pad(dense, pads), (0, h, w, *rest), blocks, (0, 0), halo, outside)
