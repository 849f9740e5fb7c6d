"""What each of a window's places sees as the window moves along an axis."""

import jax


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
