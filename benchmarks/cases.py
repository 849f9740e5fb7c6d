"""What is measured: a network on frames of one shape, from the command line too."""

import dataclasses
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np

from bc_jax import bench, models
from bc_jax.bench import cycle
from bc_jax.config import Dtype
from bc_jax.files import write_text
from bc_jax.programs import dense_programs, sparse_program
from bc_jax.provenance import provenance
from bc_jax.sparse import BlockCopy, blockcopy, keep_memory
from benchmarks import networks

NETWORK = {
    "network": "{model}",
    "size": "{size[0]}x{size[1]}",
    "block": "{block}",
    "streams": "{streams}",
    "dtype": "{dtype}",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A network on N streams of frames.

    Attributes:
        model: a name that `bc_jax.models.load` or `benchmarks.networks` knows.
        size: (height, width) of the frames.
        block: pixels per block's side.
        dtype: of the parameters and the computation.
        streams: N.
    """

    model: Literal[models.NAMES + networks.NAMES] = "swiftnet_rn18"
    size: tuple[int, int] = (512, 1024)
    block: int = 128
    dtype: Dtype = "float32"
    streams: int = 1

    @property
    def blocks(self) -> int:
        """The blocks of one frame of all streams."""
        return self.streams * (self.size[0] // self.block) * (self.size[1] // self.block)

    def executed(self, fraction: float) -> int:
        """The whole number of blocks nearest to a fraction; see `bc_jax.bench.executed`."""
        return bench.executed(fraction, self.blocks)

    def row(self, benchmark: str) -> dict:
        """The fields that say what a measurement is of."""
        return {"benchmark": benchmark, **dataclasses.asdict(self), "size": list(self.size)}


DEFAULT = Case()


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A case's network with parameters, frames and its block-sparse version.

    Attributes:
        case: which case.
        params: of the case's dtype.
        frames: some of uint8 [N, H, W, 3], noise.
        sparse: the network through `blockcopy`.
    """

    case: Case
    params: Any
    frames: tuple[jax.Array, ...]
    sparse: BlockCopy

    @property
    def grid_shape(self) -> tuple[int, int, int]:
        """(N, Gh, Gw)."""
        return self.sparse.grid_shape(self.frames[0])

    def dense_calls(self) -> dict[str, Callable[[], object]]:
        """The dense versions, compiled, each as a call on the frames in turn."""
        programs = dense_programs(self.sparse.apply_fn, self.params, self.frames[0])
        return {name: cycle(p.run, self.frames) for name, p in programs.items()}

    def sparse_call(self, grids: list[jax.Array]) -> Callable[[], object]:
        """The block-sparse network on frames and grids in turn, all of as many blocks."""
        executed = int(grids[0].sum())
        capacity = executed if executed < grids[0].size else None
        program = sparse_program(self.sparse, self.params, self.frames[0], capacity=capacity)
        return cycle(program.run, self.frames, *([grids] if capacity else []))

    def compare(self, benchmark: str, **options) -> list[dict]:
        """The rows of `bc_jax.bench.measure`, which has the options, with what they are of."""
        rows = bench.measure(self.sparse, self.params, self.frames, **options)
        return [self.case.row(benchmark) | row for row in rows]


def load(case: Case) -> Loaded:
    """Build a case. Parameters are random where none come with the network.

    Raises:
        ValueError: an unknown model or dtype, or a size that is not of whole blocks.
    """
    keep_memory()
    if case.dtype not in get_args(Dtype):
        raise ValueError(f"dtype is {case.dtype!r}; possible are {', '.join(get_args(Dtype))}")
    dtype = jnp.dtype(case.dtype)
    if case.model in networks.NAMES:
        apply_fn, params = networks.build(case.model, jax.random.key(0), dtype)
    else:
        key = {} if case.model in models.TRAINED else {"key": jax.random.key(0)}
        network = models.load(case.model, dtype=dtype, **key)
        apply_fn = network.apply_fn
        params = jax.tree.map(lambda x: jnp.asarray(x, dtype), network.params)
    rng = np.random.default_rng(0)
    shape = (case.streams, *case.size, 3)
    frames = tuple(jnp.asarray(rng.integers(0, 256, shape, dtype=np.uint8)) for _ in range(2))
    sparse = blockcopy(apply_fn, case.block)
    sparse.grid_shape(frames[0])  # complains of a size that is not of whole blocks
    return Loaded(case, params, frames, sparse)


def command(measure: Callable, columns: dict[str, str], description: str) -> None:
    """A benchmark's `main`: its arguments from the command line, its rows as a table and a file.

    Args:
        measure: from a case, and keywords with defaults, to rows; its arguments become options.
        columns: of the table, see `bc_jax.bench.table`.
        description: what --help says first.
    """
    import tyro

    from bc_jax.command_line import errors_told

    hints = get_type_hints(measure)
    flat = Annotated[Case, tyro.conf.arg(name="")]
    fields = [
        (name, flat if name == "case" else hints[name], dataclasses.field(default=given.default))
        for name, given in inspect.signature(measure).parameters.items()
    ]
    fields.append(("output", str | None, dataclasses.field(default=None)))
    arguments = dataclasses.make_dataclass("Arguments", fields)
    arguments.__doc__ = f"{inspect.getdoc(measure)}\n    output: JSON file to write.\n"
    given = vars(tyro.cli(arguments, description=description))
    output = given.pop("output")
    with errors_told():
        rows = measure(**given)
    print(bench.table(rows, columns))
    if output:
        print(write_rows(output, rows))


def write_rows(path: str | Path, rows: list[dict], **more) -> Path:
    """Write {"environment", **more, "rows"} as JSON, whole or not at all.

    Args:
        path: the file; folders on the way are made.
        rows: measurements, of JSON's types.
        **more: further entries beside the rows.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"environment": provenance(), **more, "rows": rows}, indent=1)
    write_text(path, content + "\n")
    return path
