"""A camera or a video, live: the prediction's colours, and the blocks that were executed.

    python examples/live.py --source camera:0 --display

The picture is shown in a window, or in the terminal where no window can be opened; Escape, q or
Ctrl-C ends it. Without --display the figures alone are printed.
"""

import argparse

import numpy as np

import bc_jax
from bc_jax import command_line, models
from bc_jax.data import crop, open_source, pad_to_blocks
from bc_jax.view import layers
from bc_jax.view.display import displayed


def main(argv: list[str] | None = None, network: models.Network | None = None) -> int:
    """Run until the source ends or the viewer does; returns how many frames were seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", default="camera:0", help="camera, video file or folder")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="of the frames")
    parser.add_argument("--frames", type=int, help="stop after so many")
    parser.add_argument("--block", type=int, default=64)
    parser.add_argument("--target", type=float, default=0.3, help="share of blocks to execute")
    parser.add_argument("--display", action="store_true")
    given = parser.parse_args(argv)

    bc_jax.sparse.keep_memory()  # before JAX computes anything
    network = network or models.load("espnet_cityscapes")
    policy = bc_jax.PolicyConfig.light(target=given.target)
    runner = bc_jax.Runner(
        network.apply_fn,
        network.params,
        block_size=given.block,
        policy=policy,
        background=True,  # a camera does not wait for a compiler
    )
    try:
        source = open_source(  # a file that breaks off ends there, with a warning
            given.source, size=given.size, frames=given.frames, on_error="stop"
        )
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    count = 0
    with displayed(given.display) as show, command_line.stopping() as asked_to_stop:
        for frame in source:
            padded, size = pad_to_blocks(frame, given.block)
            logits = runner(padded)
            count += 1
            grid = np.asarray(runner.outcome.grid[0])
            if given.display:
                going_on = show(picture(network, runner, frame, logits, grid, size, given.block))
            else:
                going_on = True
                ms = 1e3 * sum(runner.times.values())
                print(f"frame {count}: {grid.mean():.0%} of the blocks, {ms:.1f} ms", flush=True)
            if not going_on or asked_to_stop():
                break
    return count


def picture(network, runner, frame, logits, grid, size, block) -> np.ndarray:
    """Prediction and executed blocks side by side, uint8 [H, 2 W, 3]."""
    classes = np.asarray(crop(logits, size, network.stride)[0].argmax(-1))
    state = crop(np.asarray(runner.state.frame_state.frames[0]), size, axes=(0, 1))
    gain = np.asarray(runner.outcome.gain[0])
    views = layers(
        frame, classes, grid, state, gain, palette=network.palette, block_size=block
    )  # fmt: skip
    return np.concatenate([views["prediction"], views["blocks"]], axis=1)


if __name__ == "__main__":
    main()
