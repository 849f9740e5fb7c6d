"""The budget as a constraint: every frame's probabilities have the mean that is allowed."""

import jax
import jax.numpy as jnp

from bc_jax.lowering import on_gpu

# Steps and what each divides by: between bounds that are 60 logits apart at first, at float
# precision at last. A step takes a GPU two kernels, up to some thousands of places.
_FEW_PLACES = 6, 32
_FEW_STEPS = 2, 4096
_MARGIN = 15.0  # beyond the largest and the smallest score, where sigmoid is 0 or 1


def block_price(scores: jax.Array, budget: jax.Array | float) -> jax.Array:
    """Returns c, one per stream, with mean_b sigmoid(scores_b - c) = budget: [N, 1, 1].

    Args:
      scores: [N, Gh, Gw], finite.
      budget: mean probability, in [0, 1].
    """
    scores = jax.lax.stop_gradient(scores)[:, None]  # [N, 1, Gh, Gw]
    low = scores.min(axis=(2, 3), keepdims=True) - _MARGIN
    width = scores.max(axis=(2, 3), keepdims=True) + _MARGIN - low
    steps, sections = _FEW_STEPS if on_gpu() else _FEW_PLACES
    if on_gpu():
        # Else XLA computes it anew to compare with it, in kernels apart from the sums that follow.
        budget = jax.lax.optimization_barrier(jnp.asarray(budget, scores.dtype))
    places = jnp.arange(1.0, sections).reshape(1, -1, 1, 1)
    for _ in range(steps):
        width /= sections
        spent = jax.nn.sigmoid(scores - (low + width * places)).mean(axis=(2, 3), keepdims=True)
        low += width * jnp.sum(spent > budget, axis=1, keepdims=True)
    return (low + width / 2)[:, 0]


def spend_budget(scores: jax.Array, budget: jax.Array | float) -> jax.Array:
    """Returns logits = scores - c whose probabilities have the mean `budget` in every stream.

    c is the constraint's multiplier, in logits. Gradients know that it moves with the scores,
    dc = sum_b v_b ds_b / sum_b v_b with v = pi (1 - pi): what would only raise or lower every
    block cancels, and learning is left with which blocks.

    Args:
      scores: [N, Gh, Gw], finite.
      budget: mean probability, in [0, 1].
    """
    price = jax.lax.stop_gradient(block_price(scores, budget))
    probability = jax.lax.stop_gradient(jax.nn.sigmoid(scores - price))
    weight = probability * (1 - probability) + 1e-8
    moved = jnp.sum(weight * (scores - jax.lax.stop_gradient(scores)), (1, 2), keepdims=True)
    return scores - (price + moved / weight.sum(axis=(1, 2), keepdims=True))
