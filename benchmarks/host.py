"""What a frame costs the host: starting its program, its arrays, and bringing the frame there.

python -m benchmarks.host --model swiftnet_rn50 --size 1024 2048 --dtype bfloat16

A GPU that has done a frame before its host has started the next one waits for it. Frames are of
one program each, as `Runner(capacity=K)` runs them; each is waited for, so that nothing is in the
way of the next.
"""

import itertools
import time
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from bc_jax.compiled_steps import CompiledSteps
from bc_jax.steps import Steps
from bc_jax.timing import Timing
from benchmarks import cases
from benchmarks.cases import DEFAULT, Case, load
from benchmarks.step import POLICIES, begun

COLUMNS = {
    **cases.NETWORK,
    "policy": "{policy}",
    "executed": "{executed}/{blocks}",
    "what": "{what}",
    "arrays": "{arrays_given} to {arrays_returned}",
    "started ms": "{started_ms:.3f}",
    "done ms": "{done_ms:.3f}",
}


def measure(
    case: Case = DEFAULT,
    *,
    policy: Literal[*POLICIES] = "light",
    target: float = 0.3,
    repeats: int = 50,
    warm_up: int = 4,
) -> list[dict]:
    """A row for each of: frames, frames learnt from, frames that are uploaded, and no work at all.

    Each is measured by itself, as the others would be in its way.

    Args:
        case: the network.
        policy: which one.
        target: fraction of the blocks that is executed.
        repeats: calls that count.
        warm_up: calls before them.
    """
    if repeats < 1 or warm_up < 0:
        raise ValueError(f"repeats is {repeats} and warm_up {warm_up}; at least 1 and 0 are needed")
    loaded, capacity = load(case), case.executed(target)
    first = loaded.frames[0]
    pieces = CompiledSteps(Steps(loaded.sparse, POLICIES[policy](target=target), target))
    state = begun(pieces, loaded)
    prepared = jax.jit(loaded.sparse.prepare)(loaded.params, first)
    reset = jnp.zeros(case.streams, bool)
    nothing = jax.jit(lambda *given: given[1], donate_argnums=1, keep_unused=True)

    def frame(frames, *, learns: bool):
        nonlocal state
        state, *rest = pieces.frame(
            prepared, state, frames, reset, capacity=capacity, learns=learns
        )
        return state, rest

    def no_work():
        nonlocal state
        state = nothing(prepared, state, first, reset)
        return state

    turns = itertools.cycle(loaded.frames)
    held = itertools.cycle([np.asarray(frames) for frames in loaded.frames])
    calls = {
        "frame": lambda: frame(next(turns), learns=False),
        "frame, learnt from": lambda: frame(next(turns), learns=True),
        "frame, uploaded": lambda: frame(jnp.asarray(next(held)), learns=False),
        "no work": no_work,
    }
    given = len(jax.tree.leaves((prepared, state, first, reset)))
    return [
        case.row("host")
        | {"policy": policy, "target": target, "repeats": repeats}
        | {"executed": capacity, "blocks": case.blocks, "fraction": capacity / case.blocks}
        | {"what": what, "arrays_given": given}
        | _timed(call, repeats, warm_up)
        for what, call in calls.items()
    ]


def _timed(call: Callable[[], object], repeats: int, warm_up: int) -> dict:
    """Until a call returns, until its results are there, and how many arrays those are."""
    started, done = [], []
    for _ in range(warm_up + repeats):
        begin = time.perf_counter()
        results = call()
        started.append(time.perf_counter() - begin)
        jax.block_until_ready(results)
        done.append(time.perf_counter() - begin)
    fields = {"arrays_returned": len(jax.tree.leaves(results))}
    for name, seconds in (("started", started), ("done", done)):
        fields |= Timing.of(seconds[warm_up:]).milliseconds(name)
    return fields


if __name__ == "__main__":
    cases.command(measure, COLUMNS, __doc__)
