"""Parts of arrays: written into others, channels as well as a part of space, and joined to images.

A part of space is moved to its place, with all of the image that it was cut out of, and pixels
beside it are those of what it is written into. So an image made of many parts would be computed as
many times.
"""

import jax
import jax.numpy as jnp
import numpy as np

from bc_jax import lowering
from bc_jax.sparse.pointwise import bare
from bc_jax.sparse.rules.elementwise import leader, tiles_of
from bc_jax.sparse.rules.registry import rule
from bc_jax.sparse.rules.shape import put_around
from bc_jax.sparse.rules.window import move
from bc_jax.sparse.values import NO_PAD, Blocked, Declined, Whole, plain
from bc_jax.sparse.windows import fill

_PARTS = 4

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
    """Writes at known places of channels, and at one of space, of parts of some size."""
    if _applies(op):
        raise Declined("applies a function to what it writes over")
    numbers, (*_, new) = op.params["dimension_numbers"], op.in_shapes
    index = context.program.static(op.inputs[1])
    if index is None or index.ndim > 2 or numbers.operand_batching_dims:
        raise Declined("writes at places that are computed, or at several along several axes")
    if index.ndim == 2:
        return _write_at_places(context, op, x, index, updates)
    starts = dict(zip(numbers.scatter_dims_to_operand_dims, index.tolist(), strict=True))
    for axis in sorted(numbers.inserted_window_dims):  # a single place, without an axis of its own
        updates, new = _with_axis(context, updates, axis), (*new[:axis], 1, *new[axis:])
    return _write(context, op, x, updates, [starts.get(a, 0) for a in range(len(new))], new)


def _applies(op) -> bool:
    """Whether a scatter puts a function of what was there in its place, and not what is new."""
    function = op.params.get("update_jaxpr") if op.name == "scatter" else None
    return function is not None and bare(function).outvars != bare(function).invars[1:]


@rule("dynamic_update_slice")
def dynamic_update_slice(context, op, x, updates, *starts):
    """As scatter, where the start is known while tracing."""
    shape, new = op.in_shapes[:2]
    room = [size - part for size, part in zip(shape, new, strict=True)]
    known = [
        context.program.static(i) if r else 0 for i, r in zip(op.inputs[2:], room, strict=True)
    ]
    if any(k is None for k in known):
        raise Declined("writes at places that are computed")
    starts = [int(np.clip(k, 0, r)) for k, r in zip(known, room, strict=True)]
    return _write(context, op, x, updates, starts, new)


def _write_at_places(context, op, x, index, updates) -> Blocked:
    """Updates written at several places of channels, which are last."""
    numbers, (shape, _, new) = op.params["dimension_numbers"], op.in_shapes
    first = leader([x, updates])
    pixels = numbers.update_window_dims[:3] == (0, 1, 2) == first.axes and new[:3] == shape[:3]
    if not pixels or min(numbers.scatter_dims_to_operand_dims) < 3 or len(new) != len(shape):
        raise Declined("writes at several places, not of channels alone")
    x, updates = (tiles_of(context, value, first) for value in (x, updates))
    (result,) = op.bind(x, index, updates)
    return first.new(result)


def _with_axis(context, value, axis: int):
    """A value with an axis of size one at a place of its own."""
    if not isinstance(value, Blocked):
        value = plain(value)
        return jnp.expand_dims(value, axis)
    value = leader([value])
    axes = tuple(a + (a >= axis) for a in value.axes)
    at = 3 + sum(a < axis for a in value.rest)
    return value.new(jnp.expand_dims(value.tiles, at), axes)


def _write(context, op, x, updates, starts, sizes) -> Blocked:
    """Updates of some sizes, written from `starts` on, of each axis."""
    room = [whole - size for whole, size in zip(op.in_shapes[0], sizes, strict=True)]
    around = {
        axis: (start, r - start) for axis, (start, r) in enumerate(zip(starts, room, strict=True))
    }
    if any(side < 0 for sides in around.values() for side in sides):
        raise Declined("writes outside the array")
    updates = _placed(context, updates, around, like=x)
    first = leader([x, updates])
    channels = [axis for axis in first.rest if room[axis]]
    cut = tuple(around[axis] for axis in first.axes[1:])
    if room[first.stream] or (first.merged and cut != NO_PAD) or len(channels) > 1:
        raise Declined("writes at several places of channels, or for some streams alone")
    x, updates = (tiles_of(context, value, first) for value in (x, updates))
    axis = (channels or [first.rest[0] if first.rest else first.stream])[0]
    at = first.tile_axis(axis)
    ends = (starts[axis], starts[axis] + sizes[axis]) if channels else (0, x.shape[at])
    before, kept, after = jnp.split(x, ends, at)
    written = WRITES.get(op.name, WRITES["scatter"])(kept, updates).astype(x.dtype)
    written = fill(jnp.broadcast_to(written, kept.shape), context.blocks, kept, cut=cut)
    return first.new(lowering.concatenate([before, written, after], axis=at))


def _placed(context, x, around, like):
    """A part of an image, as large as all of it and in its place; `around[axis]` is beside it."""
    image = x if isinstance(x, Blocked) else like
    if not isinstance(image, Blocked):
        raise Declined("")
    space = [around.get(axis, (0, 0)) for axis in image.axes[1:]]
    if isinstance(x, Blocked):
        both = zip(x.pad, space, strict=True)
        pad = tuple((low + before, high + after) for (low, high), (before, after) in both)
        return move(context, x, pad)
    array = jnp.asarray(x.array if isinstance(x, Whole) else x)
    config = [(0, 0, 0)] * array.ndim
    for axis, sides in zip(image.axes[1:], space, strict=True):
        config[axis] = (0, 0, 0) if array.shape[axis] == 1 else (*sides, 0)
    return jax.lax.pad(array, jnp.zeros((), array.dtype), config)


def join_parts(context, op, operands) -> Blocked:
    """An image with constants around it, or made of parts of images in their places."""
    axis, first = op.params["dimension"], next(x for x in operands if isinstance(x, Blocked))
    if len({x.axes for x in operands if isinstance(x, Blocked)}) > 1 or first.merged:
        raise Declined("runs along space")
    sizes, ends = [shape[axis] for shape in op.in_shapes], []
    for i in range(len(sizes)):
        ends.append((sum(sizes[:i]), sum(sizes[i + 1 :])))
    numbers = [
        None if isinstance(x, Blocked) else _number(context.program.static(of))
        for x, of in zip(operands, op.inputs, strict=True)
    ]
    if numbers.count(None) == 1 and len({*numbers}) == 2:
        (number,), at = {*numbers} - {None}, numbers.index(None)
        around = tuple(ends[at] if a == axis else (0, 0) for a in first.axes[1:])
        return put_around(context, operands[at], around, number)
    if len(operands) > _PARTS:
        raise Declined("joins many parts of images")
    made = None
    for x, number, (before, after) in zip(operands, numbers, ends, strict=True):
        cut = tuple((before, after) if a == axis else (0, 0) for a in first.axes[1:])
        if number is None:
            part = leader([_placed(context, x, {axis: (before, after)}, like=first)]).tiles
        else:
            part = jnp.full_like(made if made is not None else first.tiles, number)
        made = part if made is None else fill(part, context.blocks, made, cut=cut)
    return first.new(made)


def _number(known: np.ndarray | None) -> float:
    """The only one in an array that is known."""
    if known is None or np.iscomplexobj(known) or len({*known.ravel().tolist()}) != 1:
        raise Declined("joins an image to what is computed, or to several numbers")
    return float(known.flat[0])
