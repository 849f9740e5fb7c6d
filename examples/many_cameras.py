"""Many cameras in one batch: their blocks share one budget, and each begins anew by itself.

    python examples/many_cameras.py

Four stretches of a clip stand for four cameras. In each frame the executed blocks of all of them
are packed into one batch, so that a busy camera gets what a quiet one does not need; `reset` says
which cameras begin anew with a frame, as after a cut or a lost connection.
"""

import numpy as np

import bc_jax
from bc_jax import models
from bc_jax.data import batches, open_source, pad_to_blocks


def main(
    network: models.Network | None = None,
    size: tuple[int, int] = (192, 256),
    block: int = 64,
    frames: int = 12,
    cameras: int = 4,
) -> np.ndarray:
    """Run the cameras together; returns each one's executed fraction, the first frame aside."""
    network = network or models.load("espnet_cityscapes")
    runner = bc_jax.Runner(
        network.apply_fn,
        network.params,
        block_size=block,
        policy=bc_jax.PolicyConfig.light(target=0.3),
        capacity_steps=4,
    )
    sources = [
        open_source("pedestrians", size=size, start=150 * camera, frames=frames)
        for camera in range(cameras)
    ]
    executed = []
    for batch in batches(sources, cameras):
        pixels, _ = pad_to_blocks(batch.frames, block)
        runner(pixels, batch.reset)
        executed.append(np.asarray(runner.outcome.grid).mean(axis=(1, 2)))
    shares = np.mean(executed[1:], axis=0)
    for camera, share in enumerate(shares):
        print(f"camera {camera}: executed {share:.3f} of its blocks")
    print(f"all: {shares.mean():.3f}, target 0.3")
    return shares


if __name__ == "__main__":
    main()
