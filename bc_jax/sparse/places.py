"""Where the results of operations on whole frames have streams, rows and columns.

In a frame as high as it is wide rows and columns cannot be told by their sizes: what was turned on
its side would be cut into other blocks than the frame's. So would what was moved to other places.
"""

import itertools
import math

import numpy as np

from bc_jax.sparse.borders import picked
from bc_jax.sparse.program import Op, Program
from bc_jax.sparse.rules.attention import result_axis
from bc_jax.sparse.rules.linear import leaves_blocks, picks
from bc_jax.sparse.rules.shape import place_after
from bc_jax.sparse.values import Blocked, Whole

# These may put axes anywhere.
_UNKNOWN = ("gather", "scan", "while", "cond", "pure_callback", "io_callback")


def axes_after(program: Program, op: Op, operands: list) -> tuple[int, int, int] | None:
    """The axes of N, H and W in an operation's result, by the first operand that tells.

    As in `Blocked`, axes that were made one stand at the same place.
    """
    for number, x in enumerate(operands):
        axes = x.axes if isinstance(x, Blocked | Whole) else None
        if axes and op.name == "reshape":
            return _reshaped(program, op, axes)
        moved = [_axis_after(op, number, a) for a in axes or (None,)]
        if None not in moved:
            return tuple(moved)
    return None


def _axis_after(op: Op, number: int, axis: int | None) -> int | None:
    """Where the result has an axis of an operand; None where it has not, or for unknown."""
    p, shape = op.params, op.in_shapes[number]
    if axis is None:
        return None
    if op.name == "transpose":
        return tuple(p["permutation"]).index(axis)
    if op.name == "broadcast_in_dim":
        return p["broadcast_dimensions"][axis]
    if op.name == "dot_general":
        (contract, batch) = (pair[number] for pair in p["dimension_numbers"])
        if axis in batch:
            return tuple(batch).index(axis)
        return None if axis in contract else result_axis(op, number, axis)
    if op.name == "conv_general_dilated":
        numbers = p["dimension_numbers"]
        return None if number else numbers.out_spec[numbers.lhs_spec.index(axis)]
    removed = p.get("dimensions") if op.name == "squeeze" else None
    removed = p["axes"] if op.name.startswith(("reduce_", "arg")) and "axes" in p else removed
    if removed is not None:
        return None if axis in removed else axis - sum(r < axis for r in removed)
    alike = all(len(aval.shape) == len(shape) for aval in op.out_avals)
    return axis if alike and op.name not in _UNKNOWN else None


def _reshaped(program: Program, op: Op, axes) -> tuple[int, int, int] | None:
    """The axes after a reshape: each of them, or the first of its parts; or some as one."""
    after, shape = tuple(op.params["new_sizes"]), op.in_shapes[0]

    def place(first: int, last: int) -> int | None:
        """Of the axes from the first to the last as one."""
        size, ahead = math.prod(shape[first : last + 1]), math.prod(shape[:first])
        return place_after(after, size, ahead)

    n, rows, columns = axes
    if len({*axes}) == 3:
        found = tuple(_leading_part(after, shape, axis) for axis in axes)
        if len({*found}) == 3 and None not in found:
            return found
    elif (apart := _apart(program, after, shape, axes)) is not None:
        return apart
    together = place(rows, columns) if columns in (rows, rows + 1) else None
    if n != rows and together is not None and place(n, n) not in (None, together):
        return place(n, n), together, together
    at = place(n, columns) if columns - n == len({*axes}) - 1 and n <= rows <= columns else None
    return None if at is None else (at, at, at)


def _leading_part(after, shape, axis: int) -> int | None:
    """Where a shape has an axis of another, or what is left of it as the first of its parts."""
    ahead = math.prod(shape[:axis])
    at = place_after(after, shape[axis], ahead)
    if at is None and shape[axis] > 1:
        parts = (i for i, size in enumerate(after) if size > 1)
        at = next((i for i in parts if math.prod(after[:i]) == ahead), None)
    return at


def _apart(program: Program, after, shape, axes) -> tuple[int, int, int] | None:
    """The axes where rows and columns, which are one, are made two in the frames' proportion."""
    streams, height, width, *_ = program.avals[program.inputs[-1]].shape
    n, at, _ = axes
    ahead = math.prod(shape[:at]) * (streams if n == at else 1)
    size = shape[at] // (streams if n == at else 1)
    for i, (rows, columns) in enumerate(itertools.pairwise(after)):
        fits = rows * columns == size and rows * width == columns * height
        if fits and math.prod(after[:i]) == ahead:
            n = place_after(after, streams, math.prod(shape[:n]))
            return None if n in (None, i, i + 1) else (n, i, i + 1)
    return None


def moves_away(program: Program, op: Op, operands: list, grid: tuple[int, int]) -> bool:
    """Whether an operation on whole frames puts pixels where other blocks have theirs.

    Args:
        program: that the operation is of.
        op: the operation.
        operands: its operands.
        grid: rows and columns of blocks.
    """
    if op.name in ("rev", "fft") or any(isinstance(x, Whole) and x.moved for x in operands):
        return True
    axes = next((x.axes for x in operands if isinstance(x, Blocked | Whole) and x.axes), None)
    blocks = dict(zip(axes[1:], grid, strict=True)) if axes else {}

    def along(axis: int, index: np.ndarray, size: int) -> bool:
        if axes and axis not in blocks:
            return False
        return leaves_blocks(index, size, blocks.get(axis, max(grid)))

    if op.name == "concatenate":
        axis = op.params["dimension"]
        source, index = picked(program, op.outputs[0], axis)
        size = program.avals[source].shape[axis]
        return source != op.outputs[0] and len(index) == size and along(axis, index, size)
    if op.name == "gather":
        places = op.params["dimension_numbers"].start_index_map
        found = picks(program.static(op.inputs[1]), len(places)) or []
        return any(
            along(axis, index, op.in_shapes[0][axis])
            for axis, (_, index) in zip(places, found, strict=False)
        )
    if op.name == "sort":
        return op.params["dimension"] in blocks
    return op.name == "reshape" and axes is not None and axes_after(program, op, operands) is None
