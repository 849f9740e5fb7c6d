"""The logits that a policy looks at: of a network's outputs, thinned, and in whole blocks."""

import jax


def only_array(outputs) -> jax.Array:
    """The one array [N, h, w, classes] that a network returns; ValueError where it is another."""
    leaves = jax.tree.leaves(outputs)
    if len(leaves) != 1 or leaves[0].ndim != 4:
        shapes = [list(leaf.shape) for leaf in leaves]
        raise ValueError(
            f"the network returns arrays of shapes {shapes}; give logits=, a function that takes "
            "its outputs to the logits [N, h, w, classes] that the policy looks at"
        )
    return leaves[0]


def reduced(logits: jax.Array, *, rows: int, grid: tuple[int, int], scale: float) -> jax.Array:
    """Every so many rows and columns of the logits; all where blocks would not be whole.

    Args:
        logits: [N, h, w, classes].
        rows: of the frames.
        grid: rows and columns of blocks.
        scale: share of the frames' rows and columns that is kept.

    Raises:
        ValueError: there is a single class.
    """
    if logits.shape[-1] < 2:
        raise ValueError(
            f"the logits have shape {list(logits.shape)}: of one class, whose probability "
            "never changes; give logits=, a function to two or more, such as lambda z: "
            "jnp.concatenate([jnp.zeros_like(z), z], -1) for a mask z before its sigmoid"
        )
    every = max(1, round(logits.shape[1] / rows / scale))
    if not _whole(logits, tuple(every * blocks for blocks in grid)):
        every = 1
    return logits[:, ::every, ::every]


def check_whole_blocks(logits, frames, grid: tuple[int, int]) -> None:
    """Raises ValueError where blocks are no whole number of the logits' rows and columns.

    Args:
        logits: [N, h, w, classes].
        frames: [N, H, W, C].
        grid: rows and columns of blocks.
    """
    if _whole(logits, grid):
        return
    block = tuple(side // blocks for side, blocks in zip(frames.shape[1:3], grid, strict=True))
    sides = zip(block, frames.shape[1:3], logits.shape[1:3], strict=True)
    strides = ((side, max(1, round(whole / of))) for side, whole, of in sides)
    fits = tuple(-(-side // stride) * stride for side, stride in strides)
    other = f"blocks of another size, such as {fits}, or " if fits != block else ""
    raise ValueError(
        f"the logits have shape {list(logits.shape)}; as [N, h, w, classes], their rows and "
        f"columns do not divide into a grid of {grid[0]} x {grid[1]} blocks of {block} pixels; "
        f"give {other}logits=, a function that resizes them"
    )


def _whole(logits, parts: tuple[int, int]) -> bool:
    return not any(side % part for side, part in zip(logits.shape[1:3], parts, strict=True))
