"""Grids and tiles: which blocks are executed, and how they are cut out of a frame and put back.

A frame `[N, H, W, *rest]` is cut into `Gh x Gw` blocks. Blocks are numbered in row-major order over
`(N, Gh, Gw)`; an executed set is a padded vector of `K` such numbers, the *index*, in which
`N * Gh * Gw` means "no block".
"""

import jax
import jax.numpy as jnp
from flax import struct

from bc_jax import lowering


@struct.dataclass
class Blocks:
    """The executed blocks of one step: their index, and the grid that they are taken from.

    Attributes:
        index: int32 [K], row-major over (N, Gh, Gw); `N * Gh * Gw` means "no block".
        grid_shape: static (N, Gh, Gw).
    """

    index: jax.Array
    grid_shape: tuple[int, int, int] = struct.field(pytree_node=False)

    @property
    def total(self) -> int:
        """The number of blocks there are, N * Gh * Gw."""
        n, gh, gw = self.grid_shape
        return n * gh * gw

    @property
    def capacity(self) -> int:
        """The length K of the index."""
        return self.index.shape[0]

    @property
    def safe(self) -> jax.Array:
        """The index with "no block" replaced by the last block: int32 [K], always readable."""
        return jnp.minimum(self.index, self.total - 1)

    @property
    def slots(self) -> jax.Array:
        """Where each block stands in the index, -1 where it does not: int32 [N * Gh * Gw]."""
        places = jnp.arange(self.capacity, dtype=jnp.int32)
        return jnp.full(self.total, -1, jnp.int32).at[self.index].set(places, mode="drop")

    def coordinates(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Stream, row and column of each block: three int32 [K], always inside the grid."""
        _, gh, gw = self.grid_shape
        return self.safe // (gh * gw), self.safe // gw % gh, self.safe % gw

    def neighbour(self, dy: int, dx: int) -> tuple[jax.Array, jax.Array]:
        """Index of the block `dy` below and `dx` to the right, and whether it is in the image.

        Returns:
            int32 [K] that is always readable, and bool [K].
        """
        _, gh, gw = self.grid_shape
        stream, row, column = self.coordinates()
        row, column = row + dy, column + dx
        inside = (row >= 0) & (row < gh) & (column >= 0) & (column < gw)
        row, column = jnp.clip(row, 0, gh - 1), jnp.clip(column, 0, gw - 1)
        return (stream * gh + row) * gw + column, inside


def block_index(grid: jax.Array, *, capacity: int) -> jax.Array:
    """Numbers of the executed blocks, in row-major order, padded to a static capacity.

    Args:
        grid: bool [N, Gh, Gw], True where a block is executed.
        capacity: K, static. Blocks beyond the first K are dropped.

    Returns:
        int32 [K]; unused places hold N * Gh * Gw, "no block".
    """
    flat = grid.reshape(-1)
    return jnp.flatnonzero(flat, size=capacity, fill_value=flat.size).astype(jnp.int32)


def _by_block(dense: jax.Array, grid_shape: tuple[int, int, int]) -> jax.Array:
    """View [N, H, W, *rest] as [N, Gh, h, Gw, w, *rest]."""
    n, gh, gw = grid_shape
    height, width, rest = dense.shape[1], dense.shape[2], dense.shape[3:]
    return dense.reshape(n, gh, height // gh, gw, width // gw, *rest)


@lowering.moves
def split(dense: jax.Array, blocks: Blocks) -> jax.Array:
    """Cut the executed blocks out of a dense array.

    Args:
        dense: [N, H, W, *rest]; Gh divides H and Gw divides W.
        blocks: the executed blocks.

    Returns:
        tiles [K, H/Gh, W/Gw, *rest]; places without a block repeat the frame's last block.
    """
    stream, row, column = blocks.coordinates()
    return _by_block(dense, blocks.grid_shape)[stream, row, :, column]


def combine(dense: jax.Array, tiles: jax.Array, blocks: Blocks) -> jax.Array:
    """Write tiles into a dense array at their blocks' places; other blocks keep their values.

    Args:
        dense: [N, H, W, *rest].
        tiles: [K, H/Gh, W/Gw, *rest]; those of "no block" are dropped.
        blocks: the executed blocks.

    Returns:
        [N, H, W, *rest], of dense's dtype.
    """
    return _combine(dense, tiles.astype(dense.dtype), blocks)


@lowering.moves
def _combine(dense: jax.Array, tiles: jax.Array, blocks: Blocks) -> jax.Array:
    stream, row, column = blocks.coordinates()
    # An index outside the array makes the scatter drop the tile.
    stream = jnp.where(blocks.index < blocks.total, stream, blocks.grid_shape[0])
    cut = _by_block(dense, blocks.grid_shape)
    places = cut.at[stream, row, :, column]
    written = places.set(tiles, mode="drop", unique_indices=False)
    return written.reshape(dense.shape)


def executed_grid(blocks: Blocks) -> jax.Array:
    """The grid of the blocks in an index: bool [N, Gh, Gw]."""
    return (blocks.slots >= 0).reshape(blocks.grid_shape)
