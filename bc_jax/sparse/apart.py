"""Axes that a network makes one for some operations, and takes apart again, stay apart.

`jnp.matmul` drops axes of size one before a product; PyTorch's joins streams and heads, its group
norm channels, rows and columns. On blocks neither can be done. Where the axes come apart again, the
operations between do the same with axes that never were one.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax

from bc_jax.sparse import pointwise
from bc_jax.sparse.axes import axes_after
from bc_jax.sparse.pointwise import OWN_DERIVATIVE
from bc_jax.sparse.program import Constant, Draft, Op, Program, needed
from bc_jax.sparse.twins import Parts, alone, divides, flat, large, refined, twin_rule
from bc_jax.sparse.values import Whole


class _Apart(NamedTuple):
    """A value whose axes are apart.

    Attributes:
        value: its number, of shape `flat(parts)`.
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
        self.program = program
        self._streams = program.avals[program.inputs[-1]].shape[0]
        self.draft = Draft(program.avals)
        self.varying = {program.inputs[-1]}
        self.apart: dict[int, _Apart] = {}
        self.twins: dict[int, tuple[Op, int]] = {}
        self._alias: dict[int, int | Constant] = {}
        # Where values have N, H and W, of as many operations as it was asked for.
        self._axes: dict[int, tuple[int, int, int] | None] = {program.inputs[-1]: (0, 1, 2)}
        self._told = 0

    def named(self, x):
        """What stands for a value of the program."""
        return self._alias.get(x, x) if isinstance(x, int) else x

    def step(self, op: Op) -> None:
        """The next operation."""
        before = len(self.draft.ops)
        if _relabels(op) and op.inputs[0] in self.varying:
            self._relabel(op)
        else:
            if any(x in self.apart for x in op.inputs) and (rule := twin_rule(op)):
                self._append_twin(op, rule)
            self.draft.ops.append(op)
        for made in self.draft.ops[before:]:
            if any(x in self.varying for x in made.inputs):
                self.varying.update(made.outputs)

    def _axes_of(self, value: int | Constant) -> tuple[int, int, int] | None:
        for op in self.draft.ops[self._told :]:
            found = [self._axes.get(x) if isinstance(x, int) else None for x in op.inputs]
            if any(found):
                operands = [of and Whole(None, (), axes=of) for of in found]
                after = axes_after(self.program, op, operands)
                self._axes |= dict.fromkeys(op.outputs, after)
        self._told = len(self.draft.ops)
        return self._axes.get(value) if isinstance(value, int) else None

    def _relabel(self, op: Op) -> None:
        """Other axes for the same elements in the same order: of those that are apart."""
        x, (result,), shape = op.inputs[0], op.outputs, op.out_avals[0].shape
        source, parts = self.apart.get(x) or _Apart(x, alone(op.in_shapes[0]))
        found = self._refined(source, parts, shape)
        if x in self.apart:
            self._alias[result] = result = self._reshaped(source, shape, op.layer)
        else:
            self.draft.ops.append(op)
        if found is None or flat(found) == shape:
            return
        if x in self.apart or _joins(found) or self._joins_streams(source, found):
            self.apart[result] = _Apart(self._reshaped(source, flat(found), op.layer), found)

    def _refined(self, source: int | Constant, parts: Parts, shape) -> Parts | None:
        """The parts of other axes; the axis of one stream goes with what it is made one with."""
        before = flat(parts)
        found = refined(before, shape)
        if self._streams > 1:
            return found
        late = {i: refined(before, shape, i) for i, size in enumerate(before) if size == 1}
        if all(of == found for of in late.values()):
            return found
        n, *space = self._axes_of(source) or (None,)
        return found if n in space else late.get(n, found)

    def _joins_streams(self, source: int | Constant, parts: Parts) -> bool:
        """Whether streams are made one with another axis."""
        if not any(self._streams in axis and len(axis) > 1 for axis in parts):
            return False
        axes = self._axes_of(source)
        if axes is None or axes.count(axes[0]) > 1:
            return False
        shape = self.shape(source)[: axes[0] + 1]
        *ahead, stream = [(math.prod(shape[:i]), size) for i, size in enumerate(shape)]
        alike, before = ahead.count(stream), 1  # others of size one
        for axis in parts:
            for size in axis:
                if (before, size) == stream and not alike:
                    return len(axis) > 1
                alike -= (before, size) == stream
                before *= size
        return False

    def _append_twin(self, op: Op, rule: Callable) -> None:
        made = rule(self, op)
        if made is None:
            return
        operands, params, *parts = made
        parts *= len(op.outputs)
        if op.name in OWN_DERIVATIVE:
            results = self.draft.append(functools.partial(_apply, op), operands, op.layer)
            self._note_twin(op, results, parts)
            return
        avals = tuple(
            jax.ShapeDtypeStruct(flat(of), aval.dtype, weak_type=aval.weak_type)
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
        self._note_twin(op, results, parts)

    def _note_twin(self, op: Op, results: Sequence[int], parts: list[Parts]) -> None:
        """Notes what the last operation, a twin of another, stands for."""
        twin = self.draft.ops[-1]
        for number, result, of, aval in zip(op.outputs, results, parts, op.out_avals, strict=True):
            if flat(of) == aval.shape:
                self._alias[number] = result
                continue
            self.twins[number] = twin, result
            if op.name in ("slice", "split"):  # what is left of an axis is not taken for a stream
                sizes = zip(of, op.in_shapes[0], strict=True)
                of = tuple(() if part == (1,) and size > 1 else part for part, size in sizes)
            self.apart[number] = _Apart(self._reshaped(result, flat(of), op.layer), of)

    def shape(self, x: int | Constant) -> tuple[int, ...]:
        """Of a value that there is."""
        return tuple(self.draft.avals[x].shape if isinstance(x, int) else jax.numpy.shape(x.value))

    def parts(self, x: int | Constant) -> Parts:
        """Of each axis of a value of the program."""
        return self.apart[x].parts if x in self.apart else alone(self.shape(x))

    def taken_apart(self, x: int | Constant, parts: Parts, layer: str) -> int | Constant | None:
        """A value of the program with such parts; None where axes that are one would have to part.

        Those of what depends on the frames are taken apart only as parts that they have already.
        """
        pairs = list(zip(self.parts(x), parts, strict=True))
        alike = all(large(a) in ((), large(b)) for a, b in pairs)
        divided = x in self.apart and all(divides(b, a) for a, b in pairs if large(a))
        if x in self.varying and not alike and not divided:
            return None
        source = self.apart[x].value if x in self.apart else x
        return self._reshaped(source, flat(parts), layer)

    def _reshaped(self, x: int | Constant, shape: tuple[int, ...], layer: str) -> int | Constant:
        if self.shape(x) == shape:
            return x
        return self.draft.append(_reshape(shape), [x], layer)[0]


def _reshape(shape: tuple[int, ...]) -> Callable:
    return lambda x: [jax.lax.reshape(x, shape)]


def _apply(op: Op, *arrays) -> list:
    return pointwise.apply(op, arrays)


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
    return len(first) > 1 or any(len(large(axis)) > 2 for axis in parts)
