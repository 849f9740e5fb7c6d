"""`Runner` on the shipped clip, with whatever its policy decides. Needs PyAV.

python -m benchmarks.clip --model espnet_cityscapes --size 576 768 --block 64 --frames 60

With --windows a row for each part of the clip, one after the other: what a frame costs must not
grow with the frames before it. `--policy random` has as many blocks executed in each frame.
"""

import re
import resource
import sys
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from bc_jax.data import open_source
from bc_jax.runner import Runner
from bc_jax.timing import alternate, fastest
from benchmarks import cases
from benchmarks.cases import Case, load
from benchmarks.step import POLICIES

DEFAULT = Case("espnet_cityscapes", (576, 768), block=64)
COLUMNS = {
    **cases.NETWORK,
    "policy": "{policy}",
    "frames": "{first}-{last}",
    "timed": "{frames}",
    "executed": "{fraction:.3f}",
    "dense ms": "{dense_ms:.1f}",
    "step ms": "{step_ms:.1f}",
    "speed-up": "{speedup:.2f}",
    "policy ms": "{policy_ms:.1f}",
    "network ms": "{network_ms:.1f}",
    "learning ms": "{learning_ms:.1f}",
    "process MB": "{process_MB:.0f}",
}


def measure(
    case: Case = DEFAULT,
    *,
    frames: int = 60,
    windows: int = 1,
    target: float = 0.3,
    policy: Literal[*POLICIES, "random"] = "light",
    train_interval: int = 3,
    repeats: int = 15,
) -> list[dict]:
    """A row of means per window, over its frames in which nothing was compiled.

    Dense and runner are timed one after the other here, not in turn.

    Args:
        case: the network; of one stream.
        frames: of the clip.
        windows: parts that the frames are cut into.
        target: fraction of the blocks that is executed.
        policy: which one.
        train_interval: frames from one update of the policy to the next.
        repeats: of the dense network.
    """
    if case.streams != 1:
        raise ValueError(f"streams is {case.streams}; the clip is one stream")
    if not 1 <= windows <= frames:
        raise ValueError(f"windows is {windows}; it is from 1 to frames, {frames}")
    loaded = load(case)
    timings = alternate(loaded.dense_calls(), repeats=repeats)
    best = fastest(timings, timings)
    runner = Runner(
        loaded.sparse,
        loaded.params,
        policy=POLICIES[policy](target=target) if policy in POLICIES else policy,
        target=target,
        train_interval=train_interval,
    )
    seen = []
    for frame in open_source("pedestrians", size=case.size, frames=frames):
        jax.block_until_ready(runner(frame))
        executed = float(runner.outcome.grid.mean())
        seen.append((dict(runner.times), executed, not runner.compiled, process_bytes()))
    rows = []
    for window in np.array_split(np.arange(len(seen)), windows):
        timed = [seen[i] for i in window if seen[i][2]]
        if not timed:
            raise ValueError(
                f"in each of frames {window[0]}-{window[-1]} something was compiled; give more"
            )
        parts = {name: float(np.mean([t[name] for t, *_ in timed])) for name in timed[0][0]}
        step = sum(parts.values())
        rows.append(
            case.row("clip")
            | {"policy": policy, "train_interval": train_interval, "frames": len(timed)}
            | {"first": int(window[0]), "last": int(window[-1])}
            | {"fraction": float(np.mean([fraction for _, fraction, *_ in timed]))}
            | {"dense_version": best, **timings[best].milliseconds("dense")}
            | {f"{name}_ms": 1e3 * seconds for name, seconds in parts.items()}
            | {"step_ms": 1e3 * step, "speedup": timings[best].median / step}
            | {"process_MB": timed[-1][3] / 1e6}
        )
    return rows


def process_bytes() -> int:
    """The most memory that this process has had so far, on the host."""
    try:
        # The peak of getrusage(2) would be the parent's, where that had more.
        status = Path("/proc/self/status").read_text()
        return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status)[1])
    except (OSError, TypeError):
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    cases.command(measure, COLUMNS, __doc__)
