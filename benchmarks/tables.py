"""The tables of README.md and docs/performance.md that are a device's rows, made from them.

python -m benchmarks.tables benchmarks/results/DEVICE --page docs/performance.md
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from bc_jax.bench import cell
from bc_jax.files import write_text
from benchmarks.plots import read_rows

# In the order of the tables.
_MODELS = (
    *("swiftnet_rn18", "swiftnet_rn50", "espnet_cityscapes", "deeplabv3plus_rn101"),
    "segformer_b0",
)
_BACKBONES = ("mobilenet_v2", "convnext_tiny", "resnext50")
_NETWORK = {"network": "{model}", "frames": "{size[0]}x{size[1]}"}
_NAMES = {
    "swiftnet_rn18": "SwiftNet-RN18",
    "swiftnet_rn50": "SwiftNet-RN50",
    "mobilenet_v2": "MobileNetV2",
    "convnext_tiny": "ConvNeXt-T, three stages",
    "resnext50": "ResNeXt-50, three stages",
    "segformer_b0": "SegFormer-B0",
}
_SPARSE = "{sparse_ms:.0f} ({sparse_p10_ms:.0f}–{sparse_p90_ms:.0f})"
_BLOCKS = (8, 10, 16, 32)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table in Markdown. In a page it stands where its first line does.

    Attributes:
        words: the columns with words, heading -> format with a row's fields.
        numbers: the columns after them, aligned to the right.
        rows: from all rows to those of the table.
    """

    words: Mapping[str, str]
    numbers: Mapping[str, str]
    rows: Callable[[list[dict]], Iterable[dict]]

    def lines(self, rows: list[dict]) -> list[str]:
        """The heading, what aligns the columns, and a line for each row."""
        forms = [*self.words.values(), *self.numbers.values()]
        align = ["---"] * len(self.words) + ["---:"] * len(self.numbers)
        cells = [[cell(form, row) for form in forms] for row in self.rows(rows)]
        return [f"| {' | '.join(c)} |" for c in ([*self.words, *self.numbers], align, *cells)]


def _of(benchmark: str, models: Iterable[str] = _MODELS) -> Callable[[list[dict]], list[dict]]:
    """The rows of a benchmark, network by network, each from small frames to large ones."""
    order = list(models)

    def rows(found):
        found = [r for r in found if r["benchmark"] == benchmark and r["model"] in order]
        return sorted(found, key=lambda row: (order.index(row["model"]), row["size"]))

    return rows


def _grouped(rows: Iterable[dict], *fields: str) -> Iterable[list[dict]]:
    """The rows in lists of those that have the same in these fields."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(str(row[field]) for field in fields), []).append(row)
    return groups.values()


def _executing(rows: list[dict]) -> list[dict]:
    """The rows of `benchmarks.network`; of no executed block there is no efficiency."""
    found = _of("network")(rows)
    return [row if row["executed"] else row | {"efficiency": None} for row in found]


def _backbones(rows: list[dict]) -> list[dict]:
    """A row for each, with the fields of n blocks as `at[n]`."""
    made = []
    for group in _grouped(_of("network", _BACKBONES)(rows), "model", "size"):
        made.append(group[0] | {"at": {row["executed"]: row for row in group}})
    return made


def _at_a_glance(rows: list[dict]) -> list[dict]:
    """Ten of 32 blocks of each network, with its `name`."""
    found = [r for r in _of("network", _NAMES)(rows) if (r["executed"], r["blocks"]) == (10, 32)]
    return [row | {"name": _NAMES[row["model"]]} for row in found]


def _in_a_row(rows: list[dict]) -> list[dict]:
    """A row for each case at its lowest target, with the fields of each policy under its name."""
    made = []
    for group in _grouped(_of("step")(rows), "model", "size"):
        lowest = min(row["target"] for row in group)
        at = {row["policy"]: row for row in group if row["target"] == lowest}
        if all("one_program_speedup" in row for row in at.values()):
            made.append(group[0] | at)
    return made


def _memory(rows: list[dict]) -> list[dict]:
    """A row for each case, with the fields of each state of the cache under its name."""
    groups = _grouped(_of("memory")(rows), "model", "size", "dtype")
    return [group[0] | {row["cache"]: row for row in group} for group in groups]


def _lowerings(rows: list[dict]) -> list[dict]:
    return [r for r in rows if r["benchmark"] == "lowerings" and r["dtype"] == "float32"]


TABLES = (
    Table(
        _NETWORK,
        {
            "executed": "{executed}/{blocks}",
            "`jax.jit` ms": "{dense_versions_ms[default]:.0f}",
            "dense ms": "{dense_ms:.0f}",
            "sparse ms (p10–p90)": _SPARSE,
            "efficiency": "{efficiency:.2f}",
            "speed-up": "{speedup:.2f}",
        },
        _executing,
    ),
    Table(
        {"network": "{model}"},
        {
            "XLA, dense": "{dense_versions_ms[default]:.0f}",
            "one block, dense": "{dense_versions_ms[one block]:.0f}",
            **{
                f"{n} of 32 blocks" if n == _BLOCKS[0] else str(n): (
                    f"{{at[{n}][sparse_ms]:.0f}} ({{at[{n}][efficiency]:.2f}})"
                )
                for n in _BLOCKS
            },
        },
        _backbones,
    ),
    Table(
        _NETWORK | {"policy": "{policy}"},
        {
            "target": "{target:g}",
            "executed": "{executed}/{blocks}",
            "dense ms": "{dense_ms:.0f}",
            "whole ms": "{step_ms:.0f}",
            "speed-up": "{speedup:.2f}",
            "network": "{network_ms:.1f}",
            "policy": "{policy_ms:.1f}",
            "bookkeeping": "{bookkeeping_ms:.1f}",
            "learning": "{learning_ms:.1f}",
        },
        _of("step"),
    ),
    Table(
        _NETWORK,
        {
            f"{policy}, {how}": f"{{{policy}[{field}]:.2f}}"
            for policy in ("paper", "light")
            for how, field in (("in parts", "row_speedup"), ("one program", "one_program_speedup"))
        },
        _in_a_row,
    ),
    Table(
        {"network": "{model}", "type": "{dtype}"},
        {
            "dense ms": "{dense_ms:.0f}",
            "sparse ms (p10–p90)": _SPARSE,
            "efficiency": "{efficiency:.2f}",
            "state": "{state_megabytes:.0f} MB",
        },
        _of("dtypes"),
    ),
    Table(
        {"network": "{model}, {dtype}"},
        {
            "state": "{state_MB:.0f} MB",
            "process, nothing compiled": "{empty[process_MB]:.0f} MB",
            "compiled before (on disk)": "{filled[process_MB]:.0f} MB",
            "first frame, nothing compiled": "{empty[first_frame_seconds]:.1f} s",
            "compiled before": "{filled[first_frame_seconds]:.1f} s",
        },
        _memory,
    ),
    Table(
        {"operation": "{what}", "tiles": "{tiles}"},
        {"plain": "{plain_ms:.2f}", "ours": "{cpu_ms:.2f}", "ratio": "{ratio:.1f}"},
        _lowerings,
    ),
    Table(
        {"network": "{name}"},
        {
            "`jax.jit`": "{dense_versions_ms[default]:.0f} ms",
            "dense, by bc_jax": "{dense_ms:.0f} ms",
            "10 of 32 blocks": "{sparse_ms:.0f} ms",
        },
        _at_a_glance,
    ),
)


def fill(page: str, rows: list[dict]) -> str:
    """A page with the tables of these rows in place of those that it has.

    A table that none of the rows belongs to stays as it is.

    Raises:
        ValueError: the page has none of them.
    """
    lines, found = page.split("\n"), False
    for heading, align, *body in (table.lines(rows) for table in TABLES):
        if heading not in lines:
            continue
        found = True
        first = past = lines.index(heading) + 1
        while lines[past : past + 1] and lines[past].startswith("|"):
            past += 1
        if body:
            lines[first:past] = [align, *body]
    if not found:
        raise ValueError("the page has none of these tables; README.md and docs/performance.md do")
    return "\n".join(lines)


def main(folder: str, /, page: str | None = None) -> None:
    """Print the tables, or put them into a page.

    Args:
        folder: of results, such as benchmarks/results/DEVICE.
        page: that has such tables: README.md, docs/performance.md.
    """
    rows = read_rows(folder)
    if page is None:
        print(*("\n".join(table.lines(rows)) for table in TABLES), sep="\n\n")
    else:
        write_text(Path(page), fill(Path(page).read_text(encoding="utf-8"), rows))


if __name__ == "__main__":
    import tyro

    from bc_jax.command_line import errors_told

    with errors_told():
        tyro.cli(main, description=__doc__)
