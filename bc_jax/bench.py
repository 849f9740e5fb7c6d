"""Time a network with a part of its blocks executed, beside the dense one, on this machine.

Random grids, no policy; all versions run in turn, so that what slows the machine down slows all of
them down. Efficiency is the dense network's time by the executed fraction, over the time measured.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from bc_jax import blockcopy, build, command_line
from bc_jax.config import Config, ConfigError, from_command_line
from bc_jax.data import pad_to_blocks
from bc_jax.logs import Progress
from bc_jax.programs import dense_programs, sparse_program
from bc_jax.sparse import BlockCopy
from bc_jax.timing import alternate, efficiency, fastest
from bc_jax.typed import check_at_least

COLUMNS = {
    "executed": "{executed}/{blocks}",
    "fraction": "{fraction:.3f}",
    "ms": "{sparse_ms:.1f}",
    "p10-p90": "{sparse_p10_ms:.1f}-{sparse_p90_ms:.1f}",
    "speed-up": "{speedup:.2f}",
    "efficiency": "{efficiency:.2f}",
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The arguments of this command itself."""

    # Shares of the blocks that are executed; 0 is what a frame costs with none.
    fractions: tuple[float, ...] = (0.1, 0.3, 0.5, 1.0)
    # How often each is timed; the median counts.
    repeats: int = 10

    def __post_init__(self):
        check_at_least(self, "", 1, "repeats")
        for fraction in self.fractions:
            if not 0 <= fraction <= 1:
                raise ConfigError(
                    f"fractions has {fraction}; each is 0 to 1, a share of the blocks"
                )


def main(argv=None) -> None:
    """Read the settings, measure, and say what cannot be in one line."""
    config, arguments = from_command_line(__doc__, argv, extra=Arguments, default=Config())
    command_line.prepare()
    with command_line.errors_told():
        bench(config, arguments)


def bench(config: Config, arguments: Arguments) -> None:
    """Measure, and print a table."""
    network = build.network(config)
    batch = next(iter(build.evaluation_frames(config)))
    frames, _ = pad_to_blocks(batch.frames, config.blocks.size)
    sparse = blockcopy(network.apply_fn, config.blocks.size)
    with Progress(1 + arguments.repeats) as progress:
        rows = measure(
            sparse,
            network.params,
            [jnp.asarray(frames)],
            fractions=arguments.fractions,
            repeats=arguments.repeats,
            warm_up=1,
            on_compile=lambda what: progress.update(0, note=f"compiling {what}, once"),
            on_round=progress.update,
        )
    print(f"dense: {rows[0]['dense_ms']:.1f} ms ({rows[0]['dense_version']})")
    print(table(rows, COLUMNS))


def measure(
    sparse: BlockCopy,
    params,
    frames: Sequence[jax.Array],
    *,
    fractions: Sequence[float],
    repeats: int,
    warm_up: int = 2,
    in_a_row: int = 1,
    beside: Mapping[str, Callable[[], object]] | None = None,
    on_compile: Callable[[str], None] = lambda what: None,
    on_round: Callable[[int], None] = lambda rounds: None,
) -> list[dict]:
    """Time the dense versions and the block-sparse network at exact executed fractions, in turn.

    Args:
        sparse: the network.
        params: its parameters.
        frames: arrays [N, H, W, 3] that are gone through again and again.
        fractions: of the blocks that are executed; each is rounded to whole blocks.
        repeats: rounds that count.
        warm_up: rounds before them.
        in_a_row: frames to give each version as a video does, of which only the last is waited
            for: measured as well, and named `row_...`, where it is more than 1.
        beside: other calls that are timed in the same rounds.
        on_compile: told what is about to be compiled.
        on_round: told how many rounds are over.

    Returns:
        A row per fraction, of JSON's types.

    Raises:
        ValueError: a fraction is not in [0, 1].
    """
    shape, beside = sparse.grid_shape(frames[0]), beside or {}
    total = int(np.prod(shape))
    counts = sorted({executed(fraction, total) for fraction in fractions})
    dense = dense_programs(sparse.apply_fn, params, frames[0], on_compile)
    calls = {name: cycle(program.run, frames) for name, program in dense.items()} | beside
    programs = {}
    for count in counts:
        on_compile(f"network for {count} blocks")
        # A program has room for one block at least, which an empty grid leaves unused.
        capacity = max(1, count) if count < total else None
        programs[count] = sparse_program(sparse, params, frames[0], capacity=capacity)
        grids = [random_grids(shape, count, warm_up + repeats)] if capacity else []
        calls[f"sparse {count}"] = cycle(programs[count].run, frames, *grids)
    rounds = {"repeats": repeats, "warm_up": warm_up}
    timings = alternate(calls, **rounds, on_round=on_round)
    in_rows = alternate(calls, **rounds, in_a_row=in_a_row) if in_a_row > 1 else {}
    best = fastest(timings, dense)
    rows = []
    for count, program in programs.items():
        fraction, timing = count / total, timings[f"sparse {count}"]
        rows.append(
            {"fraction": fraction, "executed": count, "blocks": total}
            | {"dense_version": best, **timings[best].milliseconds("dense")}
            | timing.milliseconds("sparse")
            | {
                "efficiency": efficiency(fraction, timings[best].median, timing.median),
                "speedup": timings[best].median / timing.median,
                "dense_versions_ms": {name: 1e3 * timings[name].median for name in dense},
                "beside_ms": {name: 1e3 * timings[name].median for name in beside},
                "state_bytes": sparse.explain(params, frames[0]).state_bytes,
                "temporary_bytes": program.temporary_bytes,
                "peak_bytes": program.peak_bytes,
                "dense_temporary_bytes": dense[best].temporary_bytes,
                "dense_peak_bytes": dense[best].peak_bytes,
                "compile_seconds": program.compile_seconds,
                "dense_compile_seconds": dense[best].compile_seconds,
                "programs": len(counts),
                "repeats": repeats,
            }
            | (_in_a_row(in_rows, dense, count, fraction, in_a_row) if in_rows else {})
        )
    return rows


def _in_a_row(timings, dense, count: int, fraction: float, in_a_row: int) -> dict:
    """The fields of a row that are of frames given in a row."""
    best, timing = fastest(timings, dense), timings[f"sparse {count}"]
    return {
        "in_a_row": in_a_row,
        "row_dense_version": best,
        **timings[best].milliseconds("row_dense"),
        **timing.milliseconds("row_sparse"),
        "row_efficiency": efficiency(fraction, timings[best].median, timing.median),
        "row_speedup": timings[best].median / timing.median,
        "row_dense_versions_ms": {name: 1e3 * timings[name].median for name in dense},
    }


def executed(fraction: float, total: int) -> int:
    """The whole number of blocks nearest to a fraction of all, at least one where it is not 0.

    Raises:
        ValueError: where the fraction is not in [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction is {fraction}; it must be at least 0 and at most 1")
    return max(int(fraction > 0), round(fraction * total))


def random_grids(shape: tuple[int, int, int], count: int, number: int) -> list[jax.Array]:
    """So many random grids bool [N, Gh, Gw], each with exactly `count` blocks over all streams."""
    rng = np.random.default_rng(0)
    ordered = np.arange(np.prod(shape)) < count
    return [jnp.asarray(rng.permutation(ordered).reshape(shape)) for _ in range(number)]


def cycle(run: Callable, *inputs: Sequence) -> Callable[[], object]:
    """A call of `run` without arguments, each on the next one of all inputs."""
    following = zip(*map(itertools.cycle, inputs), strict=True)
    return lambda: run(*next(following))


def table(rows: Sequence[dict], columns: Mapping[str, str]) -> str:
    """Rows as aligned text.

    Args:
        rows: measurements; what a row lacks, or has None for, is left empty.
        columns: heading -> format with the row's fields, such as "{sparse_ms:.1f}".
    """
    lines = [list(columns), *([cell(form, row) for form in columns.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    text = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(line.rstrip() for line in text)


def cell(form: str, row: dict) -> str:
    """A format with a row's fields; empty where the row lacks one, or has None for it."""
    try:
        return form.format(**row)
    except (KeyError, TypeError):  # TypeError: None has no such format
        return ""


if __name__ == "__main__":
    main()
