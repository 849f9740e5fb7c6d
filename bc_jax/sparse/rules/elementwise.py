"""Operations that treat each element by itself: they run on the tiles as they are."""

import jax
import jax.numpy as jnp

from bc_jax.sparse import pointwise
from bc_jax.sparse.pointwise import NAMES, OWN_DERIVATIVE
from bc_jax.sparse.rules.registry import rule
from bc_jax.sparse.values import NO_PAD, Blocked, Declined

# Operations from a maximum to where it is subtracted: broadcasts, checks that it is finite.
_AFTER_MAXIMUM = 8


def leader(operands) -> Blocked:
    """The blocked operand that sets the layout; declines where the operands' layouts differ."""
    blocked = [x for x in operands if isinstance(x, Blocked)]
    if not blocked:
        raise Declined("")
    first = blocked[0]
    for x in blocked:
        if x.pad != NO_PAD:
            raise Declined("the image is padded or cut by an operation that is not a window's")
        if x.axes != first.axes or x.tiles.shape[1:3] != first.tiles.shape[1:3]:
            raise Declined("operands lie differently in space")
    return first


def with_stream(context, x: Blocked, axis: int) -> Blocked:
    """The same, where there is one stream, whose axis can be any that is as long: that one."""
    shape, axes = context.shape(x), (axis, *x.axes[1:])
    alone = shape[axis] == shape[x.stream] == 1 and not x.batched
    if axis in x.axes or not alone or x.pad != NO_PAD:
        return x
    rest = [size for a, size in enumerate(shape) if a not in axes]
    tiles, dense = (t if t is None else t.reshape(*t.shape[:3], *rest) for t in (x.tiles, x.dense))
    return x.new(tiles, axes).same(key=f"{x.key}_stream_{axis}", dense=dense, fresh=x.fresh)


@rule(*NAMES)
def elementwise(context, op, *operands):
    """Any number of operands, each blocked alike, or whole or constant and broadcast to it."""
    first, tiles = _tiles(context, operands)
    if op.name == "sub" and _is_softmax_over(first.axes, context.program, op):
        raise Declined(
            "a softmax over pixels or streams is of one frame; parts of several would not sum to 1"
        )
    if op.name in ("select_n", "clamp"):  # these want operands of one shape, or scalars
        shape = jnp.broadcast_shapes(*[t.shape for t in tiles])
        tiles = [t if t.ndim == 0 else jnp.broadcast_to(t, shape) for t in tiles]
    (result,) = op.bind(*tiles)
    widens = op.name == "convert_element_type" and result.itemsize > first.tiles.itemsize
    return first.new(result).same(narrow=first if widens else None)


@rule(*OWN_DERIVATIVE)
def own_derivative(context, op, *operands):
    """Only what is pointwise reaches the interpreter as a call; see `pointwise`."""
    first, tiles = _tiles(context, operands)
    return [first.new(result) for result in pointwise.apply(op, tiles)]


def _is_softmax_over(axes: tuple[int, ...], program, op) -> bool:
    """Whether exponentials follow of a value less its own maximum over one of some axes."""
    value, *found = op.inputs
    if "exp" not in {reader.name for x in op.outputs for reader in program.readers[x]}:
        return False
    for _ in range(_AFTER_MAXIMUM):
        makers = [program.producers[x] for x in found if x in program.producers]
        for maker in makers:
            if maker.name == "reduce_max" and maker.inputs[0] == value:
                return bool({*maker.params["axes"]} & {*axes})
        found = [x for maker in makers for x in maker.inputs if isinstance(x, int) and x != value]
    return False


def _tiles(context, operands) -> tuple[Blocked, list]:
    """The operand that sets the layout, and what of each operand belongs to the tiles."""
    blocked = [x for x in operands if isinstance(x, Blocked)]
    if len({x.axes for x in blocked}) > 1:
        at = blocked[0].stream
        operands = [with_stream(context, x, at) if isinstance(x, Blocked) else x for x in operands]
    first = leader(operands)
    tiles = [x.tiles if isinstance(x, Blocked) else context.align(x, first) for x in operands]
    return first, tiles


@rule("bitcast_convert_type")
def bitcast(context, op, x):
    """The same bits as numbers of another type; the last axis may go, or come, with their size."""
    x = leader([x])
    if len(op.out_avals[0].shape) < x.rank and x.rank - 1 in x.axes:
        raise Declined("makes one number of several along space")
    return x.new(*op.bind(x.tiles))


AS_THEY_ARE = ("optimization_barrier", "sharding_constraint")


@rule(*AS_THEY_ARE)
def as_they_are(context, op, *operands):
    """What says how a program is to be compiled, of all of an array, says nothing of its tiles."""
    if not any(isinstance(x, Blocked) for x in operands):
        raise Declined("")
    return list(operands)


def tiles_of(context, x, first: Blocked) -> jax.Array:
    """The tiles of a value, as many and as large as those of `first`."""
    if isinstance(x, Blocked):
        return x.tiles
    rest = (x.shape[axis] for axis in first.rest)
    return jnp.broadcast_to(context.align(x, first), (*first.tiles.shape[:3], *rest))
