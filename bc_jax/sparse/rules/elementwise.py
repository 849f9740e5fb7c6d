"""Operations that treat each element by itself: they run on the tiles as they are."""

import jax
import jax.numpy as jnp

from bc_jax.sparse.rules.registry import rule
from bc_jax.sparse.values import NO_PAD, Blocked, Declined

_UNARY = (
    "abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "bessel_i0e", "bessel_i1e", "cbrt",
    "ceil", "clz", "conj", "convert_element_type", "copy", "copy_p", "cos", "cosh", "digamma",
    "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "imag", "integer_pow", "is_finite",
    "lgamma", "log", "log1p", "logistic", "name", "neg", "not", "population_count", "real",
    "reduce_precision", "round", "rsqrt", "sign", "sin", "sinh", "sqrt", "square", "stop_gradient",
    "tan", "tanh",
)  # fmt: skip
_NARY = (
    "add", "and", "atan2", "clamp", "complex", "div", "eq", "ge", "gt", "igamma", "igammac", "le",
    "lt", "max", "min", "mul", "ne", "nextafter", "or", "polygamma", "pow", "rem", "select_n",
    "shift_left", "shift_right_arithmetic", "shift_right_logical", "sub", "xor", "add_any",
)  # fmt: skip


def leader(operands) -> Blocked:
    """The blocked operand that sets the layout; declines where the operands' layouts differ."""
    blocked = [x for x in operands if isinstance(x, Blocked)]
    if not blocked:
        raise Declined("")
    first = blocked[0]
    for x in blocked:
        if x.pad != NO_PAD:
            raise Declined("the image is padded or cut by an operation that is not a window's")
        if x.axes != first.axes or x.tiles.shape[1:3] != first.tiles.shape[1:3]:
            raise Declined("operands lie differently in space")
    return first


NAMES = (*_UNARY, *_NARY)


@rule(*NAMES)
def elementwise(context, op, *operands):
    """Any number of operands, each blocked alike, or whole or constant and broadcast to it."""
    first = leader(operands)
    tiles = [x.tiles if isinstance(x, Blocked) else context.align(x, first) for x in operands]
    if op.name in ("select_n", "clamp"):  # these want operands of one shape, or scalars
        shape = jnp.broadcast_shapes(*[t.shape for t in tiles])
        tiles = [t if t.ndim == 0 else jnp.broadcast_to(t, shape) for t in tiles]
    (result,) = op.bind(*tiles)
    widens = op.name == "convert_element_type" and result.itemsize > first.tiles.itemsize
    return first.new(result).same(narrow=first if widens else None)


@rule("custom_jvp_call")
def relu(context, op, x):
    """Only jax.nn.relu reaches the interpreter as a call; see `program`."""
    return leader([x]).new(jax.nn.relu(x.tiles))


AS_THEY_ARE = ("optimization_barrier", "sharding_constraint")


@rule(*AS_THEY_ARE)
def as_they_are(context, op, *operands):
    """What says how a program is to be compiled, of all of an array, says nothing of its tiles."""
    leader(operands)
    return list(operands)
