"""Where the results of operations on whole frames have streams, rows and columns.

In a frame as high as it is wide rows and columns cannot be told by their sizes: what was turned on
its side would be cut into other blocks than the frame's.
"""

import itertools
import math

import numpy as np

from bc_jax.sparse.pointwise import NAMES, OWN_DERIVATIVE
from bc_jax.sparse.program import Op, Program
from bc_jax.sparse.rules.attention import result_axis
from bc_jax.sparse.rules.channels import CUMULATIVE
from bc_jax.sparse.rules.elementwise import AS_THEY_ARE
from bc_jax.sparse.rules.linear import gathered, known_matrix, picks
from bc_jax.sparse.rules.parts import WRITES
from bc_jax.sparse.rules.shape import place_after
from bc_jax.sparse.rules.window import POOLS
from bc_jax.sparse.values import Blocked, Whole

# These leave all axes where they are, if their results have as many; as do reductions, others.
_STILL = {
    *NAMES, *OWN_DERIVATIVE, *AS_THEY_ARE, *CUMULATIVE, *POOLS, *WRITES, "concatenate", "split",
    "slice", "dynamic_slice", "dynamic_update_slice", "pad", "rev", "sort", "tile", "fft", "top_k",
    "bitcast_convert_type", "select_and_scatter_add", "select_and_gather_add",
}  # fmt: skip
# And these the axes ahead of those of their matrices.
_OF_MATRICES = {
    "cholesky", "custom_linear_solve", "eig", "eigh", "householder_product", "lu", "qr", "schur",
    "svd", "triangular_solve",
}  # fmt: skip


def axes_after(program: Program, op: Op, operands: list) -> tuple[int, int, int] | None:
    """The axes of N, H and W in an operation's result, by the first operand that tells.

    As in `Blocked`, axes that were made one stand at the same place.
    """
    for number, x in enumerate(operands):
        axes = x.axes if isinstance(x, Blocked | Whole) else None
        if axes and op.name == "reshape":
            return _reshaped(program, op, axes)
        after = [axis_after(program, op, number, a) for a in axes or (None,)]
        if None not in after:
            return tuple(after)
    return None


def axis_after(program: Program, op: Op, number: int, axis: int | None) -> int | None:
    """Where the result has an axis of an operand; None where it has not, or for unknown."""
    p, shape = op.params, op.in_shapes[number]
    if axis is None:
        return None
    if op.name == "transpose":
        return tuple(p["permutation"]).index(axis)
    if op.name == "broadcast_in_dim":
        return p["broadcast_dimensions"][axis]
    if op.name == "dot_general":
        contract, batch = (pair[number] for pair in p["dimension_numbers"])
        if axis in batch:
            return tuple(batch).index(axis)
        if axis in contract:
            known = known_matrix(program, op, number, axis) is not None
            (other, *_) = p["dimension_numbers"][0][1 - number]
            return result_axis(op, 1 - number, 1 - other) if known else None
        return result_axis(op, number, axis)
    if op.name == "conv_general_dilated":
        numbers = p["dimension_numbers"]
        return None if number else numbers.out_spec[numbers.lhs_spec.index(axis)]
    if op.name == "gather":
        return _after_gather(program, op, number, axis)
    if op.name in WRITES and number:
        return scattered(program, op).get(axis, (None,))[0] if number == 2 else None
    removed = p.get("dimensions") if op.name == "squeeze" else None
    removed = p["axes"] if op.name.startswith(("reduce_", "arg")) and "axes" in p else removed
    if removed is not None:
        return None if axis in removed else axis - sum(r < axis for r in removed)
    if op.name in _OF_MATRICES:
        return axis if axis < len(shape) - 2 else None
    alike = all(len(aval.shape) == len(shape) for aval in op.out_avals)
    return axis if op.name in _STILL and alike else None


def scattered(program: Program, op: Op) -> dict[int, tuple[int, np.ndarray | None]]:
    """Where a scatter writes: of its updates' axes, that of the operand, and the index along it.

    The index is None where it is computed.
    """
    numbers, (shape, _, new) = op.params["dimension_numbers"], op.in_shapes
    if numbers.operand_batching_dims:
        return {}
    index, axes = program.static(op.inputs[1]), numbers.scatter_dims_to_operand_dims
    window = [a for a in range(len(shape)) if a not in numbers.inserted_window_dims]
    found: dict[int, tuple[int, np.ndarray | None]] = {}
    for at, axis in zip(numbers.update_window_dims, window, strict=True):
        start = 0 if axis not in axes else None
        if start is None and index is not None and index.ndim == 1:
            start = int(index[axes.index(axis)])
        found[at] = axis, None if start is None else start + np.arange(new[at])
    others = [a for a in range(len(new)) if a not in numbers.update_window_dims]
    for axis, (at, line) in zip(axes, picks(index, len(axes)) or [], strict=False):
        if axis in numbers.inserted_window_dims:
            found[others[at]] = axis, line
    return found


def _after_gather(program: Program, op: Op, number: int, axis: int) -> int | None:
    numbers = op.params["dimension_numbers"]
    if number:  # what pixels pick lies where they do
        results = range(len(op.out_avals[0].shape))
        behind = [a for a in results if a not in numbers.offset_dims]
        return behind[axis] if axis < len(behind) else None
    if numbers.operand_batching_dims:
        return None
    if axis in numbers.collapsed_slice_dims:
        return gathered(program, op).get(axis, (None,))[0]
    kept = [a for a in range(len(op.in_shapes[0])) if a not in numbers.collapsed_slice_dims]
    return numbers.offset_dims[kept.index(axis)]


def _reshaped(program: Program, op: Op, axes) -> tuple[int, int, int] | None:
    """The axes after a reshape: each of them, or the first of its parts; or some as one."""
    after, shape = tuple(op.params["new_sizes"]), op.in_shapes[0]
    order = op.params.get("dimensions") or range(len(shape))  # of the axes before
    shape, axes = [shape[a] for a in order], [order.index(a) for a in axes]

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
