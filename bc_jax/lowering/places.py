"""What each of a window's places sees as the window moves along an axis, and the transpose."""

import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp


def places(tiles: jax.Array, axis: int, size: int, stride: int, dilation: int) -> list[jax.Array]:
    """Slices of tiles that carry their halo, one per place, as long as the window has results.

    Args:
        tiles: of any shape.
        axis: along which the window moves.
        size: the window's places.
        stride: pixels between results.
        dilation: pixels between places.
    """
    last = tiles.shape[axis] - (size - 1) * dilation
    return [
        jax.lax.slice_in_dim(tiles, place * dilation, place * dilation + last, stride, axis)
        for place in range(size)
    ]


def overlap_add(
    parts: Sequence[jax.Array], axis: int, size: int, stride: int, before: int
) -> jax.Array:
    """Put what was computed for each place where the place lies, and add what meets there.

    The transpose of `places` without dilation, of tiles whose padding is then cut off.

    Args:
        parts: one per place, of one shape and dtype; not empty.
        axis: along which the window moves, not the last.
        size: pixels of the result along it, a multiple of the stride.
        stride: pixels between a part's.
        before: pixels of padding before the result.

    Returns:
        As the parts, with `size` pixels along the axis.
    """
    dtype = parts[0].dtype
    shape = [size // stride if i == axis else n for i, n in enumerate(parts[0].shape)]
    phases = []
    for first in range(stride):
        met = []
        for place, part in enumerate(parts):
            moved, rest = divmod(place - before - first, stride)
            if rest == 0:
                around = [(0, 0, 0)] * part.ndim
                around[axis] = (moved, shape[axis] - part.shape[axis] - moved, 0)
                met.append(jax.lax.pad(part, jnp.zeros((), dtype), around))
        phases.append(functools.reduce(operator.add, met or [jnp.zeros(shape, dtype)]))
    return interleave(phases, axis)


def interleave(parts: Sequence[jax.Array], axis: int) -> jax.Array:
    """Every m-th pixel each, of m arrays of one shape, along an axis that is not the last."""
    shape = [len(parts) * n if i == axis else n for i, n in enumerate(parts[0].shape)]
    return jnp.stack(parts, axis + 1).reshape(shape)
