"""What is found out of a program by walking it once, before any frame."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bc_jax import lowering
from bc_jax.sparse import halo as halos
from bc_jax.sparse.halo import Halo
from bc_jax.sparse.program import Op, Program


class Ready(NamedTuple):
    """How a convolution has its kernel.

    Attributes:
        order: of the kernel's axes, to have its rows, columns, channels and features.
        at_once: (rows, columns) of results; (1, 1) where the kernel is used as it is.
    """

    order: tuple[int, int, int, int]
    at_once: tuple[int, int]


@dataclasses.dataclass
class Plan:
    """What a program must remember from frame to frame, found by walking it once.

    Attributes:
        halos: per tensor, the widest halo that any reader asks for, and its tiles' shape and dtype.
        dense: per tensor, shape and dtype of the array kept for dense fallbacks.
        kernels: per value, how each convolution on blocks that reads it has it ready.
    """

    halos: dict[str, tuple[Halo, jax.ShapeDtypeStruct]] = dataclasses.field(default_factory=dict)
    dense: dict[str, jax.ShapeDtypeStruct] = dataclasses.field(default_factory=dict)
    kernels: dict[int, list[Ready]] = dataclasses.field(default_factory=dict)

    def make_ready(self, program: Program, arrays: Sequence[jax.Array]) -> list:
        """The program's arguments but its frames: kernels that all have alike are made ready."""
        return [
            self._ready(program, number, array)
            for number, array in zip(program.inputs[:-1], arrays, strict=True)
        ]

    def _ready(self, program: Program, number: int, array: jax.Array):
        uses = self.kernels.get(number, [])
        alike = len(set(uses)) == 1 and len(uses) == len(program.readers[number])
        if not alike or number in program.outputs or uses[0].at_once == (1, 1):
            return array
        order, at_once = uses[0]
        return lowering.make_ready(jnp.transpose(array, order), at_once)


@dataclasses.dataclass
class Record:
    """What happened to one operation; the rows of `explain`.

    Attributes:
        op: the operation.
        where: "blocks", "whole" (a dense fallback) or "constant" (depends on no frame).
        reason: why an operation on blocks fell back, else "".
        halo: the halo that it read, else None.
        moved: whether it reads moved tiles, and not tiles with that halo.
        taps: multiply-accumulates per output element, where a rule knows better than the shapes.
        reads_all: whether its blocks read all of an operand, as attention does of its keys.
    """

    op: Op
    where: str
    reason: str = ""
    halo: Halo | None = None
    moved: bool = False
    taps: float | None = None
    reads_all: bool = False


def memory_for(plan: Plan, grid_shape: tuple[int, int, int]) -> dict:
    """Shapes of the memory for a plan."""
    return {
        "halos": {
            key: halos.memory_shape(halo, grid_shape, tile.shape, tile.dtype)
            for key, (halo, tile) in plan.halos.items()
        },
        "dense": dict(plan.dense),
    }
