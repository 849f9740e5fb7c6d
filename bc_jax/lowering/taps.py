"""Dilated convolutions of moved tiles: for each of a kernel's places, the tile as it sees it."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from bc_jax.lowering import backend
from bc_jax.lowering.bits import concatenate
from bc_jax.lowering.dtypes import widened
from bc_jax.lowering.product import multiply

# Tiles with fewer channels are quickly copied once for each of a kernel's places.
_FEW_CHANNELS = 32


def reads_taps(tiles, kernel, padded: Sequence[int]) -> bool:
    """Whether a dilated convolution is faster on moved tiles than on tiles with their halo.

    Args:
        tiles: [K, h, w, C], without a halo; shape and dtype matter.
        kernel: [kh, kw, C, D], likewise.
        padded: (height, width) of a tile with its halo.
    """
    _, h, w, channels = tiles.shape
    fewer = math.prod(kernel.shape[:2]) * h * w <= math.prod(padded)
    floating = jnp.issubdtype(tiles.dtype, jnp.floating)
    return backend.on_cpu() and floating and (channels <= _FEW_CHANNELS or fewer)


def convolve_taps(
    taps: list[jax.Array], kernel: jax.Array, precision=None, preferred=None
) -> jax.Array:
    """Convolve tiles of which there is a moved one for each of the kernel's places.

    Args:
        taps: [K, h, w, C] each, floating, row by row of the kernel.
        kernel: [kh, kw, C, D].
        precision: as `jax.lax.dot_general` takes it.
        preferred: likewise, the result's dtype; None is the tiles'.

    Returns:
        [K, h, w, D].
    """
    *_, channels, features = kernel.shape
    if channels <= features:
        # Put together as they are read, they would be compiled for long and run no faster.
        wide = concatenate(jax.lax.optimization_barrier(taps), axis=-1)
        return multiply(wide, kernel.reshape(-1, features), precision, preferred)
    result = preferred or jnp.result_type(taps[0], kernel)
    summed = widened(result)
    matrices = kernel.reshape(-1, channels, features)
    products = [
        multiply(tap, matrix, precision, summed) for tap, matrix in zip(taps, matrices, strict=True)
    ]
    return functools.reduce(jnp.add, products).astype(result)
