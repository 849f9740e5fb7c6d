"""What blocks gain by a measure of one's own: for detections, depth, and other outputs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bc_jax.policy.rewards import block_mean


class Gain(NamedTuple):
    """A measure of what has changed in a network's outputs since they were last computed.

    Attributes:
        keep: from the network's outputs to a pytree of arrays, what of them is kept for the next
            frame to be compared with: small, such as boxes and scores.
        compare: from what was kept before and what is kept now to the gain, float [N, h, w]: of
            each block, or of each pixel of a map that divides into blocks, of which a block has the
            mean. At least 0, and best at most about 1, as what blocks gain by default is.
    """

    keep: Callable[[Any], Any]
    compare: Callable[[Any, Any], jax.Array]

    def of_blocks(self, before, after, grid: jax.Array) -> jax.Array:
        """What each executed block gained, and 0 for the others.

        Args:
            before: what `keep` returned of the outputs before.
            after: likewise, of these.
            grid: the blocks executed, bool [N, Gh, Gw].

        Returns:
            float32 [N, Gh, Gw].

        Raises:
            ValueError: `compare` returns something else than a map of whole blocks.
        """
        gain = self.compare(before, after)
        shape = jnp.shape(gain)
        fits = len(shape) == 3 and shape[0] == grid.shape[0]
        if not fits or any(s % g or not s for s, g in zip(shape[1:], grid.shape[1:], strict=True)):
            raise ValueError(
                f"gain.compare returns an array of shape {list(shape)}; it is the gain [N, h, w] "
                f"of blocks or of pixels, N being {grid.shape[0]}, h a multiple of {grid.shape[1]} "
                f"rows of blocks and w of {grid.shape[2]} columns"
            )
        return jnp.where(grid, block_mean(gain.astype(jnp.float32), grid.shape[1:]), 0)
