"""Operations on axes that are apart, where the program has several of them as one.

An axis of the program is told by its parts: the sizes that it is a product of. Each rule says of an
operation how its twin does the same with the parts.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bc_jax.sparse.pointwise import NAMES, OWN_DERIVATIVE
from bc_jax.sparse.program import Constant, Op
from bc_jax.sparse.rules.reductions import REDUCTIONS

# The sizes that each of a value's axes is a product of, in their order; () for an axis of size one.
Parts = tuple[tuple[int, ...], ...]


def alone(shape: Iterable[int]) -> Parts:
    """Each of a shape's axes as its only part."""
    return tuple((size,) for size in shape)


def flat(parts: Parts) -> tuple[int, ...]:
    """The shape of what has all parts as axes."""
    return tuple(size for axis in parts for size in axis)


def large(parts: tuple[int, ...]) -> tuple[int, ...]:
    """The parts that are not one."""
    return tuple(size for size in parts if size > 1)


def _places(parts: Parts, axes: Iterable[int]) -> tuple[int, ...]:
    """Where the parts of some axes stand among all."""
    first = [len(flat(parts[:axis])) for axis in range(len(parts))]
    return tuple(first[axis] + i for axis in axes for i in range(len(parts[axis])))


def refined(before: Sequence[int], after: Sequence[int], late: int | None = None) -> Parts | None:
    """The new axes' parts, each of which is in one of the old ones too; None where they cross.

    Old axes of size one are new ones of size one, and what is left of them goes with what is ahead.

    Args:
        before: the old shape.
        after: the new one.
        late: an old axis that goes with the first part of what is behind, where that is divided, as
            streams do with heads.
    """
    left, parts = list(before), []
    for number, size in enumerate(after):
        axis, behind = [], after[number + 1 :]
        while size > 1 or _ones(left) > _ones(behind):
            rest = size == 1 < after[number] and len(before) - len(left) == late
            if rest and _first(behind) < _first(left):
                break
            part = math.gcd(size, left[0])
            if part not in (size, left[0]):
                return None
            axis.append(part)
            size, left[0] = size // part, left[0] // part
            left = left if left[0] > 1 else left[1:]
        parts.append(tuple(axis))
    return tuple(parts)


def _first(sizes: Sequence[int]) -> int:
    """The first size that is not one; 1 where there is none."""
    return next((size for size in sizes if size > 1), 1)


def _ones(sizes: Sequence[int]) -> int:
    """How many sizes are one ahead of others."""
    return next((i for i, size in enumerate(sizes) if size > 1), len(sizes))


def divides(parts: tuple[int, ...], axis: tuple[int, ...]) -> bool:
    """Whether an axis comes to have such parts where it is divided alone, sizes of one aside."""
    parts = large(parts)
    found = refined(parts, large(axis))
    return found is not None and flat(found) == parts


# A twin is told by its operands, the parameters that are others, and the parts of each result.
_Twin = tuple[list[int | Constant], dict, Parts] | None


def twin_rule(op: Op) -> Callable[[Any, Op], _Twin] | None:
    """The rule of an operation, from the walk of `apart` and the operation; None without one.

    A rule gives None where the operation cannot be done so.
    """
    if op.name in (*NAMES, *OWN_DERIVATIVE):
        return _pointwise
    return _reduction if op.name in REDUCTIONS else _RULES.get(op.name)


def _pointwise(walk: Any, op: Op) -> _Twin:
    shape = op.out_avals[0].shape
    arrays = [x for x, of in zip(op.inputs, op.in_shapes, strict=True) if of]
    if not shape or any(len(walk.shape(x)) != len(shape) for x in arrays):
        return None
    each = [walk.parts(x) for x in sorted(arrays, key=lambda x: x not in walk.apart)]
    parts = tuple(
        max((of[axis] for of in each if math.prod(of[axis]) == size), key=len)
        for axis, size in enumerate(shape)
    )
    operands = []
    for x, of in zip(op.inputs, op.in_shapes, strict=True):
        spread = [
            axis if size > 1 else (1,) * len(axis) for axis, size in zip(parts, of, strict=False)
        ]
        operands.append(walk.taken_apart(x, tuple(spread), op.layer) if of else x)
    return None if None in operands else (operands, {}, parts)


def _reduction(walk: Any, op: Op) -> _Twin:
    value, parts = walk.apart[op.inputs[0]]
    axes = op.params["axes"]
    left = tuple(of for axis, of in enumerate(parts) if axis not in axes)
    return [value], {"axes": _places(parts, sorted(axes))}, left


def _transpose(walk: Any, op: Op) -> _Twin:
    value, parts = walk.apart[op.inputs[0]]
    order = op.params["permutation"]
    return [value], {"permutation": _places(parts, order)}, tuple(parts[axis] for axis in order)


def _spread(walk: Any, op: Op) -> _Twin:
    (x, *others), (before, *_), shape = op.inputs, op.in_shapes, op.params["shape"]
    if others or x not in walk.apart:
        return None
    parts, source = [(size,) for size in shape], []
    for axis, (size, at) in enumerate(zip(before, op.params["broadcast_dimensions"], strict=True)):
        kept = size == shape[at]
        source.append(walk.parts(x)[axis] if kept else ())
        parts[at] = source[-1] if kept else parts[at]
    kept = [at for at, of in zip(op.params["broadcast_dimensions"], source, strict=True) if of]
    params = {"shape": flat(parts), "broadcast_dimensions": _places(tuple(parts), kept)}
    return [walk.taken_apart(x, tuple(source), op.layer)], params, tuple(parts)


def _slice(walk: Any, op: Op) -> _Twin:
    value, parts = walk.apart[op.inputs[0]]
    p, before, after = op.params, op.in_shapes[0], op.out_avals[0].shape
    cut = [axis for axis, size in enumerate(after) if size != before[axis]]
    if any(len(parts[axis]) > 1 for axis in cut):
        return None
    start, limit, steps = [], [], []
    for axis, of in enumerate(parts):
        whole = axis not in cut
        start += [0 if whole else p["start_indices"][axis] for _ in of]
        limit += [size if whole else p["limit_indices"][axis] for size in of]
        steps += [1 if whole or not p["strides"] else p["strides"][axis] for _ in of]
    left = tuple((after[a],) if a in cut else of for a, of in enumerate(parts))
    params = {"start_indices": start, "limit_indices": limit, "strides": steps}
    return [value], {name: tuple(of) for name, of in params.items()}, left


def _product(walk: Any, op: Op) -> _Twin:
    sides = [list(walk.parts(x)) for x in op.inputs]
    contract, batch = op.params["dimension_numbers"]
    given = 0 if op.inputs[0] in walk.apart else 1
    # A stream that both were in alone, as a matrix each, is one of a batch.
    ones = 0 if 0 in batch[0] else min(_ones(side[0][:-1]) for side in sides)
    sides = [[side[0][ones:], *side[1:]] for side in sides]
    for pairs in (contract, batch):
        for axes in zip(*pairs, strict=True):  # as in the operand whose axes are apart
            sides[1 - given][axes[1 - given]] = sides[given][axes[given]]
    ahead = (1,) * ones
    parts = [(ahead, *side) for side in sides]
    operands = [
        walk.taken_apart(x, (ahead + side[0], *side[1:]), op.layer)
        for x, side in zip(op.inputs, sides, strict=True)
    ]
    if None in operands:
        return None
    contract, batch = (
        tuple(tuple(a + 1 for a in axes) for axes in pairs) for pairs in (contract, batch)
    )
    batch = tuple((0, *axes) for axes in batch)
    numbers = tuple(
        tuple(_places(of, axes) for of, axes in zip(parts, pairs, strict=True))
        for pairs in (contract, batch)
    )
    free = [
        of[axis]
        for side, of in enumerate(parts)
        for axis in range(len(of))
        if axis not in (*contract[side], *batch[side])
    ]
    first, *others = (*(parts[0][axis] for axis in batch[0][1:]), *free)
    return operands, {"dimension_numbers": numbers}, (ahead + first, *others)


def _concatenate(walk: Any, op: Op) -> _Twin:
    axis = op.params["dimension"]
    first, *others = (x for x in op.inputs if x in walk.varying)
    parts = list(walk.parts(first))
    if len(parts[axis]) > 1 or not {first, *others} <= {*walk.apart}:
        return None
    operands = []
    for x, shape in zip(op.inputs, op.in_shapes, strict=True):
        parts[axis] = (shape[axis],)
        operands.append(walk.taken_apart(x, tuple(parts), op.layer))
    parts[axis] = (op.out_avals[0].shape[axis],)
    (at,) = _places(tuple(parts), [axis])
    return None if None in operands else (operands, {"dimension": at}, tuple(parts))


def _reverse(walk: Any, op: Op) -> _Twin:
    value, parts = walk.apart[op.inputs[0]]
    axes = op.params["dimensions"]
    return [value], {"dimensions": _places(parts, axes)}, parts


def _split(walk: Any, op: Op) -> _Twin:
    value, parts = walk.apart[op.inputs[0]]
    axis = op.params["axis"]
    if len(parts[axis]) > 1 or len({*op.params["sizes"]}) > 1:
        return None
    size = op.params["sizes"][0]
    left = (*parts[:axis], (size,), *parts[axis + 1 :])
    (at,) = _places(parts, [axis])
    return [value], {"axis": at}, left


_RULES = {
    "broadcast_in_dim": _spread,
    "concatenate": _concatenate,
    "dot_general": _product,
    "rev": _reverse,
    "slice": _slice,
    "split": _split,
    "transpose": _transpose,
}
