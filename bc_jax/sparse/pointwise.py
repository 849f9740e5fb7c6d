"""Functions of each element by itself, among them those with a derivative of their own.

`jax.custom_jvp` and `jax.custom_vjp` say how a function is differentiated, as those of activations
and of rounding that lets gradients through. Entering such a call would lose that. Where all it does
is pointwise, it stays one operation instead, which runs on tiles of whatever shape.
"""

import math

import jax
import jax.extend.core as jex
import jax.numpy as jnp

UNARY = (
    "abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "bessel_i0e", "bessel_i1e", "cbrt",
    "ceil", "clz", "conj", "convert_element_type", "copy", "copy_p", "cos", "cosh", "digamma",
    "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "imag", "integer_pow", "is_finite",
    "lgamma", "log", "log1p", "logistic", "name", "neg", "not", "population_count", "real",
    "reduce_precision", "round", "rsqrt", "sign", "sin", "sinh", "sqrt", "square", "stop_gradient",
    "tan", "tanh",
)  # fmt: skip
NARY = (
    "add", "and", "atan2", "clamp", "complex", "div", "eq", "eq_to", "ge", "gt", "igamma",
    "igammac", "le", "le_to", "lt", "lt_to", "max", "min", "mul", "ne", "nextafter", "or",
    "polygamma", "pow", "rem", "select_n", "shift_left", "shift_right_arithmetic",
    "shift_right_logical", "sub", "xor", "add_any",
)  # fmt: skip
NAMES = (*UNARY, *NARY)
# Calls that only wrap a jaxpr, and the parameters under which they keep it.
OWN_DERIVATIVE = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
CALLS = {
    "jit", "pjit", "closed_call", "core_call", "named_call", "xla_call", "checkpoint", "remat",
    "remat2", *OWN_DERIVATIVE,
}  # fmt: skip
_CALL_PARAMS = ("jaxpr", "call_jaxpr", "fun_jaxpr")


def bare(jaxpr):
    """A jaxpr without its constants; newer versions of JAX have one class for both."""
    return jaxpr if hasattr(jaxpr, "constvars") else jaxpr.jaxpr


def called(primitive, params: dict):
    """The jaxpr that a call wraps; None where it is no such call."""
    inner = next((params[p] for p in _CALL_PARAMS if p in params), None)
    return inner if primitive.name in CALLS else None


def is_pointwise(jaxpr) -> bool:
    """Whether a jaxpr computes each element of its results from those at the same place."""
    jaxpr = bare(jaxpr)
    results = {v.aval.shape for v in jaxpr.outvars}
    others = (*jaxpr.constvars, *jaxpr.invars, *(v for e in jaxpr.eqns for v in e.outvars))
    alike = len(results) == 1 and {v.aval.shape for v in others} <= {(), *results}
    return alike and () not in results and all(map(_is_step, jaxpr.eqns))


def _is_step(eqn) -> bool:
    inner = called(eqn.primitive, eqn.params)
    if inner is not None:
        return is_pointwise(inner)
    spreads = eqn.primitive.name == "broadcast_in_dim" and eqn.invars[0].aval.shape == ()
    return spreads or eqn.primitive.name in NAMES


def apply(op, tiles) -> list[jax.Array]:
    """The results of a call that is pointwise, with its derivative, for arrays of another shape.

    Args:
        op: the call.
        tiles: its operands, of one shape, or scalars.
    """
    shape, full = jnp.broadcast_shapes(*map(jnp.shape, tiles)), op.out_avals[0].shape
    size = math.prod(shape)
    calls = -(-size // math.prod(full))

    def itself(*tiles):
        missing = calls * math.prod(full) - size
        spread = [
            jnp.pad(x.ravel(), (0, missing)).reshape(calls, *full) if x.ndim else x for x in tiles
        ]
        each = jax.vmap(op.bind, [0 if x.ndim else None for x in tiles]) if calls > 1 else op.bind
        spread = spread if calls > 1 else [x[0] if x.ndim else x for x in spread]
        return [x.ravel()[:size].reshape(shape) for x in each(*spread)]

    @jax.custom_jvp
    def run(*tiles):
        results = _evaluate(called(op.primitive, op.params), tiles)
        return [jnp.broadcast_to(x, shape) for x in results]

    @run.defjvp
    def _(tiles, tangents):
        return jax.jvp(itself, tiles, tangents)

    return run(*map(jnp.asarray, tiles))


def _evaluate(jaxpr, arguments) -> list[jax.Array]:
    """What a pointwise jaxpr computes of arrays of any shape."""
    consts = getattr(jaxpr, "consts", ())
    jaxpr = bare(jaxpr)
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True))

    def read(atom):
        value = atom.val if isinstance(atom, jex.Literal) else values[atom]
        return jnp.asarray(value, atom.aval.dtype)

    for eqn in jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        inner = called(eqn.primitive, eqn.params)
        if inner is not None:
            results = _evaluate(inner, operands)
        elif eqn.primitive.name == "broadcast_in_dim":
            results = operands
        else:
            results = eqn.primitive.bind(*jnp.broadcast_arrays(*operands), **eqn.params)
            results = results if eqn.primitive.multiple_results else [results]
        values.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]
