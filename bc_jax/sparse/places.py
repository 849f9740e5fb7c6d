"""Where the results of operations on whole frames have streams, rows and columns.

In a frame as high as it is wide rows and columns cannot be told by their sizes: what was turned on
its side would be cut into other blocks than the frame's.
"""

import math

from bc_jax.sparse.program import Op
from bc_jax.sparse.rules.attention import result_axis
from bc_jax.sparse.rules.shape import place_after
from bc_jax.sparse.values import Blocked, Whole

# These may put axes anywhere.
_UNKNOWN = ("gather", "scan", "while", "cond", "pure_callback", "io_callback")


def axes_after(op: Op, operands: list) -> tuple[int, int, int] | None:
    """The axes of N, H and W in an operation's result, by the first operand that tells."""
    for number, x in enumerate(operands):
        axes = x.axes if isinstance(x, Blocked | Whole) else None
        if axes and len({*axes}) == 3:
            moved = [_axis_after(op, number, a) for a in axes]
            if None not in moved:
                return tuple(moved)
    return None


def _axis_after(op: Op, number: int, axis: int) -> int | None:
    """Where the result has an axis of an operand; None where it has not, or for unknown."""
    p, shape = op.params, op.in_shapes[number]
    if op.name == "transpose":
        return tuple(p["permutation"]).index(axis)
    if op.name == "broadcast_in_dim":
        return p["broadcast_dimensions"][axis]
    if op.name == "reshape":
        return place_after(p["new_sizes"], shape[axis], math.prod(shape[:axis]))
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
