"""Convolutions by minimal filtering: several results at once, for fewer multiplications.

Winograd's F(m, 3), along rows and along columns: along each, m results come of m + 2 products where
the plain way makes 3 m, so that four by four results take a quarter of the multiplications. (Lavin
and Gray, Fast Algorithms for Convolutional Neural Networks, 2016, arXiv:1509.09308, Section 4.1.)
Rounding is a few times that of the plain way, about 1e-5 of the largest result.
"""

import dataclasses
import functools
import math
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp

# Fewer channels or features cost less than the sums of rows do.
_CHANNELS = 24
# As many are worth the sums of columns too, however much memory these take,
_MANY_CHANNELS = 48
# and fewer are for as many results, whose sums a cache holds.
_CACHED_RESULTS = 1 << 16
# The sums for four columns of as many channels times features cost more to read than they save.
_LARGE = 256 * 256
# With fewer results, a kernel's sums cost more to make than they save,
_RESULTS = 256
# and, where they are made, to read.
_RESULTS_AHEAD = 80


class _Filter(NamedTuple):
    """The sums that F(m, 3) is made of; each row of a matrix is one sum.

    Attributes:
        of_rows: [m + 2, m + 2], of the input's rows.
        of_kernel: [m + 2, 3], of the kernel's.
        of_products: [m, m + 2], of the products, which gives the results.
    """

    of_rows: tuple[tuple[int, ...], ...]
    of_kernel: tuple[tuple[float, ...], ...]
    of_products: tuple[tuple[int, ...], ...]


_FILTERS = {
    4: _Filter(
        (
            (4, 0, -5, 0, 1, 0),
            (0, -4, -4, 1, 1, 0),
            (0, 4, -4, -1, 1, 0),
            (0, -2, -1, 2, 1, 0),
            (0, 2, -1, -2, 1, 0),
            (0, 4, 0, -5, 0, 1),
        ),
        (
            (1 / 4, 0, 0),
            (-1 / 6, -1 / 6, -1 / 6),
            (-1 / 6, 1 / 6, -1 / 6),
            (1 / 24, 1 / 12, 1 / 6),
            (1 / 24, -1 / 12, 1 / 6),
            (0, 0, 1),
        ),
        ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
    ),
    2: _Filter(
        ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
        ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
        ((1, 1, 1, 0), (0, 1, -1, -1)),
    ),
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SummedKernel:
    """A kernel, and its sums by which several results are made at once.

    Attributes:
        plain: the kernel [3, kw, C, D], floating.
        sums: rows + 2 arrays, in float32 or more: [1, kw, C, D], or [columns + 2, C, D] where
            several columns are made at once too. (Parts of one array would be copied for each
            product.)
    """

    plain: jax.Array
    sums: tuple[jax.Array, ...]

    @classmethod
    def of(cls, kernel: jax.Array, at_once: tuple[int, int]) -> "SummedKernel":
        """A kernel for so many (rows, columns) at once, for which there must be filters."""
        rows, columns = at_once
        wide = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
        sums = _summed(_FILTERS[rows].of_kernel, [wide[i : i + 1] for i in range(3)])
        if columns > 1:
            of_kernel = _FILTERS[columns].of_kernel
            sums = [
                jnp.concatenate(_summed(of_kernel, [row[:, i] for i in range(3)])) for row in sums
            ]
        return cls(kernel, tuple(sums))

    @property
    def at_once(self) -> tuple[int, int]:
        """How many rows and columns are made at once."""
        first = self.sums[0]
        return len(self.sums) - 2, len(first) - 2 if first.ndim == 3 else 1

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The kernel's."""
        return self.plain.shape

    @property
    def dtype(self) -> jnp.dtype:
        """The kernel's."""
        return self.plain.dtype

    def saves(self, results: tuple[int, int, int]) -> bool:
        """Whether the sums are faster than the kernel itself, for results (K, h, w)."""
        return math.prod(results) >= _RESULTS_AHEAD


def best_ahead(results: tuple[int, int], kernel: tuple[int, int, int, int]) -> tuple[int, int]:
    """How many (rows, columns) are best made at once, the kernel's sums being made beforehand.

    Args:
        results: (h, w).
        kernel: (kh, kw, C, D).

    Returns:
        (1, 1) where the plain way is best.
    """
    return _best(results, kernel, _MANY_CHANNELS)


def best_at_once(
    results: tuple[int, int, int], kernel: tuple[int, int, int, int]
) -> tuple[int, int]:
    """The same where the sums are made for this convolution alone; results are (K, h, w)."""
    count = math.prod(results)
    if count < _RESULTS:
        return 1, 1
    return _best(results[1:], kernel, _CHANNELS if count <= _CACHED_RESULTS else _MANY_CHANNELS)


def _best(results, kernel, channels_for_columns: int) -> tuple[int, int]:
    (height, width), (kh, kw, *channels) = results, kernel
    if kh != 3 or min(channels) < _CHANNELS:
        return 1, 1
    rows = _most(height, 4)
    if kw != 3 or rows == 1 or min(channels) < channels_for_columns:
        return rows, 1
    return rows, _most(width, 2 if math.prod(channels) >= _LARGE else 4)


def _most(side: int, limit: int) -> int:
    """The largest filter's m, up to a limit, that divides a side; 1 where there is none."""
    return next((m for m in _FILTERS if m <= limit and side % m == 0), 1)


def convolve_summed(tiles: jax.Array, kernel: SummedKernel, convolve) -> jax.Array:
    """Convolve tiles that carry their halo.

    Args:
        tiles: [K, h + 2, wp, C], floating.
        kernel: of numbers of rows and columns that divide h and w; for columns wp is w + 2.
        convolve: takes [K, h / rows, wp, C] and [1, kw, C, D], in float32 or more, to
            [K, h / rows, w, D].

    Returns:
        [K, h, w, D], of the type that products give.
    """
    rows, columns = kernel.at_once
    how, summed = _FILTERS[rows], kernel.sums[0].dtype
    seen = [row.astype(summed) for row in _every(tiles, rows, 1)]
    one_row = convolve if columns == 1 else _convolve_row
    products = map(one_row, _summed(how.of_rows, seen), kernel.sums)
    return _interleave(_summed(how.of_products, list(products)), 2)


@jax.jit  # traced once for all rows, and for all convolutions of its shape
def _convolve_row(rows: jax.Array, sums: jax.Array) -> jax.Array:
    """Several columns at once: [K, h, w + 2, C] and [columns + 2, C, D] to [K, h, w, D]."""
    columns = len(sums) - 2
    how = _FILTERS[columns]
    seen = jnp.stack(_summed(how.of_rows, _every(rows, columns, 2)))
    _, *space, channels = seen.shape
    products = seen.reshape(len(seen), -1, channels) @ sums
    products = [product.reshape(*space, -1) for product in products]
    return _interleave(_summed(how.of_products, products), 3)


def _every(x: jax.Array, m: int, axis: int) -> list[jax.Array]:
    """The m + 2 inputs of each m results along an axis that is 2 longer than the results'."""
    last = x.shape[axis] - m - 1
    return [jax.lax.slice_in_dim(x, i, i + last, m, axis) for i in range(m + 2)]


def _interleave(parts: list[jax.Array], axis: int) -> jax.Array:
    """Every m-th result each, of m arrays [K, h, w, D], along the axis before."""
    made = jnp.stack(parts, axis)
    shape = list(parts[0].shape)
    shape[axis - 1] *= len(parts)
    return made.reshape(shape)


def gradient_of_rows(x: jax.Array, cotangent: jax.Array, kw: int, rows: int) -> jax.Array:
    """The gradient of the kernel of a convolution whose rows are made several at once.

    The same sums, transposed: a product of two wide matrices for each.

    Args:
        x: the padded input, channels first, [C, N, h + 2, w + kw - 1], float32.
        cotangent: of the output, [N, h, w, D], float32.
        kw: columns of the kernel.
        rows: at once, a divisor of h that has a filter.

    Returns:
        [3, kw, C, D].
    """
    how, (*_, w, features) = _FILTERS[rows], cotangent.shape
    x = jax.lax.optimization_barrier(x)  # copied once for all sums
    seen = _every(x, rows, 2)
    pulled = [cotangent[:, i::rows] for i in range(rows)]
    products = []
    for of_rows, of_products in zip(how.of_rows, zip(*how.of_products, strict=True), strict=True):
        met = columns(_weighted(of_rows, seen), kw, w)
        product = met @ _weighted(of_products, pulled).reshape(-1, features)
        products.append(product.reshape(kw, len(x), features))
    return jnp.stack([_weighted(taps, products) for taps in zip(*how.of_kernel, strict=True)])


def columns(x: jax.Array, kw: int, width: int, stride: int = 1) -> jax.Array:
    """What each of a kernel's columns meets, one below the other.

    Args:
        x: channels first, [C, N, h, wp].
        kw: columns of the kernel.
        width: of the results.
        stride: columns between them.

    Returns:
        [kw C, N h width].
    """
    last = (width - 1) * stride + 1
    met = jnp.concatenate([x[..., i : i + last : stride] for i in range(kw)])
    return met.reshape(kw * len(x), -1)


def _summed(matrix, parts) -> list[jax.Array]:
    """A sum of the parts for each row of a matrix."""
    return [_weighted(weights, parts) for weights in matrix]


def _weighted(weights, parts) -> jax.Array:
    terms = (weight * part for weight, part in zip(weights, parts, strict=True) if weight)
    return functools.reduce(operator.add, terms)
