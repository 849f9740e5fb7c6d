"""What a network does block by block and what it does not: operations, cost and memory."""

import math
from collections import Counter
from collections.abc import Iterator

import jax

from bc_jax.sparse.advice import advise_on_blocks, advise_on_fallbacks
from bc_jax.sparse.findings import Findings, Row
from bc_jax.sparse.halo import Halo
from bc_jax.sparse.interpreter import nbytes
from bc_jax.sparse.operation import by, label, macs, percent, window_tile
from bc_jax.sparse.plan import Record

# The executed fraction that the outlook is given for.
_OUTLOOK = 0.3


class Report(Findings):
    """What `explain` returns: the findings, and advice; printed, a table."""

    def advice(self) -> tuple[str, ...]:
        """What to change for more speed, what gains most first."""
        return (*advise_on_fallbacks(self), *advise_on_blocks(self))

    def __str__(self) -> str:
        """A table of the operations that cost or keep something or run whole, and advice."""
        n, gh, gw = self.grid_shape
        fewer = self.macs / max(1.0, self.macs_at(_OUTLOOK * n * gh * gw))
        lines = [
            *_table(self),
            "",
            f"{n} stream(s) of {gh} x {gw} blocks of {by(self.block_size)}; "
            f"{_count(self.macs)}MACs dense, {percent(self.whole_macs, self.macs)} of them on the "
            f"whole frame; state {self.state_bytes / 1e6:.1f} MB",
            f"with {_OUTLOOK:.0%} of the blocks executed: {fewer:.2f} times fewer MACs; "
            f"windows read {self.pixels_read:.2f} pixels for each pixel of a tile",
        ]
        if self.fallbacks:
            lines.append(f"{len(self.fallbacks)} operation(s) fall back to the whole frame:")
            named = [f"{row.name} {list(row.shape)}: {row.reason}" for row in self.fallbacks]
            for each, times in Counter(named).items():
                lines.append(f"  {each}" + (f", {times} times" if times > 1 else ""))
        advice = self.advice()
        lines += ["", "for more speed:" if advice else "nothing is worth changing for more speed"]
        return "\n".join([*lines, *(f"  - {each}" for each in advice)])


def make_report(records: list[Record], grid_shape, state, at) -> Report:
    """Sum up the records of a walk; `at` is the report's."""
    records = [record for record in records if record.op.out_avals]
    memory = {
        f"{kind}/{key}": nbytes(kept)
        for kind, keys in state.memory.items()
        for key, kept in keys.items()
    }
    kept = _attributed(memory, records)
    tiles = [window_tile(record, grid_shape) for record in records]
    layers = _without_root([record.op.layer for record in records])
    rows = tuple(
        Row(
            name=record.op.name,
            label=label(record.op),
            layer=layer,
            shape=tuple(record.op.out_avals[0].shape),
            where=record.where,
            macs=macs(record),
            tile=tile,
            halo=record.halo,
            moved=record.moved,
            reads_all=record.reads_all,
            window_elements=math.prod(record.op.in_shapes[0]) if tile else 0,
            state_bytes=kept.get(number, 0),
            reason=record.reason,
            causes=causes,
        )
        for number, (record, tile, layer, causes) in enumerate(
            zip(records, tiles, layers, _causes(records), strict=True)
        )
    )
    return Report(
        rows,
        tuple(grid_shape),
        tuple(s // g for s, g in zip(state.frames.shape[1:3], grid_shape[1:], strict=True)),
        macs=sum(row.macs for row in rows if row.where != "constant"),
        whole_macs=sum(row.macs for row in rows if row.where == "whole"),
        state_bytes=nbytes(jax.tree.leaves(state)),
        memory_bytes=memory,
        at=at,
    )


def _without_root(layers: list[str]) -> list[str]:
    """Names of layers without the outermost scope that all of them share: the network's own."""
    outermost = {layer.split("/")[0] for layer in layers if layer}
    if len(outermost) != 1 or not any("/" in layer for layer in layers):
        return layers
    return [layer.partition("/")[2] for layer in layers]


def _table(report: Report) -> Iterator[str]:
    """The rows that a reader looks for, aligned; figures stand on the right of their column."""
    head = ("operation", "layer", "result", "runs on", "tile", "halo", "MACs", "share", "state")
    head += ("why whole",)
    right = ("tile", "halo", "MACs", "share", "state")
    table = [head]
    for row in report.rows:
        if row.macs or row.reason or row.state_bytes or _halo(row):
            table.append((
                row.label,
                row.layer,
                by(row.shape),
                row.where,
                by(row.tile) if row.tile else "",
                _halo(row),
                _count(row.macs) if row.macs else "",
                percent(row.macs, report.macs) if row.macs else "",
                f"{_count(row.state_bytes)}B" if row.state_bytes else "",
                row.reason,
            ))  # fmt: skip
    pictures = report.state_bytes - sum(report.memory_bytes.values())
    table.append(("frames, outputs", "", "", "", "", "", "", "", f"{_count(pictures)}B", ""))
    total = f"{_count(report.macs)}", percent(report.macs, report.macs)
    table.append(("all", "", "", "", "", "", *total, f"{_count(report.state_bytes)}B", ""))
    if not any(line[1] for line in table[1:]):  # no scope has a name
        table = [(line[0], *line[2:]) for line in table]
    head = table[0]
    widths = [max(len(line[i]) for line in table) for i in range(len(head))]
    for number, line in enumerate(table):
        if number in (1, len(table) - 2):
            yield "  ".join("-" * width for width in widths)
        cells = zip(line, widths, head, strict=True)
        yield "  ".join(c.rjust(w) if h in right else c.ljust(w) for c, w, h in cells).rstrip()


def _causes(records: list[Record]) -> Iterator[frozenset[int]]:
    """For each record, the numbers of the fallbacks that make it run whole."""
    of: dict[int, frozenset[int]] = {}  # of each value that is whole
    for number, record in enumerate(records):
        causes = frozenset()
        if record.where == "whole":
            inputs = (of.get(x, causes) for x in record.op.inputs if isinstance(x, int))
            causes = causes.union(*inputs, {number} if record.reason else ())
            of |= dict.fromkeys(record.op.outputs, causes)
        yield causes


def _attributed(memory: dict[str, int], records: list[Record]) -> dict[int, int]:
    """Bytes remembered, by the number of the record that is the first to read the tensor."""
    made = {value: number for number, r in enumerate(records) for value in r.op.outputs}
    total: dict[int, int] = {}
    for name, size in memory.items():
        kind, key = name.split("/")
        value = key.split("_")[0]
        value = int(value) if value.isdigit() else None  # None: the frames, which nobody makes
        number = _first_reader(kind, value, records, made)
        if number is not None:
            total[number] = total.get(number, 0) + size
    return total


def _first_reader(kind: str, value: int | None, records: list[Record], made) -> int | None:
    """The first record that needs the memory of a tensor; else the one that made the tensor."""
    same = {value}  # the tensor under the names that moving and merging its axes give it
    for number, record in enumerate(records):
        inputs = {x for x in record.op.inputs if x in made}
        inputs |= {None for x in record.op.inputs[:1] if x not in made}
        if inputs.isdisjoint(same):
            continue
        everything = record.where == "whole" or record.reads_all
        if everything if kind == "dense" else record.halo not in (None, Halo()):
            return number
        if record.op.name in ("transpose", "pad", "reshape"):
            same.update(record.op.outputs)
    return made.get(value)


def _halo(row: Row) -> str:
    halo = row.halo
    if row.reads_all:
        return "all"
    if halo in (None, Halo()):
        return ""
    return str(halo.top) if len(set(halo)) == 1 else " ".join(map(str, halo))


def _count(value: float) -> str:
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f} "
