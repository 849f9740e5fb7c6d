"""The budget as a constraint: every frame's probabilities have the mean that is allowed."""

import jax
import jax.numpy as jnp

from bc_jax import lowering


def block_price(scores: jax.Array, budget: jax.Array | float) -> jax.Array:
    """Returns c, one per stream, with mean_b sigmoid(scores_b - c) = budget: [N, 1, 1].

    Args:
      scores: [N, Gh, Gw], finite.
      budget: mean probability, in [0, 1].
    """
    scores = jax.lax.stop_gradient(scores)
    return lowering.sigmoid_level(scores.reshape(len(scores), -1), budget)[:, None, None]


@jax.custom_jvp
def spend_budget(scores: jax.Array, budget: jax.Array | float) -> jax.Array:
    """Returns logits = scores - c whose probabilities have the mean `budget` in every stream.

    c is the constraint's multiplier, in logits. Gradients know that it moves with the scores,
    dc = sum_b v_b ds_b / sum_b v_b with v = pi (1 - pi): what would only raise or lower every
    block cancels, and learning is left with which blocks.

    Args:
      scores: [N, Gh, Gw], finite.
      budget: mean probability, in [0, 1]; no gradient passes.
    """
    return scores - block_price(scores, budget)


@spend_budget.defjvp
def _spend_budget_jvp(primals, tangents):
    scores, budget = primals
    logits = spend_budget(scores, budget)
    probability = jax.nn.sigmoid(logits)
    weight = probability * (1 - probability) + 1e-8
    moved = jnp.sum(weight * tangents[0], (1, 2), keepdims=True)
    return logits, tangents[0] - moved / weight.sum(axis=(1, 2), keepdims=True)
