"""Which frames of the shipped clip wait for a compiler, and how long. Needs PyAV.

python -m benchmarks.stalls --model espnet_cityscapes --size 576 768 --block 64

A runner that compiles a program when a frame first needs it, and one that does so in the
background, one after the other, with nothing compiled before. (Where JAX has a cache on disk, as
JAX_COMPILATION_CACHE_DIR may say, programs come from there; the rows' environment tells.)
"""

import time

import jax
import numpy as np

from bc_jax.data import open_source
from bc_jax.policy import PolicyConfig
from bc_jax.runner import Runner
from benchmarks import cases
from benchmarks.cases import Case, load
from benchmarks.clip import DEFAULT

# A frame is late where it takes longer than so many seconds: five frames of a slow camera.
_LATE = 0.5
COLUMNS = {
    **cases.NETWORK,
    "background": "{background}",
    "first frame s": "{first_s:.1f}",
    "longest other s": "{longest_s:.2f}",
    "late": "{late} of {frames}",
    "all s": "{all_s:.1f}",
    "ms while compiling": "{meanwhile_ms:.0f} ({meanwhile} frames)",
    "else": "{otherwise_ms:.1f}",
}


def measure(case: Case = DEFAULT, *, frames: int = 240, target: float = 0.3) -> list[dict]:
    """A row for each of the two runners, with the light policy.

    Args:
        case: the network; of one stream.
        frames: of the clip.
        target: fraction of the blocks that is executed.
    """
    if case.streams != 1:
        raise ValueError(f"streams is {case.streams}; the clip is one stream")
    return [_row(case, frames, target, background) for background in (False, True)]


def _row(case: Case, frames: int, target: float, background: bool) -> dict:
    jax.clear_caches()
    loaded = load(case)
    runner = Runner(
        loaded.sparse,
        loaded.params,
        policy=PolicyConfig.light(target=target),
        background=background,
    )
    seconds, meanwhile = [], []
    for frame in open_source("pedestrians", size=case.size, frames=frames):
        start = time.perf_counter()
        jax.block_until_ready(runner(frame))
        seconds.append(time.perf_counter() - start)
        meanwhile.append(bool(runner.compiled))
    first, *others = seconds
    beside, otherwise = (
        [s for s, compiled in zip(others, meanwhile[1:], strict=True) if compiled == which]
        for which in (True, False)
    )
    return (
        case.row("stalls")
        | {"background": background, "target": target, "frames": len(seconds), "first_s": first}
        | {"longest_s": max(others), "late": sum(s > _LATE for s in others), "all_s": sum(seconds)}
        | {"meanwhile": len(beside), "meanwhile_ms": _median_ms(beside)}
        | {"otherwise_ms": _median_ms(otherwise)}
    )


def _median_ms(seconds: list[float]) -> float:
    return 1e3 * float(np.median(seconds)) if seconds else float("nan")


if __name__ == "__main__":
    cases.command(measure, COLUMNS, __doc__)
