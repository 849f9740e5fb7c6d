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

import jax
import jax.numpy as jnp
import numpy as np

from bc_jax.bench import random_grids
from bc_jax.programs import compile_program
from bc_jax.sparse import Blocks, Halo, Row, block_index, combine, compiler_options, split
from bc_jax.sparse.halo import Frames, memory_shape, read_halo, store
from bc_jax.sparse.lowering import convolve
from bc_jax.sparse.program import Op, trace
from bc_jax.sparse.rules.window import window_axis
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
    program = trace(loaded.sparse.apply_fn, loaded.params, frames)
    rows = loaded.sparse.explain(loaded.params, frames).rows
    return list(zip([op for op in program.ops if op.out_avals], rows, strict=True))


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
    blocks = Blocks(block_index(grid, capacity=executed), loaded.grid_shape)
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


def _bound(function: Callable, *args, options=None) -> Callable:
    """A compiled call of these arguments."""
    run = compile_program(jax.jit(function, compiler_options=options), *args).run
    return lambda: run(*args)


def _convolutions(found: list[tuple[Op, Row]], blocks: Blocks) -> list[Part]:
    """Every distinct convolution that runs on blocks and is laid out NHWC."""
    distinct = collections.defaultdict(list)
    for op, row in found:
        if row.name == "conv_general_dilated" and row.where == "blocks":
            distinct[(op.in_shapes, str(sorted(op.params.items(), key=str)))].append((op, row))
    return [
        _convolution(*same[0], len(same), blocks)
        for same in distinct.values()
        if tuple(map(tuple, same[0][0].params["dimension_numbers"])) == _LAYOUT
    ]


def _convolution(op: Op, row: Row, times: int, blocks: Blocks) -> Part:
    p, dtype = op.params, op.out_avals[0].dtype
    (_, height, width, channels), kernel_shape = op.in_shapes
    _, gh, gw = blocks.grid_shape
    axes = [
        window_axis(
            size // count,
            count,
            size=kernel_shape[i],
            stride=p["window_strides"][i],
            dilation=p["rhs_dilation"][i],
            gaps=p["lhs_dilation"][i],
            low=int(p["padding"][i][0]),
            high=int(p["padding"][i][1]),
        )
        for i, (size, count) in enumerate(((height, gh), (width, gw)))
    ]
    sides = [
        size // count + axis.before + axis.after
        for size, count, axis in zip((height, width), (gh, gw), axes, strict=True)
    ]
    image, kernel = _random(op.in_shapes[0], dtype), _random(kernel_shape, dtype)
    tiles = _random((blocks.capacity, *sides, channels), dtype)

    def on_tiles(tiles, kernel):
        return convolve(
            tiles,
            kernel,
            strides=tuple(p["window_strides"]),
            padding=tuple(axis.pad for axis in axes),
            lhs_dilation=tuple(p["lhs_dilation"]),
            rhs_dilation=tuple(p["rhs_dilation"]),
            groups=p["feature_group_count"],
            precision=p["precision"],
            preferred=p["preferred_element_type"],
        )

    versions = {"default": None}
    if compiler_options():
        versions["sparse options"] = compiler_options()
    dense = {
        name: _bound(lambda x, k: op.bind(x, k), image, kernel, options=options)
        for name, options in versions.items()
    }
    sparse = _bound(on_tiles, tiles, kernel, options=compiler_options())
    written = dtype.itemsize * math.prod(row.shape)
    share = blocks.capacity / math.prod(blocks.grid_shape)
    return Part(
        name=_title(op, row),
        times=times,
        sparse=sparse,
        sparse_bytes=tiles.nbytes + kernel.nbytes + int(share * written),
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


def _halos(found: list[tuple[Op, Row]], blocks: Blocks) -> list[Part]:
    """Every distinct halo exchange: what all readers of one tensor need of it."""
    read: dict = {}
    for op, row in found:
        source = op.inputs[0] if op.inputs else None
        if row.where == "blocks" and row.halo and isinstance(source, int):
            shape, dtype = op.in_shapes[0], op.out_avals[0].dtype
            halos = read.setdefault(source, (set(), shape, dtype))[0]
            halos.add(row.halo)
    counted = collections.Counter(
        (tuple(sorted(halos)), shape, dtype)
        for halos, shape, dtype in read.values()
        if len(shape) == 4 and any(max(halo) for halo in halos)
    )
    _, gh, gw = blocks.grid_shape
    parts = []
    for (halos, (_, height, width, channels), dtype), times in counted.items():
        if height % gh or width % gw:
            continue
        tile = (height // gh, width // gw, channels)
        sizes = " and ".join("x".join(map(str, halo)) for halo in halos)
        name = f"halo {sizes} of {'x'.join(map(str, tile))} tiles"
        call, moved = _exchange(tile, halos, dtype, blocks)
        parts.append(Part(name, times, call, moved))
    return parts


def _exchange(tile: tuple[int, int, int], halos: tuple[Halo, ...], dtype, blocks: Blocks):
    """Store the tiles once and read every halo of them, as the interpreter does; and the bytes."""
    widest = functools.reduce(Halo.union, halos)
    shapes = memory_shape(widest, blocks.grid_shape, tile, dtype)
    memory = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    tiles = _random((blocks.capacity, *tile), dtype)
    wanted = halos if isinstance(memory, Frames) else (widest,)

    def exchange(tiles, memory, blocks):
        memory = store(memory, tiles, blocks)
        return [read_halo(tiles, memory, blocks, halo=halo) for halo in wanted], memory

    jitted = jax.jit(exchange, donate_argnums=1, compiler_options=compiler_options())
    run = compile_program(jitted, tiles, memory, blocks).run
    padded = jax.eval_shape(exchange, tiles, memory, blocks)[0]
    moved = tiles.nbytes + sum(
        math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(padded)
    )

    def call():
        nonlocal memory
        padded, memory = run(tiles, memory, blocks)
        return padded, memory

    return call, moved


def _copies(loaded: Loaded, blocks: Blocks) -> list[Part]:
    """Splitting the frames, and writing frames and outputs back."""
    frames = loaded.frames[0]
    outputs = jax.tree.leaves(jax.eval_shape(loaded.sparse.apply_fn, loaded.params, frames))
    cut = _bound(lambda f, b: split(f, b), frames, blocks, options=compiler_options())
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
    jitted = jax.jit(combine, donate_argnums=0, compiler_options=compiler_options())
    run = compile_program(jitted, dense, tiles, blocks).run

    def call():
        nonlocal dense
        dense = run(dense, tiles, blocks)
        return dense

    return call


if __name__ == "__main__":
    cases.command(measure, COLUMNS, __doc__)
