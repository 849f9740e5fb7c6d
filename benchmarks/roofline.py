"""How far each layer is from what the device allows: multiply-accumulates and bytes, by its peaks.

python -m benchmarks.roofline --model swiftnet_rn18 --fraction 0.5

The peaks are measured here, in the same run: a large product of matrices, and a large array that is
read and written. A part's bound is the larger of its multiply-accumulates and its bytes by them;
each array counts once, so that one which stays in a cache can come below its bound. The gap is the
time measured by the bound. "network" sums up the bounds of all parts: element-wise work counts
nothing, as it can be fused.
"""

import math

import jax
import jax.numpy as jnp

from bc_jax.timing import alternate
from benchmarks import cases, parts
from benchmarks.cases import DEFAULT, Case

COLUMNS = {
    "part": "{part}",
    "times": "{times}",
    "MMACs": "{MMACs:.1f}",
    "dense ms": "{dense_ms:.2f}",
    "bound": "{dense_bound_ms:.2f} {dense_limit}",
    "gap": "{dense_gap:.2f}",
    "sparse ms": "{sparse_ms:.2f}",
    "sparse bound": "{sparse_bound_ms:.2f} {sparse_limit}",
    "sparse gap": "{sparse_gap:.2f}",
}


def measure(
    case: Case = DEFAULT,
    *,
    fraction: float = 0.5,
    repeats: int = 7,
    warm_up: int = 1,
    matrix: int = 4096,
    array_bytes: int = 2**29,
) -> list[dict]:
    """The rows of `benchmarks.parts` with their bounds, the farthest from them first.

    Args:
        case: the network.
        fraction: of the blocks that is executed.
        repeats: per part.
        warm_up: likewise.
        matrix: the side of the matrices that are multiplied.
        array_bytes: of the array that is copied; larger than the caches.
    """
    peaks = measure_peaks(case.dtype, matrix, array_bytes, repeats)
    rows = parts.measure(case, fraction=fraction, repeats=repeats, warm_up=warm_up)
    whole = next(row for row in rows if row["part"] == "network")
    rows = [row for row in rows if row["part"] not in ("network", "rest")]
    bound = [row | bounds(row, peaks) for row in rows]
    bound.sort(key=lambda row: -row["times"] * (row["sparse_ms"] - row["sparse_bound_ms"]))
    total = {f"{kind}_bound_ms": _sum(bound, f"{kind}_bound_ms") for kind in ("dense", "sparse")}
    total |= {f"{kind}_gap": whole[f"{kind}_ms"] / total[f"{kind}_bound_ms"] for kind in ("dense", "sparse")}  # fmt: skip  # noqa: E501
    total |= {f"{kind}_limit": "" for kind in ("dense", "sparse")}
    total |= {name: _sum(bound, name) for name in ("macs", "dense_bytes", "sparse_bytes")}
    total["MMACs"] = total["macs"] / 1e6
    return [row | {"benchmark": "roofline", **peaks} for row in (*bound, whole | total)]


def _sum(rows: list[dict], field: str) -> float:
    return sum(row["times"] * row[field] for row in rows if row[field] is not None)


def bounds(row: dict, peaks: dict[str, float]) -> dict:
    """The bound of a part dense and on tiles, in ms, what sets it, and the time measured by it."""
    found = {"MMACs": row["macs"] / 1e6}
    shares = {"dense": 1.0, "sparse": row["fraction"]}
    for kind, share in shares.items():
        limits = {
            "compute": 1e3 * share * row["macs"] / peaks["macs_per_second"],
            "memory": 1e3 * row[f"{kind}_bytes"] / peaks["bytes_per_second"],
        }
        limit = max(limits, key=limits.get)
        there = row[f"{kind}_ms"] > 0 and limits[limit] > 0  # copies have no dense counterpart
        found[f"{kind}_limit"] = limit if there else ""
        found[f"{kind}_bound_ms"] = limits[limit] if there else None
        found[f"{kind}_gap"] = row[f"{kind}_ms"] / limits[limit] if there else None
    return found


def measure_peaks(dtype: str, matrix: int, array_bytes: int, repeats: int) -> dict[str, float]:
    """Multiply-accumulates and bytes a second, of the fastest tenth of the repeats."""
    a = jnp.ones((matrix, matrix), dtype)
    x = jnp.ones(array_bytes // jnp.dtype(dtype).itemsize, dtype)
    product, increment = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1)
    calls = {"product": lambda: product(a, a), "copy": lambda: increment(x)}
    timings = alternate(calls, repeats=repeats, warm_up=2)
    return {
        "macs_per_second": math.prod(a.shape) * matrix / timings["product"].p10,
        "bytes_per_second": 2 * x.nbytes / timings["copy"].p10,
    }


if __name__ == "__main__":
    cases.command(measure, COLUMNS, __doc__)
