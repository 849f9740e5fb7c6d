"""What is measured: a network on frames of one shape, its dense versions, its sparse programs."""

import argparse
import dataclasses
import itertools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bc_jax import models
from bc_jax.sparse import BlockCopy, blockcopy, compiler_options, keep_memory

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


@dataclasses.dataclass(frozen=True)
class Case:
    """A network on N streams of frames.

    Attributes:
        model: a name that `bc_jax.models.load` knows.
        size: (height, width) of the frames.
        block: pixels per block's side.
        dtype: of the parameters and the computation.
        streams: N.
    """

    model: str
    size: tuple[int, int]
    block: int = 128
    dtype: str = "float32"
    streams: int = 1

    @property
    def blocks(self) -> int:
        """The blocks of one frame of all streams."""
        return self.streams * (self.size[0] // self.block) * (self.size[1] // self.block)

    def executed(self, fraction: float) -> int:
        """The whole number of blocks nearest to a fraction, at least one.

        Raises:
            ValueError: where the fraction is not in (0, 1].
        """
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction is {fraction}; it must be above 0 and at most 1")
        return max(1, round(fraction * self.blocks))

    def row(self, benchmark: str) -> dict:
        """The fields that say what a measurement is of."""
        return {"benchmark": benchmark, **dataclasses.asdict(self), "size": list(self.size)}


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A case's network with parameters, frames and its block-sparse version.

    Attributes:
        case: which case.
        apply_fn: `apply_fn(params, frames)`.
        params: of the case's dtype.
        frames: some of uint8 [N, H, W, 3], noise.
        sparse: the network through `blockcopy`.
    """

    case: Case
    apply_fn: Callable
    params: Any
    frames: tuple[jax.Array, ...]
    sparse: BlockCopy

    @property
    def grid_shape(self) -> tuple[int, int, int]:
        """(N, Gh, Gw)."""
        return self.sparse.grid_shape(self.frames[0])


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program, ready to be timed.

    Attributes:
        call: runs it once on the next frame; without arguments.
        compile_seconds: tracing included.
        temporary_bytes: that it needs beside arguments and results; None where not known.
    """

    call: Callable[[], object]
    compile_seconds: float
    temporary_bytes: int | None


def load(case: Case) -> Loaded:
    """Build a case. Parameters are random where none come with the network.

    Raises:
        ValueError: an unknown model or dtype, or a size that is not of whole blocks.
    """
    keep_memory()
    if case.dtype not in DTYPES:
        raise ValueError(f"dtype is {case.dtype!r}; possible are {', '.join(DTYPES)}")
    dtype = DTYPES[case.dtype]
    key = {} if case.model == "espnet_cityscapes" else {"key": jax.random.key(0)}
    network = models.load(case.model, dtype=dtype, **key)
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), network.params)
    rng = np.random.default_rng(0)
    shape = (case.streams, *case.size, 3)
    frames = tuple(jnp.asarray(rng.integers(0, 256, shape, dtype=np.uint8)) for _ in range(2))
    sparse = blockcopy(network.apply_fn, case.block)
    sparse.grid_shape(frames[0])  # complains of a size that is not of whole blocks
    return Loaded(case, network.apply_fn, params, frames, sparse)


def random_grids(shape: tuple[int, int, int], executed: int, count: int, seed: int = 0):
    """Random grids bool [N, Gh, Gw], each with exactly `executed` blocks over all streams."""
    rng = np.random.default_rng(seed)
    ordered = np.arange(np.prod(shape)) < executed
    return [jnp.asarray(rng.permutation(ordered).reshape(shape)) for _ in range(count)]


def compile_timed(jitted: Callable, *args, **static):
    """Compile for these arguments; returns the executable, seconds and temporary bytes."""
    start = time.perf_counter()
    compiled = jitted.lower(*args, **static).compile()
    seconds = time.perf_counter() - start
    analysis = compiled.memory_analysis()
    return compiled, seconds, getattr(analysis, "temp_size_in_bytes", None)


def dense_programs(loaded: Loaded) -> dict[str, Program]:
    """The ways to run the dense network; the fastest is what sparse execution is held against.

    Returns:
        "default": as `jax.jit` compiles it; "sparse options": with the compiler's options of
        block-sparse programs, where there are any; "one block": block-sparse, with one block as
        large as the frame.
    """
    options = {"default": None}
    if compiler_options():
        options["sparse options"] = compiler_options()
    programs = {}
    for name, chosen in options.items():
        jitted = jax.jit(loaded.apply_fn, compiler_options=chosen)
        compiled, *facts = compile_timed(jitted, loaded.params, loaded.frames[0])
        programs[name] = Program(_dense_call(compiled, loaded), *facts)
    whole = dataclasses.replace(loaded, sparse=blockcopy(loaded.apply_fn, loaded.case.size))
    grids = [jnp.ones(whole.grid_shape, bool)]
    programs["one block"] = sparse_program(whole, loaded.case.streams, grids)
    return programs


def _dense_call(compiled: Callable, loaded: Loaded) -> Callable:
    frames = itertools.cycle(loaded.frames)
    return lambda: compiled(loaded.params, next(frames))


def sparse_program(loaded: Loaded, executed: int, grids: list[jax.Array]) -> Program:
    """The block-sparse network with a capacity of exactly `executed` blocks, on grids in turn."""
    jitted = loaded.sparse.jit()
    # The state's values do not matter for speed, so it may begin with zeros.
    state = jax.jit(loaded.sparse.init)(loaded.params, loaded.frames[0])
    compiled, *facts = compile_timed(
        jitted, loaded.params, state, loaded.frames[0], grids[0], capacity=executed
    )
    inputs = itertools.cycle(zip(itertools.cycle(loaded.frames), grids, strict=False))

    def call():
        nonlocal state
        outputs, state = compiled(loaded.params, state, *next(inputs))
        return outputs, state

    return Program(call, *facts)


def state_bytes(loaded: Loaded) -> int:
    """Bytes of the state of all streams."""
    return loaded.sparse.explain(loaded.params, loaded.frames[0]).state_bytes


def add_case_options(parser: argparse.ArgumentParser, **defaults) -> None:
    """Add --model, --size, --block, --dtype and --streams; `defaults` change theirs."""
    parser.add_argument("--model", default="swiftnet_rn18", choices=models.NAMES)
    parser.add_argument("--size", type=int, nargs=2, default=(512, 1024), metavar=("H", "W"))
    parser.add_argument("--block", type=int, default=128, help="pixels per block's side")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--output", help="JSON file to write")
    parser.set_defaults(**defaults)


def case_of(options: argparse.Namespace) -> Case:
    """The case that the options of `add_case_options` describe."""
    return Case(options.model, tuple(options.size), options.block, options.dtype, options.streams)
