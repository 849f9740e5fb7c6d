"""What a network computes of its parameters alone, taken out of the work for each frame.

`prepare` divides a traced program in two: one that is run once, on the parameters, and one that is
run for each frame, on what the first returns. What a convolution's results are multiplied with and
added to per channel, as batch norm does, becomes part of its kernel on the way.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bc_jax import lowering
from bc_jax.sparse.program import Constant, Draft, Op, Program, needed

_CONVERT = "convert_element_type"
# Parameters may grow by so much, in elements; what is spread over space is not worth keeping.
_SMALL = 4096


class Divided(NamedTuple):
    """A program in two.

    Attributes:
        once: from the function's parameters to arrays.
        each_frame: from those arrays and the frames to the function's results.
    """

    once: Program
    each_frame: Program


class _Affine(NamedTuple):
    """Operations on a convolution's results, one after the other, that are affine per channel.

    Attributes:
        ops: the operations.
        steps: those that compute, as (name, whether the results are its first operand, the other
            operand); the rest change the type.
    """

    ops: list[Op]
    steps: list[tuple[str, bool, int | Constant]]


def prepare(program: Program) -> Divided:
    """Divide a program of parameters and, as its last argument, frames."""
    *params, frames = program.inputs
    fixed = Draft(program.avals)
    each_frame, varying = fixed.beside(), _reached({frames}, program.ops)
    fixed.ops += (op for op in program.ops if not _reads(op, varying))
    gone = set()
    for op in program.ops:
        if not _reads(op, varying) or op in gone:
            continue
        if op.name == "conv_general_dilated" and op.inputs[1] not in varying:
            affine = _affine(op, program, varying)
            gone.update(affine.ops)
            _append_with_kernel_ready(op, affine, fixed, each_frame)
        else:
            each_frame.ops.append(op)
    hoisted = _hoisted(fixed.ops, _reached(set(params), fixed.ops))
    ops = [op for op in fixed.ops if op not in hoisted] + each_frame.ops
    ops = needed(ops, program.outputs)
    made = {number for op in ops for number in op.outputs} | {frames}
    read = [x for op in ops for x in op.inputs] + list(program.outputs)
    handed = tuple(dict.fromkeys(x for x in read if isinstance(x, int) and x not in made))
    once = needed([op for op in fixed.ops if not op.acts], handed)
    return Divided(
        Program(tuple(once), tuple(params), handed, fixed.avals),
        Program(tuple(ops), (*handed, frames), program.outputs, fixed.avals, program.out_tree),
    )


def _reads(op: Op, values: set[int]) -> bool:
    return any(isinstance(x, int) and x in values for x in op.inputs)


def _reached(values: set[int], ops) -> set[int]:
    """The values, and those that depend on any of them."""
    values = set(values)
    for op in ops:
        if _reads(op, values):
            values.update(op.outputs)
    return values


def _hoisted(fixed: list[Op], of_params: set[int]) -> set[Op]:
    """The operations that are done once: those of parameters that do not spread them over space.

    What depends on nothing is for the program of each frame, where it is known while tracing; so is
    what acts, and prints, say.
    """
    left, hoisted = set(), set()
    for op in fixed:
        if not _reads(op, of_params):
            left.update(op.outputs if op.acts else ())
            continue
        large = max([_SMALL, *map(math.prod, op.in_shapes)])
        spreads = any(math.prod(aval.shape) > large for aval in op.out_avals)
        if _reads(op, left) or spreads or op.acts:
            left.update(op.outputs)
        else:
            hoisted.add(op)
    return hoisted


def _affine(convolution: Op, program: Program, varying: set[int]) -> _Affine:
    """What scales a convolution's results and can become part of its kernel; empty for nothing."""
    ops, steps, value = [], [], convolution.outputs[0]
    if not all(_floating(x, program) for x in (convolution.inputs[1], value)):
        return _Affine([], [])
    while len(readers := program.readers[value]) == 1 and value not in program.outputs:
        (op,) = readers
        step = _step(op, value, convolution, program, varying)
        if step is not None:
            steps.append(step)
        elif op.name != _CONVERT or not jnp.issubdtype(op.out_avals[0].dtype, jnp.floating):
            break
        ops.append(op)
        value = op.outputs[0]
    scales = any(name in ("mul", "div") for name, *_ in steps)
    return _Affine(ops, steps) if scales else _Affine([], [])


def _floating(x: int | Constant, program: Program) -> bool:
    aval = program.avals[x] if isinstance(x, int) else jnp.asarray(x.value)
    return jnp.issubdtype(aval.dtype, jnp.floating)


def _step(op: Op, value: int, convolution: Op, program: Program, varying: set[int]):
    """An operation as a step of `_Affine`; None where it is not one."""
    if op.name not in ("add", "sub", "mul", "div"):
        return None
    first = op.inputs[0] == value
    if op.inputs[0] == op.inputs[1] or (op.name == "div" and not first):
        return None
    vector = _per_channel(op, int(first), convolution, program, varying)
    return None if vector is None else (op.name, first, vector)


def _per_channel(op: Op, at: int, convolution: Op, program: Program, varying: set[int]):
    """What an operand repeats over all but a convolution's channels; None where it does not."""
    value, shape = op.inputs[at], op.in_shapes[at]
    channel = convolution.params["dimension_numbers"].out_spec[1]
    places = range(len(shape))
    if isinstance(value, int):
        if value in varying:
            return None
        made = program.producers.get(value)
        if made is not None and made.name == "broadcast_in_dim":
            value, shape = made.inputs[0], made.in_shapes[0]
            places = made.params["broadcast_dimensions"]
    alike = all(size == 1 or place == channel for size, place in zip(shape, places, strict=True))
    return value if alike else None


def _append_with_kernel_ready(op: Op, affine: _Affine, fixed: Draft, each_frame: Draft) -> None:
    """Append a convolution, what adds to its results, and what readies its kernel beforehand."""
    numbers = op.params["dimension_numbers"]
    features = numbers.rhs_spec[0]
    order = lowering.kernel_order(numbers.rhs_spec)
    if not affine.ops and order == tuple(range(len(order))):
        each_frame.ops.append(op)
        return
    last = affine.ops[-1] if affine.ops else op
    (result,) = last.out_avals
    shape = [-1 if axis == numbers.out_spec[1] else 1 for axis in range(len(result.shape))]

    def ready(kernel, *vectors):
        scaled, shift = _fold(kernel, features, affine.steps, vectors)
        return jnp.transpose(scaled, order), shift.astype(result.dtype).reshape(shape)

    operands = [op.inputs[1], *(vector for *_, vector in affine.steps)]
    kernel, shift = fixed.append(ready, operands, op.layer)
    spec = tuple(order.index(axis) for axis in numbers.rhs_spec)
    convolution = dataclasses.replace(
        op,
        inputs=(op.inputs[0], kernel),
        in_shapes=(op.in_shapes[0], tuple(fixed.avals[kernel].shape)),
        params=op.params | {"dimension_numbers": numbers._replace(rhs_spec=spec)},
    )
    each_frame.ops.append(convolution)

    def add(results, shift):
        return [results.astype(result.dtype) + shift]

    if affine.ops:  # those that read the last of them read this
        each_frame.append_as(last, add, [convolution.outputs[0], shift])


def _fold(kernel, features: int, steps, vectors) -> tuple[jax.Array, jax.Array]:
    """A kernel, its axis of features given, and what to add, in the place of the steps."""
    wide = lowering.widened(kernel.dtype)
    scale, shift = jnp.ones((), wide), jnp.zeros(kernel.shape[features], wide)
    for (name, first, _), vector in zip(steps, vectors, strict=True):
        vector = vector.astype(wide).reshape(-1)
        if name in ("mul", "div"):
            times = vector if name == "mul" else 1 / vector
            scale, shift = scale * times, shift * times
        elif first:
            shift = shift + (vector if name == "add" else -vector)
        else:
            turned = 1 if name == "add" else -1
            scale, shift = turned * scale, turned * shift + vector
    shape = [-1 if axis == features else 1 for axis in range(kernel.ndim)]
    return (kernel.astype(wide) * scale.reshape(shape)).astype(kernel.dtype), shift
