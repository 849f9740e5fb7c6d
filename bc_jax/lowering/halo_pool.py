"""Pooling tiles with their surroundings on a GPU: one kernel, and no copy with a halo between.

Each instance of the kernel makes one row of one tile's results.
"""

import functools
import math

import jax
import jax.numpy as jnp

from bc_jax.lowering import halo_lines
from bc_jax.lowering.halo_exchange import keep_row, move
from bc_jax.lowering.halo_lines import Exchange, Line, Tile
from bc_jax.lowering.pool import POOL


def pools_at_once(tiles, memory, how: Exchange, window) -> bool:
    """Whether the kernel is there for this exchange and window, and arrays of these shapes."""
    name, size, strides = window
    h, w, channels = how.tile
    if name not in ("reduce_window_max", "reduce_window_min") or h % strides[0] or w % strides[1]:
        return False
    reads = -(-(w // strides[1] * channels) // halo_lines.CHUNK) * math.prod(size)
    return reads <= halo_lines.MOST_READS and halo_lines.exchanges_at_once(tiles, memory, how)


def exchange_and_pool(tiles, memory, index, slots, how: Exchange, window, *, interpret=False):
    """As `exchange`, and then `pool` of the result: maxima or minima.

    Args:
        tiles: [K, h, w, C].
        memory: as `exchange` takes it.
        index: likewise.
        slots: likewise.
        how: shapes and sides; what stands for everything outside the image changes no result.
        window: (name, size, strides) as `pool` takes them, without dilation; the strides divide h
            and w.
        interpret: whether to run without a GPU, slowly, as tests do.

    Returns:
        [K, h / strides[0], w / strides[1], C], where results of "no block" are anything, and the
        memory.
    """
    h, w, channels = how.tile
    _, _, (down, right) = window
    shape = (len(tiles), h // down, w // right, channels)
    fixed = {"how": how, "window": window, "name": "exchange_and_pool", "interpret": interpret}
    return halo_lines.launch(_make_row, shape, tiles, memory, index, slots, **fixed)


def _make_row(index, slots, tiles, memory, results, kept, *, how, window, pallas, triton):
    """One row of one tile's results; all arrays are flat."""
    (h, w, channels), (top, _, left, _) = how.tile, how.halo
    name, (height, width), (down, right) = window
    row, k = pallas.program_id(0), pallas.program_id(1)
    tile = Tile.of(k, index, how)
    lines = [Line.of(tile, row * down + i, how) for i in range(height)]
    met = [run for line in lines for run in halo_lines.runs(line, slots, how)]
    nothing = jnp.asarray(how.pad_value, tiles.dtype)
    across = w // right
    for start, size, mask in halo_lines.chunks(across * channels):
        element = start + jax.lax.broadcasted_iota(jnp.int32, (size,), 0)
        # Of what is not negative: with signs, Triton would not see that channels are neighbours.
        column = jax.lax.div(element, channels) * right
        channel = jax.lax.rem(element, channels)
        read = []
        for j in range(width):
            for run in met:
                begin, end = run.step * w + run.first, run.step * w + run.last
                if not any(begin <= x < end for x in range(j - left, w + j - left, right)):
                    continue
                pixel = column + (j - left - begin)
                among = mask & (pixel >= 0) & (pixel < end - begin)
                at = pixel * channels + channel
                for array, first, there in (
                    (tiles, run.at_tile, run.from_tile),
                    (memory, run.at_kept, run.from_kept),
                ):
                    place = array.at[first * channels + at]
                    read.append(triton.load(place, mask=among & there, other=nothing))
        place = pallas.ds(((k * (h // down) + row) * across) * channels + start, size)
        triton.store(results.at[place], functools.reduce(POOL[name], read), mask=mask)
    pieces = []
    for i in range(down):
        line = Line.of(tile, top + row * down + i, how)
        pieces += keep_row(line, kept, how, when=True)
    move(pieces, tiles, memory, how, pallas, triton)
