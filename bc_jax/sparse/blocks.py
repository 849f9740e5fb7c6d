"""Grids and tiles: which blocks are executed, and how they are cut out of a frame and put back.

A frame `[N, H, W, *rest]` is cut into `Gh x Gw` blocks. Blocks are numbered in row-major order over
`(N, Gh, Gw)`; an executed set is a padded vector of `K` such numbers, the *index*, in which
`N * Gh * Gw` means "no block".
"""

import jax
import jax.numpy as jnp

from bc_jax import lowering

# Comparisons of blocks with each other, in fewer kernels of a GPU than counting and scattering.
_FEW = 2**18


@jax.tree_util.register_pytree_node_class
class Blocks:
    """The executed blocks of one step: their index, and the grid that they are taken from.

    What follows of an index is computed once, not by each operation that asks for it.

    Attributes:
        index: int32 [K], row-major over (N, Gh, Gw); `N * Gh * Gw` means "no block".
        grid_shape: static (N, Gh, Gw).
        coordinates: stream, row and column of each block, three int32 [K], always inside the grid:
            "no block" has the last one's.
        slots: int32 [N * Gh * Gw], where each block stands in the index, -1 where it does not.
    """

    def __init__(self, index: jax.Array, grid_shape: tuple[int, int, int], slots=None):
        """All as the attributes of these names; None finds the slots."""
        self.index, self.grid_shape = index, grid_shape
        _, gh, gw = grid_shape
        safe = jnp.minimum(index, self.total - 1)
        self.coordinates = (safe // (gh * gw), safe // gw % gh, safe % gw)
        if slots is None:
            places = jnp.arange(self.capacity, dtype=jnp.int32)
            slots = jnp.full(self.total, -1, jnp.int32).at[index].set(places, mode="drop")
        self.slots = slots

    @classmethod
    def of(cls, grid: jax.Array, *, capacity: int) -> "Blocks":
        """Those of a grid, bool [N, Gh, Gw], numbered as `block_index` does."""
        slots = None
        if grid.size**2 <= _FEW:
            before = _before(grid)
            slots = jnp.where(grid.reshape(-1) & (before < capacity), before, -1)
        return cls(block_index(grid, capacity=capacity), grid.shape, slots)

    def tree_flatten(self):
        """As JAX asks for it."""
        return (self.index, self.coordinates, self.slots), self.grid_shape

    @classmethod
    def tree_unflatten(cls, grid_shape, arrays):
        """As JAX asks for it."""
        blocks = object.__new__(cls)
        blocks.grid_shape = grid_shape
        blocks.index, blocks.coordinates, blocks.slots = arrays
        return blocks

    @property
    def total(self) -> int:
        """The number of blocks there are, N * Gh * Gw."""
        n, gh, gw = self.grid_shape
        return n * gh * gw

    @property
    def capacity(self) -> int:
        """The length K of the index."""
        return self.index.shape[0]

    def neighbour(self, dy: int, dx: int) -> tuple[jax.Array, jax.Array]:
        """Index of the block `dy` below and `dx` to the right, and whether it is in the image.

        Returns:
            int32 [K] that is always readable, and bool [K].
        """
        _, gh, gw = self.grid_shape
        _, row, column = self.coordinates
        inside = jnp.ones(self.capacity, bool)
        for place, step, count in ((row, dy, gh), (column, dx, gw)):
            if step < 0:
                inside &= place >= -step
            elif step > 0:
                inside &= place < count - step
        number = jnp.minimum(self.index, self.total - 1) + (dy * gw + dx)
        return jnp.minimum(jnp.maximum(number, 0), self.total - 1), inside


def block_index(grid: jax.Array, *, capacity: int) -> jax.Array:
    """Numbers of the executed blocks, in row-major order, padded to a static capacity.

    Args:
        grid: bool [N, Gh, Gw], True where a block is executed.
        capacity: K, static. Blocks beyond the first K are dropped.

    Returns:
        int32 [K]; unused places hold N * Gh * Gw, "no block".
    """
    flat = grid.reshape(-1)
    if flat.size**2 <= _FEW:
        blocks, places = (jnp.arange(n, dtype=jnp.int32) for n in (flat.size, capacity))
        found = flat[None, :] & (_before(grid)[None, :] == places[:, None])
        return jnp.where(found, blocks[None, :], flat.size).min(axis=1)
    return jnp.flatnonzero(flat, size=capacity, fill_value=flat.size).astype(jnp.int32)


def _before(grid: jax.Array) -> jax.Array:
    """How many of a grid come before each block: int32 [N * Gh * Gw]."""
    flat, blocks = grid.reshape(-1), jnp.arange(grid.size, dtype=jnp.int32)
    return (flat[None, :] & (blocks[None, :] < blocks[:, None])).sum(axis=1, dtype=jnp.int32)


def by_block(dense: jax.Array, grid_shape: tuple[int, int, int]) -> jax.Array:
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
    stream, row, column = blocks.coordinates
    return by_block(dense, blocks.grid_shape)[stream, row, :, column]


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
    stream, row, column = blocks.coordinates
    # An index outside the array makes the scatter drop the tile.
    stream = jnp.where(blocks.index < blocks.total, stream, blocks.grid_shape[0])
    cut = by_block(dense, blocks.grid_shape)
    places = cut.at[stream, row, :, column]
    written = places.set(tiles, mode="drop", unique_indices=False)
    return written.reshape(dense.shape)


def executed_grid(blocks: Blocks) -> jax.Array:
    """The grid of the blocks in an index: bool [N, Gh, Gw]."""
    return (blocks.slots >= 0).reshape(blocks.grid_shape)
