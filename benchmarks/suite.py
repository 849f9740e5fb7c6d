"""Several measurements in a row, of which none can take the others down, within a time limit."""

import argparse
import dataclasses
import json
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from bc_jax.bench import table
from bc_jax.provenance import device_name
from bc_jax.sparse import keep_memory
from benchmarks import (
    against_torch,
    clip,
    dtypes,
    host,
    kernels,
    lowerings,
    memory,
    network,
    parts,
    roofline,
    scaling,
    stalls,
    step,
)
from benchmarks.cases import Case, write_rows

MODULES = {
    "network": network,
    "step": step,
    "parts": parts,
    "roofline": roofline,
    "scaling": scaling,
    "dtypes": dtypes,
    "memory": memory,
    "clip": clip,
    "stalls": stalls,
    "host": host,
    "kernels": kernels,
    "against_torch": against_torch,
    "lowerings": lowerings,
}
TINY = {"size": (64, 128), "block": 32}


@dataclasses.dataclass(frozen=True)
class Part:
    """One measurement.

    Attributes:
        name: of its file.
        measure: a benchmark's, see `MODULES`.
        case: what it measures.
        options: its other arguments.
    """

    name: str
    measure: Callable[..., list[dict]]
    case: Case
    options: dict = dataclasses.field(default_factory=dict)

    def tiny(self) -> "Part":
        """The same on frames of a few blocks, to see that it works: its times say nothing."""
        case = dataclasses.replace(self.case, **TINY, streams=min(2, self.case.streams))
        small = {
            "fractions": (0.5,),
            "targets": (0.5,),
            "sizes": (TINY["size"],),
            "blocks": (TINY["block"],),
            "stream_counts": (1, 2),
            "matrix": 64,
            "array_bytes": 4096,
            "frames": 6,
            "windows": 1,
            "policies": ("light",),
        }
        known = small.keys() & self.measure.__kwdefaults__.keys()
        return dataclasses.replace(
            self, case=case, options=self.options | {name: small[name] for name in known}
        )

    def run(self, repeats: int) -> list[dict]:
        """The rows; `repeats` where the measurement takes them."""
        takes = "repeats" in self.measure.__kwdefaults__
        return self.measure(self.case, **({"repeats": repeats} if takes else {}), **self.options)


def part(benchmark: str, case: Case, **options) -> Part:
    """A measurement of one of `MODULES`, named by what it measures."""
    words = [benchmark, case.model, f"{case.size[0]}x{case.size[1]}"]
    words += [case.dtype] * (case.dtype != "float32") + [f"{case.streams}"] * (case.streams > 1)
    return Part("-".join(words), MODULES[benchmark].measure, case, options)


def main(description: str, plan: Sequence[Part], *, repeats: int, budget: float, argv=None):
    """Measure a plan as the command line says, print a summary; status 1 where a part is missing.

    Args:
        description: what --help says first.
        plan: the most important parts first.
        repeats: of each measurement, unless told otherwise.
        budget: seconds, likewise.
        argv: the arguments; None is `sys.argv[1:]`.
    """
    # No more than Python's own here: it runs in whatever environment has JAX and Flax.
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--output", default="benchmarks/results", help="folder of folders")
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--budget", type=float, default=budget, help="seconds to begin parts in")
    parser.add_argument("--only", nargs="+", metavar="PART", choices=[part.name for part in plan])
    parser.add_argument("--list", action="store_true", help="name the parts, and end")
    parser.add_argument("--tiny", action="store_true", help="try every part on tiny frames")
    options = parser.parse_args(argv)
    keep_memory()  # before JAX computes anything
    chosen = [part for part in plan if not options.only or part.name in options.only]
    if options.list:
        print("\n".join(part.name for part in chosen))
        return
    if options.tiny:
        chosen = [part.tiny() for part in chosen]
    folder = folder_for_device(options.output)
    rows, missing = run_parts(chosen, folder, repeats=options.repeats, budget=options.budget)
    print(f"\n{summary(rows, missing)}\n\n{folder}")
    raise SystemExit(1 if missing else 0)


def folder_for_device(output: str | Path) -> Path:
    """OUTPUT/DEVICE, the device's name in letters, digits and dashes."""
    words = "".join(c if c.isalnum() else " " for c in device_name()).split()
    return Path(output) / "-".join(words)


def run_parts(
    parts: Sequence[Part],
    folder: Path,
    *,
    repeats: int,
    budget: float,
    log: Callable[[str], None] = print,
) -> tuple[list[dict], dict[str, str]]:
    """Run the parts in order and write each one's rows to FOLDER/NAME.json at once.

    Args:
        parts: the most important first.
        folder: made where it is missing.
        repeats: of each measurement.
        budget: seconds; no part begins after them.
        log: told of every part.

    Returns:
        All rows, and per part that has none why: an error, or the time that was up. The same
        reasons are in FOLDER/missing.json, beside those of parts that this run was not to measure.
    """
    begin, rows, missing = time.perf_counter(), [], {}
    for part in parts:
        start = time.perf_counter()
        if start - begin > budget:
            missing[part.name] = f"not begun: {budget:.0f} s were up"
            log(f"{part.name}: {missing[part.name]}")
            continue
        try:
            measured = part.run(repeats)
            write_rows(folder / f"{part.name}.json", measured)
            rows += measured
            log(f"{part.name}: {len(measured)} rows in {time.perf_counter() - start:.0f} s")
        except Exception as error:  # out of memory, say; the other parts may well run
            missing[part.name] = f"{type(error).__name__}: {error}"
            log(f"{part.name}: failed\n{traceback.format_exc()}")
    path = folder / "missing.json"
    before = json.loads(path.read_text())["missing"] if path.is_file() else {}
    kept = {name: why for name, why in before.items() if name not in {p.name for p in parts}}
    write_rows(path, [], missing=kept | missing)
    return rows, missing


def summary(rows: list[dict], missing: dict[str, str]) -> str:
    """Short tables of the rows, one for each benchmark, and what is missing."""
    found = []
    for name, module in MODULES.items():
        chosen = [row for row in rows if row["benchmark"] == name]
        if chosen and name not in ("parts", "roofline", "kernels"):  # these are long
            found.append(f"{name}:\n{table(chosen, module.COLUMNS)}")
    if missing:
        reasons = "\n".join(f"  {name}: {why.splitlines()[0]}" for name, why in missing.items())
        found.append(f"missing:\n{reasons}")
    return "\n\n".join(found)
