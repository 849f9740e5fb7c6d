"""Resizing tiles with their surroundings on a GPU: one kernel, and no copy with a halo between.

Each instance of the kernel makes one row of one tile's results.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bc_jax.lowering import halo_lines
from bc_jax.lowering.dtypes import widened
from bc_jax.lowering.halo_exchange import keep_row, move
from bc_jax.lowering.halo_lines import Exchange, Line, Tile
from bc_jax.lowering.resample import AxisMap


class Tap(NamedTuple):
    """One of the pixels that a result is a sum of, for each phase of the results.

    Attributes:
        offsets: pixels from a result's own pixel.
        weights: likewise one per phase; 0 where a phase has fewer taps.
    """

    offsets: tuple[int, ...]
    weights: tuple[float, ...]


def taps_of(axis_map: AxisMap | None) -> tuple[Tap, ...] | None:
    """The taps of a map that enlarges by a whole factor, or of none; None of any other map."""
    if axis_map is None:
        return (Tap((0,), (1.0,)),)
    if axis_map.taps is None or axis_map.out != axis_map.tile * len(axis_map.taps):
        return None
    phases = [list(weights.items()) for weights in axis_map.taps]
    filled = [
        phase + [(phase[0][0], 0.0)] * (max(map(len, phases)) - len(phase)) for phase in phases
    ]
    return tuple(Tap(*zip(*tap, strict=True)) for tap in zip(*filled, strict=True))


def resizes_at_once(tiles, memory, how: Exchange, maps, dtype) -> bool:
    """Whether the kernel is there for this exchange and these maps along rows and columns.

    Args:
        tiles: [K, h, w, C].
        memory: what is kept of the tensor.
        how: shapes and sides.
        maps: of `axis_map`, or None, along rows and columns.
        dtype: of the results.
    """
    taps = [taps_of(axis_map) for axis_map in maps]
    if None in taps or tiles.dtype != dtype or not jnp.issubdtype(dtype, jnp.floating):
        return False
    chunks = -(-(how.tile[1] * _phases(taps[1]) * how.tile[2]) // halo_lines.CHUNK)
    reads = chunks * math.prod(map(len, taps))
    return reads <= halo_lines.MOST_READS and halo_lines.exchanges_at_once(tiles, memory, how)


def exchange_and_resize(tiles, memory, index, slots, how: Exchange, maps, *, interpret=False):
    """As `exchange`, and then `apply_axis_map` along rows and columns.

    Args:
        tiles: [K, h, w, C], floats.
        memory: as `exchange` takes it.
        index: likewise.
        slots: likewise.
        how: shapes and sides; what stands for everything outside the image is never read.
        maps: as `resizes_at_once` takes them, for which it must hold.
        interpret: whether to run without a GPU, slowly, as tests do.

    Returns:
        [K, h * up, w * up, C], each with its axis's factor, where results of "no block" are
        anything, and the memory.
    """
    rows, columns = map(taps_of, maps)
    h, w, channels = how.tile
    shape = (len(tiles), h * _phases(rows), w * _phases(columns), channels)
    fixed = {"how": how, "taps": (rows, columns), "name": "exchange_and_resize"}
    return halo_lines.launch(
        _make_row, shape, tiles, memory, index, slots, interpret=interpret, **fixed
    )


def _phases(taps: tuple[Tap, ...]) -> int:
    return len(taps[0].offsets)


def _of_phase(values: tuple, phase, dtype=jnp.int32):
    """The value of a phase: a number, or an array like the phases."""
    first, *others = (jnp.full(jnp.shape(phase), value, dtype) for value in values)
    for number, value in enumerate(others, 1):
        first = jnp.where(phase == number, value, first)
    return first


def _make_row(index, slots, tiles, memory, results, kept, *, how, taps, pallas, triton):
    """One row of one tile's results; all arrays are flat."""
    (h, w, channels), top, rows, columns = how.tile, how.halo[0], *taps
    row, k = pallas.program_id(0), pallas.program_id(1)
    tile = Tile.of(k, index, how)
    up, right = _phases(rows), _phases(columns)
    own, phase = row // up, row % up
    # Beyond the image, its last pixel is repeated.
    lines = [
        Line.of(tile, top + own + _of_phase(t.offsets, phase), how, nearest=True) for t in rows
    ]
    met = [halo_lines.runs(line, slots, how) for line in lines]
    wide = widened(tiles.dtype)
    for start, size, mask in halo_lines.chunks(w * right * channels):
        element = start + jax.lax.broadcasted_iota(jnp.int32, (size,), 0)
        # Of what is not negative: with signs, Triton would not see that channels are neighbours.
        column, channel = jax.lax.div(element, channels), jax.lax.rem(element, channels)
        turn = jax.lax.rem(column, right)
        total = None
        for tap in columns:
            at_column = jax.lax.div(column, right) + _of_phase(tap.offsets, turn)
            first, last = -tile.column * w, (how.grid_shape[2] - tile.column) * w - 1
            at_column = jnp.clip(at_column, first, last)
            summed = None
            for weights, runs in zip((t.weights for t in rows), met, strict=True):
                value = jnp.zeros((size,), tiles.dtype)
                for run in runs:
                    begin, end = run.step * w + run.first, run.step * w + run.last
                    if min(tap.offsets) >= end or w - 1 + max(tap.offsets) < begin:
                        continue
                    pixel = at_column - begin
                    among = mask & (pixel >= 0) & (pixel < end - begin)
                    for array, begins, there in (
                        (tiles, run.at_tile, run.from_tile),
                        (memory, run.at_kept, run.from_kept),
                    ):
                        place = array.at[begins * channels + pixel * channels + channel]
                        value = triton.load(place, mask=among & there, other=value)
                part = _weighted(value.astype(wide), _of_phase(weights, phase, wide))
                summed = part if summed is None else summed + part
            part = summed.astype(tiles.dtype).astype(wide)
            part = _weighted(part, _of_phase(tap.weights, turn, wide))
            total = part if total is None else total + part
        begins = ((k * (h * up) + row) * (w * right)) * channels + start
        place = results.at[pallas.ds(begins, size)]
        triton.store(place, total.astype(tiles.dtype), mask=mask)
    pieces = keep_row(Line.of(tile, top + own, how), kept, how, when=phase == 0)
    move(pieces, tiles, memory, how, pallas, triton)


def _weighted(value, weight):
    """Their product; 0 where the weight is, whatever the value."""
    return jnp.where(weight == 0, 0, value * weight)
