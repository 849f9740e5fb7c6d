"""Convolving tiles that carry their halo."""

import collections
import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bc_jax.lowering import backend
from bc_jax.lowering.bits import concatenate, stack
from bc_jax.lowering.dtypes import widened
from bc_jax.lowering.places import places
from bc_jax.lowering.product import multiply
from bc_jax.lowering.winograd import SummedKernel, best_ahead, best_at_once, convolve_summed

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
_NONE = (1, 1)
# A CPU's product of patches and kernel is slow where its results have fewer features.
_FEW_FEATURES = 24
# What leaves the way of computing to the backend, in the forms in which JAX gives it.
_DEFAULT_PRECISION = (None, jax.lax.Precision.DEFAULT, 2 * (jax.lax.Precision.DEFAULT,))
# Channels from which on a CPU's units for bfloat16 make up for patches, with a stride and without.
_CHANNELS, _MANY_CHANNELS = 64, 512
# Strided convolutions of fewer channels, those of each step together, are made deeper on a GPU.
_FEW_CHANNELS = 16
# Bytes of channels that a GPU's matrix units are best given; fewer are filled up with zeros.
_DEPTH = 64
# Channels of float32 that they read at a time.
_WORD = 4
# Groups of fewer channels are convolved together.
_GROUPED_CHANNELS = 16


@dataclasses.dataclass(frozen=True)
class Convolution:
    """How a kernel goes over tiles; for rows and columns, and as `conv_general_dilated` takes it.

    Attributes:
        strides: of the results.
        padding: (low, high) for each, beyond the halo that the tiles have.
        lhs_dilation: of the tiles, which makes it a transposed convolution.
        rhs_dilation: of the kernel.
        groups: of channels and features.
        precision: of the products.
        preferred: the result's dtype; None is the tiles'.
    """

    strides: tuple[int, int] = _NONE
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    lhs_dilation: tuple[int, int] = _NONE
    rhs_dilation: tuple[int, int] = _NONE
    groups: int = 1
    precision: object = None
    preferred: object = None


def kernel_order(axes: Sequence[int]) -> tuple[int, ...]:
    """The order of a kernel's axes in which this backend reads it best.

    Args:
        axes: where the kernel has its features, its channels, and then its rows and columns.

    Returns:
        A permutation: features, rows and columns, channels on a GPU, as cuDNN has them; what it is
        elsewhere.
    """
    features, channels, *space = axes
    return (features, *space, channels) if backend.on_gpu() else tuple(range(len(axes)))


def best_ready(kernel, results: tuple[int, int], how: Convolution) -> tuple[int, int]:
    """For how many rows and columns of results at once a kernel is best made ready.

    Args:
        kernel: [kh, kw, C/groups, D]; shape and dtype matter.
        results: (h, w).
        how: the convolution.

    Returns:
        (1, 1) where the kernel stays as it is.
    """
    floating = jnp.issubdtype(kernel.dtype, jnp.floating)
    whole = how.groups == 1 and how.strides == how.lhs_dilation == how.rhs_dilation == _NONE
    sums = floating and backend.on_cpu() and whole and how.precision in _DEFAULT_PRECISION
    if not sums or _multiplies_patches(kernel, how):
        return _NONE
    return best_ahead(results, kernel.shape)


def make_ready(kernel: jax.Array, at_once: tuple[int, int]) -> jax.Array | SummedKernel:
    """What can stand in `convolve` for a kernel, for as many (rows, columns) at once."""
    return kernel if at_once == _NONE else SummedKernel.of(kernel, at_once)


def convolve(tiles: jax.Array, kernel: jax.Array | SummedKernel, how: Convolution) -> jax.Array:
    """Convolve tiles that carry their halo: [K, hp, wp, C] with [kh, kw, C/groups, D].

    The kernel may have been made ready, for numbers of rows and columns that divide the results'.
    """
    floating = jnp.issubdtype(tiles.dtype, jnp.floating)
    if floating and backend.on_cpu():
        return convolve_on_cpu(tiles, kernel, how)
    if floating and backend.on_gpu():
        return convolve_on_gpu(tiles, kernel, how)
    return convolve_plainly(tiles, kernel, how)


def convolve_plainly(tiles: jax.Array, kernel: jax.Array, how: Convolution) -> jax.Array:
    """One convolution; where the kernel is a single pixel, one product."""
    if kernel.shape[:2] == how.lhs_dilation == _NONE and how.groups == 1 and not _pads(how.padding):
        tiles = tiles[:, :: how.strides[0], :: how.strides[1]]
        return multiply(tiles, kernel[0, 0], how.precision, how.preferred)
    return _convolve(tiles, kernel, how)


def _convolve(tiles: jax.Array, kernel: jax.Array, how: Convolution) -> jax.Array:
    padding = list(how.padding)
    for i, (low, high) in enumerate(padding):
        if how.lhs_dilation[i] == 1 and min(low, high) < 0 < max(low, high):
            # XLA's CPU backend gives garbage where it cuts at one side and pads at the other.
            first, end = max(-low, 0), tiles.shape[1 + i] - max(-high, 0)
            tiles = jax.lax.slice_in_dim(tiles, first, end, axis=1 + i)
            padding[i] = (max(low, 0), max(high, 0))
    return jax.lax.conv_general_dilated(
        tiles,
        kernel,
        how.strides,
        padding,
        lhs_dilation=how.lhs_dilation,
        rhs_dilation=how.rhs_dilation,
        dimension_numbers=_DIMENSIONS,
        feature_group_count=how.groups,
        precision=how.precision,
        preferred_element_type=how.preferred,
    )


def convolve_on_cpu(
    tiles: jax.Array, kernel: jax.Array | SummedKernel, how: Convolution
) -> jax.Array:
    """The same of floating tiles, in the form that XLA's CPU backend is fastest at."""
    if isinstance(kernel, SummedKernel):
        if kernel.saves((len(tiles), *_sides(tiles, kernel, how))):
            return _by_sums(tiles, kernel, how)
        return convolve_plainly(tiles, kernel.plain, how)
    size, features = kernel.shape[:2], kernel.shape[3]
    transposed = how.lhs_dilation != _NONE
    if how.groups > 1 and not transposed:
        ungrouped = _depthwise if kernel.shape[2] == 1 else _by_groups
        return ungrouped(tiles, kernel, how)
    if _multiplies_patches(kernel, how) and tiles.dtype == kernel.dtype:
        return _by_patches(tiles, kernel, how)
    if how.groups > 1 or size == _NONE or not how.strides == how.rhs_dilation == _NONE:
        return convolve_plainly(tiles, kernel, how)
    if transposed:
        return _by_phases(tiles, kernel, how)
    if features < _FEW_FEATURES:
        return _by_pixels(tiles, kernel, how)
    several = best_at_once((len(tiles), *_sides(tiles, kernel, how)), kernel.shape)
    if several == _NONE or how.precision not in _DEFAULT_PRECISION:
        return convolve_plainly(tiles, kernel, how)
    return _by_sums(tiles, SummedKernel.of(kernel, several), how)


def convolve_on_gpu(tiles: jax.Array, kernel: jax.Array, how: Convolution) -> jax.Array:
    """The same of floating tiles, in the form that cuDNN is fastest at."""
    alone = how.groups == 1 and how.lhs_dilation == how.rhs_dilation == _NONE
    wide = all(size > step for size, step in zip(kernel.shape, how.strides, strict=False))
    if alone and wide:
        deep = math.prod(how.strides) * tiles.shape[3]
        if how.strides != _NONE and deep <= _FEW_CHANNELS:
            return _by_depth(tiles, kernel, how)
        if kernel.shape[3] == 1:
            return _by_patches(tiles, kernel, how)
        if tiles.dtype == kernel.dtype == jnp.float32:
            tiles, kernel = _with_whole_words(tiles, 3), _with_whole_words(kernel, 2)
    single = kernel.shape[:2] == _NONE and not _pads(how.padding)
    if alone and single and how.strides != _NONE and tiles.dtype.itemsize == 2:
        # A product that reads every other pixel; XLA's GPU backend aborts where it makes the two
        # one after a reshape (JAX 0.10 and 0.11).
        read = jax.lax.optimization_barrier(tiles[:, :: how.strides[0], :: how.strides[1]])
        return multiply(read, kernel[0, 0], how.precision, how.preferred)
    fits = convolve_plainly if how.strides == _NONE else _convolve
    return fits(tiles, kernel, how)


def _with_whole_words(x: jax.Array, axis: int) -> jax.Array:
    """Zeros as more channels, so that they fill the words that matrix units read."""
    more = -x.shape[axis] % _WORD
    return jnp.pad(x, [(0, more if i == axis else 0) for i in range(x.ndim)]) if more else x


def _multiplies_patches(kernel: jax.Array, how: Convolution) -> bool:
    """Whether a CPU's units for bfloat16 beat what saves multiplications in float32; ungrouped."""
    least = _MANY_CHANNELS if how.strides == how.rhs_dilation == _NONE else _CHANNELS
    many = kernel.dtype == jnp.bfloat16 and kernel.shape[2] >= least and kernel.shape[:2] != _NONE
    return many and how.lhs_dilation == _NONE and backend.multiplies_bfloat16()


def _by_patches(tiles: jax.Array, kernel: jax.Array, how: Convolution) -> jax.Array:
    """What the kernel meets, side by side as channels, and one product with them."""
    tiles = pad(tiles, how.padding)
    rows, columns = zip((1, 2), kernel.shape[:2], how.strides, how.rhs_dilation, strict=True)
    met = [seen for row in places(tiles, *rows) for seen in places(row, *columns)]
    flat = kernel.reshape(-1, kernel.shape[3])
    return multiply(concatenate(met, axis=-1), flat, how.precision, how.preferred)


def _by_depth(tiles: jax.Array, kernel: jax.Array, how: Convolution) -> jax.Array:
    """A strided convolution of few channels: the pixels of each step side by side, as channels."""
    tiles = pad(tiles, how.padding)
    ends, more = [], []
    for side, size, step in zip(tiles.shape[1:3], kernel.shape[:2], how.strides, strict=True):
        places = -(-size // step) * step
        more.append((0, places - size))
        ends.append((0, (side - size) // step * step + places - side))
    tiles = _in_depth(pad(tiles, ends), how.strides)
    kernel = jnp.pad(kernel, (*more, (0, 0), (0, 0)))
    kernel = jnp.moveaxis(_in_depth(jnp.moveaxis(kernel, -1, 0), how.strides), 0, -1)
    plain = dataclasses.replace(how, strides=_NONE, padding=((0, 0), (0, 0)))
    return convolve_plainly(tiles, kernel, plain)


def _in_depth(x: jax.Array, step: tuple[int, int]) -> jax.Array:
    """[N, h, w, C] as [N, h / step[0], w / step[1], channels], zeros being the last channels."""
    n, h, w, channels = x.shape
    down, right = step
    x = x.reshape(n, h // down, down, w // right, right, channels)
    x = jnp.transpose(x, (0, 1, 3, 2, 4, 5)).reshape(n, h // down, w // right, -1)
    more = max(0, _DEPTH // x.dtype.itemsize - x.shape[-1])
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, more)))


def _by_pixels(tiles: jax.Array, kernel: jax.Array, how: Convolution) -> jax.Array:
    """Two neighbouring pixels at once, where there is an even number of them."""
    _, width = _sides(tiles, kernel, how)
    if width % 2:
        return convolve_plainly(tiles, kernel, how)
    two = dataclasses.replace(how, strides=(1, 2))
    result = convolve_plainly(tiles, _for_two_pixels(kernel), two)
    return result.reshape(*result.shape[:2], width, kernel.shape[3])


def _by_sums(tiles: jax.Array, kernel: SummedKernel, how: Convolution) -> jax.Array:
    """Several results at once."""
    row = dataclasses.replace(how, padding=((0, 0), (0, 0)), preferred=None)
    convolve_row = functools.partial(convolve_plainly, how=row)
    made = convolve_summed(pad(tiles, how.padding), kernel, convolve_row)
    return made.astype(how.preferred or jnp.result_type(tiles.dtype, kernel.dtype))


def _sides(tiles: jax.Array, kernel: jax.Array, how: Convolution) -> tuple[int, int]:
    """(h, w) of the results of a convolution without strides and dilation."""
    sides = zip(tiles.shape[1:3], kernel.shape[:2], how.padding, strict=True)
    return tuple(side + sum(pad) - extent + 1 for side, extent, pad in sides)


def _pads(padding) -> bool:
    return any(any(pad) for pad in padding)


def pad(tiles: jax.Array, padding) -> jax.Array:
    """Zeros around the tiles, (low, high) for rows and columns; negative ones cut."""
    if not _pads(padding):
        return tiles
    around = ((0, 0, 0), *((*pad, 0) for pad in padding), (0, 0, 0))
    return jax.lax.pad(tiles, jnp.zeros((), tiles.dtype), around)


def _for_two_pixels(kernel: jax.Array) -> jax.Array:
    """A kernel that gives two neighbouring results at once: [kh, kw + 1, C, 2 D].

    A third more work for a 3x3 kernel, and twice the features.
    """
    first, second = (jnp.pad(kernel, ((0, 0), sides, (0, 0), (0, 0))) for sides in ((0, 1), (1, 0)))
    return jnp.concatenate([first, second], axis=-1)


class _Phase(NamedTuple):
    """Every s-th result of a transposed convolution along one axis, s being its dilation.

    Attributes:
        places: of the kernel that meet pixels, and not the gaps between them; a range.
        padding: (low, high) with which those places, as a kernel, go over the pixels.
    """

    places: range
    padding: tuple[int, int]


def _phases(sides, size, how: Convolution) -> tuple[list[_Phase], list[_Phase]] | None:
    """Along rows and columns; None where results are not s for each of some pixels."""
    axes = []
    for side, extent, step, (low, high) in zip(
        sides, size, how.lhs_dilation, how.padding, strict=True
    ):
        results = (side - 1) * step + low + high - extent + 2
        if extent < step or results % step:
            return None
        phases = []
        for first in range(step):
            met = range((low - first) % step, extent, step)
            before = (low - first - met[0]) // step
            phases.append(_Phase(met, (before, results // step - side + len(met) - 1 - before)))
        axes.append(phases)
    return tuple(axes)


def _by_phases(tiles: jax.Array, kernel: jax.Array, how: Convolution) -> jax.Array:
    """A transposed convolution without its gaps: phases that see the same pixels are one."""
    phases = _phases(tiles.shape[1:3], kernel.shape[:2], how)
    if phases is None:
        return convolve_plainly(tiles, kernel, how)
    features, one = kernel.shape[3], dataclasses.replace(how, lhs_dilation=_NONE)
    down, right = how.lhs_dilation
    alike = collections.defaultdict(list)
    for row, column in itertools.product(*phases):
        seen = (len(row.places), len(column.places), row.padding, column.padding)
        alike[seen].append((row, column))
    results = []
    for (_, _, *padding), same in alike.items():
        weights = [
            kernel[row.places.start :: row.places.step, column.places.start :: column.places.step]
            for row, column in same
        ]
        weights = jnp.concatenate(weights, axis=-1)
        how = dataclasses.replace(one, padding=tuple(padding))
        results.append(convolve_on_cpu(tiles, weights, how))
    k, h, w, _ = results[0].shape
    if len(results) == 1:  # a patch of its own for each pixel
        patches = results[0].reshape(k, h, w, down, right, features)
        result = jnp.transpose(patches, (0, 1, 3, 2, 4, 5))
    else:
        found = {}
        for same, result in zip(alike.values(), results, strict=True):
            found |= zip(same, jnp.split(result, len(same), axis=-1), strict=True)
        rows = [stack([found[row, column] for column in phases[1]], axis=3) for row in phases[0]]
        result = stack(rows, axis=2)
    return result.reshape(k, h * down, w * right, features)


def _depthwise(tiles: jax.Array, kernel: jax.Array, how: Convolution) -> jax.Array:
    """Every channel by itself: a weighted sum of shifted tiles."""
    result = how.preferred or jnp.result_type(tiles, kernel)
    summed = widened(result)
    tiles = jnp.repeat(tiles, kernel.shape[3] // how.groups, axis=-1)
    tiles = pad(tiles, how.padding)
    total = None
    rows, columns = zip((1, 2), kernel.shape[:2], how.strides, how.rhs_dilation, strict=True)
    for i, row in enumerate(places(tiles, *rows)):
        for j, seen in enumerate(places(row, *columns)):
            weighted = seen.astype(summed) * kernel[i : i + 1, j : j + 1].astype(summed)
            total = weighted if total is None else total + weighted
    return total.astype(result)


def _by_groups(tiles: jax.Array, kernel: jax.Array, how: Convolution) -> jax.Array:
    """A convolution for each group of channels, or for a few small ones together."""
    kh, kw, channels, features = kernel.shape
    enough = (
        count
        for count in range(1, how.groups)
        if how.groups % count == 0 and count * channels >= _GROUPED_CHANNELS
    )
    together = next(enough, how.groups)
    parts = how.groups // together
    kernel = kernel.reshape(kh, kw, 1, channels, parts, together, features // how.groups)
    # In a part, a group's kernel is zero for the channels of the others.
    own = jnp.eye(together, dtype=bool).reshape(1, 1, together, 1, 1, together, 1)
    kernel = jnp.where(own, kernel, 0)
    width, one = together * channels, dataclasses.replace(how, groups=1)
    results = []
    for part in range(parts):
        weights = kernel[:, :, :, :, part].reshape(kh, kw, width, -1)
        seen = tiles[..., part * width : (part + 1) * width]
        results.append(convolve_on_cpu(seen, weights, one))
    return concatenate(results, axis=-1)
