"""A network as compiled programs: the dense versions that there are, and block-sparse ones."""

import dataclasses
import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bc_jax import lowering
from bc_jax.models import Network
from bc_jax.sparse import BlockCopy, blockcopy
from bc_jax.timing import alternate, fastest


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program, and what it takes.

    Attributes:
        run: the program.
        compile_seconds: tracing included.
        temporary_bytes: that it needs beside arguments and results; None where not known.
        peak_bytes: those, arguments and results together, what is updated in place once; likewise.
    """

    run: Callable
    compile_seconds: float
    temporary_bytes: int | None = None
    peak_bytes: int | None = None


def compile_program(jitted: Callable, *args, **static) -> Program:
    """Compile for arguments like these."""
    start = time.perf_counter()
    compiled = jitted.lower(*args, **static).compile()
    seconds = time.perf_counter() - start
    try:
        memory = compiled.memory_analysis()
        sizes = [
            getattr(memory, f"{kind}_size_in_bytes")
            for kind in ("temp", "argument", "output", "alias")
        ]
    except (AttributeError, NotImplementedError):  # not every backend tells
        return Program(compiled, seconds)
    return Program(compiled, seconds, sizes[0], sum(sizes[:3]) - sizes[3])


def dense_programs(
    apply_fn: Callable,
    params,
    frames: jax.Array,
    on_compile: Callable[[str], None] = lambda what: None,
) -> dict[str, Program]:
    """The ways to run the dense network; the fastest is what sparse execution is held against.

    Args:
        apply_fn: the network.
        params: its parameters.
        frames: [N, H, W, 3]; only shape and dtype matter.
        on_compile: told what is about to be compiled.

    Returns:
        Programs `run(frames) -> outputs`, which are valid until the next call. "default":
        as `jax.jit` compiles it; "sparse options": with the compiler's options of block-sparse
        programs, where there are any; "one block": block-sparse, one block as large as the frame.
    """
    versions = {"default": jax.jit}
    if lowering.compiler_options(in_order=True):
        versions["sparse options"] = functools.partial(lowering.jit, in_order=True)
    programs = {}
    for name, compiles in versions.items():
        on_compile(f"dense network ({name})")
        jitted = compiles(apply_fn)
        program = compile_program(jitted, params, frames)
        programs[name] = dataclasses.replace(program, run=functools.partial(program.run, params))
    on_compile("dense network (one block)")
    whole = blockcopy(apply_fn, frames.shape[1:3])
    advance = whole.jit(whole.advance, in_order=True)
    program = sparse_program(whole, params, frames, capacity=None, advance=advance)
    programs["one block"] = dataclasses.replace(
        program, run=lambda frames: program.run(frames).outputs
    )
    return programs


def sparse_program(
    sparse: BlockCopy,
    params,
    frames: jax.Array,
    *,
    capacity: int | None,
    advance: Callable | None = None,
) -> Program:
    """A block-sparse program `run(frames, grid) -> FrameState`, with a state of its own.

    The state begins with zeros, and what `run` returns is valid until the next call. `capacity` is
    how many blocks it has room for; None makes `run(frames)`, of all blocks. `advance` is
    `sparse.advance`, compiled; None is that which all share.
    """
    prepared = jax.jit(sparse.prepare)(params, frames)
    state = jax.jit(sparse.init)(params, frames)
    grid = None if capacity is None else jnp.zeros(sparse.grid_shape(frames), bool)
    advance = advance or sparse.compiled
    program = compile_program(advance, prepared, state, frames, grid, capacity=capacity)

    def run(frames, grid=None):
        nonlocal state
        state = program.run(prepared, state, frames, grid)
        return state

    return dataclasses.replace(program, run=run)


class Dense:
    """The fastest of the dense versions that there are, measured: times are compared with it.

    Attributes:
        milliseconds: what each version took.
        version: the fastest one's name.
    """

    def __init__(self, network: Network, frames: np.ndarray, on_compile: Callable[[str], None]):
        """Compile and time all versions.

        Args:
            network: what is run.
            frames: [N, H, W, 3] to measure with.
            on_compile: told what is about to be compiled.
        """
        frames = jnp.asarray(frames)
        programs = dense_programs(network.apply_fn, network.params, frames, on_compile)
        calls = {name: functools.partial(p.run, frames) for name, p in programs.items()}
        timings = alternate(calls, repeats=3, warm_up=1)
        self.milliseconds = {name: 1e3 * timing.median for name, timing in timings.items()}
        self.version = fastest(timings, timings)
        self._run = programs[self.version].run

    def __call__(self, frames) -> tuple[jax.Array, float]:
        """The outputs for [N, H, W, 3], valid until the next call, and the milliseconds it took."""
        frames = jnp.asarray(frames)
        clock = time.perf_counter()
        outputs = jax.block_until_ready(self._run(frames))
        return outputs, 1e3 * (time.perf_counter() - clock)
