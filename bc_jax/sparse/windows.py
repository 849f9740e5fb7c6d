"""Windows of arrays of frames: a block's pixels and some around them."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from bc_jax.sparse.blocks import Blocks


def windows(array, tile_shape, blocks: Blocks, first, halo, outside) -> jax.Array:
    """Cut each block's tile and halo out of an array with a border; the border is zero.

    Args:
        array: [N, border + H + border, border + W + border, *rest].
        tile_shape: (any, h, w, *rest).
        blocks: the executed blocks.
        first: row and column of the array where the first block's halo begins.
        halo: of the result.
        outside: stands for everything outside the image; None is the border's zero.
    """
    _, h, w, *rest = tile_shape
    height, width = halo.top + h + halo.bottom, halo.left + w + halo.right
    starts = origins(blocks, tile_shape) + jnp.array([(0, *first)], jnp.int32)
    tiles = cut(array, starts, (height, width, *rest))
    if outside is None:
        return tiles
    _, row, column = blocks.coordinates
    inside = _inside(row, height, h, halo.top, blocks.grid_shape[1])[:, :, None]
    inside &= _inside(column, width, w, halo.left, blocks.grid_shape[2])[:, None, :]
    inside = inside.reshape(*inside.shape, *(1,) * len(rest))
    return jnp.where(inside, tiles, outside)


def origins(blocks: Blocks, tile_shape) -> jax.Array:
    """Where each block's tile, of [any, h, w, *rest], begins in frames [N, H, W]: int32 [K, 3]."""
    stream, row, column = blocks.coordinates
    return jnp.stack([stream, row * tile_shape[1], column * tile_shape[2]], -1)


def cut(array, starts, shape: Sequence[int]) -> jax.Array:
    """Windows of an array, in which they all lie: [K, *shape].

    Args:
        array: of one axis more than a window; each window lies at one place of its first axis.
        starts: where each begins along the first axes, int32 [K, axes].
        shape: of a window.
    """
    numbers = jax.lax.GatherDimensionNumbers(
        offset_dims=tuple(range(1, 1 + len(shape))),
        collapsed_slice_dims=(0,),
        start_index_map=tuple(range(starts.shape[1])),
    )
    mode = jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS
    return jax.lax.gather(array, starts, numbers, (1, *shape), mode=mode)


def _inside(place, size: int, tile: int, before: int, count: int) -> jax.Array:
    """Which of a tile's pixels, halo included, lie in the image along one axis: bool [K, size]."""
    at = place[:, None] * tile - before + jnp.arange(size)[None, :]
    return (at >= 0) & (at < count * tile)
