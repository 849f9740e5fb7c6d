"""What the policy network sees: frame, frame state, previous output, and previous grid or age."""

import math
import warnings

import jax
import jax.numpy as jnp

from bc_jax import lowering


def policy_pixels(block_size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Returns the policy pixels per block, (vertical, horizontal), at a given input scale.

    Raises:
      ValueError: a block is not a whole number of policy pixels.
    """
    pixels = tuple(side * scale for side in block_size)
    whole = tuple(round(p) for p in pixels)
    if any(
        w < 1 or not math.isclose(p, w, rel_tol=1e-6) for p, w in zip(pixels, whole, strict=True)
    ):
        raise ValueError(
            f"blocks of {block_size} pixels at scale {scale} are {pixels} policy pixels; "
            "choose a scale that makes both whole numbers"
        )
    return whole


def paper_scale(block_size: tuple[int, int]) -> float:
    """Returns the paper's input scale, 0.25 * 128 / block: 32 policy pixels on the longer side."""
    return 0.25 * 128 / max(block_size)


def resize_nearest(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resizes [N, h, w, ...] to [N, *size, ...], each result taking pixel floor(i * h / size).

    A strided slice where the ratio is whole, a repeat where its inverse is, else a gather.
    """
    for axis, new in zip((1, 2), size, strict=True):
        old = x.shape[axis]
        if old == new:
            continue
        if old % new == 0:
            x = jax.lax.slice_in_dim(x, 0, old, old // new, axis=axis)
        elif new % old == 0:
            x = jnp.repeat(x, new // old, axis=axis)
        else:
            x = jnp.take(x, jnp.arange(new) * old // new, axis=axis)
    return x


def unit_range(frames: jax.Array) -> jax.Array:
    """Returns frames as float32 in [0, 1]; uint8 is divided by 255, what is not finite is 0."""
    if frames.dtype == jnp.uint8:
        return frames.astype(jnp.float32) / 255
    return jnp.clip(jnp.nan_to_num(frames.astype(jnp.float32), posinf=0.0, neginf=0.0), 0, 1)


def warn_of_range(frames) -> None:
    """Warn where the policy would see white alone, or black for all that is below 0."""
    if frames.dtype == jnp.uint8:
        return
    finite = jnp.where(jnp.isfinite(frames), frames, 0)
    least, largest = float(finite.min()), float(finite.max())
    if largest > 2 or least < -0.1:
        warnings.warn(
            f"frames are {frames.dtype} from {least:g} to {largest:g}; the policy takes floats "
            "from 0 to 1, or uint8, and sees what is below 0 as 0 and what is above 1 as 1: "
            "normalise frames in the network",
            stacklevel=3,
        )


def probabilities(outputs: jax.Array) -> jax.Array:
    """Returns the float32 softmax over the last axis; what is not finite counts as a logit of 0."""
    logits = outputs.astype(jnp.float32)
    return lowering.softmax(jnp.where(jnp.abs(logits) < jnp.inf, logits, 0.0))


def recency(age: jax.Array) -> jax.Array:
    """Returns exp(-age / 4) in (0, 1]: 1 for a block executed in the last frame."""
    return jnp.exp(-age.astype(jnp.float32) / 4)


def policy_inputs(
    frames: jax.Array,
    frame_state: jax.Array,
    outputs: jax.Array,
    grid_or_age: jax.Array,
    *,
    block_size: tuple[int, int],
    scale: float | None = None,
) -> jax.Array:
    """Builds the policy network's input (nearest neighbour, no gradient passes).

    Args:
      frames: this frame [N, H, W, 3], uint8 or float in [0, 1].
      frame_state: each block's pixels when it was last executed, like `frames`.
      outputs: the previous logits [N, h, w, classes], at any resolution.
      grid_or_age: [N, Gh, Gw]; bool is the previous grid, shown as 0 or 1 minus 0.5; integers are
        the frames since each block was executed, shown as exp(-age / 4).
      block_size: (height, width) of a block in frame pixels.
      scale: of the frame's resolution; None is the paper's, 0.25 * 128 / block_size.

    Returns:
      [N, Gh*ph, Gw*pw, 3 + 3 + classes + 1], float32, finite.

    Raises:
      ValueError: the frame is not `grid_or_age`'s shape in blocks, or a block is not a whole
        number of policy pixels.
    """
    n, gh, gw = grid_or_age.shape
    expected = (n, gh * block_size[0], gw * block_size[1])
    for name, x in (("frames", frames), ("frame_state", frame_state)):
        if x.shape[:3] != expected:
            raise ValueError(
                f"{name} has shape {x.shape}, but {gh}x{gw} blocks of {tuple(block_size)} "
                f"in {n} streams need {expected} + (channels,)"
            )
    ph, pw = policy_pixels(block_size, paper_scale(block_size) if scale is None else scale)
    size = (gh * ph, gw * pw)
    if grid_or_age.dtype == jnp.bool_:
        history = grid_or_age.astype(jnp.float32) - 0.5
    else:
        history = recency(grid_or_age)
    parts = [
        unit_range(resize_nearest(frames, size)),
        unit_range(resize_nearest(frame_state, size)),
        probabilities(resize_nearest(outputs, size)) - 0.5,
        resize_nearest(history[..., None], size),
    ]
    return jax.lax.stop_gradient(jnp.concatenate(parts, axis=-1))
