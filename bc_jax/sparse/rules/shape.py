"""Operations that move or reshape axes, and padding."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from bc_jax.sparse.borders import Border
from bc_jax.sparse.rules.elementwise import leader, with_stream
from bc_jax.sparse.rules.registry import rule
from bc_jax.sparse.values import NO_PAD, Blocked, Declined, plain, varies
from bc_jax.sparse.windows import fill


@rule("transpose")
def transpose(context, op, x):
    """Renames the axes; only those that are not space change the tiles."""
    if not isinstance(x, Blocked):
        raise Declined("")
    permutation = tuple(op.params["permutation"])
    axes = tuple(permutation.index(a) for a in x.axes)
    rest = [x.tile_axis(a) for a in permutation if a in x.rest]
    if rest == sorted(rest):
        pad = x.pad
        return x.same(axes=axes, pad=pad)
    if x.pad != NO_PAD:
        raise Declined("transposes a padded image")
    return x.new(jnp.transpose(x.tiles, (0, 1, 2, *rest)), axes)


@rule("squeeze")
def squeeze(context, op, x):
    """Drops axes of size one that are not space."""
    x = leader([x])
    removed = tuple(op.params["dimensions"])
    if x.stream in removed:
        raise Declined("drops the axis of streams")
    if any(a in x.axes for a in removed):
        raise Declined("drops an axis of space")
    tiles = jnp.squeeze(x.tiles, x.tile_axes(removed))
    axes = tuple(a - sum(r < a for r in removed) for a in x.axes)
    return x.new(tiles, axes)


@rule("broadcast_in_dim")
def broadcast_in_dim(context, op, x, *dynamic):
    """Adds axes and repeats along them, space staying as it is."""
    shape, target = op.params["shape"], tuple(op.params["broadcast_dimensions"])
    x = leader([x])
    before = context.shape(x)
    axes = tuple(target[a] for a in x.axes)
    if any(shape[target[a]] != before[a] for a in x.axes):
        raise Declined("repeats along space")
    # Operand axes keep their order, so the tiles' rest does too.
    rest = [a for a in range(len(shape)) if a not in axes]
    sizes = x.tiles.shape[:3] + tuple(shape[a] for a in rest)
    dims = (0, 1, 2, *(3 + rest.index(target[a]) for a in x.rest))
    tiles = jax.lax.broadcast_in_dim(x.tiles, sizes, dims)
    return x.new(tiles, axes)


@rule("reshape")
def reshape(context, op, x):
    """Splits and merges axes as long as blocks stay apart (depth-to-space, head splitting).

    Rows and columns may become one axis, or streams, rows and columns, and be apart again.
    """
    cut = isinstance(x, Blocked) and x.pad != NO_PAD and not x.grows
    x = x if cut else leader([x]).apart()
    if op.params.get("dimensions") is not None:
        raise Declined("reshapes in another order")
    after, declined = tuple(op.params["new_sizes"]), []
    for axis in (x.stream, *x.rest):
        image = with_stream(context, x, axis)
        if image is x and axis != x.stream:
            continue
        try:
            return _to_shape(context, image, after, cut)
        except Declined as why:
            declined.append(why)
    raise declined[0]


def _to_shape(context, x: Blocked, after: tuple[int, ...], cut: bool) -> Blocked:
    try:
        return _reshape(context, x, after)
    except Declined:
        merging = None if cut else _merging(context.shape(x), after, x.axes)
        if merging is None:
            raise
    at, sizes = merging
    apart = (*after[:at], *sizes, *after[at + 1 :])
    result = _reshape(context, x, apart)
    n, *space = result.axes
    if (n, *space)[-len(sizes) :] != tuple(range(at, at + len(sizes))):
        raise Declined("merges an axis of space into another")
    n = at if len(sizes) == 3 else n - (n > at)
    return result.same(axes=(n, at, at))


def _merging(before, after, axes) -> tuple[int, tuple[int, ...]] | None:
    """Where rows and columns, or streams too, become one axis, and their sizes; None if nowhere.

    Each has with it what is between it and the next, as windows' own rows.
    """
    for merged in (axes[1:], axes):
        if list(merged) != sorted(merged):
            continue
        ahead = math.prod(before[: merged[0]])
        for end in range(merged[-1] + 1, len(before) + 1):
            sizes = tuple(math.prod(before[a:b]) for a, b in itertools.pairwise((*merged, end)))
            # Streams ahead keep an axis of their own where the new shape has one for them.
            at = place_after(after, math.prod(sizes), ahead, first=int(axes[0] < merged[0]))
            if at is not None:
                return at, sizes
    return None


def place_after(shape, size: int, ahead: int, first: int = 0) -> int | None:
    """The axis of a new shape, from the `first` on, of a size and with as many elements ahead."""
    places = (i for i, side in enumerate(shape) if side == size and i >= first)
    return next((i for i in places if math.prod(shape[:i]) == ahead), None)


def _reshape(context, x: Blocked, after: tuple[int, ...]) -> Blocked:
    """To a shape in which rows and columns are axes of their own."""
    before, tile = x.canvas(context.shape(x)), dict(zip(x.axes, x.tiles.shape, strict=False))
    cut = dict(zip(x.axes, ((0, 0), *x.pad), strict=True))
    if after == before:
        return x
    axes: dict[int, int] = {}
    split_shape: list[int] = []  # the tile's shape in the program's order, N being 1
    for old, new in _groups(before, after, x.axes[0]):
        space = [a for a in old if a in x.axes]
        if not space:
            split_shape += [after[a] for a in new]
            continue
        axis = space[0]
        leading = [a for a in old if before[a] > 1 or a == axis]
        if axis == x.axes[0] and before[axis] == 1 and len(space) > 1:
            raise Declined("drops the axis of streams")
        if len(space) > 1 or leading[0] != axis:
            raise Declined("merges an axis of space into another")
        candidates = [a for a in new if after[a] > 1] or list(new)
        if not candidates:
            raise Declined("drops an axis of space")
        at = candidates[0]
        if axis == x.axes[0] and (after[at] != before[axis] or len(leading) > 1):
            raise Declined("mixes streams")
        # What is cut goes with the pixels beside it.
        whole = [size * after[at] for size in (tile[axis], *cut[axis])]
        if axis != x.axes[0] and any(size % before[axis] for size in whole):
            raise Declined("cuts blocks apart")
        tile[axis], *sides = (size // before[axis] for size in whole)
        axes[axis], cut[axis] = at, tuple(sides)
        split_shape += [tile[axis] if a == at else after[a] for a in new]
    new_axes = tuple(axes[a] for a in x.axes)
    # Tiles in the program's order, K in the place of N; reshaped; and back.
    order = x.order
    tiles = jnp.transpose(x.tiles, tuple(order.index(a) for a in range(x.rank)))
    split_shape[new_axes[0]] = context.blocks.capacity
    tiles = tiles.reshape(split_shape)
    rest = [a for a in range(len(after)) if a not in new_axes]
    tiles = jnp.transpose(tiles, (*new_axes, *rest))
    return x.new(tiles, new_axes).same(pad=tuple(cut[a] for a in x.axes[1:]))


def _groups(before, after, stream):
    """Pair runs of old and new axes whose sizes multiply to the same."""
    groups, i, j = [], 0, 0
    while i < len(before) or j < len(after):
        old, new = [], []
        if i < len(before):
            old.append(i)
            i += 1
        if j < len(after):
            new.append(j)
            j += 1
        while True:
            a, b = _product(before, old), _product(after, new)
            if a == b and (old or i == len(before)) and (new or j == len(after)):
                break
            if (a < b or not old) and i < len(before):
                old.append(i)
                i += 1
            elif j < len(after):
                new.append(j)
                j += 1
            else:
                raise Declined("reshapes across space")
        groups.append((old, new))
    # Axes of size one at a group's end may belong to the next one; an axis of space needs a place.
    return groups


def _product(shape, axes):
    result = 1
    for a in axes:
        result *= shape[a]
    return result


@rule("pad")
def pad(context, op, x, value):
    """Pads channels, and between pixels; around the image it only notes it, for what reads it."""
    if not isinstance(x, Blocked):
        raise Declined("")
    if varies(value):
        raise Declined("pads with a computed value")
    config = op.params["padding_config"]
    space = [tuple(int(v) for v in config[a]) for a in x.axes]
    if x.merged and any(space[1]):
        raise Declined("pads the axis that rows and columns were merged into")
    if space[0] != (0, 0, 0):
        raise Declined("adds or drops streams")
    rest = [tuple(int(v) for v in config[a]) for a in x.rest]
    gaps = [gap for *_, gap in space[1:]]
    around = tuple((low, high - gap) for low, high, gap in space[1:])
    if any(map(any, rest)) or any(gaps):
        if x.grows:
            raise Declined("pads what was padded around it before, between pixels or channels")
        # As many gaps behind the last pixel as between others, so that all tiles are alike.
        inner = [(0, 0, 0), *((0, gap, gap) for gap in gaps), *rest]
        cut = [(low * (g + 1), high * (g + 1)) for (low, high), g in zip(x.pad, gaps, strict=True)]
        x = x.new(jax.lax.pad(x.tiles, plain(value), inner))
        x = x.same(key=f"{op.outputs[0]}_inner", pad=tuple(cut))
    if around == NO_PAD:
        return x
    constant = context.program.static(op.inputs[1])
    if constant is None or np.iscomplexobj(constant):
        raise Declined("pads with a computed value, or a complex one")
    return put_around(context, x, around, float(constant))


def put_around(context, x: Blocked, around, constant: float) -> Blocked:
    """The image, with a number around it: ((top, bottom), (left, right)), or cut."""
    x, around = filled_where_cut(context, x, around, constant)
    return x.moved(around, constant)


def filled_where_cut(context, x: Blocked, around, constant, gaps=(1, 1)):
    """The image with a number where it was cut and is padded anew, and what is left to pad.

    With gaps between its pixels, which the number is also put in, padding is of these.
    """
    again = [
        [old < 0 < new for old, new in zip(*sides, strict=True)]
        for sides in zip(x.pad, around, strict=True)
    ]
    if not any(map(any, again)):
        return x, around
    if x.grows and not isinstance(x.pad_value, Border) and x.pad_value != constant:
        raise Declined("the image is padded twice, with one value and with another")

    def where(sides, others):
        each = zip(again, sides, others, strict=True)
        return tuple(tuple(a if w else b for w, a, b in zip(*s, strict=True)) for s in each)

    cut = where([(-low, -high) for low, high in x.pad], NO_PAD)
    tiles = fill(x.tiles, context.blocks, jnp.asarray(constant, x.tiles.dtype), cut=cut)
    left = [
        tuple(old * gap + new for old, new in zip(*sides, strict=True))
        for *sides, gap in zip(x.pad, around, gaps, strict=True)
    ]
    filled = x.new(tiles).same(
        pad=where(NO_PAD, x.pad), pad_value=x.pad_value, key=f"{x.key}_{cut}_{constant}"
    )
    return filled, where(left, around)
