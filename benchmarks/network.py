"""The network alone: block-sparse at exact executed fractions against the fastest dense version.

python -m benchmarks.network --model swiftnet_rn18 --size 512 1024 --fractions 0.125 0.3 0.5 1.0
"""

import argparse
from collections.abc import Sequence

from benchmarks.cases import (
    Case,
    add_case_options,
    case_of,
    dense_programs,
    load,
    random_grids,
    sparse_program,
    state_bytes,
)
from benchmarks.timing import Timing, alternate, efficiency, table, write_rows

FRACTIONS = (0.125, 0.3, 0.5, 1.0)
COLUMNS = {
    "network": "{model}",
    "size": "{size[0]}x{size[1]}",
    "block": "{block}",
    "streams": "{streams}",
    "dtype": "{dtype}",
    "executed": "{executed}/{blocks}",
    "dense ms": "{dense_ms:.1f}",
    "dense version": "{dense_version}",
    "sparse ms": "{sparse_ms:.1f}",
    "p10-p90": "{sparse_p10_ms:.1f}-{sparse_p90_ms:.1f}",
    "efficiency": "{efficiency:.2f}",
    "speed-up": "{speedup:.2f}",
}


def fastest(timings: dict[str, Timing], names) -> str:
    """The name of the smallest median among `names`."""
    return min(names, key=lambda name: timings[name].median)


def milliseconds(timing: Timing, name: str) -> dict[str, float]:
    """A timing as the fields NAME_ms, NAME_p10_ms and NAME_p90_ms of a row."""
    return {
        f"{name}_ms": 1e3 * timing.median,
        f"{name}_p10_ms": 1e3 * timing.p10,
        f"{name}_p90_ms": 1e3 * timing.p90,
    }


def measure(
    case: Case, *, fractions: Sequence[float] = FRACTIONS, repeats: int = 15, warm_up: int = 2
) -> list[dict]:
    """One row per fraction; the dense versions and all fractions are timed in turn."""
    loaded = load(case)
    dense = dense_programs(loaded)
    counts = sorted({case.executed(fraction) for fraction in fractions})
    sparse = {}
    for count in counts:
        grids = random_grids(loaded.grid_shape, count, warm_up + repeats)
        sparse[count] = sparse_program(loaded, count, grids)
    calls = {name: program.call for name, program in dense.items()}
    calls |= {f"sparse {count}": program.call for count, program in sparse.items()}
    timings = alternate(calls, repeats=repeats, warm_up=warm_up)
    best = fastest(timings, dense)
    rows = []
    for count in counts:
        fraction, timing = count / case.blocks, timings[f"sparse {count}"]
        rows.append(
            case.row("network")
            | {"fraction": fraction, "executed": count, "blocks": case.blocks}
            | {"dense_version": best, **milliseconds(timings[best], "dense")}
            | milliseconds(timing, "sparse")
            | {
                "efficiency": efficiency(fraction, timings[best].median, timing.median),
                "speedup": timings[best].median / timing.median,
                "dense_versions_ms": {name: 1e3 * timings[name].median for name in dense},
                "state_bytes": state_bytes(loaded),
                "temporary_bytes": sparse[count].temporary_bytes,
                "dense_temporary_bytes": dense[best].temporary_bytes,
                "compile_seconds": sparse[count].compile_seconds,
                "dense_compile_seconds": dense[best].compile_seconds,
                "programs": len(counts),
                "repeats": repeats,
            }
        )
    return rows


def main() -> None:
    """Measure one case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_case_options(parser)
    parser.add_argument("--fractions", type=float, nargs="+", default=FRACTIONS)
    options = parser.parse_args()
    rows = measure(
        case_of(options),
        fractions=options.fractions,
        repeats=options.repeats,
        warm_up=options.warm_up,
    )
    print(table(rows, COLUMNS))
    row = rows[0]
    print(
        f"\nstate {row['state_bytes'] / 1e6:.1f} MB; {row['programs']} sparse programs compiled in "
        f"{sum(r['compile_seconds'] for r in rows):.1f} s; dense versions, ms: "
        + ", ".join(f"{name} {ms:.1f}" for name, ms in row["dense_versions_ms"].items())
    )
    if options.output:
        print(write_rows(options.output, rows))


if __name__ == "__main__":
    main()
