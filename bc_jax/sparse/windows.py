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
    return tiles if outside is None else fill(tiles, blocks, outside, halo)


def fill(tiles, blocks: Blocks, outside, halo=(0, 0, 0, 0), cut=((0, 0), (0, 0))) -> jax.Array:
    """Tiles with their halo, in which all pixels beyond the image are others.

    Args:
        tiles: [K, top + h + bottom, left + w + right, *rest].
        blocks: the executed blocks.
        outside: what stands for those pixels; it broadcasts against the tiles.
        halo: (top, bottom, left, right).
        cut: how many pixels of the image at its sides are not of it either: ((top, bottom), (left,
            right)).
    """
    inside = True
    for along, place in enumerate(blocks.coordinates[1:]):
        (before, after), (low, high) = halo[2 * along : 2 * along + 2], cut[along]
        if any((before, after, low, high)):
            size = tiles.shape[1 + along]
            tile = size - before - after
            at = place[:, None] * tile - before + jnp.arange(size)[None, :]
            here = (at >= low) & (at < blocks.grid_shape[1 + along] * tile - high)
            shape = [len(place), *(1,) * (tiles.ndim - 1)]
            shape[1 + along] = size
            inside &= here.reshape(shape)
    return tiles if inside is True else jnp.where(inside, tiles, outside)


def repeat_nearest(tiles, blocks: Blocks, cut) -> jax.Array:
    """Tiles, in which pixels that are cut off the image have the numbers of the nearest that stays.

    So nothing is made of them that is not finite, by which gradients would not be either.

    Args:
        tiles: [K, h, w, *rest].
        blocks: the executed blocks.
        cut: as in `fill`; what reaches beyond a tile is left as it is.
    """
    for along, (low, high) in enumerate(cut):
        size = tiles.shape[1 + along]
        for at, sides in ((low, (low, 0)), (size - 1 - high, (0, high))):
            if 0 < max(sides) < size:
                nearest = jax.lax.slice_in_dim(tiles, at, at + 1, axis=1 + along)
                here = tuple(sides if i == along else (0, 0) for i in (0, 1))
                tiles = fill(tiles, blocks, nearest, cut=here)
    return tiles


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
