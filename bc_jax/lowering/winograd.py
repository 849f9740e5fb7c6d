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

from bc_jax.lowering.dtypes import widened
from bc_jax.lowering.places import interleave, overlap_add, places

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
        wide = kernel.astype(widened(kernel.dtype))
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


def best_to_learn(
    results: tuple[int, int, int], kernel: tuple[int, int, int, int]
) -> tuple[int, int]:
    """The same where gradients are made of the sums too; (1, 1) or more than one of each."""
    at_once = (1, 1) if math.prod(results) < _RESULTS else _best(results[1:], kernel, _CHANNELS)
    return at_once if min(at_once) > 1 else (1, 1)


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
    (rows, columns), dtype = kernel.at_once, kernel.sums[0].dtype
    if columns > 1:
        return convolve_seen(see(tiles, kernel.at_once, dtype), kernel)
    products = map(convolve, _see_rows(tiles, rows, dtype), kernel.sums)
    return interleave(_summed(_FILTERS[rows].of_products, list(products)), 1)


def see(tiles: jax.Array, at_once: tuple[int, int], dtype) -> tuple[jax.Array, ...]:
    """The sums of tiles that several rows and columns of results are made of.

    Args:
        tiles: [K, h + 2, w + 2, C], floating.
        at_once: (rows, columns), which divide h and w; more than one each.
        dtype: of the sums, float32 or more.

    Returns:
        rows + 2 arrays [columns + 2, K, h / rows, w / columns, C].
    """
    rows, columns = at_once
    return tuple(_see_columns(row, columns) for row in _see_rows(tiles, rows, dtype))


def convolve_seen(seen: tuple[jax.Array, ...], kernel: SummedKernel) -> jax.Array:
    """Convolve what `see` gave for as many rows and columns: [K, h, w, D]."""
    rows, _ = kernel.at_once
    # XLA would compute what one sum alone reads within that sum's loop, pixel by pixel.
    made = jax.lax.optimization_barrier(list(map(_convolve_row, seen, kernel.sums)))
    return interleave(_summed(_FILTERS[rows].of_products, made), 1)


def pull_back(
    seen: tuple[jax.Array, ...],
    kernel: SummedKernel,
    cotangent: jax.Array,
    before: tuple[int, int],
    size: tuple[int, int],
) -> tuple[jax.Array, jax.Array]:
    """The gradients of `convolve_seen` of `see`: the same sums and products, transposed.

    Args:
        seen: what `see` gave.
        kernel: for as many rows and columns.
        cotangent: of the results, [K, h, w, D].
        before: (rows, columns) of padding before the tiles' own pixels.
        size: (H, W) of the tiles without padding, multiples of the rows and columns at once.

    Returns:
        (by the tiles without padding [K, H, W, C], by the kernel [3, 3, C, D]).
    """
    rows, columns = kernel.at_once
    of_rows, of_columns = _FILTERS[rows], _FILTERS[columns]
    pulled = _summed(_transposed(of_rows.of_products), places(cotangent, 1, rows, rows, 1))
    # Read twice, by tiles and by kernel.
    pulled = jax.lax.optimization_barrier([_pull_columns(row, columns) for row in pulled])

    products = _summed(_transposed(of_rows.of_kernel), list(map(_pull_kernel, seen, pulled)))
    taps = [jnp.stack(_summed(_transposed(of_columns.of_kernel), list(row))) for row in products]

    tiles = [
        _pull_row(row, sums, before[1], size[1])
        for row, sums in zip(pulled, kernel.sums, strict=True)
    ]
    tiles = _summed(_transposed(of_rows.of_rows), jax.lax.optimization_barrier(tiles))
    return overlap_add(tiles, 1, size[0], rows, before[0]), jnp.stack(taps)


def _see_rows(tiles: jax.Array, rows: int, dtype) -> list[jax.Array]:
    seen = [row.astype(dtype) for row in places(tiles, 1, rows + 2, rows, 1)]
    return _summed(_FILTERS[rows].of_rows, seen)


# Traced once for all rows, and for all convolutions of their shape.


@functools.partial(jax.jit, static_argnums=1)
def _see_columns(rows: jax.Array, columns: int) -> jax.Array:
    """[K, h, w + 2, C] to [columns + 2, K, h, w / columns, C]."""
    return jnp.stack(_summed(_FILTERS[columns].of_rows, places(rows, 2, columns + 2, columns, 1)))


@jax.jit
def _convolve_row(seen: jax.Array, sums: jax.Array) -> jax.Array:
    """[columns + 2, K, h, w / columns, C] and [columns + 2, C, D] to [K, h, w, D]."""
    _, *space, channels = seen.shape
    products = seen.reshape(len(seen), -1, channels) @ sums
    products = [product.reshape(*space, -1) for product in products]
    return interleave(_summed(_FILTERS[len(sums) - 2].of_products, products), 2)


@functools.partial(jax.jit, static_argnums=1)
def _pull_columns(cotangent: jax.Array, columns: int) -> jax.Array:
    """The gradient by products: [K, h, w, D] to [columns + 2, K, h, w / columns, D]."""
    of_products = _transposed(_FILTERS[columns].of_products)
    return jnp.stack(_summed(of_products, places(cotangent, 2, columns, columns, 1)))


@jax.jit
def _pull_kernel(seen: jax.Array, pulled: jax.Array) -> jax.Array:
    """The gradient by a kernel's sums: [columns + 2, C, D]."""
    seen, pulled = (x.reshape(len(x), -1, x.shape[-1]) for x in (seen, pulled))
    return jnp.einsum("qtc,qtd->qcd", seen, pulled)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _pull_row(pulled: jax.Array, sums: jax.Array, before: int, size: int) -> jax.Array:
    """The gradient by a row that was seen, without padding: [K, h, size, C]."""
    _, *space, features = pulled.shape
    columns = len(sums) - 2
    products = pulled.reshape(len(pulled), -1, features) @ jnp.swapaxes(sums, 1, 2)
    products = [product.reshape(*space, -1) for product in products]
    parts = _summed(_transposed(_FILTERS[columns].of_rows), products)
    return overlap_add(parts, 2, size, columns, before)


def _summed(matrix, parts) -> list[jax.Array]:
    """A sum of the parts for each row of a matrix."""
    return [_weighted(weights, parts) for weights in matrix]


def _weighted(weights, parts) -> jax.Array:
    terms = (weight * part for weight, part in zip(weights, parts, strict=True) if weight)
    return functools.reduce(operator.add, terms)


def _transposed(matrix) -> tuple[tuple, ...]:
    return tuple(zip(*matrix, strict=True))
