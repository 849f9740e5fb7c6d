"""Every distinct convolution of a network, dense and on tiles, and the copies that tiles need.

python -m benchmarks.parts --model swiftnet_rn18 --fraction 0.5

The table is sorted by lost time: what a part takes beyond fraction * dense, times how often it
occurs. Halo exchange, splitting and combining have no dense counterpart, so all of it is lost. The
last row, "rest", is what the whole network takes beyond its parts: element-wise work, resizing,
pooling; less what fusion saves.
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bc_jax import lowering
from bc_jax.bench import random_grids
from bc_jax.lowering import Convolution, best_ready, convolve, convolve_taps, make_ready
from bc_jax.programs import compile_program
from bc_jax.sparse import Blocks, Halo, Row, exchange_halo, split
from bc_jax.sparse.halo import (
    Frames,
    Memory,
    memory_shape,
    read_halo,
    read_shifted,
    store,
    write_tiles,
)
from bc_jax.sparse.interpreter import nbytes
from bc_jax.sparse.prepare import prepare
from bc_jax.sparse.program import Op, trace
from bc_jax.sparse.rules.window import Axis, convolution_of, tap_steps, window_axis
from bc_jax.timing import alternate, efficiency, fastest
from benchmarks import cases
from benchmarks.cases import DEFAULT, Case, Loaded, load

COLUMNS = {
    "part": "{part}",
    "times": "{times}",
    "dense ms": "{dense_ms:.2f}",
    "sparse ms": "{sparse_ms:.2f}",
    "efficiency": "{efficiency:.2f}",
    "lost ms": "{lost_ms:.2f}",
}
_LAYOUT = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))  # NHWC, HWIO, NHWC


@dataclasses.dataclass(frozen=True)
class Part:
    """Something to be timed.

    Attributes:
        name: for the table.
        times: how often the network has it.
        sparse: call on the executed blocks.
        sparse_bytes: that the call on the executed blocks reads and writes, each array once.
        dense: calls on the whole frame, by version; empty where the dense network has no such part.
        dense_bytes: that one of these reads and writes.
        macs: multiply-accumulates of one of these.
    """

    name: str
    times: int
    sparse: Callable[[], object]
    sparse_bytes: int = 0
    dense: dict[str, Callable[[], object]] = dataclasses.field(default_factory=dict)
    dense_bytes: int = 0
    macs: int = 0


def operations(loaded: Loaded) -> list[tuple[Op, Row]]:
    """The network's operations and what `explain` says of each."""
    frames = loaded.frames[0]
    program = prepare(trace(loaded.sparse.apply_fn, loaded.params, frames)).each_frame
    rows = loaded.sparse.explain(loaded.params, frames).rows
    ops = [_with_plain_kernel(op) for op in program.ops if op.out_avals]
    return list(zip(ops, rows, strict=True))


def _with_plain_kernel(op: Op) -> Op:
    """A convolution as it is with a kernel [kh, kw, C, D], however the backend reads it best."""
    if op.name != "conv_general_dilated" or len(op.in_shapes[1]) != 4:
        return op
    numbers = op.params["dimension_numbers"]
    features, channels, *space = numbers.rhs_spec
    image, kernel = op.in_shapes
    plain = numbers._replace(rhs_spec=_LAYOUT[1])
    return dataclasses.replace(
        op,
        in_shapes=(image, tuple(kernel[axis] for axis in (*space, channels, features))),
        params=op.params | {"dimension_numbers": plain},
    )


def measure(
    case: Case = DEFAULT, *, fraction: float = 0.5, repeats: int = 7, warm_up: int = 1
) -> list[dict]:
    """One row per distinct part, the greatest loss first; each part's versions run in turn.

    Args:
        case: the network.
        fraction: of the blocks that is executed.
        repeats: per part.
        warm_up: likewise.
    """
    loaded = load(case)
    executed = case.executed(fraction)
    grid = random_grids(loaded.grid_shape, executed, 1)[0]
    blocks = Blocks.of(grid, capacity=executed)
    found = operations(loaded)
    parts = [*_convolutions(found, blocks), *_halos(found, blocks), *_copies(loaded, blocks)]
    rows = [_row(part, executed / case.blocks, repeats, warm_up) for part in parts]
    grids = random_grids(loaded.grid_shape, executed, repeats + warm_up)
    network = Part("network", 1, loaded.sparse_call(grids), dense=loaded.dense_calls())
    total = _row(network, executed / case.blocks, repeats, warm_up)
    rows += [total, _rest(total, rows, executed / case.blocks)]
    facts = case.row("parts") | {"fraction": executed / case.blocks, "executed": executed}
    # "network" and "rest" stay below the parts.
    order = {"network": 1, "rest": 2}
    rows.sort(key=lambda row: (order.get(row["part"], 0), -row["lost_ms"]))
    return [facts | {"blocks": case.blocks, "repeats": repeats} | row for row in rows]


def _row(part: Part, fraction: float, repeats: int, warm_up: int) -> dict:
    calls = {**part.dense, "sparse": part.sparse}
    timings = alternate(calls, repeats=repeats, warm_up=warm_up)
    dense = {name: timings[name].median for name in part.dense}
    best = fastest(timings, part.dense) if dense else None
    figures = _figures(dense.get(best, 0.0), timings["sparse"].median, part.times, fraction)
    facts = {name: getattr(part, name) for name in ("times", "macs", "dense_bytes", "sparse_bytes")}
    return {"part": part.name, "dense_version": best, **facts, **figures}


def _figures(dense: float, sparse: float, times: int, fraction: float) -> dict:
    """Fields from seconds; efficiency is None where there is nothing to compare with."""
    ratio = efficiency(fraction, dense, sparse) if dense > 0 and sparse > 0 else None
    return {
        "dense_ms": 1e3 * dense,
        "sparse_ms": 1e3 * sparse,
        "efficiency": ratio,
        "lost_ms": 1e3 * times * (sparse - fraction * dense),
    }


def _rest(total: dict, parts: list[dict], fraction: float) -> dict:
    """What is left of the network once its parts are taken out; may be negative."""
    left = [
        1e-3 * (total[kind] - sum(row["times"] * row[kind] for row in parts))
        for kind in ("dense_ms", "sparse_ms")
    ]
    return {"part": "rest", "times": 1, "dense_version": None, **_figures(*left, 1, fraction)}


def _random(shape, dtype) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=shape).astype(np.float32), dtype)


def bound(function: Callable, *args, compiles: Callable = jax.jit) -> Callable:
    """A compiled call of these arguments."""
    run = compile_program(compiles(function), *args).run
    return lambda: run(*args)


def _convolutions(found: list[tuple[Op, Row]], blocks: Blocks) -> list[Part]:
    """Every distinct convolution that runs on blocks and is laid out NHWC."""
    reads = _reads(found, blocks)
    distinct = collections.defaultdict(list)
    for op, row in found:
        if row.name == "conv_general_dilated" and row.where == "blocks" and _layout(op) == _LAYOUT:
            frame = reads[op.inputs[0]].memory if row.moved else None
            distinct[op.in_shapes, str(sorted(op.params.items(), key=str))].append((op, row, frame))
    return [_convolution(*same[0], len(same), blocks) for same in distinct.values()]


def _layout(op: Op) -> tuple[tuple[int, ...], ...]:
    return tuple(map(tuple, op.params["dimension_numbers"]))


def _axes(op: Op, blocks: Blocks) -> list[Axis]:
    """A convolution's geometry on tiles."""
    p, (_, *sides, _), kernel = op.params, *op.in_shapes
    return [
        window_axis(
            size // count,
            count,
            size=kernel[i],
            stride=p["window_strides"][i],
            dilation=p["rhs_dilation"][i],
            gaps=p["lhs_dilation"][i],
            low=int(p["padding"][i][0]),
            high=int(p["padding"][i][1]),
        )
        for i, (size, count) in enumerate(zip(sides, blocks.grid_shape[1:], strict=True))
    ]


def _tile(op: Op, blocks: Blocks) -> tuple[int, int, int]:
    """Shape of the tiles that an operation reads, without a halo."""
    _, height, width, channels = op.in_shapes[0]
    return height // blocks.grid_shape[1], width // blocks.grid_shape[2], channels


def _how(op: Op, axes: list[Axis]) -> Convolution:
    return convolution_of(op.params, tuple(axis.pad for axis in axes))


def _convolution(op: Op, row: Row, frame: Frames | None, times: int, blocks: Blocks) -> Part:
    """A convolution of tiles with their halo, or, where a frame is given, of tiles moved in it."""
    dtype, share = op.out_avals[0].dtype, blocks.capacity / math.prod(blocks.grid_shape)
    axes = _axes(op, blocks)
    how = _how(op, axes)
    h, w, channels = _tile(op, blocks)
    image, kernel = (_random(shape, dtype) for shape in op.in_shapes)
    if frame:
        frame = jax.tree.map(lambda s: _random(s.shape, s.dtype), frame)
        tile = jax.ShapeDtypeStruct((blocks.capacity, h, w, channels), dtype)
        steps = tap_steps(tile, kernel, axes, how)
        read = int(share * frame.array.nbytes)

        def on_tiles(frame, kernel, blocks):
            taps = read_shifted(frame, tile, blocks, steps)
            return convolve_taps(taps, kernel, how.precision, how.preferred)

        sparse = bound(on_tiles, frame, kernel, blocks, compiles=lowering.jit)
    else:
        sides = [size + axis.before + axis.after for size, axis in zip((h, w), axes, strict=True)]
        tiles = _random((blocks.capacity, *sides, channels), dtype)
        read = tiles.nbytes
        on_tiles = functools.partial(convolve, how=how)
        ready = make_ready(kernel, best_ready(kernel, tuple(axis.out for axis in axes), how))
        sparse = bound(on_tiles, tiles, ready, compiles=lowering.jit)

    versions = {"default": jax.jit}
    if lowering.compiler_options():
        versions["sparse options"] = lowering.jit
    dense = {
        name: bound(lambda x, k: op.bind(x, k), image, kernel, compiles=compiles)
        for name, compiles in versions.items()
    }
    one = _axes(op, Blocks(blocks.index, (op.in_shapes[0][0], 1, 1)))
    around = [(0, 0), *((max(0, a.before), max(0, a.after)) for a in one), (0, 0)]
    dense["one block"] = bound(
        lambda x, k: convolve(jnp.pad(x, around), k, _how(op, one)),
        image,
        make_ready(kernel, best_ready(kernel, tuple(axis.out for axis in one), _how(op, one))),
        compiles=lowering.jit,
    )
    written = dtype.itemsize * math.prod(row.shape)
    return Part(
        name=_title(op, row),
        times=times,
        sparse=sparse,
        sparse_bytes=read + kernel.nbytes + int(share * written),
        dense=dense,
        dense_bytes=image.nbytes + kernel.nbytes + written,
        macs=row.macs,
    )


def _title(op: Op, row: Row) -> str:
    """Such as "conv 3x3/2 dilated 4, 64->128, result 1x64x128"."""
    p, kernel = op.params, op.in_shapes[1]
    words = f"conv {kernel[0]}x{kernel[1]}"
    for sign, name in (("/", "window_strides"), (" dilated ", "rhs_dilation"), (" up ", "lhs_dilation")):  # fmt: skip  # noqa: E501
        if max(p[name]) > 1:
            words += f"{sign}{max(p[name])}"
    if p["feature_group_count"] > 1:
        words += f" groups {p['feature_group_count']}"
    return f"{words}, {op.in_shapes[0][3]}->{kernel[3]}, result {'x'.join(map(str, row.shape[:3]))}"


class _Reads(NamedTuple):
    """What the windows of a network read of one tensor; alike for tensors that are read alike.

    Attributes:
        tile: (h, w, C) of its tiles.
        halos: around them; those of convolutions that read moved tiles instead are left out.
        memory: shapes of what is kept of it.
    """

    tile: tuple[int, int, int]
    halos: tuple[Halo, ...]
    memory: Memory


def _reads(found: list[tuple[Op, Row]], blocks: Blocks) -> dict[int, _Reads]:
    """By tensor, what is read of it beyond its tiles."""
    _, gh, gw = blocks.grid_shape
    readers = collections.defaultdict(list)
    for op, row in found:
        source = op.inputs[0] if op.inputs else None
        if row.where != "blocks" or not isinstance(source, int) or not any(row.halo or ()):
            continue
        shape = op.in_shapes[0]
        if len(shape) == 4 and not (shape[1] % gh or shape[2] % gw):
            readers[source].append((op, row))
    return {source: _reads_of(same, blocks) for source, same in readers.items()}


def _reads_of(readers: list[tuple[Op, Row]], blocks: Blocks) -> _Reads:
    op = readers[0][0]
    tile, dtype = _tile(op, blocks), op.out_avals[0].dtype
    widest = functools.reduce(Halo.union, (row.halo for _, row in readers))
    memory = memory_shape(widest, blocks.grid_shape, tile, dtype)
    if not isinstance(memory, Frames):  # read once, as wide as any reader asks
        return _Reads(tile, (widest,), memory)
    halos = {row.halo for _, row in readers if not row.moved}
    return _Reads(tile, tuple(sorted(halos)), memory)


def _halos(found: list[tuple[Op, Row]], blocks: Blocks) -> list[Part]:
    """Every distinct halo exchange: what the readers of one tensor need of it."""
    distinct = collections.defaultdict(list)
    for reads in _reads(found, blocks).values():
        distinct[str(reads)].append(reads)
    parts = []
    for same in distinct.values():
        tile, halos, _ = same[0]
        sizes = " and ".join("x".join(map(str, halo)) for halo in halos)
        name = f"halo {sizes or 'kept'} of {'x'.join(map(str, tile))} tiles"
        parts.append(Part(name, len(same), *_exchange(same[0], blocks)))
    return parts


def _exchange(reads: _Reads, blocks: Blocks):
    """Store the tiles once and read every halo of them, as the interpreter does; and the bytes."""
    memory = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), reads.memory)
    tiles = _random((blocks.capacity, *reads.tile), jax.tree.leaves(memory)[0].dtype)

    def exchange(tiles, memory, blocks):
        if not reads.halos:
            return [], store(memory, tiles, blocks)
        first, *others = reads.halos
        padded, memory = exchange_halo(tiles, memory, blocks, halo=first)
        return [padded, *(read_halo(tiles, memory, blocks, halo=h) for h in others)], memory

    jitted = lowering.jit(exchange, donate_argnums=1)
    run = compile_program(jitted, tiles, memory, blocks).run
    padded = jax.eval_shape(exchange, tiles, memory, blocks)[0]

    def call():
        nonlocal memory
        padded, memory = run(tiles, memory, blocks)
        return padded, memory

    return call, nbytes([tiles, padded])


def _copies(loaded: Loaded, blocks: Blocks) -> list[Part]:
    """Splitting the frames, and writing frames and outputs back."""
    frames = loaded.frames[0]
    outputs = jax.tree.leaves(jax.eval_shape(loaded.sparse.apply_fn, loaded.params, frames))
    cut = bound(lambda f, b: split(f, b), frames, blocks, compiles=lowering.jit)
    share = blocks.capacity / math.prod(blocks.grid_shape)
    parts = [Part("split frames", 1, cut, int(2 * share * frames.nbytes))]
    for name, shape in [("frames", frames), *(("output", s) for s in outputs)]:
        _, gh, gw = blocks.grid_shape
        if len(shape.shape) == 4 and not (shape.shape[1] % gh or shape.shape[2] % gw):
            moved = int(2 * share * math.prod(shape.shape) * shape.dtype.itemsize)
            parts.append(Part(f"combine {name}", 1, _combine(shape, blocks), moved))
    return parts


def _combine(shape, blocks: Blocks) -> Callable:
    dense = jnp.zeros(shape.shape, shape.dtype)
    tiles = split(dense, blocks)
    jitted = lowering.jit(write_tiles, donate_argnums=0)
    run = compile_program(jitted, dense, tiles, blocks).run

    def call():
        nonlocal dense
        dense = run(dense, tiles, blocks)
        return dense

    return call


if __name__ == "__main__":
    cases.command(measure, COLUMNS, __doc__)
