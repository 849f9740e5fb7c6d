"""Which kernels a frame's time goes to: a GPU's by their names, a CPU's operations.

python -m benchmarks.kernels --model swiftnet_rn50 --size 1024 2048 --dtype bfloat16

The profiler of JAX sees them, and adds to the time between them. Kernels whose names differ in a
number are taken together. What a CPU's libraries do in threads of their own is not an operation's.
"""

import collections
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from bc_jax.bench import random_grids
from benchmarks import cases
from benchmarks.cases import DEFAULT, Case, load

COLUMNS = {
    **cases.NETWORK,
    "executed": "{executed}/{blocks}",
    "what": "{what}",
    "kernel": "{kernel}",
    "times": "{times:g}",
    "us": "{us:.1f}",
    "share": "{share:.0%}",
}
ALL = "all"
_LONGEST = 60  # letters of a name


def measure(
    case: Case = DEFAULT, *, fraction: float = 0.3, repeats: int = 5, warm_up: int = 3
) -> list[dict]:
    """Rows for the network on blocks and for it in one block: all kernels, then each, dear first.

    Args:
        case: the network.
        fraction: of the blocks that is executed.
        repeats: frames in a row that are looked at.
        warm_up: frames before them.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; at least 1 is needed")
    loaded, executed = load(case), case.executed(fraction)
    calls = {
        "sparse": loaded.sparse_call(random_grids(loaded.grid_shape, executed, repeats)),
        "dense": loaded.dense_calls()["one block"],
    }
    about = case.row("kernels") | {"fraction": executed / case.blocks, "repeats": repeats}
    about |= {"executed": executed, "blocks": case.blocks}
    return [
        about | {"what": what} | row
        for what, call in calls.items()
        for row in _rows(list(_seen(call, repeats, warm_up)), repeats)
    ]


def _seen(call: Callable, repeats: int, warm_up: int) -> Iterator[tuple[str, float, float]]:
    """What ran: names, and when each began and ended, in nanoseconds."""
    for _ in range(warm_up):
        jax.block_until_ready(call())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(repeats):
                result = call()
            jax.block_until_ready(result)
        (path,) = Path(folder).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(path))
    for plane in profile.planes:
        on_gpu = "GPU" in plane.name
        for line in plane.lines:
            if on_gpu and not line.name.startswith("Stream"):
                continue  # the same once more, by module and by operation
            for event in line.events:
                if on_gpu or "hlo_op" in dict(event.stats):
                    yield event.name, event.start_ns, event.start_ns + event.duration_ns


def _rows(seen: list[tuple[str, float, float]], frames: int) -> list[dict]:
    total, times = collections.Counter(), collections.Counter()
    for name, begin, end in seen:
        kernel = re.sub(r"[._]*\d+$", "", name)[:_LONGEST]
        total[kernel] += end - begin
        times[kernel] += 1
    busy = _covered([(begin, end) for _, begin, end in seen])

    def row(kernel: str, count: float, nanoseconds: float) -> dict:
        per_frame = {"times": count / frames, "us": nanoseconds / frames / 1e3}
        return {"kernel": kernel, **per_frame, "share": nanoseconds / busy if busy else 0.0}

    each = [row(kernel, times[kernel], spent) for kernel, spent in total.most_common()]
    return [row(ALL, len(seen), busy), *each]


def _covered(spans: list[tuple[float, float]]) -> float:
    """How long at least one of some spans lasts."""
    covered, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        covered += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return covered


if __name__ == "__main__":
    cases.command(measure, COLUMNS, __doc__)
