"""A network in the types that it can compute in, all timed in turn, dense and block-sparse.

python -m benchmarks.dtypes --model swiftnet_rn50 --size 512 1024

A CPU gains from bfloat16 where it has units for it and a network has channels enough.
"""

import dataclasses

from bc_jax.bench import random_grids
from bc_jax.config import Dtype
from bc_jax.timing import alternate, efficiency, fastest
from benchmarks import cases
from benchmarks.cases import DEFAULT, Case, load

COLUMNS = {
    **cases.NETWORK,
    "executed": "{executed}/{blocks}",
    "dense ms": "{dense_ms:.1f}",
    "dense version": "{dense_version}",
    "sparse ms": "{sparse_ms:.1f}",
    "p10-p90": "{sparse_p10_ms:.1f}-{sparse_p90_ms:.1f}",
    "efficiency": "{efficiency:.2f}",
    "state MB": "{state_megabytes:.0f}",
}


def measure(
    case: Case = DEFAULT,
    *,
    fraction: float = 0.3,
    dtypes: tuple[Dtype, ...] = ("float32", "bfloat16", "float16"),
    repeats: int = 15,
    warm_up: int = 2,
) -> list[dict]:
    """One row per type.

    Args:
        case: the network; its own dtype does not matter.
        fraction: of the blocks that is executed.
        dtypes: of the computation and the state.
        repeats: rounds that count.
        warm_up: rounds before them.
    """
    count, calls, dense, rows = case.executed(fraction), {}, {}, []
    for dtype in dtypes:
        loaded = load(dataclasses.replace(case, dtype=dtype))
        versions = loaded.dense_calls()
        dense[dtype] = [f"{dtype} {name}" for name in versions]
        calls |= zip(dense[dtype], versions.values(), strict=True)
        grids = random_grids(loaded.grid_shape, count, warm_up + repeats)
        calls[dtype] = loaded.sparse_call(grids)
        size = loaded.sparse.explain(loaded.params, loaded.frames[0]).state_bytes
        row = loaded.case.row("dtypes") | {"executed": count, "blocks": grids[0].size}
        rows.append(row | {"repeats": repeats, "state_megabytes": size / 1e6})
    timings = alternate(calls, repeats=repeats, warm_up=warm_up)
    for row in rows:
        dtype = row["dtype"]
        best = fastest(timings, dense[dtype])
        row |= timings[best].milliseconds("dense") | timings[dtype].milliseconds("sparse")
        row["dense_version"] = best.removeprefix(f"{dtype} ")
        share = count / row["blocks"]
        row["efficiency"] = efficiency(share, timings[best].median, timings[dtype].median)
    return rows


if __name__ == "__main__":
    cases.command(measure, COLUMNS, __doc__)
