"""What a network does block by block and what it does not: operations, cost, memory."""

import dataclasses

import jax
import numpy as np

from bc_jax.sparse.halo import Halo
from bc_jax.sparse.interpreter import Record, nbytes


@dataclasses.dataclass(frozen=True)
class Row:
    """One operation of a network.

    Attributes:
        name: the primitive.
        shape: of its first result.
        where: "blocks" (runs on executed blocks), "whole" (runs on the whole frame every time) or
            "constant" (depends on no frame).
        macs: multiply-accumulates for the whole frames, all streams.
        halo: pixels read beyond a tile, or None.
        reason: why it runs whole though its input is in blocks, else "".
    """

    name: str
    shape: tuple[int, ...]
    where: str
    macs: int
    halo: Halo | None
    reason: str


@dataclasses.dataclass(frozen=True)
class Report:
    """What `explain` returns.

    Attributes:
        rows: one per operation, in order.
        grid_shape: (N, Gh, Gw).
        macs: multiply-accumulates of the dense network, all streams.
        whole_macs: those of them that are spent whatever the grid.
        state_bytes: size of the FrameState.
        memory_bytes: per tensor, what is kept of it.
    """

    rows: tuple[Row, ...]
    grid_shape: tuple[int, int, int]
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

    def __str__(self) -> str:
        """A table of the operations that cost something or that run whole."""
        head = ("operation", "result", "runs on", "halo", "MACs", "share", "why whole")
        table = [head]
        for row in self.rows:
            if row.macs or row.reason or (row.halo and row.halo != Halo()):
                halo = "" if row.halo is None else "x".join(map(str, row.halo))
                share = f"{100 * row.macs / self.macs:.1f} %" if self.macs else ""
                table.append((
                    row.name, "x".join(map(str, row.shape)), row.where, halo,
                    _count(row.macs), share, row.reason,
                ))  # fmt: skip
        widths = [max(len(line[i]) for line in table) for i in range(len(head))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
                 for line in table]  # fmt: skip
        lines.insert(1, "  ".join("-" * w for w in widths))
        n, gh, gw = self.grid_shape
        whole = 100 * self.whole_macs / self.macs if self.macs else 0.0
        lines += [
            "",
            f"{n} stream(s) of {gh} x {gw} blocks; {_count(self.macs)}MACs dense, {whole:.1f} % of "
            f"them on the whole frame; state {self.state_bytes / 1e6:.1f} MB",
        ]
        if self.fallbacks:
            lines.append(f"{len(self.fallbacks)} operation(s) fall back to the whole frame:")
            lines += [f"  {row.name} {list(row.shape)}: {row.reason}" for row in self.fallbacks]
        return "\n".join(lines)


def _count(value: float) -> str:
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f} "


def make_report(records: list[Record], grid_shape, state) -> Report:
    """Sum up the records of a walk."""
    rows = tuple(
        Row(r.op.name, tuple(r.op.out_avals[0].shape), r.where, _macs(r), r.halo, r.reason)
        for r in records
        if r.op.out_avals
    )
    memory = {
        f"{kind}/{key}": nbytes(kept)
        for kind, keys in state.memory.items()
        for key, kept in keys.items()
    }
    return Report(
        rows,
        tuple(grid_shape),
        macs=sum(row.macs for row in rows if row.where != "constant"),
        whole_macs=sum(row.macs for row in rows if row.where == "whole"),
        state_bytes=nbytes(jax.tree.leaves(state)),
        memory_bytes=memory,
    )


def _macs(record: Record) -> int:
    """Multiply-accumulates of one operation, nested control flow included once per trip."""
    op = record.op
    size = int(np.prod(op.out_avals[0].shape))
    if record.taps is not None:
        return int(size * record.taps)
    return _jaxpr_macs(op.name, op.params, op.in_shapes, size)


def _jaxpr_macs(name, params, in_shapes, out_size: int) -> int:
    if name == "conv_general_dilated":
        numbers = params["dimension_numbers"]
        kernel = in_shapes[1]
        gaps = int(np.prod(params["lhs_dilation"]))
        per_output = int(np.prod(kernel)) // kernel[numbers.rhs_spec[0]]
        return out_size * per_output // gaps
    if name == "dot_general":
        (contract, _), _ = params["dimension_numbers"]
        return out_size * int(np.prod([in_shapes[0][a] for a in contract]))
    trips = params.get("length", 1) if name == "scan" else 1
    inner = params.get("jaxpr") or params.get("body_jaxpr")
    if inner is None and params.get("branches"):
        inner = params["branches"][-1]
    if inner is None:
        return 0
    inner = getattr(inner, "jaxpr", inner)
    return trips * sum(
        _jaxpr_macs(
            e.primitive.name,
            e.params,
            [v.aval.shape for v in e.invars],
            int(np.prod(e.outvars[0].aval.shape)) if e.outvars else 0,
        )
        for e in inner.eqns
    )
