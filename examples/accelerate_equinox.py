"""An Equinox network, block-sparse in time.

    python examples/accelerate_equinox.py

Equinox writes a network for one channels-first picture; `jax.vmap` makes it one for many streams.
`blockcopy` wants the parameters apart from the rest of the module, as `eqx.partition` gives them.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import bc_jax
from bc_jax.data import open_source


def make_network(key: jax.Array) -> eqx.Module:
    """A small segmentation network: logits [5, H / 2, W / 2] of a picture [3, H, W]."""
    keys = jax.random.split(key, 3)
    return eqx.nn.Sequential([
        eqx.nn.Conv2d(3, 16, 3, stride=2, padding=1, key=keys[0]),
        eqx.nn.Lambda(jax.nn.relu),
        eqx.nn.Conv2d(16, 16, 3, padding=1, key=keys[1]),
        eqx.nn.Lambda(jax.nn.relu),
        eqx.nn.Conv2d(16, 5, 1, key=keys[2]),
    ])  # fmt: skip


def main(size: tuple[int, int] = (256, 384), block: int = 64, frames: int = 10) -> float:
    """Run a clip with 30 % of the blocks; returns the share of pixels that differ from dense."""
    params, rest = eqx.partition(make_network(jax.random.key(0)), eqx.is_array)

    def apply(params, pictures):
        network = eqx.combine(params, rest)
        channels_first = pictures.transpose(0, 3, 1, 2).astype(jnp.float32) / 255
        return jax.vmap(network)(channels_first).transpose(0, 2, 3, 1)

    video = [frame[None] for frame in open_source("pedestrians", size=size, frames=frames)]
    sparse = bc_jax.blockcopy(apply, block_size=block)
    state = sparse.init(params, video[0])
    step = sparse.jit()

    rng = np.random.default_rng(0)
    shape = sparse.grid_shape(video[0])
    for t, frame in enumerate(video):
        grid = None if t == 0 else rng.random(shape) < 0.3
        logits, state = step(params, state, frame, grid)
    different = logits.argmax(-1) != jax.jit(apply)(params, frame).argmax(-1)
    print(f"pixels of another class than the dense network's: {different.mean():.1%}")
    return float(different.mean())


if __name__ == "__main__":
    main()
