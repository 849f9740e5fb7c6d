"""From logits to a grid: sampling, its log-probability, and fitting a grid to a capacity."""

import jax
import jax.numpy as jnp

# Blocks that are compared with each other: one kernel on a GPU, where sorting takes several.
_FEW = 512


def sample_grid(key: jax.Array, logits: jax.Array) -> jax.Array:
    """Samples a_b ~ Bernoulli(sigmoid(logits)) for every block; bool, the shape of `logits`."""
    return jax.random.bernoulli(key, jax.nn.sigmoid(logits))


def log_prob(logits: jax.Array, grid: jax.Array) -> jax.Array:
    """Returns log pi_b(a_b) of each block's action, stable for any finite logit.

    Args:
      logits: [N, Gh, Gw], float.
      grid: the actions, bool, same shape.
    """
    return jax.nn.log_sigmoid(jnp.where(grid, logits, -logits))


def topk_grid(scores: jax.Array, k: jax.Array | int) -> jax.Array:
    """Returns the grid of each stream's `k` highest scores; ties go to the earlier block.

    Args:
      scores: [N, Gh, Gw], float; not-a-number counts as lowest.
      k: blocks per stream, scalar or [N], integer; may be traced.
    """
    n = scores.shape[0]
    flat = jnp.where(jnp.isnan(scores), -jnp.inf, scores).reshape(n, -1)
    rank = jnp.argsort(jnp.argsort(-flat, axis=1, stable=True), axis=1)
    most = jnp.broadcast_to(jnp.asarray(k, rank.dtype), (n,))
    return (rank < most[:, None]).reshape(scores.shape)


def fill_capacity(
    grid: jax.Array,
    scores: jax.Array,
    *,
    capacity: jax.Array | int,
    required: jax.Array | None = None,
) -> jax.Array:
    """Returns a grid with exactly `capacity` blocks over all streams.

    Required blocks come first, then the sampled ones, then the others, each group by score; so
    spare room goes to the next highest scores, and if more were sampled than fit, the most
    probable of them stay. Ties go to the earlier block.

    Args:
      grid: sampled blocks [N, Gh, Gw], bool.
      scores: logits or probabilities, same shape; not-a-number counts as lowest.
      capacity: 0 to N*Gh*Gw; may be traced, and is not checked then.
      required: blocks that must be executed (streams that were reset), bool, same shape.

    Raises:
      ValueError: `capacity` is negative or above the number of blocks.
    """
    if not isinstance(capacity, jax.core.Tracer) and not 0 <= capacity <= grid.size:
        raise ValueError(f"capacity {capacity} is not between 0 and the {grid.size} blocks")
    tier = grid.astype(jnp.int32)
    if required is not None:
        tier = jnp.where(required, 2, tier)
    scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
    return (rank(tier.ravel(), scores.ravel()) < capacity).reshape(grid.shape)


def rank(tier: jax.Array, scores: jax.Array) -> jax.Array:
    """How many come before each: int32 [B]; highest tier first, then highest score, then place."""
    places = jnp.arange(tier.size, dtype=jnp.int32)
    if tier.size > _FEW:
        order = jnp.lexsort((-scores, -tier))
        return jnp.zeros_like(places).at[order].set(places)

    def before(a, b):  # whether the one of `a` comes before that of `b`
        (a_tier, a_score, a_place), (b_tier, b_score, b_place) = a, b
        later = (a_score == b_score) & (a_place < b_place)
        return (a_tier > b_tier) | (a_tier == b_tier) & ((a_score > b_score) | later)

    mine = (tier, scores, places)
    met = before([x[None, :] for x in mine], [x[:, None] for x in mine])
    return met.sum(axis=1, dtype=jnp.int32)
