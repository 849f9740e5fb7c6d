"""Policies to compare with, each holding a target fraction exactly in the mean."""

import jax
import jax.numpy as jnp
import numpy as np

from bc_jax.policy.inputs import resize_nearest, unit_range
from bc_jax.policy.rewards import block_mean, total_variation_gain
from bc_jax.policy.sampling import topk_grid

NAMES = ("all", "none", "random", "static", "difference", "oracle")

# How much later in a cycle the next block below and to the right has its turn, as a share of it:
# powers of the plastic number, which scatter the plane as the golden ratio does the line.
_DOWN, _RIGHT = 0.7548776662, 0.5698402910


def diffuse_rounding(amount: float, carry: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rounds `amount` down or up so that the mean over many calls is `amount` exactly.

    Args:
      amount: blocks wanted per frame, >= 0.
      carry: what earlier roundings left over, f32 scalar in [-0.5, 0.5]; 0 at first.

    Returns:
      (whole number of blocks, int32; the new carry).
    """
    wanted = amount + carry
    whole = jnp.round(wanted)
    return whole.astype(jnp.int32), wanted - whole


def random_grid(key: jax.Array, shape: tuple[int, int, int], k: jax.Array | int) -> jax.Array:
    """Returns a grid [N, Gh, Gw] with `k` random blocks in every stream."""
    return topk_grid(jax.random.uniform(key, shape, jnp.float32), k)


def static_grid(age: jax.Array, k: jax.Array | int) -> jax.Array:
    """Returns the grid of the `k` blocks per stream that have waited longest, whatever is seen.

    Blocks of one age go in the order of a cycle that is the same for all streams, and in which
    neighbours stand apart: with `k` held, every block has its turn each blocks / k frames, and the
    blocks of a frame are spread over it.

    Args:
      age: frames since each block was executed [N, Gh, Gw], integer.
      k: blocks per stream.
    """
    n, blocks = age.shape[0], age[0].size
    row, column = np.indices(age.shape[1:])
    cycle = np.argsort((_DOWN * row + _RIGHT * column) % 1, axis=None)
    # The cycle goes on where a block has waited longer than the one before it.
    waited = age.reshape(n, blocks)[:, cycle]
    first = jnp.argmax(waited - jnp.roll(waited, 1, axis=1), axis=1).astype(jnp.int32)
    ahead = (np.argsort(cycle).astype(np.int32)[None] - first[:, None]) % blocks
    ahead = ahead.reshape(age.shape).astype(jnp.float32) / blocks
    return topk_grid(age.astype(jnp.float32) - ahead, k)


def block_difference(
    frames: jax.Array, frame_state: jax.Array, grid_shape: tuple[int, int], *, step: int = 1
) -> jax.Array:
    """Returns the mean absolute difference of each block's pixels, in [0, 1].

    Args:
      frames: this frame [N, H, W, C], uint8 or float in [0, 1].
      frame_state: each block's pixels when it was last executed, like `frames`.
      grid_shape: (Gh, Gw).
      step: only every step-th row and column is looked at; must divide the block's sides.

    Returns:
      [N, Gh, Gw], float32.
    """
    size = (frames.shape[1] // step, frames.shape[2] // step)
    now, before = (unit_range(resize_nearest(x, size)) for x in (frames, frame_state))
    return block_mean(jnp.mean(jnp.abs(now - before), axis=-1), grid_shape)


def difference_grid(
    frames: jax.Array, frame_state: jax.Array, grid_shape: tuple[int, int], k: jax.Array | int
) -> jax.Array:
    """Returns the grid of the `k` blocks per stream that differ most from the frame state."""
    return topk_grid(block_difference(frames, frame_state, grid_shape), k)


def oracle_grid(
    dense: jax.Array, held: jax.Array, grid_shape: tuple[int, int], k: jax.Array | int
) -> jax.Array:
    """Returns the grid of the `k` blocks per stream that have changed most; for evaluation only.

    Changed is what the dense network says, not what the pixels do: the mean total variation between
    its probabilities now and when the block was last executed. (Taking the blocks whose held output
    is wrong now is worse: where a block is wrong since its neighbours are stale, executing it again
    does not help.)

    Args:
      dense: the dense network's logits for this frame [N, h, w, classes].
      held: its logits for the frame in which each block was last executed, same shape.
      grid_shape: (Gh, Gw).
      k: blocks per stream.
    """
    return topk_grid(block_mean(total_variation_gain(held, dense), grid_shape), k)


def baseline_grid(
    name: str,
    key: jax.Array,
    carry: jax.Array,
    *,
    frames: jax.Array,
    frame_state: jax.Array,
    outputs: jax.Array,
    age: jax.Array,
    grid_shape: tuple[int, int],
    target: float,
    dense: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns one frame's grid of a policy to compare with.

    Args:
      name: one of `NAMES`.
      key: for `random`.
      carry: from the previous call, f32 scalar; 0 at first.
      frames: this frame [N, H, W, C].
      frame_state: like `frames`, for `difference`.
      outputs: the dense network's logits when each block was last executed [N, h, w, classes], for
        `oracle`.
      age: frames since each block was executed [N, Gh, Gw], integer, for `static`.
      grid_shape: (Gh, Gw).
      target: fraction of the blocks to execute, which `all` and `none` disregard.
      dense: the dense network's logits for this frame, for `oracle`.

    Returns:
      (grid [N, Gh, Gw] bool, the new carry).

    Raises:
      ValueError: `name` is unknown, or the oracle is not told the dense output.
    """
    if name not in NAMES:
        raise ValueError(f"no policy is named {name!r}; there are {', '.join(NAMES)}")
    shape = (frames.shape[0], *grid_shape)
    if name in ("all", "none"):
        return jnp.full(shape, name == "all"), carry
    k, carry = diffuse_rounding(target * grid_shape[0] * grid_shape[1], carry)
    if name == "random":
        return random_grid(key, shape, k), carry
    if name == "static":
        return static_grid(age, k), carry
    if name == "difference":
        return difference_grid(frames, frame_state, grid_shape, k), carry
    if dense is None:
        raise ValueError("the oracle needs `dense`, the dense network's logits for this frame")
    return oracle_grid(dense, outputs, grid_shape, k), carry
