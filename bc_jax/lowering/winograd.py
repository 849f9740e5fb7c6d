"""Convolutions by minimal filtering: several rows at once, for fewer multiplications.

Winograd's F(m, 3), along rows alone: m rows of results come of m + 2 products where the plain way
makes 3 m, half of them for four rows. (Lavin and Gray, Fast Algorithms for Convolutional Neural
Networks, 2016, arXiv:1509.09308, Section 4.1.) Columns stay as they are: along both axes there
would be a quarter of the multiplications, but more memory to move and four times the rounding.
"""

import dataclasses
import functools
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp

# Fewer channels or features cost less than the sums of rows do.
_CHANNELS = 24
# With fewer results, making the kernels costs more than they save.
_RESULTS = 256


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
class RowKernel:
    """A kernel [3, kw, C, D] as the sums by which several rows of results are made at once.

    Attributes:
        sums: rows + 2 arrays [1, kw, C, D], floating, in float32 or more. (Parts of one array would
            be copied for each product.)
        dtype: of the kernel itself; static.
    """

    sums: tuple[jax.Array, ...]
    dtype: jnp.dtype = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, kernel: jax.Array, rows: int) -> "RowKernel":
        """The sums of a kernel, for so many rows at once, of which there must be a filter."""
        wide = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
        taps = [wide[i : i + 1] for i in range(3)]
        sums = tuple(_weighted(weights, taps) for weights in _FILTERS[rows].of_kernel)
        return cls(sums, kernel.dtype)

    @property
    def rows(self) -> int:
        """How many rows are made at once."""
        return len(self.sums) - 2

    @property
    def shape(self) -> tuple[int, ...]:
        """The kernel's."""
        return (3, *self.sums[0].shape[1:])


def rows_ahead(height: int, kernel: tuple[int, int, int, int]) -> int:
    """How many rows are best made at once where the kernel's sums are made beforehand; 1 is plain.

    Args:
        height: of the results.
        kernel: (kh, kw, C, D).
    """
    size, _, *channels = kernel
    if size != 3 or min(channels) < _CHANNELS:
        return 1
    return next((rows for rows in _FILTERS if height % rows == 0), 1)


def rows_at_once(results: tuple[int, int, int], kernel: tuple[int, int, int, int]) -> int:
    """How many rows of a convolution without stride or dilation are best made at once; 1 is plain.

    Args:
        results: (K, h, w).
        kernel: (kh, kw, C, D).
    """
    count, height, width = results
    return 1 if count * height * width < _RESULTS else rows_ahead(height, kernel)


def convolve_rows(tiles: jax.Array, kernel: RowKernel, convolve) -> jax.Array:
    """Convolve tiles that carry their halo above and below.

    Args:
        tiles: [K, h + 2, wp, C], floating.
        kernel: of a number of rows that divides h.
        convolve: takes [K, h / rows, wp, C] and [1, kw, C, D], in float32 or more, to
            [K, h / rows, w, D].

    Returns:
        [K, h, w, D], of the type that `convolve` gives.
    """
    rows, summed = kernel.rows, kernel.sums[0].dtype
    how, last = _FILTERS[rows], tiles.shape[1] - rows - 1
    seen = [tiles[:, i : i + last : rows].astype(summed) for i in range(rows + 2)]
    products = [
        convolve(_weighted(of_rows, seen), of_kernel)
        for of_rows, of_kernel in zip(how.of_rows, kernel.sums, strict=True)
    ]
    made = jnp.stack([_weighted(weights, products) for weights in how.of_products], axis=2)
    return made.reshape(made.shape[0], -1, *made.shape[3:])


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
    how, (_, h, w, features) = _FILTERS[rows], cotangent.shape
    x = jax.lax.optimization_barrier(x)  # copied once for all sums
    seen = [x[:, :, i : i + h - rows + 1 : rows] for i in range(rows + 2)]
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


def _weighted(weights, parts) -> jax.Array:
    terms = (weight * part for weight, part in zip(weights, parts, strict=True) if weight)
    return functools.reduce(operator.add, terms)
