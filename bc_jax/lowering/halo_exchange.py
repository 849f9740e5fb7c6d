"""Exchanging halos on a GPU: one kernel surrounds all tiles and remembers what neighbours may ask.

Each instance of the kernel makes one row of one tile with its halo.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bc_jax.lowering import halo_lines
from bc_jax.lowering.halo_lines import Exchange, Line, Tile

# Pieces of a row that an instance reads before it writes them.
_AT_ONCE = 6


class Piece(NamedTuple):
    """Elements that lie one after the other; all offsets are in elements.

    Attributes:
        size: a power of two.
        mask: which of so many elements exist.
        at_tile: where they lie in the tiles.
        from_tile: whether they are read there.
        goes_to: arrays, where to write in each, and whether to.
        at_kept: where they lie in what is kept; None where they are never read there.
        from_kept: whether they are.
    """

    size: int
    mask: jax.Array
    at_tile: jax.Array
    from_tile: jax.Array
    goes_to: list[tuple]
    at_kept: jax.Array | None
    from_kept: jax.Array | None


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
    shape, named = (len(tiles), *how.padded), {"name": "exchange_halo", "interpret": interpret}
    return halo_lines.launch(_make_row, shape, tiles, memory, index, slots, how=how, **named)


def _make_row(index, slots, tiles, memory, padded, kept, *, how: Exchange, pallas, triton):
    """One row of one tile; all arrays are flat."""
    line, k = pallas.program_id(0), pallas.program_id(1)
    there = Line.of(Tile.of(k, index, how), line, how)
    target = (k * how.padded[0] + line) * how.padded[1] + how.halo[2]
    pieces = []
    for run in halo_lines.runs(there, slots, how):
        goes_to = [(padded, target + run.step * how.tile[1] + run.first, True)]
        if run.step == 0:
            goes_to += [(kept, *place) for place in halo_lines.rows_to_keep(there, how)]
        pixels = run.last - run.first
        kept_too = run.at_kept, run.from_kept
        pieces += pieces_of(how, pixels, run.at_tile, run.from_tile, goes_to, *kept_too)
    pieces += ends_to_keep(there, kept, how)
    move(pieces, tiles, memory, how, pallas, triton)


def keep_row(there: Line, kept, how: Exchange, when) -> list[Piece]:
    """The pieces of a tile's own row that is kept, in whole or its ends, and only `when` it is."""
    h, w, _ = how.tile
    places = [(at, wanted & when) for at, wanted in halo_lines.rows_to_keep(there, how)]
    pieces = []
    if places:
        wanted = functools.reduce(jnp.logical_or, [wanted for _, wanted in places])
        at_tile = (there.tile.k * h + there.own) * w
        pieces = pieces_of(how, w, at_tile, wanted, [(kept, *place) for place in places])
    return pieces + ends_to_keep(there, kept, how, when)


def ends_to_keep(there: Line, kept, how: Exchange, when=True) -> list[Piece]:
    """The pieces of a tile's own row that are kept since they are its first or last pixels."""
    h, w, _ = how.tile
    row = (there.tile.k * h + jnp.clip(there.own, 0, h - 1)) * w
    pieces = []
    for place, wanted, first, last in halo_lines.columns_to_keep(there, how):
        wanted &= when
        pieces += pieces_of(how, last - first, row + first, wanted, [(kept, place, wanted)])
    return pieces


def pieces_of(how, pixels, at_tile, from_tile, goes_to, at_kept=None, from_kept=None):
    """A run of pixels in pieces; offsets in pixels become those of each piece in elements."""
    channels, pieces = how.tile[2], []
    for start, size, mask in halo_lines.chunks(pixels * channels):

        def place(pixel, start=start):
            return pixel * channels + start

        targets = [(array, place(at), wanted) for array, at, wanted in goes_to]
        kept = None if at_kept is None else place(at_kept)
        pieces.append(Piece(size, mask, place(at_tile), from_tile, targets, kept, from_kept))
    return pieces


def move(pieces: list[Piece], tiles, memory, how: Exchange, pallas, triton) -> None:
    """Read and write pieces, several together, so that a read need not wait for another."""

    def read(piece: Piece) -> jax.Array:
        zero = jnp.asarray(0, tiles.dtype)
        at = pallas.ds(piece.at_tile, piece.size)
        value = triton.load(tiles.at[at], mask=piece.mask & piece.from_tile, other=zero)
        if piece.at_kept is None:
            return value
        outside = jnp.asarray(how.pad_value, memory.dtype)
        at = pallas.ds(piece.at_kept, piece.size)
        old = triton.load(memory.at[at], mask=piece.mask & piece.from_kept, other=outside)
        return jnp.where(piece.from_tile, value, old)

    for first in range(0, len(pieces), _AT_ONCE):
        together = pieces[first : first + _AT_ONCE]
        for piece, value in zip(together, [read(piece) for piece in together], strict=True):
            for array, start, wanted in piece.goes_to:
                at = pallas.ds(start, piece.size)
                triton.store(array.at[at], value, mask=piece.mask & wanted)
