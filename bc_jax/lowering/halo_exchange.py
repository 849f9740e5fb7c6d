"""Exchanging halos on a GPU: one kernel surrounds all tiles and remembers what neighbours may ask.

Each instance of the kernel makes one row of one tile with its halo. A row is a few runs of pixels
that lie one after the other in memory: in the tile itself, in the tile of a neighbour that is
executed too, or in what is kept of one that is not. Since a block that is executed is read from its
tile, and only its own part of what is kept is written, nothing that is read is written meanwhile.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from bc_jax.lowering import backend

# Elements that an instance moves at once, and the threads that move them, in warps of 32.
_CHUNK, _WARPS = 2048, 4
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
    return backend.on_gpu() and fits and _triton() is not None


@functools.cache
def _triton():
    """Pallas and what it has for Triton; None with a JAX that is without."""
    try:
        from jax.experimental import pallas
        from jax.experimental.pallas import triton
    except ImportError:
        return None
    return pallas, triton


def exchange(tiles, memory, index, slots, how: Exchange, *, interpret: bool = False):
    """Surround tiles with their halo, and remember them for their neighbours.

    Args:
        tiles: [K, h, w, C].
        memory: what is kept of the tensor, updated in place where it is not needed any more.
        index: int32 [K], the tiles' blocks, row-major over (N, Gh, Gw); N * Gh * Gw is "no block".
        slots: int32 [N * Gh * Gw], where each block stands among the tiles; -1 for nowhere.
        how: shapes and sides.
        interpret: whether to run without a GPU, slowly, as tests do.

    Returns:
        [K, top + h + bottom, left + w + right, C], where tiles of "no block" hold anything, and the
        memory.
    """
    pallas, triton = _triton()
    padded, kept = pallas.pallas_call(
        functools.partial(_make_row, how=how, pallas=pallas, triton=triton),
        out_shape=(
            jax.ShapeDtypeStruct((len(tiles) * math.prod(how.padded),), tiles.dtype),
            jax.ShapeDtypeStruct((memory.size,), memory.dtype),
        ),
        grid=(how.padded[0], len(tiles)),
        input_output_aliases={3: 1},
        compiler_params=triton.CompilerParams(num_warps=_WARPS),
        interpret=interpret,
        name="exchange_halo",
    )(index, slots, tiles.reshape(-1), memory.reshape(-1))
    return padded.reshape(len(tiles), *how.padded), kept.reshape(memory.shape)


def _make_row(index, slots, tiles, memory, padded, kept, *, how: Exchange, pallas, triton):
    """One row of one tile; all arrays are flat."""
    (_, rows, columns), (h, w, channels) = how.grid_shape, how.tile
    top, _, left, right = how.halo
    total = math.prod(how.grid_shape)
    line, k = pallas.program_id(0), pallas.program_id(1)
    block = index[k]
    safe = jnp.minimum(block, total - 1)
    stream, row, column = safe // (rows * columns), safe // columns % rows, safe % columns
    # Where the line lies in the image, and in which row of blocks.
    y = row * h + line - top
    inside = (y >= 0) & (y < rows * h)
    y = jnp.clip(y, 0, rows * h - 1)
    there = _Line(stream, y, y // h, y % h, row)
    own = line - top  # the tile's own row, where it is one
    mine = (own >= 0) & (own < h)
    target = (k * how.padded[0] + line) * how.padded[1]
    remembered = mine & (block < total)

    for step, first, last in _runs(left, right, w):
        beside = column + step
        lies = inside & (beside >= 0) & (beside < columns)
        neighbour = (stream * rows + there.block) * columns + jnp.clip(beside, 0, columns - 1)
        slot = slots[neighbour]
        from_tile, from_kept = lies & (slot >= 0), lies & (slot < 0)
        source = jnp.maximum(slot, 0)
        if step == 0:
            from_tile, from_kept = from_tile | mine, from_kept & ~mine
            source = jnp.where(mine, k, source)
        starts = (
            ((source * h + there.row) * w + first) * channels,
            jnp.maximum(_kept_pixel(there, neighbour, beside, step, first, how), 0) * channels,
            (target + left + step * w + first) * channels,
        )
        for start, size, mask in _chunks((last - first) * channels):
            at_tile, at_kept, at_padded = (pallas.ds(s + start, size) for s in starts)
            value = triton.load(
                tiles.at[at_tile], mask=mask & from_tile, other=jnp.asarray(0, tiles.dtype)
            )
            old = triton.load(
                memory.at[at_kept],
                mask=mask & from_kept,
                other=jnp.asarray(how.pad_value, memory.dtype),
            )
            value = jnp.where(from_tile, value, old)
            triton.store(padded.at[at_padded], value, mask=mask)
            if step == 0:
                for place, wanted in _rows_to_keep(safe, there, column, own, how):
                    at = pallas.ds(jnp.maximum(place, 0) * channels + start, size)
                    triton.store(kept.at[at], value, mask=mask & remembered & wanted)
    if how.frames:
        return
    for place, first, last in _columns_to_keep(safe, own, how):
        for start, size, mask in _chunks((last - first) * channels):
            source = ((k * h + jnp.clip(own, 0, h - 1)) * w + first) * channels + start
            value = triton.load(tiles.at[pallas.ds(source, size)], mask=mask & remembered)
            at = pallas.ds(jnp.maximum(place, 0) * channels + start, size)
            triton.store(kept.at[at], value, mask=mask & remembered)


@dataclasses.dataclass(frozen=True)
class _Line:
    """A row of pixels of the image.

    Attributes:
        stream: which image.
        y: its row of pixels.
        block: the row of blocks that it lies in.
        row: which row of those blocks it is.
        reader: the row of blocks of the tile that reads it.
    """

    stream: jax.Array
    y: jax.Array
    block: jax.Array
    row: jax.Array
    reader: jax.Array


def _runs(left: int, right: int, w: int) -> list[tuple[int, int, int]]:
    """The blocks beside each other that a row with its halo crosses: (step, first, last) pixels."""
    runs = []
    before, after = -(-left // w), -(-right // w)
    for step in range(-before, after + 1):
        first, last = max(0, -left - step * w), min(w, w + right - step * w)
        if first < last:
            runs.append((step, first, last))
    return runs


def _chunks(elements: int) -> list[tuple[int, int, jax.Array]]:
    """Parts of a run: where each begins, a power of two, and which of so many elements exist."""
    chunks = []
    for start in range(0, elements, _CHUNK):
        size = min(_CHUNK, 1 << (elements - start - 1).bit_length())
        places = jax.lax.broadcasted_iota(jnp.int32, (size,), 0)
        chunks.append((start, size, places < elements - start))
    return chunks


def _pixels(how: Exchange) -> tuple[int, int, int, int]:
    """Where in `Strips` last rows, first columns and last columns begin, and all pixels end."""
    (h, w, _), (top, bottom, left, right) = how.tile, how.kept
    sizes = (bottom * w, top * w, h * right, h * left)
    return tuple(map(int, np.cumsum(sizes)))


def _kept_pixel(there: _Line, neighbour, beside, step: int, first: int, how: Exchange):
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
    rows_off = there.block - there.reader
    pixel = jnp.where(rows_off < 0, above, jnp.where(rows_off > 0, below, same))
    return neighbour * pixels + pixel


def _frame_pixel(there: _Line, x, how: Exchange):
    (_, rows, columns), (h, w, _), (top, bottom, left, right) = how.grid_shape, how.tile, how.kept
    height, width = top + rows * h + bottom, left + columns * w + right
    return (there.stream * height + top + there.y) * width + left + x


def _rows_to_keep(block, there: _Line, column, own, how: Exchange):
    """Where in the memory a tile's own row is kept as a whole, and whether it is."""
    (h, w, _), (top, bottom, *_) = how.tile, how.kept
    if how.frames:
        return [(_frame_pixel(there, column * w, how), True)]
    last_rows, *_, pixels = _pixels(how)
    kept = []
    if bottom:
        kept.append((block * pixels + own * w, own < bottom))
    if top:
        kept.append((block * pixels + last_rows + (own - (h - top)) * w, own >= h - top))
    return kept


def _columns_to_keep(block, own, how: Exchange) -> list:
    """Where in the memory the ends of a tile's own row are kept, and which pixels those are."""
    (_, w, _), (*_, left, right) = how.tile, how.kept
    _, first_columns, last_columns, pixels = _pixels(how)
    kept = []
    if right:
        kept.append((block * pixels + first_columns + own * right, 0, right))
    if left:
        kept.append((block * pixels + last_columns + own * left, w - left, w))
    return kept
