"""All blocks at once: the network on whole frames, and what later blocks ask of it.

Where every block is executed nothing is read from memory, and no tile needs a copy of what is
around it: the network runs on frames, as it does without bc_jax, and the memory is cut out of its
tensors.
"""

import jax
import jax.numpy as jnp

from bc_jax.sparse.blocks import Blocks
from bc_jax.sparse.halo import Halo, remember_all
from bc_jax.sparse.interpreter import Context
from bc_jax.sparse.plan import Plan
from bc_jax.sparse.program import Program
from bc_jax.sparse.values import Blocked


class WholeFrames(Context):
    """What the rules see where a tile is a frame, and all are executed.

    Attributes:
        grid_shape: (N, Gh, Gw) of the blocks that the memory is for.
        tensors: [N, H, W, *rest] each, those that were read beyond a pixel's own place; by the
            names of their memory.
    """

    def __init__(self, program: Program, plan: Plan, grid_shape: tuple[int, int, int]):
        """`plan` says what blocks of `grid_shape` remember."""
        streams, *self.parts = grid_shape
        alone = Blocks(jnp.arange(streams, dtype=jnp.int32), (streams, 1, 1))
        super().__init__(alone, program, plan, {})
        self.grid_shape = grid_shape
        self.tensors: dict[str, jax.Array] = {}

    def exchange(self, x: Blocked, halo: Halo, pad_value) -> jax.Array:
        """The frames, and what stands for everything outside them."""
        self._note(x)
        return super().exchange(x.same(fresh=False), halo, pad_value)

    def cut(self, dense: jax.Array) -> jax.Array:
        """The frames are the tiles."""
        return dense

    def remember(self) -> dict | None:
        """The memory after these frames; None where blocks remember what was not read here."""
        n, gh, gw = self.grid_shape
        wanted = dict(self.plan.dense)
        for key, (_, tile) in self.plan.halos.items():
            h, w, *rest = tile.shape
            wanted[key] = jax.ShapeDtypeStruct((n, gh * h, gw * w, *rest), tile.dtype)
        found = {key: self.tensors.get(key) for key in wanted}
        if any(x is None or (x.shape, x.dtype) != _kind(wanted[key]) for key, x in found.items()):
            return None
        halos = {
            key: remember_all(found[key], halo=halo, grid_shape=self.grid_shape)
            for key, (halo, _) in self.plan.halos.items()
        }
        return {"halos": halos, "dense": {key: found[key] for key in self.plan.dense}}

    def _dense(self, x: Blocked) -> jax.Array:
        self._note(x)
        return x.tiles

    def _note(self, x: Blocked) -> None:
        self.tensors[x.key] = x.tiles
        if x.narrow is not None:  # blocks may remember this instead
            self._note(x.narrow)


def _kind(shape: jax.ShapeDtypeStruct) -> tuple:
    return shape.shape, shape.dtype
