"""Windows over space: convolutions of every kind, and pooling.

A tile of `h` pixels makes a tile of `oh` results. Result `o` of the whole frame reads the pixels at
`o * stride - low + k * dilation`, k being the window's places; with gaps between pixels
(`lhs_dilation`, a transposed convolution) the same holds on the image with the gaps. `Axis` says
what this means for one tile along one axis.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from bc_jax import lowering
from bc_jax.sparse.halo import Halo, keeps_frames
from bc_jax.sparse.plan import Ready
from bc_jax.sparse.rules.registry import rule
from bc_jax.sparse.values import NO_PAD, Blocked, Declined, plain


@dataclasses.dataclass(frozen=True)
class Axis:
    """A window along one axis of one tile.

    Attributes:
        before: pixels it reads in front of the tile; negative where it skips the tile's first ones.
        after: likewise behind the tile.
        pad: what is left to pad, (low, high), once those pixels are there: gaps only.
        out: results per tile.
    """

    before: int
    after: int
    pad: tuple[int, int]
    out: int


def window_axis(
    tile: int, blocks: int, *, size: int, stride: int, dilation: int, gaps: int, low: int, high: int
) -> Axis:
    """Geometry of a window; declines where its results do not fall into the blocks.

    Args:
        tile: pixels per tile.
        blocks: tiles along the axis.
        size: the window's places.
        stride: pixels between results.
        dilation: pixels between the window's places.
        gaps: distance of neighbouring pixels, 1 for none in between.
        low: padding in front of the image.
        high: padding behind it.
    """
    reach = (size - 1) * dilation
    image = (tile * blocks - 1) * gaps + 1
    results = (image + low + high - reach - 1) // stride + 1
    if tile * gaps % stride or results != blocks * (tile * gaps // stride):
        raise Declined("the result's pixels do not fall into the blocks")
    out = tile * gaps // stride
    before = low // gaps  # floor also where low is negative
    after = (out * stride - stride - low + reach) // gaps - (tile - 1)
    if gaps == 1:
        if -stride < after < 0:
            after = 0  # last pixels that no result reads
        if blocks == 1 and 0 <= after < before < after + stride:
            after = before  # likewise: padding that is alike at both ends is a convolution's own
        return Axis(before, after, (0, 0), out)
    pad_low = low - before * gaps
    have = (before + tile + after - 1) * gaps + 1
    pad_high = (out - 1) * stride + reach + 1 - pad_low - have
    return Axis(before, after, (pad_low, pad_high), out)


def _halo(axes: Sequence[Axis]) -> Halo:
    return Halo(*(max(0, side) for axis in axes for side in (axis.before, axis.after)))


def read_window(context, x: Blocked, axes: tuple[Axis, Axis], pad_value):
    """The tiles' pixels that a window needs: halo added, skipped pixels cut."""
    tiles = context.exchange(x, _halo(axes), pad_value)
    cut = []
    for axis, size in zip(axes, tiles.shape[1:3], strict=True):
        cut.append(slice(max(0, -axis.before), size - max(0, -axis.after)))
    return tiles[:, cut[0], cut[1]]


def _padding(x: Blocked, padding, pad_value, gaps: tuple[int, int] = (1, 1)):
    """The operation's own padding and the image's, which its gaps spread, as one."""
    if x.pad == NO_PAD:
        return padding
    if x.pad_value != pad_value and (gaps != (1, 1) or any(any(p) for p in padding)):
        raise Declined("the image is padded with one value and the window with another")
    both = [
        (own, side * gap)
        for sides, image, gap in zip(padding, x.pad, gaps, strict=True)
        for own, side in zip(sides, image, strict=True)
    ]
    if any(side < 0 < own for own, side in both):
        raise Declined("the image is cut where the window is padded")
    (top, bottom), (left, right) = (map(sum, both[i : i + 2]) for i in (0, 2))
    return [(top, bottom), (left, right)]


@rule("conv_general_dilated")
def convolution(context, op, x, kernel):
    """Every convolution over two axes of space, blocked along both."""
    p = op.params
    numbers = p["dimension_numbers"]
    if isinstance(kernel, Blocked):
        raise Declined("the kernel is made of blocks")
    if len(numbers.lhs_spec) != 4 or p["batch_group_count"] != 1:
        raise Declined("not a convolution over two axes of space")
    stream, channel, *space = numbers.lhs_spec
    x = context.as_blocked(x, (stream, *space))
    if x is None:
        raise Declined("the input is not cut into blocks")
    if x.axes[0] != stream or channel in x.axes or x.merged:
        raise Declined("convolves along another axis than space")
    turn = [space.index(a) for a in x.axes[1:]]  # the program's place of rows, of columns
    rhs_out, rhs_in, *rhs_space = numbers.rhs_spec
    order = (*(rhs_space[t] for t in turn), rhs_in, rhs_out)
    if not isinstance(kernel, lowering.SummedKernel):
        kernel = jnp.transpose(plain(kernel), order)
    gaps = tuple(p["lhs_dilation"][t] for t in turn)
    padding = _padding(x, [p["padding"][t] for t in turn], 0, gaps)
    axes = tuple(
        window_axis(
            x.tiles.shape[1 + i],
            context.grid[i],
            size=kernel.shape[i],
            stride=p["window_strides"][t],
            dilation=p["rhs_dilation"][t],
            gaps=gaps[i],
            low=int(padding[i][0]),
            high=int(padding[i][1]),
        )
        for i, t in enumerate(turn)
    )
    pad_value = x.pad_value if x.pad != NO_PAD else 0
    how = convolution_of(p, tuple(axis.pad for axis in axes), turn)
    steps = None
    if pad_value == 0 and context.remembers(x):
        steps = tap_steps(x.tiles, kernel, axes, how)
    if steps:
        taps = context.shifted(x, _halo(axes), steps)
        result = lowering.convolve_taps(taps, kernel, how.precision, how.preferred)
    else:
        ready = lowering.best_ready(kernel, tuple(axis.out for axis in axes), how)
        context.reads_kernel(op.inputs[1], Ready(order, ready))
        result = lowering.convolve(read_window(context, x, axes, pad_value), kernel, how)
    out_stream, _, *out_space = numbers.out_spec
    return x.new(result, (out_stream, *(out_space[t] for t in turn)))


def convolution_of(params: dict, padding, turn: Sequence[int] = (0, 1)) -> lowering.Convolution:
    """An operation's convolution on tiles.

    Args:
        params: of `conv_general_dilated`.
        padding: what is left to pad, for rows and columns.
        turn: the operation's places of rows and of columns.
    """
    names = ("window_strides", "lhs_dilation", "rhs_dilation")
    strides, lhs_dilation, rhs_dilation = (tuple(params[n][t] for t in turn) for n in names)
    return lowering.Convolution(
        strides=strides,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        padding=padding,
        groups=params["feature_group_count"],
        precision=params["precision"],
        preferred=params["preferred_element_type"],
    )


def tap_steps(
    tiles, kernel, axes: tuple[Axis, Axis], how: lowering.Convolution
) -> list[tuple[int, int]] | None:
    """Where each of a dilated kernel's places sees a tile: moved by (rows, columns).

    Args:
        tiles: [K, h, w, C], without a halo; shape and dtype matter.
        kernel: [kh, kw, C, D], likewise.
        axes: the window along rows and along columns.
        how: the convolution.

    Returns:
        The steps, row by row of the kernel; None where tiles with their halo are faster.
    """
    if {*how.strides, *how.lhs_dilation, how.groups} != {1} or how.rhs_dilation == (1, 1):
        return None
    tile = tiles.shape[1:3]
    padded = [axis.before + side + axis.after for axis, side in zip(axes, tile, strict=True)]
    if not keeps_frames(_halo(axes), tile) or not lowering.reads_taps(tiles, kernel, padded):
        return None
    rows, columns = (
        [place * dilation - axis.before for place in range(size)]
        for axis, size, dilation in zip(axes, kernel.shape[:2], how.rhs_dilation, strict=True)
    )
    return [(dy, dx) for dy in rows for dx in columns]


_IDENTITY = {"reduce_window_max": -np.inf, "reduce_window_min": np.inf, "reduce_window_sum": 0}


def _identity(name: str, dtype):
    value = _IDENTITY[name]
    if value == 0 or jnp.issubdtype(dtype, jnp.floating):
        return value
    info = jnp.iinfo(dtype)
    return info.min if value < 0 else info.max


@rule(*_IDENTITY)
def pooling(context, op, x):
    """Max, min and sum pooling over space."""
    p = op.params
    if not isinstance(x, Blocked):
        moving = [a for a, size in enumerate(p["window_dimensions"]) if size > 1]
        if len(moving) != 2 or 0 in moving:
            raise Declined("")
        x = context.as_blocked(x, (0, *moving))
        if x is None:
            raise Declined("the input is not cut into blocks")
    if x.merged:
        raise Declined("pools over the axis that rows and columns were merged into")
    still = [a for a in range(x.rank) if a not in x.axes[1:]]
    whole = {k: [p[k][a] for a in still] for k in _POOL_PARAMS}
    if any(v != 1 for k in _POOL_PARAMS for v in whole[k]) or any(
        any(p["padding"][a]) for a in still
    ):
        raise Declined("pools over another axis than space")
    if any(p["base_dilation"][a] != 1 for a in x.axes):
        raise Declined("pools with gaps")
    identity = _identity(op.name, x.tiles.dtype)
    padding = _padding(x, [p["padding"][a] for a in x.axes[1:]], identity)
    axes = tuple(
        window_axis(
            x.tiles.shape[1 + i],
            context.grid[i],
            size=p["window_dimensions"][a],
            stride=p["window_strides"][a],
            dilation=p["window_dilation"][a],
            gaps=1,
            low=int(padding[i][0]),
            high=int(padding[i][1]),
        )
        for i, a in enumerate(x.axes[1:])
    )
    pad_value = x.pad_value if x.pad != NO_PAD else identity
    size, strides, dilation = (
        tuple(p[name][a] for a in x.axes[1:])
        for name in ("window_dimensions", "window_strides", "window_dilation")
    )
    result = None
    if pad_value == identity and dilation == (1, 1) and all(axis.before >= 0 for axis in axes):
        result = context.pool(x, _halo(axes), pad_value, (op.name, size, strides))
    if result is None:
        tiles = read_window(context, x, axes, pad_value)
        result = lowering.pool(tiles, op.name, size=size, strides=strides, dilation=dilation)
    return x.new(result)


_POOL_PARAMS = ("window_dimensions", "window_strides", "window_dilation", "base_dilation")
