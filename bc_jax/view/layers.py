"""What can be seen of a frame, as pictures of one size: frame, prediction, blocks, state, gain."""

import numpy as np

from bc_jax.view.drawing import (
    EXECUTED,
    block_edges,
    colour_mapped,
    outline,
    scaled,
    spread,
    to_uint8,
)

# What each view is called.
TITLES = {
    "frame": "Frame",
    "prediction": "Prediction",
    "blocks": "Executed blocks",
    "state": "Frame state",
    "gain": "Information gain",
    "probability": "Probability of execution",
    "classes": "Classes",
}


# The colours of information gain are even in its square root: most blocks gain little.
GAIN_POWER = 0.5
# The gain that gets the brightest colour in all frames of a run, by measure: what total variation
# and a share of changed pixels can be at most, and a divergence (in nats) that few blocks exceed.
GAIN_MOST = {"tv": 1.0, "change": 1.0, "kl": 4.0}


def layers(
    frame: np.ndarray,
    prediction_classes: np.ndarray,
    executed: np.ndarray,
    frame_state: np.ndarray,
    information_gain: np.ndarray,
    probabilities: np.ndarray | None = None,
    *,
    palette: np.ndarray,
    block_size: int | tuple[int, int] | None = None,
    gain_max: float | None = None,
    size: tuple[int, int] | None = None,
) -> dict[str, np.ndarray]:
    """The views of `panel` one by one, all of one size, so that they can be laid over one another.

    Args:
      frame: the arguments are those of `panel`.
      prediction_classes: likewise.
      executed: likewise.
      frame_state: likewise.
      information_gain: likewise.
      probabilities: likewise.
      palette: likewise.
      block_size: likewise.
      gain_max: likewise.
      size: (H, W) of each view; None is the frame's.

    Returns:
      uint8 RGB pictures by the names that `TITLES` has a title for.

    Raises:
      ValueError: the blocks do not cover the frame.
    """
    gain = np.asarray(information_gain, np.float32)
    return draw_layers(
        frame, np.asarray(prediction_classes), np.asarray(executed, bool), frame_state, gain,
        probabilities, np.asarray(palette, np.uint8), block_size, highest(gain, gain_max),
        size or np.shape(frame)[:2], line=2,
    )  # fmt: skip


def draw_layers(
    frame, classes, executed, state, gain, probabilities, palette, block_size, top, view, *, line
) -> dict[str, np.ndarray]:
    """As `layers`, of checked arguments: `top` gets the brightest colour, `line` is a width."""
    height, width = np.shape(frame)[:2]
    block = _block(block_size, (height, width), executed.shape)
    rows = block_edges(executed.shape[0], block[0], view[0], height)
    columns = block_edges(executed.shape[1], block[1], view[1], width)
    if rows[-1] < view[0] or columns[-1] < view[1]:
        raise ValueError(
            f"{executed.shape[0]}x{executed.shape[1]} blocks of {block[0]:g}x{block[1]:g} do not "
            f"cover the frame of {height}x{width} (height x width)"
        )

    def coloured(values, most, power=1.0):
        shown = colour_mapped(np.asarray(values, np.float32), most, power=power)
        shown = spread(shown, rows, columns)
        return outline(shown, executed, rows, columns, (255, 255, 255), 1)

    picture = scaled(to_uint8(frame), view)
    colours = scaled(palette[classes], view, smooth=False)
    lit = spread(executed, rows, columns)[..., None]
    dimmed = np.where(lit, picture, (picture * 0.3).astype(np.uint8))
    views = {
        "frame": picture,
        "prediction": (0.4 * picture + 0.6 * colours).astype(np.uint8),
        "blocks": outline(dimmed, executed, rows, columns, EXECUTED, line),
        "state": scaled(to_uint8(state), view),
        "gain": coloured(gain, top, GAIN_POWER),
    }
    if probabilities is None:
        return views | {"classes": colours}
    return views | {"probability": coloured(probabilities, 1.0)}


def highest(gain: np.ndarray, gain_max: float | None) -> float:
    """The gain with the brightest colour: `gain_max`, else the largest, else 1."""
    if gain_max is not None:
        if not gain_max > 0:
            raise ValueError(f"gain_max is {gain_max}; it is positive, or None")
        return float(gain_max)
    finite = gain[np.isfinite(gain)]
    largest = float(finite.max()) if finite.size else 0.0
    return largest if largest > 0 else 1.0


def _block(block_size, size: tuple[int, int], grid: tuple[int, int]) -> tuple[float, float]:
    if block_size is None:
        return size[0] / grid[0], size[1] / grid[1]
    return (block_size, block_size) if isinstance(block_size, int) else tuple(block_size)
