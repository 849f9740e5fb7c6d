"""`blockcopy`: from a function of a frame to a function of a video."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from bc_jax import lowering
from bc_jax.lowering import SummedKernel
from bc_jax.sparse.advice import warn_of_no_gain
from bc_jax.sparse.apart import keep_apart
from bc_jax.sparse.blocks import Blocks, executed_grid, split
from bc_jax.sparse.borders import keep_borders
from bc_jax.sparse.explain import Report, make_report
from bc_jax.sparse.halo import write_tiles
from bc_jax.sparse.interpreter import Context, interpret
from bc_jax.sparse.loops import unroll
from bc_jax.sparse.parameters import array_leaves, identity, leaf_shapes, rebuilder
from bc_jax.sparse.plan import Plan, Record, memory_for
from bc_jax.sparse.prepare import prepare
from bc_jax.sparse.program import Program, trace
from bc_jax.sparse.state import FrameState, check_call, check_capacity, check_mesh, check_state
from bc_jax.sparse.values import NO_PAD, Blocked, Whole, inverse
from bc_jax.sparse.whole import WholeFrames


@dataclasses.dataclass(frozen=True, eq=False)
class _Traced:
    """A network traced for one shape of frames, divided in what is done once and each frame."""

    once: Program
    program: Program
    plan: Plan
    records: list[Record]
    state: FrameState  # of shapes and dtypes
    grid_shape: tuple[int, int, int]
    half: str | None  # `lowering.half_of` all that a frame is run with
    apply_fn: Callable


@struct.dataclass
class Prepared:
    """What a network computes of its parameters alone; made by `BlockCopy.prepare`.

    Attributes:
        arrays: batch norm is part of the kernels, which are as the backend reads them best.
        traced: static, the network for frames of one shape.
    """

    arrays: list[jax.Array | SummedKernel]
    traced: _Traced = struct.field(pytree_node=False)

    @property
    def half(self) -> str | None:
        """The dtype of 16 bits, if there is one, that the network has arrays of."""
        return self.traced.half


class BlockCopy:
    """A network that runs block-sparsely in time; made by `blockcopy`."""

    def __init__(self, apply_fn: Callable, block_size: tuple[int, int]):
        """See `blockcopy`."""
        self.apply_fn = apply_fn
        self.block_size = block_size
        self._traced: dict[Any, _Traced] = {}

    def __repr__(self) -> str:
        """The network and its block size."""
        name = getattr(self.apply_fn, "__name__", type(self.apply_fn).__name__)
        return f"blockcopy({name}, block_size={self.block_size})"

    def __reduce__(self):
        """Copied and pickled as it was made: what was traced is traced again."""
        return blockcopy, (self.apply_fn, self.block_size)

    def grid_shape(self, frames) -> tuple[int, int, int]:
        """Streams, rows and columns of the grid for frames [N, H, W, C]; checks their shape.

        Raises:
            ValueError: where the frames are not [N, H, W, C] or are not made of whole blocks.
            TypeError: where they are no array, and no shape of one, or see `check_mesh`.
        """
        if not hasattr(frames, "shape"):
            raise TypeError(_not_one_array(frames))
        check_mesh(frames)
        shape = tuple(frames.shape)
        if len(shape) != 4 or 0 in shape:
            raise ValueError(f"frames must be [N, H, W, C], each at least 1; got shape {shape}")
        for name, size, block in zip(("height", "width"), shape[1:3], self.block_size, strict=True):
            if size % block:
                raise ValueError(_not_whole(name, shape, self.block_size))
        return shape[0], shape[1] // self.block_size[0], shape[2] // self.block_size[1]

    def init(self, params, frames) -> FrameState:
        """A zeroed state. Every block must be executed in the first frame.

        Args:
            params: the network's parameters.
            frames: [N, H, W, C]; only shape and dtype matter.

        Returns:
            FrameState of zeros; works under `jax.eval_shape`.
        """
        shapes = self._trace(params, frames).state
        # One program: without jit there would be one for each shape.
        return jax.jit(
            lambda: jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
        )()

    def prepare(self, params, frames) -> Prepared:
        """Compute once what depends on the parameters alone, and not in each frame.

        Batch norm is folded into the kernels before it, so that results differ by rounding.

        Args:
            params: the network's parameters.
            frames: [N, H, W, C]; only shape and dtype matter.

        Returns:
            What takes the place of `params` for frames of this shape and dtype; of no other use.
        """
        traced = self._trace(params, frames)
        if isinstance(params, Prepared):
            return params
        arrays = traced.once.run(array_leaves(params))
        return Prepared(traced.plan.make_ready(traced.program, arrays), traced)

    def __call__(
        self, params, state: FrameState, frames, grid=None, *, capacity: int | None = None
    ):
        """Run one frame of each stream on the blocks that the grid selects.

        Args:
            params: the network's parameters, or what `prepare` made of them.
            state: what `init` or the last call returned.
            frames: [N, H, W, C].
            grid: bool [N, Gh, Gw], the blocks to execute. None executes all, faster than a grid of
                them does: the network runs on whole frames.
            capacity: K, the most blocks that run, over all streams; static. None means all. Of more
                blocks than K the first K in row-major order run; `state.grid` says which.

        Returns:
            The network's outputs, and the next state.

        Raises:
            ValueError: where shapes do not fit the state or the block size, with what would.
        """
        state = self.advance(params, state, frames, grid, capacity=capacity)
        return state.outputs, state

    def advance(
        self, params, state: FrameState, frames, grid=None, *, capacity: int | None = None
    ) -> FrameState:
        """As a call, with its errors; returns the state alone, so that outputs are not copied."""
        frames, grid = one_array(frames), None if grid is None else jnp.asarray(grid)
        grid_shape = self.grid_shape(frames)
        check_call(state, frames, grid, grid_shape)
        total = math.prod(grid_shape)
        capacity = total if capacity is None else check_capacity(capacity, total)
        prepared = self.prepare(params, frames)
        traced = prepared.traced
        check_state(state, traced.state)
        state = jax.tree.map(jnp.asarray, state)  # in new dicts, which are written into
        if grid is None:
            if capacity < total:
                raise ValueError(
                    f"without a grid all {total} blocks run, and capacity is {capacity}; give a "
                    "grid, or no capacity"
                )
            after = _on_whole_frames(prepared, frames)
            if after is not None:
                return after
            grid = jnp.ones(grid_shape, bool)
        blocks = Blocks.of(grid, capacity=capacity)
        tiles = split(frames, blocks)
        kept_frames = write_tiles(state.frames, tiles, blocks)
        context = Context(blocks, traced.program, traced.plan, state.memory)
        image = Blocked(tiles, (0, 1, 2), key="frames", dense=kept_frames)
        results = interpret(context, [*prepared.arrays, image])
        outputs = [
            _finish(context, result, kept)
            for result, kept in zip(results, jax.tree.leaves(state.outputs), strict=True)
        ]
        outputs = jax.tree.unflatten(traced.program.out_tree, outputs)
        return FrameState(kept_frames, outputs, executed_grid(blocks), context.memory)

    @functools.cached_property
    def compiled(self) -> Callable:
        """`advance` under `jit`, one for all who run this network: they share its programs."""
        return self.jit(self.advance)

    def jit(self, function: Callable | None = None, **options) -> Callable:
        """This transformation under `jax.jit`, compiled for speed on this backend.

        The capacity is static and the state is donated, so that it is updated in place: use the
        returned state, not the one passed in.

        Args:
            function: what to compile, the call itself or `advance`; None is the call.
            **options: of `jax.jit`, in place of these; or `in_order`, see `compiler_options`.
        """
        # Without a grid a state is written alone: kept for that, not left out with what is unused.
        options = {
            "static_argnames": "capacity", "donate_argnums": 1, "keep_unused": True, **options
        }  # fmt: skip
        if "compiler_options" in options:
            return jax.jit(function or self, **options)
        return lowering.jit(function or self, prepared=Prepared, **options)

    def explain(self, params, frames) -> Report:
        """What runs where, and what it costs; computes nothing.

        Args:
            params: the network's parameters, or their shapes.
            frames: [N, H, W, C], or its jax.ShapeDtypeStruct.

        Returns:
            A report; `str(report)` is a table.
        """
        report = self._report(params, frames)
        warn_of_no_gain(report)
        return report

    def _report(self, params, frames) -> Report:
        traced = self._trace(params, frames)

        @functools.cache  # asked for by each line of advice
        def at(size: tuple[int, int]) -> Report:
            n, *sides, c = frames.shape
            padded = (-(-side // block) * block for side, block in zip(sides, size, strict=True))
            shape = (n, *padded, c)
            other = BlockCopy(self.apply_fn, size)
            return other._report(params, jax.ShapeDtypeStruct(shape, frames.dtype))

        return make_report(traced.records, traced.grid_shape, traced.state, at)

    def _trace(self, params, frames) -> _Traced:
        grid_shape = self.grid_shape(frames)
        if isinstance(params, Prepared):
            made_for = params.traced.state.frames
            if (frames.shape, frames.dtype) != (made_for.shape, made_for.dtype):
                raise ValueError(
                    f"frames are {frames.dtype}{list(frames.shape)} but what prepare returned was "
                    f"made for {made_for.dtype}{list(made_for.shape)}; prepare for these"
                )
            if params.traced.apply_fn != self.apply_fn:
                raise ValueError("parameters were prepared for another network; prepare for this")
            return params.traced
        check_mesh(*array_leaves(params))
        shapes = leaf_shapes(params)
        frame_shape = jax.ShapeDtypeStruct(frames.shape, frames.dtype)
        kind = identity(params)
        key = (kind, *((s.shape, s.dtype, s.weak_type) for s in (*shapes, frame_shape)))
        if kind is not None and key in self._traced:
            return self._traced[key]
        rebuild = rebuilder(params)
        program = trace(lambda leaves, f: self.apply_fn(rebuild(leaves), f), shapes, frame_shape)
        once, program = prepare(keep_borders(keep_apart(unroll(program))))
        prepared = jax.eval_shape(once.run, shapes)
        plan, records, outputs = _walk(program, prepared, frame_shape, grid_shape)
        state = FrameState(
            frames=frame_shape,
            outputs=outputs,
            grid=jax.ShapeDtypeStruct(grid_shape, bool),
            memory=memory_for(plan, grid_shape),
        )
        half = lowering.half_of((prepared, state))
        traced = _Traced(once, program, plan, records, state, grid_shape, half, self.apply_fn)
        if kind is not None and not program.holds_tracers:
            self._traced[key] = traced
        return traced


def blockcopy(apply_fn: Callable, block_size: int | tuple[int, int] = 128) -> BlockCopy:
    """Make any JAX network block-sparse in time (Verelst & Tuytelaars, ICCV 2021).

    Args:
        apply_fn: `apply_fn(params, frames)`, frames [N, H, W, C], to a pytree of [N, h, w, c].
            Any JAX function: what cannot run block by block runs whole, see `explain`.
        block_size: pixels per block, or (height, width).

    Returns:
        A callable `(params, state, frames, grid, capacity=K) -> (outputs, state)` with `init` and
        `explain`. It is pure: use it under `jax.jit` (capacity static), `jax.lax.scan`, `jax.vmap`
        and `jax.grad`.

    Raises:
        TypeError: where apply_fn is not callable.
        ValueError: where block_size is not one or two positive integers.
    """
    if not callable(apply_fn):
        raise TypeError(f"apply_fn must be callable as apply_fn(params, frames); got {apply_fn!r}")
    sizes = tuple(block_size) if np.ndim(block_size) else (block_size, block_size)
    if len(sizes) != 2 or any(not hasattr(s, "__index__") or s < 1 for s in sizes):
        raise ValueError(f"block_size must be a positive integer or two; got {block_size!r}")
    return BlockCopy(apply_fn, (int(sizes[0]), int(sizes[1])))


def _on_whole_frames(prepared: Prepared, frames: jax.Array) -> FrameState | None:
    """The state after all blocks of the frames; None where blocks need what this does not give."""
    traced = prepared.traced
    context = WholeFrames(traced.program, traced.plan, traced.grid_shape)
    image = Blocked(frames, (0, 1, 2), key="frames", dense=frames)
    results = interpret(context, [*prepared.arrays, image])
    outputs = [
        _like(context.dense(result), shape)
        for result, shape in zip(results, jax.tree.leaves(traced.state.outputs), strict=True)
    ]
    memory = context.remember()
    if memory is None:
        return None
    outputs = jax.tree.unflatten(traced.program.out_tree, outputs)
    return FrameState(frames, outputs, jnp.ones(traced.grid_shape, bool), memory)


def _walk(program: Program, shapes, frame_shape, grid_shape):
    """Walk the program once without computing: the plan, the records, the outputs' shapes."""
    plan, records = Plan(), []
    total = grid_shape[0] * grid_shape[1] * grid_shape[2]

    def walk(params, frames):
        blocks = Blocks(jnp.arange(total, dtype=jnp.int32), grid_shape)
        context = Context(blocks, program, plan, None)
        image = Blocked(split(frames, blocks), (0, 1, 2), key="frames", dense=frames)
        results = interpret(context, [*params, image], records)
        return jax.tree.unflatten(program.out_tree, [_output(context, r) for r in results])

    return plan, records, jax.eval_shape(walk, shapes, frame_shape)


def _finish(context: Context, result, kept: jax.Array) -> jax.Array:
    """An output of the program; blocks that are not executed keep what they had.

    What is no image of the frame's sides, or is padded around it, is known for all of it.
    """
    if isinstance(result, Whole):
        result = context.image(result) or result
    if not isinstance(result, Blocked) or result.pad != NO_PAD:
        return _like(context.dense(result), kept)
    order = result.apart().order
    apart = kept.reshape(context.shape(result.apart()))
    array = write_tiles(jnp.transpose(apart, order), result.tiles, context.blocks)
    return jnp.transpose(array, inverse(order)).reshape(kept.shape)


def _like(array, other) -> jax.Array:
    """An array of another's shape and dtype, which may be that of a key."""
    return jax.lax.convert_element_type(jnp.broadcast_to(array, other.shape), other.dtype)


def _output(context: Context, result) -> jax.Array:
    """Of an output's shape and dtype, where nothing is computed; notes what it needs."""
    if isinstance(result, Blocked) and result.pad == NO_PAD:
        return jnp.zeros(context.shape(result), result.tiles.dtype)
    return jnp.asarray(context.dense(result))


def one_array(frames) -> jax.Array:
    """The frames as an array; TypeError where they are several, in a dict or a tuple."""
    if isinstance(frames, Mapping | tuple):
        raise TypeError(_not_one_array(frames))
    return jnp.asarray(frames)


def _not_one_array(frames) -> str:
    return (
        f"frames are a {type(frames).__name__}; they are one array [N, H, W, C], in which several "
        "inputs are joined along the channels (or, where nothing is computed, its "
        "jax.ShapeDtypeStruct)"
    )


def _not_whole(name: str, shape: tuple[int, ...], block_size: tuple[int, int]) -> str:
    if shape[1] <= 4 < shape[3]:
        return f"frames must be [N, H, W, C], with the channels last; got shape {shape}"
    size = shape[1:3]
    side, block = (pair[name == "width"] for pair in (size, block_size))
    padded = tuple(-(-s // b) * b for s, b in zip(size, block_size, strict=True))
    fits = tuple(map(_near_divisor, size, block_size))
    return (
        f"frame {name} {side} is not a multiple of the block {name} {block}; pad to "
        f"{padded[0]}x{padded[1]} (bc_jax.data.pad_to_blocks) or use block_size={fits}"
    )


def _near_divisor(side: int, block: int) -> int:
    """The divisor of a frame's side that is nearest to a block's, best one that strides divide."""
    if side % block == 0:
        return block
    divisors = [d for d in range(1, side + 1) if side % d == 0]
    near = [d for d in divisors if d % 32 == 0] or [d for d in divisors if d % 8 == 0] or divisors
    return min(near, key=lambda d: (abs(d - block), -d))
