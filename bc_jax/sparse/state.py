"""What a block-sparse network remembers of a video, and whether it fits what is run."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class FrameState:
    """What a block-sparse network remembers of a video; N streams of B = Gh * Gw blocks.

    Attributes:
        frames: [N, H, W, C], the frame state: each block's pixels when it was last executed.
        outputs: what the network returned for the last frame, a pytree of the network's shapes.
        grid: bool [N, Gh, Gw], the blocks that were executed in the last frame.
        memory: per tensor of the network, what its neighbours or its dense fallbacks need.
    """

    frames: jax.Array
    outputs: Any
    grid: jax.Array
    memory: dict[str, dict[str, Any]]


def check_mesh(*arrays) -> None:
    """TypeError where an array lies on a mesh whose axes are `Explicit`.

    Each operation would then have to say where its result lies, those of the policy too.
    """
    for array in arrays:
        mesh = getattr(getattr(jax.typeof(array), "sharding", None), "mesh", None)
        if mesh is not None and mesh.explicit_axes:
            raise TypeError(
                f"{jax.typeof(array)} lies on a mesh whose axes {', '.join(mesh.explicit_axes)} "
                "are Explicit, as jax.make_mesh makes them; let the compiler place what is "
                "computed: jax.make_mesh(shape, names, axis_types=(jax.sharding.AxisType.Auto,) * "
                f"{len(mesh.axis_names)})"
            )


def check_call(state: FrameState, frames, grid, grid_shape: tuple[int, int, int]) -> None:
    """ValueError where a state or a grid, None being none, is not of the frames' shape."""
    if not isinstance(state, FrameState):
        raise ValueError(f"state must be the FrameState that init returns; got {type(state)}")
    if state.frames.shape != frames.shape or state.frames.dtype != frames.dtype:
        raise ValueError(
            f"frames are {frames.dtype}{list(frames.shape)} but the state was made for "
            f"{state.frames.dtype}{list(state.frames.shape)}; make a new state with init"
        )
    if grid is not None and (grid.shape != grid_shape or grid.dtype != jnp.bool_):
        raise ValueError(
            f"grid must be bool {list(grid_shape)}, a block each; got {grid.dtype} "
            f"{list(grid.shape)}"
        )


def check_state(state: FrameState, expected: FrameState) -> None:
    """ValueError where a state's arrays have not the expected shapes and dtypes."""

    def described(tree):
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path): (x.shape, x.dtype) for path, x in leaves}

    have, want = described(state), described(expected)
    for path in [*want, *have]:
        if have.get(path) != want.get(path):
            raise ValueError(
                f"the state is not this network's: state{path} is {have.get(path, 'missing')}, "
                f"wanted {want.get(path, 'nothing')}; make a new state with init (the network, its "
                "parameters' shapes or the block size have changed)"
            )


def check_capacity(capacity, total: int) -> int:
    """The capacity, if it is an integer from 1 to the number of blocks; ValueError otherwise."""
    traced = isinstance(capacity, jax.core.Tracer)
    if traced or isinstance(capacity, bool) or not hasattr(capacity, "__index__"):
        raise ValueError(f"capacity must be a static integer from 1 to {total}; got {capacity!r}")
    if not 1 <= int(capacity) <= total:
        raise ValueError(f"capacity must be from 1 to {total}, all blocks; got {int(capacity)}")
    return int(capacity)
