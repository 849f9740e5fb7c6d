"""Axes that a network makes one for some operations, and takes apart again, stay apart.

`jnp.matmul` drops axes of size one before a product; PyTorch's joins streams and heads, its group
norm channels, rows and columns. On blocks neither can be done. Where the axes come apart again, the
operations between do the same with axes that never were one.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax

from bc_jax.sparse.pointwise import NAMES
from bc_jax.sparse.program import Constant, Draft, Op, Program, needed
from bc_jax.sparse.rules.reductions import REDUCTIONS

# The sizes that each of a value's axes is a product of, in their order; () for an axis of size one.
Parts = tuple[tuple[int, ...], ...]


class _Apart(NamedTuple):
    """A value whose axes are apart.

    Attributes:
        value: its number, of shape `_flat(parts)`.
        parts: of each axis that the program has.
    """

    value: int | Constant
    parts: Parts


def keep_apart(program: Program) -> Program:
    """The same program, in which axes are one only where they have to be."""
    walk = _Walk(program)
    for op in program.ops:
        walk.step(dataclasses.replace(op, inputs=tuple(map(walk.named, op.inputs))))
    outputs = tuple(map(walk.named, program.outputs))
    ops = needed(walk.draft.ops, outputs)
    # What is read both ways is computed once.
    draft, used = walk.draft.beside(), {*ops}
    for op in ops:
        twins = [walk.twins.get(number) for number in op.outputs]
        if None in twins or not twins or twins[0][0] not in used:
            draft.ops.append(op)
            continue
        for number, aval, (_, twin) in zip(op.outputs, op.out_avals, twins, strict=True):
            one = dataclasses.replace(op, outputs=(number,))
            draft.append_as(one, _reshape(aval.shape), [twin])
    ops = tuple(needed(draft.ops, outputs))
    return dataclasses.replace(program, ops=ops, outputs=outputs, avals=draft.avals)


class _Walk:
    """Operations, each behind its twin on axes that are apart, where there is one."""

    def __init__(self, program: Program):
        self.draft = Draft(program.avals)
        self.varying = {program.inputs[-1]}
        self.apart: dict[int, _Apart] = {}
        self.twins: dict[int, tuple[Op, int]] = {}
        self._alias: dict[int, int | Constant] = {}

    def named(self, x):
        """What stands for a value of the program."""
        return self._alias.get(x, x) if isinstance(x, int) else x

    def step(self, op: Op) -> None:
        """The next operation."""
        before = len(self.draft.ops)
        if _relabels(op) and op.inputs[0] in self.varying:
            self._relabel(op)
        else:
            if any(x in self.apart for x in op.inputs) and (rule := _twin_rule(op)):
                self._append_twin(op, rule)
            self.draft.ops.append(op)
        for made in self.draft.ops[before:]:
            if any(x in self.varying for x in made.inputs):
                self.varying.update(made.outputs)

    def _relabel(self, op: Op) -> None:
        """Other axes for the same elements in the same order: of those that are apart."""
        x, (result,), shape = op.inputs[0], op.outputs, op.out_avals[0].shape
        source, parts = self.apart.get(x) or _Apart(x, _alone(op.in_shapes[0]))
        found = _refined(_flat(parts), shape)
        if x in self.apart:
            self._alias[result] = result = self._reshaped(source, shape, op.layer)
        else:
            self.draft.ops.append(op)
        if found is not None and (x in self.apart or _joins(found)) and _flat(found) != shape:
            self.apart[result] = _Apart(self._reshaped(source, _flat(found), op.layer), found)

    def _append_twin(self, op: Op, rule: Callable) -> None:
        made = rule(self, op)
        if made is None:
            return
        operands, params, *parts = made
        parts *= len(op.outputs)
        avals = tuple(
            jax.ShapeDtypeStruct(_flat(of), aval.dtype, weak_type=aval.weak_type)
            for of, aval in zip(parts, op.out_avals, strict=True)
        )
        shapes, results = tuple(map(self.shape, operands)), self.draft.numbers(avals)
        twin = dataclasses.replace(
            op,
            inputs=tuple(operands),
            outputs=results,
            params=op.params | params,
            in_shapes=shapes,
            out_avals=avals,
        )
        self.draft.ops.append(twin)
        for number, result, of, aval in zip(op.outputs, results, parts, op.out_avals, strict=True):
            if _flat(of) == aval.shape:
                self._alias[number] = result
                continue
            self.twins[number] = twin, result
            if op.name in ("slice", "split"):  # what is left of an axis is not taken for a stream
                sizes = zip(of, op.in_shapes[0], strict=True)
                of = tuple(() if part == (1,) and size > 1 else part for part, size in sizes)
            self.apart[number] = _Apart(self._reshaped(result, _flat(of), op.layer), of)

    def shape(self, x: int | Constant) -> tuple[int, ...]:
        """Of a value that there is."""
        return tuple(self.draft.avals[x].shape if isinstance(x, int) else jax.numpy.shape(x.value))

    def parts(self, x: int | Constant) -> Parts:
        """Of each axis of a value of the program."""
        return self.apart[x].parts if x in self.apart else _alone(self.shape(x))

    def taken_apart(self, x: int | Constant, parts: Parts, layer: str) -> int | Constant | None:
        """A value of the program with such parts; None where axes that are one would have to part.

        Those of what depends on the frames are taken apart only as parts that they have already.
        """
        pairs = list(zip(self.parts(x), parts, strict=True))
        alike = all(_large(a) in ((), _large(b)) for a, b in pairs)
        divided = x in self.apart and all(_divides(b, a) for a, b in pairs if _large(a))
        if x in self.varying and not alike and not divided:
            return None
        source = self.apart[x].value if x in self.apart else x
        return self._reshaped(source, _flat(parts), layer)

    def _reshaped(self, x: int | Constant, shape: tuple[int, ...], layer: str) -> int | Constant:
        if self.shape(x) == shape:
            return x
        return self.draft.append(_reshape(shape), [x], layer)[0]


def _reshape(shape: tuple[int, ...]) -> Callable:
    return lambda x: [jax.lax.reshape(x, shape)]


def _alone(shape: Iterable[int]) -> Parts:
    return tuple((size,) for size in shape)


def _flat(parts: Parts) -> tuple[int, ...]:
    return tuple(size for axis in parts for size in axis)


def _large(parts: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in parts if size > 1)


def _places(parts: Parts, axes: Iterable[int]) -> tuple[int, ...]:
    """Where the parts of some axes stand among all."""
    first = [len(_flat(parts[:axis])) for axis in range(len(parts))]
    return tuple(first[axis] + i for axis in axes for i in range(len(parts[axis])))


def _relabels(op: Op) -> bool:
    """Whether the result has the operand's elements in the same order."""
    if not op.in_shapes or 0 in op.in_shapes[0]:
        return False
    if op.name == "reshape":
        return op.params.get("dimensions") is None
    still = ("squeeze", "broadcast_in_dim", "slice", "concatenate")
    if op.name not in still or len(op.inputs) > 1:
        return False
    return math.prod(op.in_shapes[0]) == math.prod(op.out_avals[0].shape)


def _joins(parts: Parts) -> bool:
    """Whether the first axis is made one with others, or others are that are not only two."""
    first = next((axis for axis in parts if axis), ())
    return len(first) > 1 or any(len(_large(axis)) > 2 for axis in parts)


def _refined(before: Sequence[int], after: Sequence[int]) -> Parts | None:
    """The new axes' parts, each of which is in one of the old ones too; None where they cross.

    Old axes of size one are new ones of size one, and what is left of them goes with what is ahead.
    """
    left, parts = list(before), []
    for number, size in enumerate(after):
        axis = []
        while size > 1 or _ones(left) > _ones(after[number + 1 :]):
            part = math.gcd(size, left[0])
            if part not in (size, left[0]):
                return None
            axis.append(part)
            size, left[0] = size // part, left[0] // part
            left = left if left[0] > 1 else left[1:]
        parts.append(tuple(axis))
    return tuple(parts)


def _ones(sizes: Sequence[int]) -> int:
    """How many sizes are one ahead of others."""
    return next((i for i, size in enumerate(sizes) if size > 1), len(sizes))


def _divides(parts: tuple[int, ...], axis: tuple[int, ...]) -> bool:
    """Whether an axis comes to have such parts where it is divided alone, sizes of one aside."""
    parts = _large(parts)
    found = _refined(parts, _large(axis))
    return found is not None and _flat(found) == parts


# A twin is told by its operands, the parameters that are others, and the parts of each result.
_Twin = tuple[list[int | Constant], dict, Parts] | None


def _twin_rule(op: Op) -> Callable[[_Walk, Op], _Twin] | None:
    if op.name in NAMES:
        return _pointwise
    return _reduction if op.name in REDUCTIONS else _RULES.get(op.name)


def _pointwise(walk: _Walk, op: Op) -> _Twin:
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


def _reduction(walk: _Walk, op: Op) -> _Twin:
    value, parts = walk.apart[op.inputs[0]]
    axes = op.params["axes"]
    left = tuple(of for axis, of in enumerate(parts) if axis not in axes)
    return [value], {"axes": _places(parts, sorted(axes))}, left


def _transpose(walk: _Walk, op: Op) -> _Twin:
    value, parts = walk.apart[op.inputs[0]]
    order = op.params["permutation"]
    return [value], {"permutation": _places(parts, order)}, tuple(parts[axis] for axis in order)


def _spread(walk: _Walk, op: Op) -> _Twin:
    (x, *others), (before, *_), shape = op.inputs, op.in_shapes, op.params["shape"]
    if others or x not in walk.apart:
        return None
    parts, source = [(size,) for size in shape], []
    for axis, (size, at) in enumerate(zip(before, op.params["broadcast_dimensions"], strict=True)):
        kept = size == shape[at]
        source.append(walk.parts(x)[axis] if kept else ())
        parts[at] = source[-1] if kept else parts[at]
    kept = [at for at, of in zip(op.params["broadcast_dimensions"], source, strict=True) if of]
    params = {"shape": _flat(parts), "broadcast_dimensions": _places(tuple(parts), kept)}
    return [walk.taken_apart(x, tuple(source), op.layer)], params, tuple(parts)


def _slice(walk: _Walk, op: Op) -> _Twin:
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


def _product(walk: _Walk, op: Op) -> _Twin:
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


def _split(walk: _Walk, op: Op) -> _Twin:
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
    "dot_general": _product,
    "slice": _slice,
    "split": _split,
    "transpose": _transpose,
}
