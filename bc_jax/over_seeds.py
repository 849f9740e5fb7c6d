"""Means and deviations over runs that differ in nothing but their seed."""

import statistics
from collections.abc import Iterable, Sequence

# What is averaged, and how it is written.
FIGURES = {
    "miou_last": ("mIoU last", ".2f"),
    "loss_last": ("loss of mIoU last", ".2f"),
    "miou_all": ("mIoU all", ".2f"),
    "gmacs": ("GMACs", ".2f"),
    "executed": ("executed", ".3f"),
    "speedup": ("speed-up", ".2f"),
}
_ALIKE = ("data_set", "network", "policy", "target")


def over_seeds(rows: Iterable[tuple[str, dict]]) -> list[dict]:
    """One row for each policy and target that several seeds were measured with.

    Args:
        rows: pairs of a run's settings but for its seed, as a text, and one of its rows.

    Returns:
        Rows with what the runs have in common, "seeds", "runs", and for each of `FIGURES` its
        {"mean", "deviation"} (of a sample), or None where a run has none. Runs of one seed, which
        differ in something else, such as the machine, make none.
    """
    groups: dict[tuple, list[dict]] = {}
    for settings, row in rows:
        groups.setdefault((settings, row["policy"], row["target"]), []).append(row)
    found = []
    for group in groups.values():
        seeds = [row["seed"] for row in group]
        if len(group) > 1 and len({*seeds}) == len(seeds):
            about = {name: group[0][name] for name in _ALIKE}
            about |= {"seeds": seeds, "runs": [row["run"] for row in group]}
            found.append(about | {name: _spread(group, name) for name in FIGURES})
    return found


def lines(rows: Sequence[dict]) -> list[list[str]]:
    """A table's lines of texts, the names of the columns first."""
    heads = [head for head, _ in FIGURES.values()]
    table = [["network", "policy", "seeds", "target", *heads]]
    for row in rows:
        target = "" if row["target"] is None else format(row["target"], "g")
        table.append([
            row["network"], row["policy"], ", ".join(map(str, row["seeds"])), target,
            *(_text(row[name], form) for name, (_, form) in FIGURES.items()),
        ])  # fmt: skip
    return table


def _spread(group: Sequence[dict], name: str) -> dict | None:
    values = [row[name] for row in group]
    if None in values:
        return None
    return {"mean": statistics.mean(values), "deviation": statistics.stdev(values)}


def _text(spread: dict | None, form: str) -> str:
    return "" if spread is None else f"{spread['mean']:{form}} ± {spread['deviation']:{form}}"
