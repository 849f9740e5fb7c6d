"""Resizing tiles, and any other known matrix along an axis of space."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from bc_jax.lowering.bits import concatenate, stack
from bc_jax.lowering.dtypes import widened


@dataclasses.dataclass(frozen=True, eq=False)
class AxisMap:
    """A known matrix along one axis of space, as each tile applies it.

    Attributes:
        before: pixels that it reads in front of a tile.
        after: pixels that it reads behind it.
        blocks: tiles along the axis.
        tile: pixels per tile.
        out: results per tile.
        taps: weights by phase and offset, see `find_taps`; None where the matrix has no such form.
        parts: each block's part of the matrix, [blocks, out, before + tile + after]; zero beyond
            the image.
    """

    before: int
    after: int
    blocks: int
    tile: int
    out: int
    taps: list[dict[int, float]] | None
    parts: np.ndarray


def axis_map(matrix: np.ndarray, blocks: int, tile: int) -> AxisMap | None:
    """The map of a matrix [out, in]; None where its results do not belong to blocks."""
    outputs, inputs = matrix.shape
    if outputs % blocks or inputs != blocks * tile:
        return None
    out = outputs // blocks
    taps = find_taps(matrix, out, tile)
    before = after = 0
    for block in range(blocks):
        read = np.flatnonzero(np.any(matrix[block * out : (block + 1) * out], axis=0))
        if read.size:
            before = max(before, block * tile - int(read[0]))
            after = max(after, int(read[-1]) + 1 - (block + 1) * tile)
    if max(before, after) > max(tile, 4):
        return None
    if taps is not None:
        # Beyond the image the taps repeat its last pixel, so they need the halo there too.
        offsets = [offset for weights in taps for offset in weights]
        before = max(before, -min(offsets))
        after = max(after, 1 + max(offsets) - max(1, tile // out))
    padded = np.pad(matrix, ((0, 0), (before, after)))
    width = before + tile + after
    parts = [padded[b * out : (b + 1) * out, b * tile : b * tile + width] for b in range(blocks)]
    return AxisMap(before, after, blocks, tile, out, taps, np.stack(parts))


def apply_axis_map(tiles, axis_map: AxisMap, place, axis: int, dtype) -> jax.Array:
    """Apply a map to tiles that carry their halo along `axis` (1 or 2).

    Args:
        tiles: [K, h, w, *rest].
        axis_map: the map.
        place: int32 [K], each tile's block along the axis.
        axis: 1 or 2.
        dtype: of the result.
    """
    if axis_map.taps is None:
        return multiply_axis(tiles, axis_map.parts, place, axis, dtype)
    return resample(_repeat_edges(tiles, axis_map, place, axis), axis_map, axis, dtype)


def _repeat_edges(tiles, axis_map: AxisMap, place, axis: int) -> jax.Array:
    """Fill the halo beyond the image with the image's last pixel."""
    front, back = axis_map.before, axis_map.before + axis_map.tile

    def cut(start, stop):
        return jax.lax.slice_in_dim(tiles, start, stop, axis=axis)

    def at(block):
        return (place == block).reshape(-1, *(1,) * (tiles.ndim - 1))

    parts = [cut(front, back)]
    if axis_map.before:
        parts.insert(0, jnp.where(at(0), cut(front, front + 1), cut(0, front)))
    if axis_map.after:
        last = cut(back, back + axis_map.after)
        parts.append(jnp.where(at(axis_map.blocks - 1), cut(back - 1, back), last))
    return concatenate(parts, axis=axis)


def multiply_axis(tiles, parts: np.ndarray, place, axis: int, dtype) -> jax.Array:
    """Multiply one axis of each tile by its block's matrix.

    Args:
        tiles: [K, h, w, *rest] with their halo along `axis`.
        parts: [blocks, out, in].
        place: int32 [K], each tile's block along the axis.
        axis: 1 or 2.
        dtype: of the result.
    """
    alike = bool((np.ptp(parts, axis=0) == 0).all())
    if ((parts != 0).sum(axis=2) == 1).all() and (parts.max(axis=2) == 1).all():
        # Picks: of what is not finite, too, only those.
        index = parts.argmax(axis=2)
        if alike:
            return jnp.take(tiles, index[0], axis=axis).astype(dtype)
        index = jnp.asarray(index)[place]
        index = jnp.expand_dims(index, [a for a in range(1, tiles.ndim) if a != axis])
        return jnp.take_along_axis(tiles, index, axis=axis).astype(dtype)
    compute = widened(dtype)
    parts = jnp.asarray(parts, compute)
    moved = jnp.moveaxis(tiles, axis, -1).astype(compute)
    shape = moved.shape[1:-1]
    moved = moved.reshape(moved.shape[0], -1, moved.shape[-1])
    highest = jax.lax.Precision.HIGHEST
    if alike:
        result = jnp.einsum("kxi,oi->kxo", moved, parts[0], precision=highest)
    else:
        result = jnp.einsum("kxi,koi->kxo", moved, parts[place], precision=highest)
    result = result.reshape(result.shape[0], *shape, -1)
    return jnp.moveaxis(result, -1, axis).astype(dtype)


def find_taps(matrix: np.ndarray, out: int, tile: int) -> list[dict[int, float]] | None:
    """The few weights of a resampling by an integer factor, where the matrix is one.

    Args:
        matrix: [outputs, inputs]; beyond the image it repeats the image's last pixel.
        out: results per tile.
        tile: pixels per tile.

    Returns:
        For each of `up` phases the weight at each pixel offset, `up` being out/tile (or 1 where the
        image shrinks); None where the matrix is of another kind.
    """
    if out % tile and tile % out:
        return None
    up, down = max(1, out // tile), max(1, tile // out)
    outputs, inputs = matrix.shape
    middle = outputs // up // 2
    taps = [
        {int(i) - middle * down: float(matrix[middle * up + phase, i])
         for i in np.flatnonzero(matrix[middle * up + phase])}
        for phase in range(up)
    ]  # fmt: skip
    if sum(map(len, taps)) > 8 * up:
        return None
    expected = np.zeros_like(matrix)
    for row in range(outputs):
        for offset, weight in taps[row % up].items():
            expected[row, np.clip(row // up * down + offset, 0, inputs - 1)] += weight
    return taps if np.allclose(expected, matrix, atol=1e-6) else None


def resample(tiles, axis_map: AxisMap, axis: int, dtype) -> jax.Array:
    """Apply taps along one axis of tiles that carry their halo: slices, weights and sums."""
    up = len(axis_map.taps)
    count = axis_map.out // up
    step = axis_map.tile // count
    raise_to = widened(dtype)
    phases = []
    for weights in axis_map.taps:
        total = None
        for offset, weight in weights.items():
            start = axis_map.before + offset
            part = jax.lax.slice_in_dim(tiles, start, start + (count - 1) * step + 1, step, axis)
            if weight != 1:
                part = part.astype(raise_to) * jnp.asarray(weight, raise_to)
            total = part if total is None else total + part
        phases.append(total.astype(dtype))
    if up == 1:
        return phases[0]
    result = stack(phases, axis=axis + 1)
    return result.reshape(*tiles.shape[:axis], axis_map.out, *tiles.shape[axis + 1 :])
