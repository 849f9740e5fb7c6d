"""The dtype that numbers are computed in."""

import jax.numpy as jnp


def widened(dtype) -> jnp.dtype:
    """Float32, or a floating dtype itself where it has as many bits; whatever JAX may promote."""
    dtype = jnp.dtype(dtype)
    enough = jnp.issubdtype(dtype, jnp.inexact) and dtype.itemsize >= 4
    return dtype if enough else jnp.dtype(jnp.float32)
