"""The policy gradient: REINFORCE (Eq. 11) and, to test it against, its exact form (Eq. 6)."""

import jax
import jax.numpy as jnp

from bc_jax.policy.sampling import log_prob


def _check_shapes(**arrays) -> None:
    if len({x.shape for x in arrays.values()}) != 1:
        shapes = ", ".join(f"{name} {x.shape}" for name, x in arrays.items())
        raise ValueError(f"shapes differ: {shapes}; all must be [N, Gh, Gw]")


def _mean(values: jax.Array, weight: jax.Array | None) -> jax.Array:
    if weight is None:
        return jnp.mean(values)
    weight = jnp.broadcast_to(
        weight.astype(values.dtype).reshape(weight.shape + (1,) * (values.ndim - weight.ndim)),
        values.shape,
    )
    return jnp.sum(values * weight) / jnp.maximum(jnp.sum(weight), 1)


def reinforce_loss(
    logits: jax.Array, grid: jax.Array, rewards: jax.Array, *, weight: jax.Array | None = None
) -> jax.Array:
    """Returns L = -mean_b( R_b(a_b) * log pi_b(a_b) ), Eq. 11; rewards pass no gradient.

    Its expectation over grids drawn from `logits` has the gradient of Eq. 6.

    Args:
      logits: [N, Gh, Gw], float.
      grid: the sampled actions a_b, bool, same shape.
      rewards: R_b(a_b), same shape.
      weight: which blocks count, [N] or [N, Gh, Gw]; None counts all.

    Raises:
      ValueError: the shapes differ.
    """
    _check_shapes(logits=logits, grid=grid, rewards=rewards)
    return -_mean(jax.lax.stop_gradient(rewards) * log_prob(logits, grid), weight)


def exact_policy_gradient_loss(
    logits: jax.Array,
    rewards_execute: jax.Array,
    rewards_skip: jax.Array,
    *,
    weight: jax.Array | None = None,
) -> jax.Array:
    """Returns -mean_b( sum_a pi_b(a) R_b(a) ), whose gradient is minus Eq. 6 over the blocks.

    Args:
      logits: [N, Gh, Gw], float.
      rewards_execute: R_b(1), same shape; passes no gradient.
      rewards_skip: R_b(0), same shape; passes no gradient.
      weight: which blocks count, [N] or [N, Gh, Gw]; None counts all.

    Raises:
      ValueError: the shapes differ.
    """
    _check_shapes(logits=logits, rewards_execute=rewards_execute, rewards_skip=rewards_skip)
    execute, skip = jax.lax.stop_gradient((rewards_execute, rewards_skip))
    return -_mean(jax.nn.sigmoid(logits) * execute + jax.nn.sigmoid(-logits) * skip, weight)
