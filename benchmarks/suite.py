"""Several measurements in a row, of which none can take the others down, within a time limit."""

import dataclasses
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from benchmarks.timing import device_name, write_rows


@dataclasses.dataclass(frozen=True)
class Part:
    """One measurement.

    Attributes:
        name: of its file.
        measure: returns its rows.
    """

    name: str
    measure: Callable[[], list[dict]]


def folder_for_device(output: str | Path) -> Path:
    """OUTPUT/DEVICE, the device's name in letters, digits and dashes."""
    words = "".join(c if c.isalnum() else " " for c in device_name()).split()
    return Path(output) / "-".join(words)


def run_parts(
    parts: list[Part], folder: Path, *, budget: float, log: Callable[[str], None] = print
) -> tuple[list[dict], dict[str, str]]:
    """Run the parts in order and write each one's rows to FOLDER/NAME.json at once.

    Args:
        parts: the most important first.
        folder: made where it is missing.
        budget: seconds; no part begins after them.
        log: told of every part.

    Returns:
        All rows, and per part that has none why: an error, or the time that was up. The same
        reasons are in FOLDER/missing.json.
    """
    begin, rows, missing = time.perf_counter(), [], {}
    for part in parts:
        start = time.perf_counter()
        if start - begin > budget:
            missing[part.name] = f"not begun: {budget:.0f} s were up"
            log(f"{part.name}: {missing[part.name]}")
            continue
        try:
            measured = part.measure()
            write_rows(folder / f"{part.name}.json", measured)
            rows += measured
            log(f"{part.name}: {len(measured)} rows in {time.perf_counter() - start:.0f} s")
        except Exception as error:  # out of memory, say; the other parts may well run
            missing[part.name] = f"{type(error).__name__}: {error}"
            log(f"{part.name}: failed\n{traceback.format_exc()}")
    write_rows(folder / "missing.json", [], missing=missing)
    return rows, missing


def summary(rows: list[dict], missing: dict[str, str]) -> str:
    """Short tables of the networks and the steps among the rows, and what is missing."""
    from benchmarks import network, step
    from benchmarks.timing import table

    found = []
    for name, columns in (("network", network.COLUMNS), ("step", step.COLUMNS)):
        chosen = [row for row in rows if row["benchmark"] == name]
        if chosen:
            found.append(table(chosen, columns))
    if missing:
        reasons = "\n".join(f"  {name}: {why.splitlines()[0]}" for name, why in missing.items())
        found.append(f"missing:\n{reasons}")
    return "\n\n".join(found)
