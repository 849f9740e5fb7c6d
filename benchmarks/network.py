"""The network alone: block-sparse at exact executed fractions against the fastest dense version.

python -m benchmarks.network --model swiftnet_rn18 --size 512 1024 --fractions 0.125 0.3 0.5 1.0
"""

from benchmarks import cases
from benchmarks.cases import DEFAULT, Case, load

# Of none: what a frame costs whatever the policy says.
FRACTIONS = (0.0, 1 / 16, 0.125, 0.25, 0.3, 0.5, 0.75, 1.0)
COLUMNS = {
    **cases.NETWORK,
    "executed": "{executed}/{blocks}",
    "dense ms": "{dense_ms:.1f}",
    "dense version": "{dense_version}",
    "sparse ms": "{sparse_ms:.1f}",
    "p10-p90": "{sparse_p10_ms:.1f}-{sparse_p90_ms:.1f}",
    "efficiency": "{efficiency:.2f}",
    "speed-up": "{speedup:.2f}",
    "in a row": "{row_sparse_ms:.2f} of {row_dense_ms:.2f} ms, {row_efficiency:.2f}",
}


def measure(
    case: Case = DEFAULT,
    *,
    fractions: tuple[float, ...] = FRACTIONS,
    repeats: int = 15,
    warm_up: int = 2,
    in_a_row: int = 1,
) -> list[dict]:
    """One row per fraction; the dense versions and all fractions are timed in turn.

    Args:
        case: the network.
        fractions: of the blocks that are executed.
        repeats: rounds that count.
        warm_up: rounds before them.
        in_a_row: frames to give each version as a video does, see `bc_jax.bench.measure`.
    """
    options = {"repeats": repeats, "warm_up": warm_up, "in_a_row": in_a_row}
    return load(case).compare("network", fractions=fractions, **options)


if __name__ == "__main__":
    cases.command(measure, COLUMNS, __doc__)
