"""Rewards: what executing a block brought (information gain) and what it cost."""

import jax
import jax.numpy as jnp

from bc_jax import lowering


def _strided(x: jax.Array, scale: float) -> jax.Array:
    step = round(1 / scale)
    if step < 1 or abs(step * scale - 1) > 1e-6:
        raise ValueError(f"scale {scale} is not 1 / a whole number")
    return x[:, ::step, ::step]


def _check_outputs(prev: jax.Array, new: jax.Array) -> None:
    if prev.shape != new.shape or prev.ndim != 4:
        raise ValueError(
            f"outputs must be two arrays [N, h, w, classes], got {prev.shape} and {new.shape}"
        )


def information_gain_segmentation(
    prev: jax.Array, new: jax.Array, *, scale: float = 1.0
) -> jax.Array:
    """Returns KL(p_{t-1} || p_t) of every pixel, mean over classes.

    IG = 1/classes * sum_c p_{t-1,c} (log p_{t-1,c} - log p_t,c), p the softmax of the outputs.

    Args:
      prev: logits of the previous frame [N, h, w, classes].
      new: logits of this frame, same shape.
      scale: 1 / a whole number; every (1/scale)-th pixel is looked at (the paper's is 1/4).

    Returns:
      [N, h*scale, w*scale], float32, >= 0 but for rounding.

    Raises:
      ValueError: the shapes differ, or `scale` is not 1 / a whole number.
    """
    _check_outputs(prev, new)
    prev, new = (_strided(x, scale).astype(jnp.float32) for x in (prev, new))
    return lowering.relative_entropy(prev, new) / prev.shape[-1]


def total_variation_gain(prev: jax.Array, new: jax.Array, *, scale: float = 1.0) -> jax.Array:
    """Returns 1/2 * sum_c |p_{t-1,c} - p_t,c| of every pixel, in [0, 1].

    Arguments, shapes and errors as for `information_gain_segmentation`.
    """
    _check_outputs(prev, new)
    p, q = (lowering.softmax(_strided(x, scale).astype(jnp.float32)) for x in (prev, new))
    return 0.5 * jnp.sum(jnp.abs(p - q), axis=-1)


def class_change_gain(prev: jax.Array, new: jax.Array, *, scale: float = 1.0) -> jax.Array:
    """Returns 1 where a pixel's most probable class changed, else 0.

    Arguments, shapes and errors as for `information_gain_segmentation`. Not-a-number anywhere in a
    pixel's outputs makes its gain not-a-number.
    """
    _check_outputs(prev, new)
    prev, new = _strided(prev, scale), _strided(new, scale)
    changed = (jnp.argmax(prev, axis=-1) != jnp.argmax(new, axis=-1)).astype(jnp.float32)
    broken = jnp.isnan(prev).any(axis=-1) | jnp.isnan(new).any(axis=-1)
    return jnp.where(broken, jnp.nan, changed)


def _tiles(gain: jax.Array, grid_shape: tuple[int, int]) -> jax.Array:
    (n, h, w), (gh, gw) = gain.shape, grid_shape
    if h % gh or w % gw:
        raise ValueError(f"a map of {h}x{w} pixels does not divide into {gh}x{gw} blocks")
    return gain.reshape(n, gh, h // gh, gw, w // gw)


def block_max(gain: jax.Array, grid_shape: tuple[int, int]) -> jax.Array:
    """Returns each block's maximum: [N, h, w] -> [N, Gh, Gw]; ValueError if blocks do not fit."""
    return _tiles(gain, grid_shape).max(axis=(2, 4))


def block_mean(gain: jax.Array, grid_shape: tuple[int, int]) -> jax.Array:
    """Returns each block's mean: [N, h, w] -> [N, Gh, Gw]; ValueError if blocks do not fit."""
    return _tiles(gain, grid_shape).mean(axis=(2, 4))


def box_iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns intersection over union of boxes [A, 4] and [B, 4] (x1, y1, x2, y2): [A, B].

    Arrays of NumPy give one of NumPy.
    """
    xp = a.__array_namespace__()
    low = xp.maximum(a[:, None, :2], b[None, :, :2])
    high = xp.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = xp.prod(xp.maximum(high - low, 0), axis=-1)
    area_a, area_b = (xp.prod(xp.maximum(x[:, 2:] - x[:, :2], 0), axis=-1) for x in (a, b))
    union = area_a[:, None] + area_b[None, :] - overlap
    return xp.where(union > 0, overlap / xp.where(union > 0, union, 1), 0)


def _paint(boxes, values, image_size, grid_shape):
    """Returns the largest value among the boxes that overlap each block, else 0: [Gh, Gw]."""

    def overlaps(low, high, length, blocks):
        start = jnp.arange(blocks, dtype=jnp.float32)[None, :] * (length / blocks)
        return (low[:, None] < start + length / blocks) & (high[:, None] > start)

    x1, y1, x2, y2 = boxes.astype(jnp.float32).T
    rows = overlaps(y1, y2, image_size[0], grid_shape[0])
    columns = overlaps(x1, x2, image_size[1], grid_shape[1])
    # An empty box that lies strictly inside a block would pass both tests.
    solid = ((x2 > x1) & (y2 > y1))[:, None, None]
    covered = rows[:, :, None] & columns[:, None, :] & solid
    return jnp.max(jnp.where(covered, values[:, None, None], 0), axis=0, initial=0)


def information_gain_detection(
    prev: tuple[jax.Array, jax.Array],
    new: tuple[jax.Array, jax.Array],
    *,
    image_size: tuple[int, int],
    grid_shape: tuple[int, int],
) -> jax.Array:
    """Returns what changed among the detections, painted per block exactly.

    Every detection has the gain (1 - best IoU with the previous frame's) * score, painted over its
    box and its match's; a previous detection that nothing matches paints its score. A block takes
    the largest value of the boxes that overlap it.

    Args:
      prev: boxes [N, M, 4] (x1, y1, x2, y2 in pixels) and scores [N, M] in [0, 1] of the previous
        frame; a score of 0 means no detection. Call once per class and take the maximum.
      new: the same of this frame.
      image_size: (height, width) in pixels.
      grid_shape: (Gh, Gw).

    Returns:
      [N, Gh, Gw], float32, in [0, 1].
    """

    def one(prev_boxes, prev_scores, boxes, scores):
        there, before = scores > 0, prev_scores > 0
        iou = jnp.where(there[:, None] & before[None, :], box_iou(boxes, prev_boxes), 0)
        best, match = iou.max(axis=1, initial=0), iou.argmax(axis=1)
        gain = (1 - best) * jnp.where(there, scores, 0)
        matched = best > 0
        # Row m of `hits` says which previous box detection m took for its match.
        hits = (jnp.arange(prev_scores.shape[0])[None, :] == match[:, None]) & matched[:, None]
        vanished = jnp.where(before & ~hits.any(axis=0), prev_scores, 0)
        values = (gain, jnp.where(matched, gain, 0), vanished)
        painted = (boxes, prev_boxes[match], prev_boxes)
        return _paint(jnp.concatenate(painted), jnp.concatenate(values), image_size, grid_shape)

    return jax.vmap(one)(*prev, *new).astype(jnp.float32)


def cost_reward(sigma: jax.Array, tau: float) -> jax.Array:
    """Returns s|s| with s = tau - sigma: positive while less than the target is executed.

    Args:
      sigma: running executed fraction, in [0, 1].
      tau: target fraction, in [0, 1].
    """
    s = tau - sigma
    return s * jnp.abs(s)


def block_rewards(
    information_gain: jax.Array, cost: jax.Array, *, gamma: float = 5.0
) -> tuple[jax.Array, jax.Array]:
    """Returns each block's reward for executing and for skipping it.

    R_b(1) = IG_b + gamma * cost and R_b(0) = -R_b(1).

    Args:
      information_gain: [N, Gh, Gw].
      cost: scalar, from `cost_reward`.
      gamma: weight of the cost.
    """
    execute = information_gain + gamma * cost
    return execute, -execute


def chosen_rewards(grid: jax.Array, execute: jax.Array, skip: jax.Array) -> jax.Array:
    """Returns R_b(a_b): `execute` where the grid is set, else `skip`; all [N, Gh, Gw]."""
    return jnp.where(grid, execute, skip)


def running_fraction(sigma: jax.Array, executed: jax.Array, *, momentum: float = 0.9) -> jax.Array:
    """Returns momentum * sigma + (1 - momentum) * executed, the running executed fraction."""
    return momentum * sigma + (1 - momentum) * executed
