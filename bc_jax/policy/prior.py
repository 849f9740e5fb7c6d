"""What is known of a block before the network has learnt: a few statistics and their weights.

A block's score is the logarithm of how wrong it must have become: how much its pixels have changed,
how much it gained when it was executed before, how many class borders its held output has (that is
where outputs flicker), and how long ago that was.
"""

import math

import jax
import jax.numpy as jnp

from bc_jax.policy.baselines import block_difference
from bc_jax.policy.inputs import resize_nearest
from bc_jax.policy.rewards import block_mean

# What weights start from; learnt from there. The statistics are standardised over a frame's blocks.
WEIGHTS = {"difference": 9.0, "gain": 6.0, "borders": 6.0}
# Of log(1 + frames since the block was executed); not learnt. A reward sees what a block gains in
# this frame, and not that it stays wrong until it is executed: learning would let blocks go stale.
AGE_WEIGHT = 12.0
# Of a score, what the mean over the 3x3 blocks around has. A block that is executed among stale
# neighbours reads stale halos, and comes out wrong: blocks are worth more in groups.
SHARED = 0.7
FIRST_GAIN = 0.05  # the running gain of a block that was not executed yet

_LEAST_DIFFERENCE = 1e-3  # a quarter of a grey level
_LEAST_SHARE = 1e-2  # of gain or borders
_BORDER_PIXELS = 16  # class borders are looked for among so many pixels on a block's side


def standardise(x: jax.Array) -> jax.Array:
    """Returns [N, Gh, Gw] less its mean, over its deviation, in every stream; 0 where all agree."""
    x = x - x[:, :1, :1]  # so that the mean of equal values is exact, and they come out as 0
    x = x - x.mean(axis=(1, 2), keepdims=True)
    return x / (jnp.sqrt(jnp.mean(x * x, axis=(1, 2), keepdims=True)) + 1e-2)


def class_borders(outputs: jax.Array, grid_shape: tuple[int, int]) -> jax.Array:
    """Returns the share of each block's pixels whose class differs from the right or lower pixel's.

    Args:
      outputs: logits [N, h, w, classes].
      grid_shape: (Gh, Gw).

    Returns:
      [N, Gh, Gw], float32, in [0, 1].
    """
    sides = zip(outputs.shape[1:3], grid_shape, strict=True)
    size = tuple(g * min(_BORDER_PIXELS, max(1, side // g)) for side, g in sides)
    classes = jnp.argmax(resize_nearest(outputs, size), axis=-1)
    right = jnp.pad(classes[:, :, 1:] != classes[:, :, :-1], ((0, 0), (0, 0), (0, 1)))
    below = jnp.pad(classes[:, 1:] != classes[:, :-1], ((0, 0), (0, 1), (0, 0)))
    return block_mean((right | below).astype(jnp.float32), grid_shape)


def next_running_gain(
    running_gain: jax.Array, executed_grid: jax.Array, gain: jax.Array, *, momentum: float = 0.8
) -> jax.Array:
    """Returns the running gain after a frame; a block that was not executed keeps its own.

    Args:
      running_gain: [N, Gh, Gw], float32; `FIRST_GAIN` at first and after a reset.
      executed_grid: bool, same shape.
      gain: information gain of this frame, same shape; what is not finite is left out.
      momentum: what is kept of the old value.
    """
    renewed = momentum * running_gain + (1 - momentum) * gain
    return jnp.where(executed_grid & jnp.isfinite(gain), renewed, running_gain)


def prior_features(
    frames: jax.Array,
    frame_state: jax.Array,
    outputs: jax.Array,
    running_gain: jax.Array | None,
    grid_shape: tuple[int, int],
) -> dict[str, jax.Array]:
    """Returns each statistic that `WEIGHTS` names: [N, Gh, Gw], float32, finite, no gradient.

    Args:
      frames: this frame [N, H, W, 3].
      frame_state: each block's pixels when it was last executed, like `frames`.
      outputs: the logits held from the previous frame [N, h, w, classes].
      running_gain: [N, Gh, Gw]; None where nobody keeps it.
      grid_shape: (Gh, Gw).
    """
    step = math.gcd(2, frames.shape[1] // grid_shape[0], frames.shape[2] // grid_shape[1])
    difference = block_difference(frames, frame_state, grid_shape, step=step)
    borders = class_borders(outputs, grid_shape)
    gain = jnp.zeros_like(difference) if running_gain is None else jnp.nan_to_num(running_gain)
    statistics = {
        "difference": jnp.log(difference + _LEAST_DIFFERENCE),
        "gain": jnp.log(jnp.maximum(gain, 0) + _LEAST_SHARE),
        "borders": jnp.log(borders + _LEAST_SHARE),
    }
    together = standardise(jax.lax.stop_gradient(jnp.concatenate([*statistics.values()])))
    return dict(zip(statistics, jnp.split(together, len(statistics)), strict=True))


def share_score(scores: jax.Array, share: float) -> jax.Array:
    """Returns (1 - share) * scores + share * their mean over 3x3 blocks, the edge repeated."""
    _, gh, gw = scores.shape
    padded = jnp.pad(scores, ((0, 0), (1, 1), (1, 1)), mode="edge")
    around = sum(padded[:, i : i + gh, j : j + gw] for i in range(3) for j in range(3)) / 9
    return (1 - share) * scores + share * around


def prior_scores(
    weights: dict[str, jax.Array], features: dict[str, jax.Array], age: jax.Array
) -> jax.Array:
    """Returns sum_i w_i feature_i + 12 log(1 + age), shared with neighbours: [N, Gh, Gw] float32.

    Args:
      weights: scalars by the names of `WEIGHTS`.
      features: see `prior_features`.
      age: frames since each block was executed, integers [N, Gh, Gw].
    """
    score = AGE_WEIGHT * jnp.log1p(age.astype(jnp.float32))
    score += sum(weights[name] * feature for name, feature in features.items())
    return share_score(score, SHARED)
