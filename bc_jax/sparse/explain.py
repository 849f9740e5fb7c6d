"""What a network does block by block and what it does not: operations, cost, memory, and advice."""

import dataclasses
import math
import warnings
from collections import Counter
from collections.abc import Iterator

import jax
import numpy as np

from bc_jax.sparse.halo import Halo
from bc_jax.sparse.interpreter import Record, nbytes
from bc_jax.sparse.operation import by, label, macs, window_tile

# A share of the network's cost that is worth a word, and one that leaves nothing to gain.
_NOTABLE, _ALL = 0.01, 0.9
# Pixels read for one that a tile has, beyond which the halo costs more than the tile.
_WIDE_HALO = 2.0
# A tile's side in pixels, below which a convolution's overhead costs more than its sums.
_SMALL_TILE = 4
# Layers that a line of advice names; the rest are counted.
_LAYERS_TOLD = 3
# The executed fraction that the outlook is given for.
_OUTLOOK = 0.3

_REMEDIES = (
    ("no rule for", "leave it out, or write its rule: CONTRIBUTING.md tells how"),
    (
        "reduces over all of space",
        "what follows it is whole too: keep that small, or normalise each channel by fixed "
        "statistics (batch norm)",
    ),
    (
        "the result's pixels",
        "pad with 'SAME', and make the block a multiple of all strides and windows up to there",
    ),
    ("mixes", "mix within windows that divide the block, or after the network"),
    ("contracts space", "mix within windows that divide the block, or after the network"),
    ("computed", "where it does not depend on the frame, make it a constant"),
    ("the input is not cut into blocks", "make its size a multiple of the grid's rows and columns"),
    ("space", "move it behind the network, to the outputs"),
    ("", "move it behind the network, to the outputs"),
)


class BlockSparsityWarning(UserWarning):
    """A network gains little or nothing from running block by block."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One operation of a network.

    Attributes:
        name: the primitive.
        label: the same for a reader, as "conv 3x3/2".
        layer: the scopes that it stands in, as "stage1/conv", without the network's own; or "".
        shape: of its first result.
        where: "blocks" (runs on executed blocks), "whole" (runs on the whole frame every time) or
            "constant" (depends on no frame).
        macs: multiply-accumulates for the whole frames, all streams.
        tile: (h, w) of the tiles that its window moves over, or None where it has no window.
        halo: pixels read beyond a tile, or None.
        window_elements: of the array that its window moves over, all blocks; 0 without a window.
        state_bytes: what is remembered of the tensor that it is the first to read.
        reason: why it runs whole though its input is in blocks, else "".
        causes: numbers of the rows, in `Report.rows`, whose falling back makes this one run whole.
    """

    name: str
    label: str
    layer: str
    shape: tuple[int, ...]
    where: str
    macs: int
    tile: tuple[int, int] | None
    halo: Halo | None
    window_elements: int
    state_bytes: int
    reason: str
    causes: frozenset[int]

    @property
    def pixels_read(self) -> float:
        """Pixels that the window reads, halo included, for each pixel of the tile."""
        return _pixels_read(self.tile, self.halo) if self.tile and self.halo else 1.0


@dataclasses.dataclass(frozen=True)
class Report:
    """What `explain` returns.

    Attributes:
        rows: one per operation, in order.
        grid_shape: (N, Gh, Gw).
        block_size: (height, width) in pixels of the frame.
        macs: multiply-accumulates of the dense network, all streams.
        whole_macs: those of them that are spent whatever the grid.
        state_bytes: size of the FrameState.
        memory_bytes: per tensor, what is kept of it.
    """

    rows: tuple[Row, ...]
    grid_shape: tuple[int, int, int]
    block_size: tuple[int, int]
    macs: int
    whole_macs: int
    state_bytes: int
    memory_bytes: dict[str, int]

    @property
    def fallbacks(self) -> tuple[Row, ...]:
        """The operations that run whole though their input is in blocks."""
        return tuple(row for row in self.rows if row.reason)

    def macs_at(self, executed: float) -> float:
        """Multiply-accumulates when `executed` blocks, over all streams, run."""
        blocks = int(np.prod(self.grid_shape))
        return self.whole_macs + (self.macs - self.whole_macs) * executed / blocks

    def forced_macs(self, *fallbacks: int) -> int:
        """Multiply-accumulates that run whole because of these rows of `rows`, their own included.

        Those of an operation that runs whole for several reasons count for each of them.
        """
        return sum(row.macs for row in self.rows if not row.causes.isdisjoint(fallbacks))

    @property
    def pixels_read(self) -> float:
        """Pixels that windows read, halos included, for each pixel of the tiles; 1 at best."""
        windows = [row for row in self.rows if row.where == "blocks" and row.tile]
        elements = sum(row.window_elements for row in windows)
        read = sum(row.window_elements * row.pixels_read for row in windows)
        return read / elements if elements else 1.0

    def advice(self) -> tuple[str, ...]:
        """What to change for more speed, what gains most first."""
        return (*_advise_on_fallbacks(self), *_advise_on_halos(self), *_advise_on_tiles(self))

    def __str__(self) -> str:
        """A table of the operations that cost or keep something or run whole, and advice."""
        n, gh, gw = self.grid_shape
        fewer = self.macs / max(1.0, self.macs_at(_OUTLOOK * n * gh * gw))
        lines = [
            *_table(self),
            "",
            f"{n} stream(s) of {gh} x {gw} blocks of {by(self.block_size)}; "
            f"{_count(self.macs)}MACs dense, {_percent(self.whole_macs, self.macs)} of them on the "
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


def make_report(records: list[Record], grid_shape, state) -> Report:
    """Sum up the records of a walk; warns where nothing is to be gained from blocks."""
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
            window_elements=math.prod(record.op.in_shapes[0]) if tile else 0,
            state_bytes=kept.get(number, 0),
            reason=record.reason,
            causes=causes,
        )
        for number, (record, tile, layer, causes) in enumerate(
            zip(records, tiles, layers, _causes(records), strict=True)
        )
    )
    report = Report(
        rows,
        tuple(grid_shape),
        tuple(s // g for s, g in zip(state.frames.shape[1:3], grid_shape[1:], strict=True)),
        macs=sum(row.macs for row in rows if row.where != "constant"),
        whole_macs=sum(row.macs for row in rows if row.where == "whole"),
        state_bytes=nbytes(jax.tree.leaves(state)),
        memory_bytes=memory,
    )
    if report.fallbacks and report.whole_macs >= _ALL * report.macs > 0:
        _, first = max(
            enumerate(rows), key=lambda row: bool(row[1].reason) * report.forced_macs(row[0])
        )
        warnings.warn(
            f"{_percent(report.whole_macs, report.macs)} of the network's multiply-accumulates run "
            f"on the whole frame whatever the grid, most of all because of {first.name} "
            f"{list(first.shape)}{_in_layers([first])}: {first.reason}; "
            "print(sparse.explain(params, frames)) tells what to change",
            BlockSparsityWarning,
            stacklevel=3,
        )
    return report


def _advise_on_fallbacks(report: Report) -> list[str]:
    """A line for each kind of fallback that makes a notable share of the network run whole."""
    kinds: dict[tuple[str, str], list[int]] = {}
    for number, row in enumerate(report.rows):
        if row.reason:
            kinds.setdefault((row.name, row.reason), []).append(number)
    forced = {kind: report.forced_macs(*numbers) for kind, numbers in kinds.items()}
    said = []
    for (name, reason), cost in sorted(forced.items(), key=lambda pair: -pair[1]):
        if cost < _NOTABLE * report.macs:
            continue
        numbers = kinds[name, reason]
        which = f"{name} {list(report.rows[numbers[0]].shape)}"
        which += f" and {len(numbers) - 1} more like it" if len(numbers) > 1 else ""
        which += _in_layers([report.rows[number] for number in numbers])
        remedy = next(remedy for words, remedy in _REMEDIES if words in reason)
        share = _percent(cost, report.macs)
        verb = "force" if len(numbers) > 1 else "forces"
        said.append(f"{which} {verb} {share} of the work to be dense ({reason}): {remedy}")
    return said


def _advise_on_halos(report: Report) -> list[str]:
    """A line on the windows whose halo is larger than their tiles."""
    wide = [r for r in report.rows if r.where == "blocks" and r.pixels_read >= _WIDE_HALO]
    if not wide or report.pixels_read < 0.5 * (1 + _WIDE_HALO):
        return []
    worst = max(wide, key=lambda row: row.pixels_read)
    larger = (2 * worst.tile[0], 2 * worst.tile[1])
    return [
        f"the halo eats the gain of {len(wide)} window(s) with "
        f"{_percent(sum(row.macs for row in wide), report.macs)} of the MACs: {worst.label}"
        f"{_in_layers([worst])} reads {worst.pixels_read:.1f} pixels for each pixel of its tiles "
        f"of {by(worst.tile)}; blocks of {by([2 * side for side in report.block_size])} would make "
        f"it {_pixels_read(larger, worst.halo):.1f}"
    ]


def _advise_on_tiles(report: Report) -> list[str]:
    """A line on tiles that are too small to be worth a convolution's overhead."""
    windows = [r for r in report.rows if r.where == "blocks" and r.tile and r.macs]
    small = [row for row in windows if min(row.tile) < _SMALL_TILE]
    share = sum(row.macs for row in small)
    if share < _NOTABLE * report.macs or not small:
        return []
    least = min((row.tile for row in small), key=min)
    factor = math.ceil(_SMALL_TILE / min(least))
    return [
        f"{_percent(share, report.macs)} of the MACs run on tiles of down to {by(least)} pixels, "
        f"too few for their overhead: blocks of {by([factor * s for s in report.block_size])} "
        f"would make them {by([factor * side for side in least])}"
    ]


def _without_root(layers: list[str]) -> list[str]:
    """Names of layers without the outermost scope that all of them share: the network's own."""
    outermost = {layer.split("/")[0] for layer in layers if layer}
    if len(outermost) != 1 or not any("/" in layer for layer in layers):
        return layers
    return [layer.partition("/")[2] for layer in layers]


def _in_layers(rows: list[Row]) -> str:
    """Where these stand, for a sentence: " in stage1/norm, stage2/norm and 2 other layers"."""
    layers = list(dict.fromkeys(row.layer for row in rows if row.layer))
    shown, left = ", ".join(layers[:_LAYERS_TOLD]), len(layers) - _LAYERS_TOLD
    return (f" in {shown}" if shown else "") + (f" and {left} other layer(s)" if left > 0 else "")


def _table(report: Report) -> Iterator[str]:
    """The rows that a reader looks for, aligned; figures stand on the right of their column."""
    head = ("operation", "layer", "result", "runs on", "tile", "halo", "MACs", "share", "state")
    head += ("why whole",)
    right = ("tile", "halo", "MACs", "share", "state")
    table = [head]
    for row in report.rows:
        if row.macs or row.reason or row.state_bytes or row.halo not in (None, Halo()):
            table.append((
                row.label,
                row.layer,
                by(row.shape),
                row.where,
                by(row.tile) if row.tile else "",
                _halo(row.halo),
                _count(row.macs) if row.macs else "",
                _percent(row.macs, report.macs) if row.macs else "",
                f"{_count(row.state_bytes)}B" if row.state_bytes else "",
                row.reason,
            ))  # fmt: skip
    pictures = report.state_bytes - sum(report.memory_bytes.values())
    table.append(("frames, outputs", "", "", "", "", "", "", "", f"{_count(pictures)}B", ""))
    total = f"{_count(report.macs)}", _percent(report.macs, report.macs)
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
    same = {value}  # the tensor under the names that transposing and padding give it
    for number, record in enumerate(records):
        inputs = {x for x in record.op.inputs if x in made}
        inputs |= {None for x in record.op.inputs[:1] if x not in made}
        if inputs.isdisjoint(same):
            continue
        if record.where == "whole" if kind == "dense" else record.halo not in (None, Halo()):
            return number
        if record.op.name in ("transpose", "pad"):
            same.update(record.op.outputs)
    return made.get(value)


def _pixels_read(tile, halo: Halo) -> float:
    (h, w), (top, bottom, left, right) = tile, halo
    return (h + top + bottom) * (w + left + right) / (h * w)


def _halo(halo: Halo | None) -> str:
    if halo in (None, Halo()):
        return ""
    return str(halo.top) if len(set(halo)) == 1 else " ".join(map(str, halo))


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


def _count(value: float) -> str:
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f} "
