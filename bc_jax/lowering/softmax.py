"""Softmax over few classes, and how far two of them are apart.

A CPU computes with many numbers at once where they lie in a row. XLA takes one pixel's classes for
a row: of nineteen the last three are exponentiated one by one. Here it is many pixels' classes.
"""

import math

import jax
import jax.numpy as jnp

from bc_jax.lowering import backend

# Of fewer classes, and of more, a pixel's own are a row good enough.
_CLASSES = range(9, 64)
# Pixels whose classes make a row.
_ABREAST = 64


def softmax(logits: jax.Array) -> jax.Array:
    """`jax.nn.softmax` over the last axis, of float32."""
    if not _in_rows(logits):
        return jax.nn.softmax(logits)
    _, powers, totals = _powers(logits)
    return (_pixels(powers, logits) * (1 / totals)).reshape(logits.shape)


def relative_entropy(logits: jax.Array, others: jax.Array) -> jax.Array:
    """KL(p || q), p and q being the softmax of logits and others.

    Args:
        logits: [..., classes], float32.
        others: the same shape and type.

    Returns:
        [...], float32; at least 0 but for rounding.
    """
    if not _in_rows(logits):
        return relative_entropy_plainly(logits, others)
    ours, powers, totals = _powers(logits)
    theirs, _, others_totals = _powers(others)
    weighted = jax.lax.optimization_barrier(powers * (ours - theirs))
    entropy = _sums(_pixels(weighted, logits)) / totals - jnp.log(totals / others_totals)
    return entropy.reshape(logits.shape[:-1])


def relative_entropy_plainly(logits: jax.Array, others: jax.Array) -> jax.Array:
    """The same, pixel by pixel."""
    log_p, log_q = jax.nn.log_softmax(logits), jax.nn.log_softmax(others)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def _in_rows(logits: jax.Array) -> bool:
    return backend.on_cpu() and logits.shape[-1] in _CLASSES and logits.size > 0


def _pixels(rows: jax.Array, like: jax.Array) -> jax.Array:
    """A pixel's classes in a row: [pixels, classes]."""
    return rows.reshape(-1, like.shape[-1])


def _powers(logits: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Logits less the largest of their pixel, and e to the power of these: [rows, columns] each.

    With the latter's sums over classes, [pixels, 1].
    """
    pixels = _pixels(logits, logits)
    row = math.gcd(_ABREAST, len(pixels)) * pixels.shape[-1]
    largest = jnp.broadcast_to(_largest(pixels), pixels.shape)
    # Behind a barrier, what is read in rows is not computed by pixels after all.
    less = logits.reshape(-1, row) - jax.lax.optimization_barrier(largest).reshape(-1, row)
    powers = jax.lax.optimization_barrier(jnp.exp(less))
    return less, powers, _sums(_pixels(powers, logits))


def _largest(pixels: jax.Array) -> jax.Array:
    """The largest of each pixel's classes, [pixels, 1]; any of them where one is not a number.

    Which of two is larger takes a CPU one instruction; that either may not be a number, several.
    """

    def larger(a, b):
        return jax.lax.select(a > b, a, b)

    lowest = jnp.array(-jnp.inf, pixels.dtype)
    return jax.lax.reduce(jax.lax.stop_gradient(pixels), lowest, larger, (1,))[:, None]


def _sums(pixels: jax.Array) -> jax.Array:
    """The sums over classes, [pixels, 1]; a product is the fastest way to them."""
    ones = jnp.ones((pixels.shape[-1], 1), pixels.dtype)
    return jnp.matmul(pixels, ones, precision=jax.lax.Precision.HIGHEST)
