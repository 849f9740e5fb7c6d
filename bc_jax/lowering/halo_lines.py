"""GPU kernels on tiles and their surroundings: how they run, and where a row's pixels are found.

A row of a tile with its halo is a few runs of pixels that lie one after the other in memory: in the
tile itself, in the tile of a neighbour that is executed too, or in what is kept of one that is not.
Since a block that is executed is read from its tile, and only its own part of what is kept is
written, nothing that is read is written meanwhile.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bc_jax.lowering import backend

# Elements that an instance of a kernel moves at once, and the threads that move them, in warps.
CHUNK, _WARPS = 2048, 4
# Reads that an instance is written out for: more take long to compile.
MOST_READS = 64
_LARGEST = 2**31 - 1  # offsets are of 32 bits
_TYPES = ("uint8", "int8", "int16", "int32", "float16", "bfloat16", "float32")


@dataclasses.dataclass(frozen=True)
class Exchange:
    """What is exchanged; sides are (top, bottom, left, right).

    Attributes:
        grid_shape: (N, Gh, Gw).
        tile: (h, w, C).
        halo: pixels to add at each side of a tile.
        kept: sides of what is kept of the tensor, each at least as wide.
        frames: whether all of it is kept, [N, kept[0] + H + kept[1], kept[2] + W + kept[3], C],
            and not the sides of each block alone, as `bc_jax.sparse.halo.Strips` has them.
        pad_value: stands for everything outside the image.
    """

    grid_shape: tuple[int, int, int]
    tile: tuple[int, int, int]
    halo: tuple[int, int, int, int]
    kept: tuple[int, int, int, int]
    frames: bool
    pad_value: float = 0

    @property
    def padded(self) -> tuple[int, int, int]:
        """Shape of a tile with its halo."""
        (h, w, channels), (top, bottom, left, right) = self.tile, self.halo
        return top + h + bottom, left + w + right, channels


def exchanges_at_once(tiles, memory, how: Exchange) -> bool:
    """Whether the kernel is there for this exchange, and arrays of these shapes."""
    sizes = (tiles.size, memory.size, len(tiles) * math.prod(how.padded))
    plain = tiles.dtype == memory.dtype and tiles.dtype.name in _TYPES
    fits = plain and min(sizes) > 0 and max(sizes) <= _LARGEST
    return backend.on_gpu() and fits and pallas_triton() is not None


@functools.cache
def pallas_triton():
    """Pallas and what it has for Triton; None with a JAX that is without."""
    try:
        from jax.experimental import pallas
        from jax.experimental.pallas import triton
    except ImportError:
        return None
    return pallas, triton


def launch(make_row, shape, tiles, memory, index, slots, *, name: str, interpret: bool, **fixed):
    """Run a kernel, an instance for each row of each result.

    Args:
        make_row: the kernel, which takes index, slots, tiles, memory, results and what is kept
            after it, all flat, and by name pallas, triton and `fixed`.
        shape: of the results, [K, rows, *rest].
        tiles: of the results' dtype.
        memory: what is kept, updated in place where it is not needed any more.
        index: the tiles' blocks.
        slots: where each block stands among them.
        name: the kernel's.
        interpret: whether to run without a GPU, slowly.
        **fixed: what the kernel is made for.

    Returns:
        The results, and the memory.
    """
    pallas, triton = pallas_triton()
    results, kept = pallas.pallas_call(
        functools.partial(make_row, pallas=pallas, triton=triton, **fixed),
        out_shape=(
            jax.ShapeDtypeStruct((math.prod(shape),), tiles.dtype),
            jax.ShapeDtypeStruct((memory.size,), memory.dtype),
        ),
        grid=(shape[1], shape[0]),
        input_output_aliases={3: 1},
        compiler_params=triton.CompilerParams(num_warps=_WARPS),
        interpret=interpret,
        name=name,
    )(index, slots, tiles.reshape(-1), memory.reshape(-1))
    return results.reshape(shape), kept.reshape(memory.shape)


class Tile(NamedTuple):
    """The tile that an instance of a kernel makes something of.

    Attributes:
        k: its place among the tiles.
        block: its block, always inside the grid.
        executed: whether it is a block at all, and not "no block".
        stream: the block's.
        row: likewise.
        column: likewise.
    """

    k: jax.Array
    block: jax.Array
    executed: jax.Array
    stream: jax.Array
    row: jax.Array
    column: jax.Array

    @classmethod
    def of(cls, k, index, how: Exchange) -> "Tile":
        """The k-th of those that an index names."""
        _, rows, columns = how.grid_shape
        total = math.prod(how.grid_shape)
        block = jnp.minimum(index[k], total - 1)
        place = block // (rows * columns), block // columns % rows, block % columns
        return cls(k, block, index[k] < total, *place)


class Line(NamedTuple):
    """A row of pixels of a tile with its halo, and of the image.

    Attributes:
        tile: whose.
        inside: whether it lies in the image.
        y: which row of pixels of the image; the nearest one where it lies outside.
        block: the row of blocks that it lies in.
        row: which row of those blocks it is.
        own: which row of the tile; negative and beyond the last in the halo.
        mine: whether it is one of the tile's.
    """

    tile: Tile
    inside: jax.Array
    y: jax.Array
    block: jax.Array
    row: jax.Array
    own: jax.Array
    mine: jax.Array

    @classmethod
    def of(cls, tile: Tile, line, how: Exchange, *, nearest: bool = False) -> "Line":
        """The `line`-th of a tile with its halo; or the image's nearest to it."""
        rows, h = how.grid_shape[1], how.tile[0]
        own = line - how.halo[0]
        y = tile.row * h + own
        inside = (y >= 0) & (y < rows * h)
        y = jnp.clip(y, 0, rows * h - 1)
        if nearest:
            inside, own = y >= 0, y - tile.row * h
        return cls(tile, inside, y, y // h, y % h, own, (own >= 0) & (own < h))


class Run(NamedTuple):
    """Pixels of a line that belong to one block beside the tile, or to the tile itself.

    Attributes:
        step: how many blocks to the right.
        first: the first of them, in that block.
        last: one after the last.
        from_tile: whether they are read from a tile.
        at_tile: where there, in pixels of all tiles.
        from_kept: whether they are read from what is kept.
        at_kept: where there, in pixels.
    """

    step: int
    first: int
    last: int
    from_tile: jax.Array
    at_tile: jax.Array
    from_kept: jax.Array
    at_kept: jax.Array


def runs(there: Line, slots, how: Exchange) -> list[Run]:
    """A line with its halo, from left to right; see `exchange` for the slots."""
    (_, rows, columns), (h, w, _), tile = how.grid_shape, how.tile, there.tile
    found = []
    for step, first, last in _steps(how.halo[2], how.halo[3], w):
        beside = tile.column + step
        lies = there.inside & (beside >= 0) & (beside < columns)
        neighbour = (tile.stream * rows + there.block) * columns + jnp.clip(beside, 0, columns - 1)
        slot = slots[neighbour]
        from_tile, from_kept = lies & (slot >= 0), lies & (slot < 0)
        source = jnp.maximum(slot, 0)
        if step == 0:
            from_tile, from_kept = from_tile | there.mine, from_kept & ~there.mine
            source = jnp.where(there.mine, tile.k, source)
        at_tile = (source * h + there.row) * w + first
        at_kept = jnp.maximum(_kept_pixel(there, neighbour, beside, step, first, how), 0)
        found.append(Run(step, first, last, from_tile, at_tile, from_kept, at_kept))
    return found


def chunks(elements: int) -> list[tuple[int, int, jax.Array]]:
    """Parts of a run: where each begins, a power of two, and which of so many elements exist."""
    parts = []
    for start in range(0, elements, CHUNK):
        size = min(CHUNK, 1 << (elements - start - 1).bit_length())
        places = jax.lax.broadcasted_iota(jnp.int32, (size,), 0)
        parts.append((start, size, places < elements - start))
    return parts


def _steps(left: int, right: int, w: int) -> list[tuple[int, int, int]]:
    """The blocks beside each other that a row with its halo crosses: (step, first, last) pixels."""
    steps = []
    before, after = -(-left // w), -(-right // w)
    for step in range(-before, after + 1):
        first, last = max(0, -left - step * w), min(w, w + right - step * w)
        if first < last:
            steps.append((step, first, last))
    return steps


def _pixels(how: Exchange) -> tuple[int, int, int, int]:
    """Where in `Strips` last rows, first columns and last columns begin, and all pixels end."""
    (h, w, _), (top, bottom, left, right) = how.tile, how.kept
    sizes = (bottom * w, top * w, h * right, h * left)
    return tuple(map(int, np.cumsum(sizes)))


def _kept_pixel(there: Line, neighbour, beside, step: int, first: int, how: Exchange):
    """Which pixel of the memory a run begins at, where its block is not executed."""
    (h, w, _), (top, _, left, right) = how.tile, how.kept
    if how.frames:
        return _frame_pixel(there, beside * w + first, how)
    last_rows, first_columns, last_columns, pixels = _pixels(how)
    above = last_rows + (top - h + there.row) * w + first
    below = there.row * w + first
    same = 0
    if step < 0:
        same = last_columns + there.row * left + first - (w - left)
    elif step > 0:
        same = first_columns + there.row * right + first
    rows_off = there.block - there.tile.row
    pixel = jnp.where(rows_off < 0, above, jnp.where(rows_off > 0, below, same))
    return neighbour * pixels + pixel


def _frame_pixel(there: Line, x, how: Exchange):
    (_, rows, columns), (h, w, _), (top, bottom, left, right) = how.grid_shape, how.tile, how.kept
    height, width = top + rows * h + bottom, left + columns * w + right
    return (there.tile.stream * height + top + there.y) * width + left + x


def rows_to_keep(there: Line, how: Exchange) -> list[tuple[jax.Array, jax.Array]]:
    """Where in the memory a tile's own row is kept as a whole, in pixels, and whether it is."""
    (h, w, _), (top, bottom, *_), tile = how.tile, how.kept, there.tile
    remembered = there.mine & tile.executed
    if how.frames:
        return [(_frame_pixel(there, tile.column * w, how), remembered)]
    last_rows, *_, pixels = _pixels(how)
    kept = []
    if bottom:
        kept.append((tile.block * pixels + there.own * w, there.own < bottom))
    if top:
        place = tile.block * pixels + last_rows + (there.own - (h - top)) * w
        kept.append((place, there.own >= h - top))
    return [(jnp.maximum(place, 0), remembered & wanted) for place, wanted in kept]


def columns_to_keep(there: Line, how: Exchange) -> list[tuple[jax.Array, jax.Array, int, int]]:
    """Where the ends of a tile's own row are kept, and whether, and which pixels those are."""
    if how.frames:
        return []
    (_, w, _), (*_, left, right), tile = how.tile, how.kept, there.tile
    _, first_columns, last_columns, pixels = _pixels(how)
    kept = []
    if right:
        kept.append((tile.block * pixels + first_columns + there.own * right, 0, right))
    if left:
        kept.append((tile.block * pixels + last_columns + there.own * left, w - left, w))
    remembered = there.mine & tile.executed
    return [(jnp.maximum(place, 0), remembered, first, last) for place, first, last in kept]
