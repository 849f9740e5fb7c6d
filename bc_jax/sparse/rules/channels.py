"""Operations along axes that are not space: arg-max, sorting, joining, slices."""

import jax
import jax.numpy as jnp
import numpy as np

from bc_jax import lowering
from bc_jax.sparse.borders import Filled
from bc_jax.sparse.rules.elementwise import leader, tiles_of
from bc_jax.sparse.rules.joined import join
from bc_jax.sparse.rules.parts import join_parts
from bc_jax.sparse.rules.reductions import after_removing
from bc_jax.sparse.rules.registry import rule
from bc_jax.sparse.rules.window import finish_move
from bc_jax.sparse.values import Blocked, Declined


@rule("argmax", "argmin")
def arg_reduce(context, op, x):
    """Arg-max and arg-min over an axis that is not space."""
    x = leader([x])
    (axis,) = op.params["axes"]
    _not_space(x, axis)
    (tiles,) = op.bind(x.tiles, axes=(x.tile_axis(axis),))
    return x.new(tiles, after_removing(x.axes, (axis,)))


CUMULATIVE = ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")


@rule(*CUMULATIVE)
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
    tiles = [tiles_of(context, x, first) for x in operands]
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
    """Along an axis that is not space; whole and constant parts are cut into tiles.

    And parts of images, or constants around an image, along space.
    """
    first = next((x for x in operands if isinstance(x, Blocked)), None) or leader(operands)
    if first.merged and not first.batched and op.params["dimension"] == first.axes[1]:
        return join(context, operands, first.axes[1])
    if op.params["dimension"] in first.axes[1:]:
        try:
            return join_parts(context, op, operands)
        except Declined as declined:
            raise Declined("runs along space") from declined
    _not_space(first, op.params["dimension"])
    leader(operands)
    axis = first.tile_axis(op.params["dimension"])
    tiles = [tiles_of(context, x, first) for x in operands]
    return first.new(lowering.concatenate(tiles, axis=axis))


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
        if isinstance(x.pad_value, Filled):
            x = x.same(pad_value=Filled(x.pad_value.tile[(..., *index[3:])], x.key))
    x = x.moved(sides)
    return finish_move(context, x, tuple(steps)) if steps != [1, 1] else x
