"""The budget as a constraint: every frame's probabilities have the mean that is allowed."""

import jax
import jax.numpy as jnp

_STEPS = 30  # of bisection: 60 logits wide at first, float precision at last
_MARGIN = 15.0  # beyond the largest and the smallest score, where sigmoid is 0 or 1


def block_price(scores: jax.Array, budget: jax.Array | float) -> jax.Array:
    """Returns c, one per stream, with mean_b sigmoid(scores_b - c) = budget: [N, 1, 1].

    Args:
      scores: [N, Gh, Gw], finite.
      budget: mean probability, in [0, 1].
    """

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        too_many = jax.nn.sigmoid(scores - middle).mean(axis=(1, 2), keepdims=True) > budget
        return jnp.where(too_many, middle, low), jnp.where(too_many, high, middle)

    low = scores.min(axis=(1, 2), keepdims=True) - _MARGIN
    high = scores.max(axis=(1, 2), keepdims=True) + _MARGIN
    low, high = jax.lax.fori_loop(0, _STEPS, halve, jax.lax.stop_gradient((low, high)))
    return (low + high) / 2


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
