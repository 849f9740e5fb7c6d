"""Operations along axes that are not space: arg-max, sorting, joining, slices, writes."""

import jax
import jax.numpy as jnp
import numpy as np

from bc_jax import lowering
from bc_jax.sparse.pointwise import bare
from bc_jax.sparse.rules.elementwise import leader
from bc_jax.sparse.rules.joined import join
from bc_jax.sparse.rules.reductions import after_removing
from bc_jax.sparse.rules.registry import rule
from bc_jax.sparse.rules.window import finish_move
from bc_jax.sparse.values import Blocked, Declined, plain


@rule("argmax", "argmin")
def arg_reduce(context, op, x):
    """Arg-max and arg-min over an axis that is not space."""
    x = leader([x])
    (axis,) = op.params["axes"]
    _not_space(x, axis)
    (tiles,) = op.bind(x.tiles, axes=(x.tile_axis(axis),))
    return x.new(tiles, after_removing(x.axes, (axis,)))


@rule("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
def cumulative(context, op, x):
    """Cumulative reductions along an axis that is not space."""
    x = leader([x])
    _not_space(x, op.params["axis"])
    (tiles,) = op.bind(x.tiles, axis=x.tile_axis(op.params["axis"]))
    return x.new(tiles)


@rule("sort")
def sort(context, op, *operands):
    """Sorts along an axis that is not space, as a constant's numbers of places with values."""
    first = leader(operands)
    _not_space(first, op.params["dimension"])
    dimension = first.tile_axis(op.params["dimension"])
    tiles = [_tiles(context, x, first) for x in operands]
    return [first.new(t) for t in op.bind(*tiles, dimension=dimension)]


@rule("top_k")
def top_k(context, op, x):
    """The largest entries along an axis that is not space."""
    x = leader([x])
    axis = op.params.get("axis", x.rank - 1) % x.rank
    _not_space(x, axis)
    at = x.tile_axis(axis)
    values, indices = jax.lax.top_k(jnp.moveaxis(x.tiles, at, -1), op.params["k"])
    return [x.new(jnp.moveaxis(t, -1, at)) for t in (values, indices)]


def _not_space(x: Blocked, axis: int) -> None:
    if axis in x.axes:
        raise Declined("runs along streams" if axis == x.axes[0] else "runs along space")


@rule("concatenate")
def concatenate(context, op, *operands):
    """Along an axis that is not space; whole and constant parts are cut into tiles."""
    first = next((x for x in operands if isinstance(x, Blocked)), None) or leader(operands)
    if first.merged and not first.batched and op.params["dimension"] == first.axes[1]:
        return join(context, operands, first.axes[1])
    _not_space(first, op.params["dimension"])
    leader(operands)
    axis = first.tile_axis(op.params["dimension"])
    tiles = [_tiles(context, x, first) for x in operands]
    return first.new(lowering.concatenate(tiles, axis=axis))


def _tiles(context, x, first: Blocked) -> jax.Array:
    """The tiles of a value, as many and as large as those of `first`."""
    if isinstance(x, Blocked):
        return x.tiles
    rest = (x.shape[axis] for axis in first.rest)
    return jnp.broadcast_to(context.align(x, first), (*first.tiles.shape[:3], *rest))


@rule("split")
def split(context, op, x):
    """Along an axis that is not space."""
    x = leader([x])
    _not_space(x, op.params["axis"])
    parts = op.bind(x.tiles, axis=x.tile_axis(op.params["axis"]))
    return [x.new(part) for part in parts]


@rule("rev")
def rev(context, op, x):
    """Along axes that are not space."""
    x = leader([x])
    for axis in op.params["dimensions"]:
        _not_space(x, axis)
    dimensions = x.tile_axes(op.params["dimensions"])
    return x.new(jax.lax.rev(x.tiles, dimensions))


@rule("tile")
def tile(context, op, x):
    """Repeats axes that are not space."""
    x = leader([x])
    reps = op.params["reps"]
    for axis in x.axes:
        if reps[axis] != 1:
            _not_space(x, axis)
    return x.new(jnp.tile(x.tiles, (1, 1, 1, *(reps[axis] for axis in x.rest))))


# What is at a place that is written to becomes this of itself and what is written.
WRITES = {
    "scatter": lambda kept, new: new,
    "scatter-add": jnp.add,
    "scatter-sub": jnp.subtract,
    "scatter-mul": jnp.multiply,
    "scatter-min": jnp.minimum,
    "scatter-max": jnp.maximum,
}


@rule(*WRITES)
def scatter(context, op, x, indices, updates):
    """Writes at known places of an axis that is not space."""
    if _applies(op):
        raise Declined("applies a function to what it writes over")
    numbers, (shape, _, new) = op.params["dimension_numbers"], op.in_shapes
    index = context.program.static(op.inputs[1])
    if index is None or index.shape != (1,) or numbers.operand_batching_dims:
        raise Declined("writes at places that are computed, or at several")
    (axis,), (start,) = numbers.scatter_dims_to_operand_dims, index.tolist()
    if numbers.inserted_window_dims == (axis,):  # a single place, without an axis of its own
        updates, new = _with_axis(context, updates, axis), (*new[:axis], 1, *new[axis:])
    if new != tuple(new[axis] if a == axis else size for a, size in enumerate(shape)):
        raise Declined("writes into a part of space")
    return _write(context, op, x, updates, axis, start, new[axis])


def _applies(op) -> bool:
    """Whether a scatter puts a function of what was there in its place, and not what is new."""
    function = op.params.get("update_jaxpr") if op.name == "scatter" else None
    return function is not None and bare(function).outvars != bare(function).invars[1:]


@rule("dynamic_update_slice")
def dynamic_update_slice(context, op, x, updates, *starts):
    """As scatter, where the start is known while tracing."""
    shape, new = op.in_shapes[:2]
    known = [context.program.static(i) for i in op.inputs[2:]]
    axes = [a for a, (size, part) in enumerate(zip(shape, new, strict=True)) if size != part]
    if len(axes) != 1 or known[axes[0]] is None:
        raise Declined("writes at places that are computed, or into a part of space")
    (axis,) = axes
    start = int(np.clip(known[axis], 0, shape[axis] - new[axis]))
    return _write(context, op, x, updates, axis, start, new[axis])


def _with_axis(context, value, axis: int):
    """A value with an axis of size one at a place of its own."""
    if not isinstance(value, Blocked):
        value = plain(value)
        return jnp.expand_dims(value, axis)
    value = leader([value])
    axes = tuple(a + (a >= axis) for a in value.axes)
    at = 3 + sum(a < axis for a in value.rest)
    return value.new(jnp.expand_dims(value.tiles, at), axes)


def _write(context, op, x, updates, axis: int, start: int, size: int) -> Blocked:
    """Updates written at `size` places of an axis, from `start` on."""
    first = leader([x, updates])
    _not_space(first, axis)
    if not 0 <= start <= op.in_shapes[0][axis] - size:
        raise Declined("writes outside the array")
    x, updates = (_tiles(context, value, first) for value in (x, updates))
    at = first.tile_axis(axis)
    before, kept, after = jnp.split(x, (start, start + size), at)
    written = WRITES.get(op.name, WRITES["scatter"])(kept, updates).astype(x.dtype)
    return first.new(lowering.concatenate([before, written, after], axis=at))


@rule("slice")
def slice_(context, op, x):
    """Cuts channels; what it cuts off the image's sides is noted, and windows then leave it out."""
    p = op.params
    return _slice(context, op, x, p["start_indices"], p["limit_indices"], p["strides"])


@rule("dynamic_slice")
def dynamic_slice(context, op, x, *starts):
    """As slice, where the start is known while tracing."""
    known = [context.program.static(i) for i in op.inputs[1:]]
    if any(k is None for k in known):
        raise Declined("slices at a place that is computed")
    sizes, shape = op.params["slice_sizes"], op.in_shapes[0]
    at = [int(np.clip(k, 0, d - s)) for k, d, s in zip(known, shape, sizes, strict=True)]
    return _slice(context, op, x, at, [a + s for a, s in zip(at, sizes, strict=True)], None)


def _slice(context, op, x: Blocked, start, limit, strides) -> Blocked:
    if not isinstance(x, Blocked):
        raise Declined("")
    strides, shape = strides or (1,) * x.rank, op.in_shapes[0]
    index, sides, steps = [slice(None)] * x.tiles.ndim, [(0, 0), (0, 0)], [1, 1]
    for axis in range(x.rank):
        first, last, step = int(start[axis]), int(limit[axis]), int(strides[axis])
        if axis not in x.axes:
            index[x.tile_axis(axis)] = slice(first, last, step)
        elif (first, last, step) == (0, shape[axis], 1):
            continue
        elif axis == x.axes[0]:
            raise Declined("selects streams")
        elif x.merged:
            raise Declined("cuts a part out along space")
        else:
            along = x.axes[1:].index(axis)
            tile = x.tiles.shape[1 + along]
            every = tile % step == 0 and first < step and last > shape[axis] - step + first
            if every and step > 1 and x.pad[along] == (0, 0):  # of each tile as many
                index[1 + along] = slice(first, None, step)
            else:
                sides[along], steps[along] = (-first, last - shape[axis]), step
    tiles = x.tiles[tuple(index)]
    if tiles.shape != x.tiles.shape:
        x = x.same(tiles=tiles, key=f"{op.outputs[0]}_cut", dense=None, fresh=False)
    x = x.moved(sides)
    return finish_move(context, x, tuple(steps)) if steps != [1, 1] else x
