"""The policy trained inside one's own `jax.lax.scan`: a whole clip in one compiled program.

    python examples/policy_in_scan.py

`bc_jax.Steps` holds the pieces of a frame as pure functions of a state: decide, execute, learn. In
a scan the capacity is fixed, and every frame executes so many blocks: those that the policy draws,
and where it draws fewer, those that it finds likeliest. So it is the target's. The first frame, in
which everything is executed, runs before the scan.
"""

import jax
import jax.numpy as jnp
import numpy as np

import bc_jax
from bc_jax import models
from bc_jax.data import open_source


def main(
    network: models.Network | None = None,
    size: tuple[int, int] = (256, 384),
    block: int = 64,
    frames: int = 60,
    target: float = 0.3,
) -> np.ndarray:
    """Train on a clip; returns the executed fraction of each frame."""
    network = network or models.load("espnet_cityscapes")
    clip = np.stack(list(open_source("pedestrians", size=size, frames=frames)))[:, None]
    steps = bc_jax.Steps(
        bc_jax.blockcopy(network.apply_fn, block), bc_jax.PolicyConfig.light(target=target)
    )
    total = int(np.prod(steps.sparse.grid_shape(clip[0])))
    capacity = max(1, round(target * total))

    @jax.jit
    def train(key, params, clip):
        state = steps.init(key, params, clip[0])
        state, _ = steps.step(params, state, clip[0], capacity=None)

        def frame(state, pixels):
            state, outcome = steps.step(params, state, pixels, capacity=capacity)
            return state, (outcome.grid.mean(), outcome.gain.mean())

        return jax.lax.scan(frame, state, clip[1:])

    state, (executed, gain) = train(jax.random.key(0), network.params, jnp.asarray(clip))
    print(f"{int(state.policy.step)} updates in {len(clip)} frames")
    print(f"executed {executed.mean():.3f} of the blocks, target {target:g}")
    print(f"information gain {gain[: len(gain) // 2].mean():.4f} in the first half, "
          f"{gain[len(gain) // 2 :].mean():.4f} in the second")  # fmt: skip
    return np.asarray(executed)


if __name__ == "__main__":
    main()
