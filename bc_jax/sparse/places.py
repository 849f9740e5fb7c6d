"""What the results of operations on whole frames show of the frame, see `sides`.

What was moved to other places is not cut into the frame's blocks, and neither is a part of the
frame, whose sides may be in proportion to those of all of it. What operations read along an axis is
said at the end, for those that move pixels; all others leave them at their places, if they leave
the axis as long as it was.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from bc_jax.sparse import sides
from bc_jax.sparse.axes import axes_after, axis_after, scattered
from bc_jax.sparse.borders import picked
from bc_jax.sparse.inner import NAMES as INNER
from bc_jax.sparse.inner import inner_places
from bc_jax.sparse.program import Op, Program
from bc_jax.sparse.rules.linear import gathered, known_matrix
from bc_jax.sparse.rules.parts import WRITES
from bc_jax.sparse.rules.window import POOLS
from bc_jax.sparse.sides import ANY, UNKNOWN, Reads, Side, every
from bc_jax.sparse.values import NO_PAD, Blocked, Whole, varies

# What makes one of all along an axis, where this is gone.
_SUMS = ("reduce", "arg", "squeeze", "dot_general", "conv_general_dilated", "gather", "scatter")

# What an operation's result reads along an axis; None where the operation does nothing along it.
Found = Reads | None


def places_after(
    program: Program, op: Op, operands: list, grid_shape: tuple[int, int, int]
) -> list[dict]:
    """What `Whole` says of places, `axes` and `sides`, for each of an operation's results.

    Args:
        program: that the operation is of.
        op: the operation.
        operands: its operands.
        grid_shape: (N, Gh, Gw) of the blocks.
    """
    read = [_Read(program, op, i, x, grid_shape) for i, x in enumerate(operands)]
    read = [x for x in read if isinstance(x.value, Blocked | Whole) and varies(x.value)]
    if op.name in INNER:
        given: list[dict | None] = [None] * len(operands)
        for x in read:
            sides_of = tuple(map(x.side, (0, 1, 2)))
            given[x.number] = {"axes": x.value.axes, "sides": sides_of}
        after = functools.partial(places_after, grid_shape=grid_shape)
        return inner_places(program, op, given, after)
    axes = axes_after(program, op, operands)
    return [
        {"axes": axes, "sides": tuple(_side_after(read, axes, along, i) for along in (0, 1, 2))}
        for i in range(len(op.out_avals))
    ]


def _side_after(read: list["_Read"], axes, along: int, output: int) -> Side:
    if not read:
        return None
    op = read[0].op
    axis = axes[along] if axes and axes.count(axes[along]) == 1 else None
    size = None if axis is None else op.out_avals[output].shape[axis]
    if op.name == "concatenate" and axis == op.params["dimension"]:
        return _joined(read, along)
    found = [x.shown(along, output, size) for x in read]
    return sides.together(found, size or max(1 if side is None else len(side) for side in found))


def _joined(read: list["_Read"], along: int) -> Side:
    """The side of what stands one behind the other along the axis."""
    op = read[0].op
    parts = [sides.nothing(shape[op.params["dimension"]]) for shape in op.in_shapes]
    for x in read:
        told = x.value.axes and x.value.axes[along] == op.params["dimension"]
        parts[x.number] = sides.resized(x.side(along) if told else UNKNOWN, len(parts[x.number]))
    return sides.joined(parts)


@dataclasses.dataclass(frozen=True)
class _Read:
    """One of an operation's operands, and what the results show of it."""

    program: Program
    op: Op
    number: int
    value: Blocked | Whole
    grid_shape: tuple[int, int, int]

    def side(self, along: int) -> Side:
        """What the operand shows of the frames, along streams (0), rows (1) or columns (2)."""
        x = self.value
        if isinstance(x, Whole):
            return x.sides[along]
        if x.pad == NO_PAD or not along:
            return None
        low, high = x.pad[along - 1]
        size = self.grid_shape[along] * x.tiles.shape[along]
        return sides.after(None, every(1, -low, low + size + high), size)

    def shown(self, along: int, output: int, size: int | None) -> Side:
        """What a result shows of it, along an axis of so many pixels; None where not known."""
        op, side, axes = self.op, self.side(along), self.value.axes
        if op.name == "reshape" and axes:
            return UNKNOWN if axes_after(self.program, op, [self.value]) is None else side
        axis = axes[along] if axes else None
        if axis is None or axes.count(axis) > 1:
            return UNKNOWN if self._reorders(axis) else side
        before = op.in_shapes[self.number][axis]
        reads = _READS[op.name](self, axis, output) if op.name in _READS else None
        if reads is not None:
            return sides.after(side, reads, before)
        gone = axis_after(self.program, op, self.number, axis) is None
        if gone and op.name.startswith(_SUMS):
            return None  # of all of it
        return side if size in (None, before) or before == 1 else UNKNOWN

    def _reorders(self, axis: int | None) -> bool:
        """Whether it exchanges pixels along an axis of rows and columns as one; None is any."""
        op, found = self.op, []
        if op.name in ("rev", "fft"):
            return True
        if op.name == "sort":
            return axis == op.params["dimension"]
        if op.name == "concatenate" and axis in (None, op.params["dimension"]):
            source, index = picked(self.program, op.outputs[0], op.params["dimension"])
            found = [index] if source != op.outputs[0] else []
        elif op.name == "gather" and not self.number:
            known = gathered(self.program, op).items()
            found = [index for a, (_, index) in known if axis in (None, a)]
        return not all(map(sides.in_order, found))

    def part(self, axis: int, start, size: int) -> Reads:
        """What a part of the axis reads that begins at an operand, or a place that is computed."""
        known = None if start is None else self.program.static(start)
        before = self.op.in_shapes[self.number][axis]
        room, blocks = before - size, self.grid_shape[self.value.axes.index(axis)]
        if known is None:
            return ANY if 2 * blocks * room >= before else every(1, room / 2, size)
        return every(1, np.clip(known, 0, room), size)


def _slice(x: _Read, axis: int, output: int) -> Found:
    p, made = x.op.params, x.op.out_avals[0].shape[axis]
    step = p["strides"][axis] if p["strides"] else 1
    return Reads(p["start_indices"][axis] + step * np.arange(made))


def _pad(x: _Read, axis: int, output: int) -> Found:
    low, _, gaps = x.op.params["padding_config"][axis]
    places = (np.arange(x.op.out_avals[0].shape[axis]) - low) / (gaps + 1)
    if not gaps:
        return Reads(places)
    inside = (places >= 0) & (places < x.op.in_shapes[0][axis]) & (places == np.round(places))
    return sides.among(np.where(inside, places, np.nan), gaps, low)


def _convolution(x: _Read, axis: int, output: int) -> Found:
    p = x.op.params
    numbers = p["dimension_numbers"]
    if x.number or axis not in numbers.lhs_spec[2:]:
        return None
    at = numbers.lhs_spec[2:].index(axis)
    kernel = x.op.in_shapes[1][numbers.rhs_spec[2 + at]]
    size = x.op.out_avals[0].shape[numbers.out_spec[2 + at]]
    window = (kernel - 1) * p["rhs_dilation"][at]
    gaps, low = p["lhs_dilation"][at], p["padding"][at][0]
    return every(p["window_strides"][at] / gaps, (window / 2 - low) / gaps, size)


def _window(x: _Read, axis: int, output: int) -> Found:
    p = x.op.params
    window = (p["window_dimensions"][axis] - 1) * p["window_dilation"][axis]
    gaps, low = p["base_dilation"][axis], p["padding"][axis][0]
    size = x.op.out_avals[0].shape[axis]
    return every(p["window_strides"][axis] / gaps, (window / 2 - low) / gaps, size)


def _reverse(x: _Read, axis: int, output: int) -> Found:
    turned = axis in x.op.params["dimensions"]
    return Reads(np.arange(x.op.in_shapes[0][axis])[::-1]) if turned else None


def _sort(x: _Read, axis: int, output: int) -> Found:
    return ANY if axis == x.op.params["dimension"] else None


def _frequencies(x: _Read, axis: int, output: int) -> Found:
    last = len(x.op.in_shapes[0]) - len(x.op.params["fft_lengths"])
    return ANY if axis >= last else None


def _split(x: _Read, axis: int, output: int) -> Found:
    sizes = x.op.params["sizes"]
    if axis != x.op.params["axis"]:
        return None
    return every(1, sum(sizes[:output]), sizes[output])


def _tile(x: _Read, axis: int, output: int) -> Found:
    size = x.op.in_shapes[0][axis]
    return Reads(np.arange(x.op.out_avals[0].shape[axis]) % size)


def _dynamic_slice(x: _Read, axis: int, output: int) -> Found:
    if x.number:
        return None
    return x.part(axis, x.op.inputs[1 + axis], x.op.params["slice_sizes"][axis])


def _dynamic_update(x: _Read, axis: int, output: int) -> Found:
    size, part = (shape[axis] for shape in x.op.in_shapes[:2])
    if x.number != 1 or size == part:
        return None
    start = x.program.static(x.op.inputs[2 + axis])
    if start is None:
        return ANY
    return every(1, -np.clip(start, 0, size - part), size)


def _scatter(x: _Read, axis: int, output: int) -> Found:
    if x.number != 2:
        return None
    to, index = scattered(x.program, x.op).get(axis, (None, None))
    if index is None:
        return ANY
    made, steps = x.op.out_avals[0].shape[to], {*np.diff(index).tolist()}
    if len(index) and steps <= {1}:
        return every(1, -index[0], made)
    places, inside = np.full(made, np.nan), (index >= 0) & (index < made)
    places[index[inside]] = np.flatnonzero(inside)
    step = min(steps) if len(steps) == 1 else 1
    return sides.among(places, max(step, 1) - 1, index[0] if len(index) else 0)


def _gather(x: _Read, axis: int, output: int) -> Found:
    numbers = x.op.params["dimension_numbers"]
    if x.number or axis in numbers.operand_batching_dims:
        return None
    size = x.op.params["slice_sizes"][axis]
    found = gathered(x.program, x.op)
    if axis in numbers.collapsed_slice_dims:
        # What is picked pixel by pixel, as by a flow, is taken to be near.
        return Reads(found[axis][1]) if axis in found else None
    if axis not in numbers.start_index_map:
        return None if size == x.op.in_shapes[0][axis] else ANY
    return x.part(axis, None, size)


def _product(x: _Read, axis: int, output: int) -> Found:
    matrix = known_matrix(x.program, x.op, x.number, axis)
    return None if matrix is None else sides.by_matrix(matrix)


_READS: dict[str, Callable[[_Read, int, int], Found]] = {
    "slice": _slice,
    "pad": _pad,
    "conv_general_dilated": _convolution,
    "rev": _reverse,
    "sort": _sort,
    "fft": _frequencies,
    "split": _split,
    "tile": _tile,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update,
    "gather": _gather,
    "dot_general": _product,
    **dict.fromkeys(POOLS, _window),
    **dict.fromkeys(WRITES, _scatter),
}
