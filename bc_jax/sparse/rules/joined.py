"""Tokens of pixels with others beside them, as a class token: each part goes its own way.

Pixels' tokens stay in blocks and the others, which are few, are whole. An operation that keeps
tokens apart runs once for each part, as if it had been written so; attention of each part reads the
keys of all parts.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bc_jax.sparse import pointwise
from bc_jax.sparse.pointwise import NAMES, OWN_DERIVATIVE
from bc_jax.sparse.rules.attention import keeps_apart, result_axis
from bc_jax.sparse.rules.elementwise import AS_THEY_ARE
from bc_jax.sparse.rules.reductions import REDUCTIONS
from bc_jax.sparse.rules.shape import place_after
from bc_jax.sparse.values import Blocked, Declined, Joined, Whole, plain

_REDUCTIONS = (*REDUCTIONS, "argmax", "argmin")
# What says where a slice ends.
_SLICES = {"slice": "limit_indices", "dynamic_slice": "slice_sizes"}


def join(context, operands, axis: int) -> Joined:
    """Tokens one after the other; pixels' among them are one operand's.

    Raises:
        Declined: where several operands have pixels.
    """
    parts = []
    for x in operands:
        known = isinstance(x, Joined | Blocked | Whole)
        parts += x.parts if isinstance(x, Joined) else [x if known else _whole(x, varies=False)]
    places = [i for i, x in enumerate(parts) if isinstance(x, Blocked)]
    if len(places) != 1:
        raise Declined("joins pixels' tokens to one another")
    (at,) = places
    before, after = _together(parts[:at], axis), _together(parts[at + 1 :], axis)
    return _joined(context, [*before, parts[at], *after], axis)


def _together(parts: list[Whole], axis: int) -> list[Whole]:
    """Other tokens on one side of the pixels', as one part, however a network has joined them."""
    if len(parts) < 2:
        return parts
    return [_whole(jnp.concatenate(list(map(plain, parts)), axis), any(x.varies for x in parts))]


def _whole(array, varies: bool) -> Whole:
    return Whole(array, tuple(np.shape(array)), varies)


def _joined(context, parts: list, axis: int) -> Joined:
    return Joined(tuple(parts), axis, tuple(_shape(context, x)[axis] for x in parts))


def run_joined(context, op, operands: list, run: Callable) -> list:
    """The results of an operation with joined operands.

    Args:
        context: the walk's.
        op: the operation.
        operands: its operands, one of them joined at least.
        run: the interpreter's, from (context, operation, operands) to results and more.

    Raises:
        Declined: where the operation mixes the parts.
    """
    if op.name == "dot_general":
        return _product(context, op, operands, run)
    first = next(x for x in operands if isinstance(x, Joined))
    if op.name == "concatenate" and op.params["dimension"] == first.axis:
        return [join(context, operands, first.axis)]
    if op.name in _SLICES and (chosen := _chosen(context, op, first)) is not None:
        return [chosen]
    if op.name == "split" and op.params["axis"] == first.axis:
        ends = np.cumsum(op.params["sizes"]).tolist()
        return [_cut(context, first, b, e) for b, e in zip([0, *ends], ends, strict=False)]
    axis, changes = _through(op, first)
    results = []
    for number, size in enumerate(first.sizes):
        parts = [_part(x, first, number) for x in operands]
        results.append(_run(context, op, changes(size), parts, run))
    return _rejoined(results, first, axis)


def _run(context, op, changes: dict, operands: list, run: Callable) -> list:
    shapes = tuple(_shape(context, x) for x in operands)
    part = dataclasses.replace(op, params=op.params | changes, in_shapes=shapes)
    if any(isinstance(x, Blocked) for x in operands):
        return run(context, part, operands)[0]
    arrays = [plain(x) for x in operands]
    results = pointwise.apply(op, arrays) if op.name in OWN_DERIVATIVE else part.bind(*arrays)
    return [_whole(x, varies=True) for x in results]


def _shape(context, x) -> tuple[int, ...]:
    return context.shape(x) if isinstance(x, Blocked) else tuple(np.shape(x))


def _rejoined(results: list[list], first: Joined, axis: int) -> list:
    """For each of an operation's results its parts, joined along an axis."""
    joined = []
    for parts in zip(*results, strict=True):
        if not any(isinstance(x, Blocked) and x.merged and x.axes[1] == axis for x in parts):
            raise Declined("takes pixels' tokens out of their blocks")
        joined.append(Joined(parts, axis, first.sizes))
    return joined


def _part(x, first: Joined, number: int):
    """An operand's part that meets one of the parts of a joined one."""
    if isinstance(x, Joined):
        if (x.axis, x.sizes) != (first.axis, first.sizes):
            raise Declined("tokens are joined in another order")
        return x.parts[number]
    if isinstance(x, Blocked):
        raise Declined("operands lie differently in space")
    shape = tuple(x.shape) if hasattr(x, "shape") else ()
    if not shape or shape[first.axis] == 1:
        return x
    start, size = sum(first.sizes[:number]), first.sizes[number]
    array = x.array if isinstance(x, Whole) else x
    if array.shape[first.axis] != 1:
        array = jax.lax.slice_in_dim(array, start, start + size, axis=first.axis)
    if not isinstance(x, Whole):
        return array
    return Whole(array, (*shape[: first.axis], size, *shape[first.axis + 1 :]), x.varies)


def _through(op, x: Joined) -> tuple[int, Callable[[int], dict]]:
    """Where an operation has the axis of tokens, and its parameters for a part of some size."""
    axis, p, total = x.axis, op.params, sum(x.sizes)

    def fixed(_) -> dict:
        return {}

    if op.name in (*NAMES, *AS_THEY_ARE, *OWN_DERIVATIVE):
        return axis, fixed
    if op.name == "transpose":
        return tuple(p["permutation"]).index(axis), fixed
    if op.name in _REDUCTIONS and axis not in p["axes"]:
        return axis - sum(a < axis for a in p["axes"]), fixed
    if op.name == "squeeze" and axis not in p["dimensions"]:
        return axis - sum(a < axis for a in p["dimensions"]), fixed
    if op.name == "split" and axis != p["axis"]:
        return axis, fixed
    if op.name == "concatenate":
        return axis, fixed
    if op.name == "broadcast_in_dim":
        at, name = p["broadcast_dimensions"][axis], "shape"
    elif op.name in _SLICES:
        at, name = axis, _SLICES[op.name]
    elif op.name == "reshape" and p.get("dimensions") is None:
        name = "new_sizes"
        at = place_after(p[name], total, math.prod(op.in_shapes[0][:axis]))
    else:
        at, name = None, ""
    if at is None:
        raise Declined("mixes pixels' tokens with the others that are joined to them")
    sides = tuple(p[name])
    return at, lambda size: {name: (*sides[:at], size, *sides[at + 1 :])}


def _chosen(context, op, x: Joined):
    """Some of the tokens; None where an operation slices another axis."""
    begin, end = _range(context, op, x.axis)
    if (begin, end) == (0, sum(x.sizes)):
        return None
    others = [a for a in range(len(op.in_shapes[0])) if a != x.axis]
    if not all(_range(context, op, a) == (0, op.in_shapes[0][a]) for a in others):
        raise Declined("cuts a part out along space")
    return _cut(context, x, begin, end)


def _cut(context, x: Joined, begin: int, end: int):
    """The tokens from one to another: all of the pixels' or none of them."""
    parts = []
    for part, last in zip(x.parts, np.cumsum(x.sizes).tolist(), strict=True):
        size = _shape(context, part)[x.axis]
        low, high = (min(max(at - last + size, 0), size) for at in (begin, end))
        if low == high:
            continue
        if (low, high) != (0, size):
            if isinstance(part, Blocked):
                raise Declined("cuts a part out along space")
            kept = jax.lax.slice_in_dim(plain(part), low, high, axis=x.axis)
            part = _whole(kept, part.varies)
        parts.append(part)
    if not parts:
        raise Declined("keeps no tokens")
    return parts[0] if len(parts) == 1 else _joined(context, parts, x.axis)


def _range(context, op, axis: int) -> tuple[int, int]:
    """What an operation keeps of an axis, without gaps."""
    p = op.params
    if op.name == "slice":
        if p["strides"] and p["strides"][axis] != 1:
            raise Declined("cuts a part out along space")
        return int(p["start_indices"][axis]), int(p["limit_indices"][axis])
    start, size = context.program.static(op.inputs[1 + axis]), p["slice_sizes"][axis]
    if start is None:
        raise Declined("slices at a place that is computed")
    start = min(max(int(start), 0), op.in_shapes[0][axis] - size)
    return start, start + size


def _product(context, op, operands: list, run: Callable) -> list:
    """Dense layers, and attention: the side that stays apart in parts, all of the other."""
    kept = keeps_apart(context, op, *operands)
    if kept is None:
        raise Declined("mixes pixels with pixels")
    x, other = operands[kept], operands[1 - kept]
    if isinstance(other, Joined):
        other = context.whole(other)

    def sides(part) -> list:
        return [other, part] if kept else [part, other]

    if not isinstance(x, Joined):
        return run(context, op, sides(x))[0]
    results = [_run(context, op, {}, sides(part), run) for part in x.parts]
    return _rejoined(results, x, result_axis(op, kept, x.axis))
