"""What a frame costs as one thing changes: resolution, block, type, streams, executed fraction.

python -m benchmarks.scaling --model swiftnet_rn18 --fraction 0.5

`benchmarks.clip --windows 4` tells how it changes with the length of the clip.
"""

import dataclasses
import functools

from bc_jax.config import Dtype
from benchmarks import cases, network
from benchmarks.cases import DEFAULT, Case

COLUMNS = {
    "axis": "{axis}",
    **cases.NETWORK,
    "executed": "{executed}/{blocks}",
    "dense ms": "{dense_ms:.1f}",
    "sparse ms": "{sparse_ms:.1f}",
    "ms/stream": "{ms_per_stream:.1f}",
    "ms/block": "{ms_per_block:.2f}",
    "efficiency": "{efficiency:.2f}",
}


def measure(
    case: Case = DEFAULT,
    *,
    fraction: float = 0.5,
    sizes: tuple[tuple[int, int], ...] = ((256, 512), (512, 1024), (1024, 2048)),
    blocks: tuple[int, ...] = (64, 128, 256),
    dtypes: tuple[Dtype, ...] = ("float32", "bfloat16"),
    stream_counts: tuple[int, ...] = (1, 2, 4, 8),
    fractions: tuple[float, ...] = (0.125, 0.25, 0.5, 0.75, 1.0),
    repeats: int = 7,
    warm_up: int = 1,
) -> list[dict]:
    """Rows along each axis through the case, which is measured once.

    Args:
        case: what does not change stays as it is here.
        fraction: of the blocks that is executed along the other axes.
        sizes: (height, width) of the frames.
        blocks: pixels per block's side.
        dtypes: of the computation.
        stream_counts: streams run together.
        fractions: of the blocks that are executed.
        repeats: rounds that count.
        warm_up: rounds before them.
    """

    @functools.cache
    def rows_of(one: Case) -> list[dict]:
        asked = {fraction, *fractions} if one == case else {fraction}
        return network.measure(one, fractions=tuple(asked), repeats=repeats, warm_up=warm_up)

    rows = [row | {"axis": "fraction"} for row in rows_of(case)]
    axes = {"size": sizes, "block": blocks, "dtype": dtypes, "streams": stream_counts}
    for axis, values in axes.items():
        for value in values:
            changed = dataclasses.replace(case, **{axis: value})
            executed = changed.executed(fraction)
            found = [row for row in rows_of(changed) if row["executed"] == executed]
            rows += [row | {"axis": axis} for row in found]
    return [
        row
        | {"benchmark": "scaling", "ms_per_stream": row["sparse_ms"] / row["streams"]}
        | {"ms_per_block": row["sparse_ms"] / max(1, row["executed"])}
        for row in rows
    ]


if __name__ == "__main__":
    cases.command(measure, COLUMNS, __doc__)
