"""Windows over space: convolutions of every kind, and pooling.

A tile of `h` pixels makes a tile of `oh` results. Result `o` of the whole frame reads the pixels at
`o * stride - low + k * dilation`, k being the window's places; with gaps between pixels
(`lhs_dilation`, a transposed convolution) the same holds on the image with the gaps. `Axis` says
what this means for one tile along one axis.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from bc_jax import lowering
from bc_jax.sparse.halo import Halo, keeps_frames
from bc_jax.sparse.plan import Ready
from bc_jax.sparse.rules.elementwise import leader
from bc_jax.sparse.rules.linear import per_pixel
from bc_jax.sparse.rules.registry import rule
from bc_jax.sparse.rules.shape import filled_where_cut
from bc_jax.sparse.values import NO_PAD, Blocked, Declined, plain
from bc_jax.sparse.windows import repeat_nearest

# The share of an axis' results that may be missing, which are made nevertheless.
_MISSING = 1 / 4


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
        elif blocks == 1 and 0 <= after < before < after + stride:
            after = before  # likewise: padding that is alike at both ends is a convolution's own
        return Axis(before, after, (0, 0), out)
    pad_low = low - before * gaps
    have = (before + tile + after - 1) * gaps + 1
    pad_high = (out - 1) * stride + reach + 1 - pad_low - have
    return Axis(before, after, (pad_low, pad_high), out)


def window_and_cut(tile: int, blocks: int, **window) -> tuple[Axis, tuple[int, int]]:
    """The same, where a few results may be missing from the blocks, as without padding.

    Returns:
        The geometry of a window that has them all, and which are to be cut, as `Blocked.pad` says.
    """
    size, stride, gaps, low = (window[name] for name in ("size", "stride", "gaps", "low"))
    reach, image = (size - 1) * window["dilation"], (tile * blocks - 1) * gaps + 1
    wanted = tile * blocks * gaps // stride
    missing = wanted - (image + low + window["high"] - reach - 1) // stride - 1
    if not 0 < missing <= _MISSING * wanted:
        return window_axis(tile, blocks, **window), (0, 0)
    # Results lie where the middle of what they read does.
    first = round((reach / 2 - low - (stride - gaps) / 2) / stride)
    first = min(max(first, 0), missing)
    low += first * stride
    high = (wanted - 1) * stride + reach + 1 - image - low
    whole = window_axis(tile, blocks, **window | {"low": low, "high": high})
    return whole, (-first, first - missing)


def _halo(axes: Sequence[Axis]) -> Halo:
    return Halo(*(max(0, side) for axis in axes for side in (axis.before, axis.after)))


def read_window(context, x: Blocked, axes: tuple[Axis, Axis], pad_value):
    """The tiles' pixels that a window needs: halo added, skipped pixels cut."""
    tiles = context.exchange(x, _halo(axes), pad_value)
    cut = []
    for axis, size in zip(axes, tiles.shape[1:3], strict=True):
        cut.append(slice(max(0, -axis.before), size - max(0, -axis.after)))
    return tiles[:, cut[0], cut[1]]


def finish_move(context, x: Blocked, strides: tuple[int, int] = (1, 1)) -> Blocked:
    """Carry out what is to be cut off the image and put around it, and take some of its pixels."""
    axes = tuple(
        window_axis(tile, count, size=1, stride=stride, dilation=1, gaps=1, low=low, high=high)
        for tile, count, stride, (low, high) in zip(
            x.tiles.shape[1:3], context.grid, strides, x.pad, strict=True
        )
    )
    tiles = read_window(context, x, axes, x.pad_value)
    rows, columns = (
        slice(None, (axis.out - 1) * stride + 1, stride)
        for axis, stride in zip(axes, strides, strict=True)
    )
    key = f"{x.key}_{x.pad}_{x.pad_value}_{strides}"
    return Blocked(tiles[:, rows, columns], x.axes, key=key)


def move(context, x: Blocked, pad) -> Blocked:
    """The image by so many pixels aside: ((top, -top), (left, -left)), up to a block's side."""
    if pad == NO_PAD:
        return x.same(pad=NO_PAD)
    if any(map(sum, pad)):
        raise Declined("moves a part of an image to one of another size")
    sides = [tile // parts for tile, parts in zip(x.tiles.shape[1:3], context.parts, strict=True)]
    if any(abs(low) > side for (low, _), side in zip(pad, sides, strict=True)):
        raise Declined("moves pixels to other blocks")
    return finish_move(context, x.same(pad=pad))


def cut_off(context, x: Blocked, pad) -> Blocked:
    """The image without what was made of more than there is; `pad` as `Blocked` has it."""
    if pad == NO_PAD:
        return x
    sides = tuple((max(0, -low), max(0, -high)) for low, high in pad)
    return x.same(tiles=repeat_nearest(x.tiles, context.blocks, sides), pad=pad)


def _around(x: Blocked, default):
    """What stands outside the image; the default where nothing was put there."""
    return x.pad_value if x.grows else default


def _with_padding(context, x: Blocked, padding, pad_value, gaps: tuple[int, int] = (1, 1)):
    """The image to read, and the operation's padding and its own, which gaps spread, as one."""
    differs = _around(x, pad_value) != pad_value and (gaps != (1, 1) or any(map(any, padding)))
    if differs and any(map(sum, x.pad)):
        raise Declined("the image is padded with one value and the window with another")
    x = finish_move(context, x) if differs else x
    x, padding = filled_where_cut(context, x, padding, pad_value, gaps)
    if x.pad == NO_PAD:
        return x, padding
    both = [
        (own, side * gap)
        for sides, image, gap in zip(padding, x.pad, gaps, strict=True)
        for own, side in zip(sides, image, strict=True)
    ]
    (top, bottom), (left, right) = (map(sum, both[i : i + 2]) for i in (0, 2))
    return x, [(top, bottom), (left, right)]


@rule("conv_general_dilated")
def convolution(context, op, x, kernel):
    """Every convolution over two axes of space, blocked along both."""
    p = op.params
    numbers = p["dimension_numbers"]
    if isinstance(kernel, Blocked):
        raise Declined("the kernel is made of blocks")
    if isinstance(x, Blocked) and (x.merged or len(numbers.lhs_spec) != 4) and _is_dense(op, x):
        return per_pixel(op, leader([x]), kernel)
    if len(numbers.lhs_spec) != 4 or p["batch_group_count"] != 1:
        raise Declined("not a convolution over two axes of space")
    stream, channel, *space = numbers.lhs_spec
    x = context.image(x)
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
    padding = [tuple(p["padding"][t]) for t in turn]
    x, padding = _with_padding(context, x, padding, 0, gaps)
    found = [
        window_and_cut(
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
    ]
    axes, cut = zip(*found, strict=True)
    pad_value = _around(x, 0)
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
    return cut_off(context, x.new(result, (out_stream, *(out_space[t] for t in turn))), cut)


def _is_dense(op, x: Blocked) -> bool:
    """Whether a convolution mixes the channels of each pixel, and nothing else."""
    p = op.params
    numbers, kernel = p["dimension_numbers"], op.in_shapes[1]
    ones = [*p["window_strides"], *p["lhs_dilation"], *(kernel[a] for a in numbers.rhs_spec[2:])]
    ones += [p["feature_group_count"], p["batch_group_count"]]
    return {*ones} == {1} and not any(map(any, p["padding"])) and numbers.lhs_spec[1] not in x.axes


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


def _identity(context, op, dtype):
    """What stands outside the image, and changes no result where the program does not say it."""
    if op.name == "reduce_window":
        value = context.program.static(op.inputs[1])
        if len(op.inputs) != 2 or value is None or np.iscomplexobj(value):
            raise Declined("pools several arrays at once, or with a computed value around them")
        if not _keeps(op, value):
            raise Declined("pools from a value on that changes the result once more at the sides")
        return value.item()
    value = _IDENTITY[op.name]
    if value == 0 or jnp.issubdtype(dtype, jnp.floating):
        return value
    if dtype == np.dtype(bool):
        return value > 0
    info = jnp.iinfo(dtype)
    return info.min if value < 0 else info.max


POOLS = (*_IDENTITY, "reduce_window")


@rule(*POOLS)
def pooling(context, op, x, *outside):
    """Pooling over space, and over channels; max, min and sum, or by a function of a program's."""
    p = op.params
    if not isinstance(x, Blocked):
        moving = [a for a, size in enumerate(p["window_dimensions"]) if size > 1]
        x = context.image(x) if len(moving) == 2 and not outside else None
        if x is None or {*moving} != {*x.axes[1:]}:
            raise Declined("the input is not cut into blocks")
    moves = [a for a in range(x.rank) if _moves(p, a)]
    if x.axes[0] in moves or (x.merged and x.axes[1] in moves):
        raise Declined(
            "pools over streams, or over the axis that rows and columns were merged into"
        )
    if any(p["base_dilation"][a] != 1 for a in x.axes):
        raise Declined("pools with gaps")
    if not {*moves} & {*x.axes}:
        x = leader([x])
        return x.new(_pool_plainly(op, x, x.tiles, outside))
    identity = _identity(context, op, x.tiles.dtype)
    padding = [tuple(p["padding"][a]) for a in x.axes[1:]]
    x, padding = _with_padding(context, x, padding, identity)
    found = [
        window_and_cut(
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
    ]
    axes, cut = zip(*found, strict=True)
    pad_value = _around(x, identity)
    size, strides, dilation = (
        tuple(p[name][a] for a in x.axes[1:])
        for name in ("window_dimensions", "window_strides", "window_dilation")
    )
    usual = op.name in _IDENTITY and {*moves} <= {*x.axes} and x.tiles.dtype != bool
    known = usual and pad_value == identity and dilation == (1, 1)
    if known and all(min(axis.before, axis.after) >= 0 for axis in axes):
        result = context.pool(x, _halo(axes), pad_value, (op.name, size, strides))
        if result is not None:
            return cut_off(context, x.new(result), cut)
    tiles = read_window(context, x, axes, pad_value)
    if not usual:
        return cut_off(context, x.new(_pool_plainly(op, x, tiles, outside)), cut)
    result = lowering.pool(tiles, op.name, size=size, strides=strides, dilation=dilation)
    return cut_off(context, x.new(result), cut)


def _keeps(op, value: np.ndarray) -> bool:
    """Whether a program's function makes a value of twice the same."""
    still = {name: (one,) for name, one in _STILL.items()} | {"padding": ((0, 0),)}
    with jax.ensure_compile_time_eval():
        (twice,) = op.bind(jnp.asarray(value)[None], jnp.asarray(value), **still)
        return bool((twice == value).all())


_STILL = {"window_dimensions": 1, "window_strides": 1, "window_dilation": 1, "base_dilation": 1}


def _moves(params: dict, axis: int) -> bool:
    """Whether a window moves along an axis."""
    still = all(params[name][axis] == one for name, one in _STILL.items())
    return not still or any(params["padding"][axis])


def _pool_plainly(op, x: Blocked, tiles, outside):
    """The operation itself on tiles, which have their halo."""
    params = {name: tuple(op.params[name][a] for a in x.order) for name in (*_STILL, "padding")}
    around = tuple((0, 0) if i < 3 else pads for i, pads in enumerate(params["padding"]))
    (result,) = op.bind(tiles, *map(plain, outside), **params | {"padding": around})
    return result
