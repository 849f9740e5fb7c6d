"""The dense network, in the fastest of the versions that there are."""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bc_jax.models import Network
from bc_jax.sparse import blockcopy, compiler_options


class Dense:
    """The fastest of the dense versions that there are, measured: times are compared with it.

    Args:
        network: what is run.
        frames: [N, H, W, 3] to measure with.
        on_compile: told what is about to be compiled.
    """

    def __init__(self, network: Network, frames: np.ndarray, on_compile: Callable[[str], None]):
        self._params = network.params
        options = compiler_options()
        whole = blockcopy(network.apply_fn, frames.shape[1:3])
        versions = {
            "jit": _plain(jax.jit(network.apply_fn)),
            "blockcopy with one block": _one_block(whole, network.params, frames),
        }
        if options:
            fast = jax.jit(lambda p, f: network.apply_fn(p, f), compiler_options=options)
            versions["jit with bc_jax.sparse.compiler_options"] = _plain(fast)
        self.milliseconds: dict[str, float] = {}  # of each version
        laps: dict[str, list[float]] = {name: [] for name in versions}
        for name, run in versions.items():
            on_compile(f"dense network ({name})")
            jax.block_until_ready(run(self._params, jnp.asarray(frames)))
        for _ in range(3):
            for name, run in versions.items():
                self._run = run
                laps[name].append(self(frames)[1])
        self.milliseconds = {name: min(took) for name, took in laps.items()}
        self.version = min(self.milliseconds, key=self.milliseconds.get)
        self._run = versions[self.version]

    def __call__(self, frames) -> tuple[jax.Array, float]:
        """The outputs for [N, H, W, 3], valid until the next call, and the milliseconds it took."""
        frames = jnp.asarray(frames)
        clock = time.perf_counter()
        outputs = jax.block_until_ready(self._run(self._params, frames))
        return outputs, 1e3 * (time.perf_counter() - clock)


def _plain(function: Callable) -> Callable:
    return lambda params, frames: function(params, frames)


def _one_block(sparse, params, frames) -> Callable:
    """The transformed network on one block as large as the frame, as a function of frames."""
    run = sparse.jit()
    kept = {"state": sparse.init(params, frames)}
    grid = jnp.ones((frames.shape[0], 1, 1), bool)

    def call(params, frames):
        outputs, kept["state"] = run(params, kept["state"], frames, grid, capacity=len(frames))
        return outputs

    return call
