"""Products of each pixel with all pixels, as attention has them.

Queries stay in blocks; keys and values are remembered for the whole frame, so that an executed
block looks at all of it: at the new of what is executed, and at the kept of the rest. So scores and
what is made of them cost what the executed blocks cost.
"""

import itertools
import math

import jax.numpy as jnp

from bc_jax import lowering
from bc_jax.sparse.values import Blocked, Declined, Joined, varies


def against_all(context, op, lhs, rhs) -> Blocked:
    """A batch of products of a blocked value, each pixel by itself, with all of another."""
    kept = keeps_apart(context, op, lhs, rhs)
    if kept is None or isinstance((lhs, rhs)[1 - kept], Joined):
        raise Declined("mixes pixels with pixels")
    return _product(context, op, kept, (lhs, rhs))


def keeps_apart(context, op, lhs, rhs) -> int | None:
    """Which operand's pixels stay apart, 0 or 1; None for neither.

    Where both might, as queries' and keys', those stay that are not summed over in what follows.
    """
    operands = lhs, rhs
    possible = [i for i in (0, 1) if _stays(op, i, operands)]
    if len(possible) == 2:
        places = [
            {result_axis(op, i, a) for a in {*_space(operands[i])} - _shared(op, i, operands)}
            for i in (0, 1)
        ]
        summed = _summed(context.program, op.outputs[0])
        possible = [i for i in (0, 1) if places[1 - i] <= summed and not places[i] & summed]
    return possible[0] if possible else None


def result_axis(op, side: int, axis: int) -> int:
    """Where a product has an operand's axis that is neither contracted nor of the batch."""
    batch = len(op.params["dimension_numbers"][1][0])
    return batch + side * len(_free(op, 0)) + _free(op, side).index(axis)


def _free(op, side: int) -> list[int]:
    """The axes of an operand that are neither contracted nor of the batch."""
    contract, batch = op.params["dimension_numbers"]
    return [a for a in range(len(op.in_shapes[side])) if a not in (*contract[side], *batch[side])]


def _space(x: Blocked | Joined) -> tuple[int, ...]:
    """The axes that have pixels."""
    return (x.axis,) if isinstance(x, Joined) else x.axes[1:]


def _stays(op, side: int, operands) -> bool:
    """Whether an operand's pixels are apart in the product, streams with themselves."""
    x, other = operands[side], operands[1 - side]
    if not isinstance(x, Blocked | Joined):
        return False
    batch = op.params["dimension_numbers"][1][side]
    apart = {*_space(x)} - _shared(op, side, operands) <= {*_free(op, side)}
    return apart and (not varies(other) or x.stream in batch)


def _shared(op, side: int, operands) -> set[int]:
    """The axis of rows, or of columns, of which both operands have each by itself; or none."""
    x, other = operands[side], operands[1 - side]
    both = isinstance(x, Blocked) and isinstance(other, Blocked)
    if not both or x.merged or other.merged or x.tiles.shape[1:3] != other.tiles.shape[1:3]:
        return set()
    pairs = {*zip(*op.params["dimension_numbers"][1][:: 1 - 2 * side], strict=True)}
    found = {a for a, b in zip(x.axes[1:], other.axes[1:], strict=True) if (a, b) in pairs}
    return found if len(found) == 1 else set()


def _summed(program, value: int) -> set[int]:
    """The axes that the next operations which sum a value up, as a softmax does, sum over."""
    seen = {value: [{a} for a in range(len(program.avals[value].shape))]}
    found, summed = [value], set()
    while found:
        value = found.pop(0)
        of, shape = seen[value], program.avals[value].shape  # the product's axes in each of its own
        for reader in program.readers[value]:
            axes: tuple[int, ...] = ()
            if reader.name in ("reduce_max", "reduce_sum"):
                axes = reader.params["axes"]
            elif reader.name == "dot_general":
                axes = reader.params["dimension_numbers"][0][reader.inputs[0] != value]
            if axes or reader.name == "dot_general":
                summed.update(*(of[a] for a in axes))
                continue
            turned = range(len(shape))
            if reader.name == "transpose":
                turned = reader.params["permutation"]
            for result in reader.outputs:
                after = tuple(program.avals[result].shape)
                alike = after == tuple(shape[a] for a in turned)
                reshaped = reader.name in _RESHAPES and math.prod(after) == math.prod(shape)
                if result not in seen and (alike or reshaped or reader.name == "concatenate"):
                    found.append(result)
                    seen[result] = [of[a] for a in turned]
                    if reshaped and not alike:
                        seen[result] = _reshaped(of, shape, after)
    return summed


_RESHAPES = ("reshape", "squeeze", "broadcast_in_dim")


def _reshaped(of: list[set[int]], before, after) -> list[set[int]]:
    """Which axes each axis of a new shape has something of, as `of` says of each one before."""

    def strides(shape) -> list[tuple[int, int]]:
        ahead = [math.prod(shape[:i]) for i in range(len(shape) + 1)]
        return list(itertools.pairwise(ahead))

    old = list(zip(of, strides(before), strict=True))
    return [
        set().union(*(names for names, (a, b) in old if max(a, low) < min(b, high)))
        for low, high in strides(after)
    ]


def _product(context, op, kept: int, operands) -> Blocked:
    x, other = operands[kept], operands[1 - kept]
    contract, batch = (pair[:: 1 - 2 * kept] for pair in op.params["dimension_numbers"])
    pairs = dict(zip(*batch, strict=True))
    # The other's stream, and its rows or columns, that each block is in: ahead of its other axes.
    line = [a for a in pairs if a in _shared(op, kept, operands)]
    met = [x.stream, *line] if x.stream in pairs else []
    ahead = [pairs[a] for a in met]
    behind = [b for b in range(len(op.in_shapes[1 - kept])) if b not in ahead]
    array = jnp.transpose(context.dense(other), (*ahead, *behind))
    context.reads_all = varies(other)
    stream, *sides = context.blocks.coordinates
    if line:
        side = x.axes[1:].index(*line)
        array = array.reshape(len(array), context.grid[side], -1, *array.shape[2:])
        if array.shape[:2] == (1, 1):  # all blocks meet the same
            array, met, ahead = array[0, 0], met[1:], ahead[1:]
        else:
            array = array[stream, sides[side]]
    elif met and len(array) == 1:
        array, met, ahead = array[0], [], []
    elif met:
        array = array[stream]
    apart = [a for a in pairs if a not in (x.stream, *line)]
    place = {b: at for at, b in enumerate((*ahead, *behind))}
    numbers = (
        (x.tile_axes(contract[0]), tuple(place[b] for b in contract[1])),
        (x.tile_axes((*met, *apart)), tuple(place[pairs[a]] for a in (*met, *apart))),
    )
    tiles = lowering.dot_general(
        x.tiles, array, numbers, op.params["precision"], op.params["preferred_element_type"]
    )
    # Names of the axes: of the blocked value's the axis, of the other's (axis,). The tiles have
    # rows and columns, and the program perhaps one axis of them.
    own, others = _free(op, kept), [(b,) for b in _free(op, 1 - kept)]
    made = [*met, *apart, *(a for a in x.order if a not in (*met, *apart, *contract[0])), *others]
    wanted = [*batch[0], *(others + own if kept else own + others)]
    # Where axes are one, each after the one before.
    places = [made.index(a) + x.axes[:i].count(a) for i, a in enumerate(x.axes)]
    rest = [made.index(name) for name in wanted if name not in x.axes]
    tiles = jnp.transpose(tiles, (*places, *rest))
    return x.new(tiles, tuple(wanted.index(a) for a in x.axes))
