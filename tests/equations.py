"""The operations of a function."""

from collections.abc import Iterator

import jax.extend.core


def all_equations(jaxpr) -> Iterator:
    """Of a jaxpr and all in it."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from all_equations(inner)
