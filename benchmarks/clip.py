"""`Runner` on the shipped clip, with whatever its policy decides. Needs PyAV.

python -m benchmarks.clip --model espnet_cityscapes --size 576 768 --block 64 --frames 60
"""

import argparse

import jax
import numpy as np

from bc_jax.data import open_source
from bc_jax.runner import Runner
from benchmarks.cases import Case, add_case_options, case_of, dense_programs, load
from benchmarks.network import fastest, milliseconds
from benchmarks.step import POLICIES
from benchmarks.timing import alternate, table, write_rows

COLUMNS = {
    "network": "{model}",
    "size": "{size[0]}x{size[1]}",
    "policy": "{policy}",
    "executed": "{fraction:.3f}",
    "dense ms": "{dense_ms:.1f}",
    "step ms": "{step_ms:.1f}",
    "speed-up": "{speedup:.2f}",
    "policy ms": "{policy_ms:.1f}",
    "network ms": "{network_ms:.1f}",
    "learning ms": "{learning_ms:.1f}",
    "frames timed": "{frames}",
}


def measure(
    case: Case,
    *,
    frames: int = 60,
    target: float = 0.3,
    policy: str = "light",
    train_interval: int = 3,
    repeats: int = 15,
) -> dict:
    """One row of means over the frames in which nothing was compiled, the first left out.

    Dense and runner are timed one after the other here, not in turn.
    """
    if case.streams != 1:
        raise ValueError(f"streams is {case.streams}; the clip is one stream")
    loaded = load(case)
    dense = dense_programs(loaded)
    timings = alternate({name: p.call for name, p in dense.items()}, repeats=repeats)
    best = fastest(timings, dense)
    runner = Runner(
        loaded.apply_fn,
        loaded.params,
        block_size=case.block,
        policy=POLICIES[policy](target=target),
        train_interval=train_interval,
    )
    times, executed = [], []
    for frame in open_source("pedestrians", size=case.size, frames=frames):
        jax.block_until_ready(runner(frame))
        if not runner.compiled:
            times.append(dict(runner.times))
            executed.append(float(runner.outcome.grid.mean()))
    if not times:
        raise ValueError(f"in each of {frames} frames something was compiled; give more frames")
    parts = {name: float(np.mean([t[name] for t in times])) for name in times[0]}
    step = sum(parts.values())
    return (
        case.row("clip")
        | {"policy": policy, "train_interval": train_interval, "frames": len(times)}
        | {"fraction": float(np.mean(executed))}
        | {"dense_version": best, **milliseconds(timings[best], "dense")}
        | {f"{name}_ms": 1e3 * seconds for name, seconds in parts.items()}
        | {"step_ms": 1e3 * step, "speedup": timings[best].median / step}
    )


def main() -> None:
    """Measure one network with one policy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_case_options(parser, model="espnet_cityscapes", size=(576, 768), block=64)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--target", type=float, default=0.3)
    parser.add_argument("--policy", default="light", choices=POLICIES)
    parser.add_argument("--train-interval", type=int, default=3)
    options = parser.parse_args()
    row = measure(
        case_of(options),
        frames=options.frames,
        target=options.target,
        policy=options.policy,
        train_interval=options.train_interval,
        repeats=options.repeats,
    )
    print(table([row], COLUMNS))
    if options.output:
        print(write_rows(options.output, [row]))


if __name__ == "__main__":
    main()
