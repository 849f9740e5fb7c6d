"""Where the results of operations on whole frames have streams, rows and columns.

In a frame as high as it is wide rows and columns cannot be told by their sizes: what was turned on
its side would be cut into other blocks than the frame's. So would what was moved to other places,
and a part of the frame, whose sides may be in proportion to those of all of it.
"""

import itertools
import math

import numpy as np

from bc_jax.sparse.borders import picked
from bc_jax.sparse.program import Op, Program
from bc_jax.sparse.rules.attention import result_axis
from bc_jax.sparse.rules.linear import centres, leaves_blocks, picks, strays
from bc_jax.sparse.rules.shape import place_after
from bc_jax.sparse.values import ALL, NO_PAD, Blocked, Whole

Extent = tuple[tuple[float, float], tuple[float, float]]

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
        return any(along(axis, index, op.in_shapes[0][axis]) for axis, index in _known(program, op))
    if op.name == "sort":
        return op.params["dimension"] in blocks
    return op.name == "reshape" and axes is not None and axes_after(program, op, operands) is None


def turns(program: Program, op: Op, operands: list, grid: tuple[int, int]) -> bool:
    """Whether it flips frames, or takes a part of them that `extent_after` does not tell.

    As where it begins is computed, or it is as large as they are.
    """
    number, axes = next(
        ((i, x.axes) for i, x in enumerate(operands) if isinstance(x, Blocked | Whole) and x.axes),
        (0, (None,) * 3),
    )
    p, shape = op.params, op.in_shapes[number] if op.in_shapes else ()
    blocks = {axis: count for axis, count in zip(axes[1:], grid, strict=True) if axis is not None}

    def some(axis: int, size: int) -> bool:
        room = shape[axis] - size
        return axis in blocks and 2 * blocks[axis] * room >= shape[axis]

    if op.name == "split":
        return some(p["axis"], min(p["sizes"]))
    if op.name == "dynamic_slice":
        computed = [a for a in blocks if program.static(op.inputs[1 + a]) is None]
        return any(some(a, p["slice_sizes"][a]) for a in computed)
    if op.name == "gather" and not number:
        places, sizes = p["dimension_numbers"].start_index_map, p["slice_sizes"]
        far = (
            strays(index, shape[a], blocks[a]) for a, index in _known(program, op) if a in blocks
        )
        return any(sizes[a] > 1 and some(a, sizes[a]) for a in places) or any(far)
    if op.name == "dot_general" and len(p["dimension_numbers"][0][0]) == 1:
        (axis,), (along,) = p["dimension_numbers"][0][:: 1 - 2 * number]
        matrix = program.static(op.inputs[1 - number]) if axis in blocks else None
        known = matrix is not None and matrix.ndim == 2
        return known and strays(centres(np.moveaxis(matrix, along, 1)), shape[axis], blocks[axis])
    return op.name == "rev"


def _known(program: Program, op: Op) -> list[tuple[int, np.ndarray]]:
    """The axes along which a gather picks at known places, each with its index."""
    axes = op.params["dimension_numbers"].start_index_map
    found = picks(program.static(op.inputs[1]), len(axes)) or []
    return [(axis, index) for axis, (_, index) in zip(axes, found, strict=False)]


def extent_after(program: Program, op: Op, operands: list, grid: tuple[int, int]) -> Extent:
    """The part of the frame that an operation's results have, as in `Whole`.

    Of several operands it is that of the one that has the most or the least, the last of such.
    """
    found = [
        (number, x, _extent(x, grid))
        for number, x in enumerate(operands)
        if isinstance(x, Blocked | Whole) and x.axes and len({*x.axes}) == 3
    ]
    if not found:
        return next((x.extent for x in operands if isinstance(x, Whole) and x.extent != ALL), ALL)
    if op.name == "concatenate":
        return _joined(program, op, found)
    number, x, extent = max(reversed(found), key=lambda each: _beyond(each[2]))
    rows, columns = (
        _part(side, None if number else _kept(program, op, axis), op.in_shapes[number][axis])
        for side, axis in zip(extent, x.axes[1:], strict=True)
    )
    return rows, columns


def fills_frame(extent: Extent, grid: tuple[int, int]) -> bool:
    """Whether pixels of a part of the frame lie where the frame's do, by less than half a block."""
    return all(2 * blocks * _beyond((side,)) < 1 for side, blocks in zip(extent, grid, strict=True))


def _beyond(extent) -> float:
    """How far a part of the frame ends from where all of it does, as a part of the frame."""
    return max(max(abs(first), abs(1 - last)) for first, last in extent)


def _extent(x: Blocked | Whole, grid: tuple[int, int]) -> Extent:
    if isinstance(x, Whole) or x.pad == NO_PAD:
        return getattr(x, "extent", ALL)
    sizes = (blocks * tile for blocks, tile in zip(grid, x.tiles.shape[1:3], strict=True))
    rows, columns = (
        (-low / size, 1 + high / size) for (low, high), size in zip(x.pad, sizes, strict=True)
    )
    return rows, columns


def _joined(program: Program, op: Op, found: list) -> Extent:
    """What parts that stand side by side have, by the last of the largest; all, if of one."""
    along, shapes = op.params["dimension"], op.in_shapes
    number, x, extent = max(reversed(found), key=lambda each: shapes[each[0]][along])
    source, _ = picked(program, op.outputs[0], along)
    result = []
    for side, axis in enumerate(x.axes[1:]):
        first, last = extent[side]
        if axis == along and source != op.outputs[0]:
            sides = [other[side] for _, _, other in found]
            first, last = min(s[0] for s in sides), max(s[1] for s in sides)
        elif axis == along:
            pixel = (last - first) / max(shapes[number][axis], 1)
            first -= pixel * sum(shape[axis] for shape in shapes[:number])
            last += pixel * sum(shape[axis] for shape in shapes[number + 1 :])
        result.append((first, last))
    return tuple(result)


def _part(side: tuple[float, float], kept, size: int) -> tuple[float, float]:
    """What is left of a side, of so many pixels, where some are kept; None keeps all."""
    first, last = kept or (0, size)
    pixel = (side[1] - side[0]) / max(size, 1)
    return side[0] + first * pixel, side[0] + last * pixel


def _kept(program: Program, op: Op, axis: int) -> tuple[float, float] | None:
    """Of its operand's pixels along an axis, a cut's or a padding's first and its last's end."""
    p, size, results = op.params, op.in_shapes[0][axis], op.out_avals[0].shape
    if op.name == "slice":
        step = p["strides"][axis] if p["strides"] else 1
        first = p["start_indices"][axis] // step * step
        return first, first + results[axis] * step
    if op.name == "pad":
        low, _, gaps = p["padding_config"][axis]
        first = -(low // (gaps + 1))
        return first, first + results[axis] / (gaps + 1)
    start = program.static(op.inputs[1 + axis]) if op.name == "dynamic_slice" else None
    if start is None:
        return None
    first = int(np.clip(start, 0, size - results[axis]))
    return first, first + results[axis]
