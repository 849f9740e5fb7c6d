"""Products of each pixel with all pixels, as attention has them.

Queries stay in blocks; keys and values are remembered for the whole frame, so that an executed
block looks at all of it: at the new of what is executed, and at the kept of the rest. So scores and
what is made of them cost what the executed blocks cost.
"""

from typing import NamedTuple

import jax.numpy as jnp

from bc_jax import lowering
from bc_jax.sparse.values import Blocked, Declined, Whole


class _Side(NamedTuple):
    """An operand of a product: its value, and its axes that are contracted, and of the batch."""

    value: object
    contract: tuple[int, ...]
    batch: tuple[int, ...]


def against_all(context, op, lhs, rhs) -> Blocked:
    """A batch of products of a blocked value, each pixel by itself, with all of another."""
    (lhs_contract, rhs_contract), (lhs_batch, rhs_batch) = op.params["dimension_numbers"]
    sides = [_Side(lhs, lhs_contract, lhs_batch), _Side(rhs, rhs_contract, rhs_batch)]
    possible = [i for i in (0, 1) if _stays(sides[i])]
    if len(possible) == 2:
        possible = _queries(context.program, op, sides)
    if not possible or not isinstance(sides[1 - possible[0]].value, Blocked | Whole):
        raise Declined("mixes pixels with pixels")
    return _product(context, op, sides[possible[0]], sides[1 - possible[0]], possible == [0])


def _stays(side: _Side) -> bool:
    """Whether a value's pixels are apart in the product, streams with themselves."""
    x = side.value
    if not isinstance(x, Blocked):
        return False
    stream, *space = x.axes
    return stream in side.batch and not {*side.contract, *side.batch} & {*space}


def _queries(program, op, sides: list[_Side]) -> list[int]:
    """Which side's pixels stay apart: those of the other are summed over in what follows."""
    at, places = len(sides[0].batch), []
    for side in sides:
        free = [a for a in range(side.value.rank) if a not in (*side.contract, *side.batch)]
        places.append({at + free.index(a) for a in side.value.axes[1:]})
        at += len(free)
    summed = _summed(program, op.outputs[0])
    return [i for i in (0, 1) if places[1 - i] <= summed and not places[i] & summed]


def _summed(program, value: int) -> set[int]:
    """The axes that the next operation which sums a value up, as a softmax does, sums over."""
    shape, axes = program.avals[value].shape, range(len(program.avals[value].shape))
    seen, found = {value: tuple(axes)}, [value]  # each with the axes as the product has them
    while found:
        value = found.pop(0)
        order = seen[value]
        for reader in program.readers[value]:
            if reader.name in ("reduce_max", "reduce_sum"):
                return {order[a] for a in reader.params["axes"]}
            if reader.name == "dot_general":
                contract = reader.params["dimension_numbers"][0]
                return {order[a] for a in contract[reader.inputs[0] != value]}
            turned = order
            if reader.name == "transpose":
                turned = tuple(order[a] for a in reader.params["permutation"])
            for result in reader.outputs:
                if program.avals[result].shape == tuple(shape[a] for a in turned):
                    if result not in seen:
                        found.append(result)
                    seen.setdefault(result, turned)
    return set()


def _product(context, op, side: _Side, other: _Side, left: bool) -> Blocked:
    x, (stream, *space) = side.value, side.value.axes
    pairs = list(zip(side.batch, other.batch, strict=True))
    streams = other.batch[side.batch.index(stream)]
    array = jnp.moveaxis(context.dense(other.value), streams, 0)
    context.reads_all = True
    many = len(array) > 1
    array = array[context.blocks.coordinates[0]] if many else array[0]

    def moved(axis: int) -> int:
        return axis + (axis < streams) - (not many)

    batch = [(a, b) for a, b in pairs if a != stream]
    numbers = (
        (x.tile_axes(side.contract), tuple(moved(b) for b in other.contract)),
        (
            (*(0,) * many, *(x.tile_axis(a) for a, _ in batch)),
            (*(0,) * many, *(moved(b) for _, b in batch)),
        ),
    )
    tiles = lowering.dot_general(
        x.tiles, array, numbers, op.params["precision"], op.params["preferred_element_type"]
    )
    # Names of the axes: of the blocked value's the axis, of the other's (axis,). The tiles have
    # rows and columns, and the program perhaps one axis of them.
    rank = len(other.value.shape) if isinstance(other.value, Whole) else other.value.rank
    taken = {*side.contract, *side.batch}
    own = [a for a in range(x.rank) if a not in taken]
    others = [(b,) for b in range(rank) if b not in (*other.contract, *other.batch)]
    made = [*(stream,) * many, *(a for a, _ in batch), *(stream,) * (not many)]
    made += [*space, *(a for a in x.rest if a not in taken), *others]
    wanted = [*side.batch, *(own + others if left else others + own)]
    rest = [name for name in wanted if name not in x.axes]
    first = made.index(space[0])
    order = [made.index(stream), first, first + 1, *map(made.index, rest)]
    axes = tuple(wanted.index(a) for a in x.axes)
    return x.new(jnp.transpose(tiles, order), axes)
