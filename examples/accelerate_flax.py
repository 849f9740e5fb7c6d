"""A Flax network of one's own, block-sparse in time, in three lines.

    python examples/accelerate_flax.py

Nothing in the network changes: `blockcopy` takes any function of parameters and frames.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import bc_jax
from bc_jax.data import open_source


class Segmenter(nn.Module):
    """A small segmentation network: logits of five classes at a quarter of the resolution."""

    @nn.compact
    def __call__(self, frames):
        """From frames [N, H, W, 3], uint8, to logits [N, H / 4, W / 4, 5]."""
        x = frames.astype(jnp.float32) / 255
        for features in (16, 32):
            x = nn.relu(nn.Conv(features, (3, 3), strides=2)(x))
        for dilation in (1, 2):
            x = x + nn.relu(nn.Conv(32, (3, 3), kernel_dilation=dilation)(x))
        return nn.Conv(5, (1, 1))(x)


def main(size: tuple[int, int] = (256, 384), block: int = 64, frames: int = 10) -> float:
    """Run a clip with 30 % of the blocks; returns the share of pixels that differ from dense."""
    video = [frame[None] for frame in open_source("pedestrians", size=size, frames=frames)]
    network = Segmenter()
    params = network.init(jax.random.key(0), video[0])

    sparse = bc_jax.blockcopy(network.apply, block_size=block)  # 1
    state = sparse.init(params, video[0])  # 2
    step = sparse.jit()  # 3

    print(sparse.explain(params, video[0]))
    dense = jax.jit(network.apply)
    rng = np.random.default_rng(0)
    shape = sparse.grid_shape(video[0])
    for t, frame in enumerate(video):
        # Everything in the first frame, then any grid: here random, in earnest a policy's.
        grid = None if t == 0 else rng.random(shape) < 0.3
        logits, state = step(params, state, frame, grid)
    different = logits.argmax(-1) != dense(params, frame).argmax(-1)
    print(f"pixels of another class than the dense network's: {different.mean():.1%}")
    return float(different.mean())


if __name__ == "__main__":
    main()
