"""Time a network with a part of its blocks executed, beside the dense one, on this machine.

Random grids, no policy; all versions run in turn, so that what slows the machine down slows all of
them down. Efficiency is the dense network's time by the executed fraction, over the time measured.
"""

import dataclasses
import statistics
import time

import jax
import numpy as np

from bc_jax import blockcopy, build, command_line
from bc_jax.config import Config, from_command_line
from bc_jax.data import pad_to_blocks
from bc_jax.dense import Dense
from bc_jax.logs import Progress


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The arguments of this command itself."""

    # Shares of the blocks that are executed.
    fractions: tuple[float, ...] = (0.1, 0.3, 0.5, 1.0)
    # How often each is timed; the median counts.
    repeats: int = 10

    def __post_init__(self):
        if self.repeats < 1 or not all(0 < f <= 1 for f in self.fractions):
            raise ValueError("repeats is at least 1, and each of fractions in (0, 1]")


def main(argv=None) -> None:
    """Read the settings, measure, and say what cannot be in one line."""
    config, arguments = from_command_line(__doc__, argv, extra=Arguments, default=Config())
    command_line.prepare()
    with command_line.errors_told():
        bench(config, arguments)


def bench(config: Config, arguments: Arguments) -> None:
    """Measure, and print a table."""
    network = build.network(config)
    batch = next(iter(build.evaluation_frames(config)))
    frames, _ = pad_to_blocks(batch.frames, config.blocks.size)
    sparse = blockcopy(network.apply_fn, config.blocks.size)
    shape = sparse.grid_shape(frames)
    total = int(np.prod(shape))
    counts = {max(1, round(fraction * total)) for fraction in arguments.fractions}
    grids = {count: _grid(shape, count) for count in sorted(counts)}
    with Progress(arguments.repeats) as progress:

        def compiling(what: str) -> None:
            progress.update(0, note=f"compiling {what}, once")

        dense = Dense(network, frames, compiling)
        state = sparse.init(network.params, frames)
        for count, grid in grids.items():
            compiling(f"network for {count} blocks")
            state = sparse.compiled(network.params, state, frames, grid, capacity=count)
        took = {count: [] for count in grids}
        whole = []
        for lap in range(arguments.repeats):
            whole.append(dense(frames)[1])
            for count, grid in grids.items():
                clock = time.perf_counter()
                state = sparse.compiled(network.params, state, frames, grid, capacity=count)
                jax.block_until_ready(state)
                took[count].append(1e3 * (time.perf_counter() - clock))
            progress.update(lap + 1)
    dense_ms = statistics.median(whole)
    print(f"dense: {dense_ms:.1f} ms ({dense.version})")
    print("executed      ms  speed-up  efficiency")
    for count, laps in took.items():
        ms = statistics.median(laps)
        ideal = dense_ms * count / total
        print(f"{count / total:8.3f} {ms:7.1f} {dense_ms / ms:9.2f} {ideal / ms:11.2f}")


def _grid(shape: tuple[int, int, int], count: int) -> np.ndarray:
    chosen = np.random.default_rng(0).permutation(int(np.prod(shape))) < count
    return chosen.reshape(shape)


if __name__ == "__main__":
    main()
