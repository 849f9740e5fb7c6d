"""What a function costs: multiply-accumulates, counted in its jaxpr."""

import math
from collections.abc import Callable

import jax


def _equation_macs(equation) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        per_output = math.prod(kernel) // kernel[params["dimension_numbers"].rhs_spec[0]]
        return math.prod(equation.outvars[0].aval.shape) * per_output
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return math.prod(equation.outvars[0].aval.shape) * math.prod(shape[d] for d in contracted)
    inner = [v for v in params.values() if hasattr(v, "eqns") or hasattr(v, "jaxpr")]
    return sum(_jaxpr_macs(getattr(v, "jaxpr", v)) for v in inner) * params.get("length", 1)


def _jaxpr_macs(jaxpr) -> int:
    return sum(_equation_macs(equation) for equation in jaxpr.eqns)


def count_macs(function: Callable, *args) -> int:
    """Returns the multiply-accumulates of the convolutions and matrix products in `function`.

    Args:
      function: any JAX function.
      *args: arrays or `jax.ShapeDtypeStruct`s; nothing is computed.
    """
    return _jaxpr_macs(jax.make_jaxpr(function)(*args).jaxpr)
