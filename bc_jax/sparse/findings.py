"""What is found out about a network's operations: where each runs, and what it costs."""

import dataclasses
from collections.abc import Callable

import numpy as np

from bc_jax.sparse.halo import Halo
from bc_jax.sparse.operation import pixels_read


@dataclasses.dataclass(frozen=True)
class Row:
    """One operation of a network.

    Attributes:
        name: the primitive.
        label: the same for a reader, as "conv 3x3/2".
        layer: the scopes that it stands in, as "stage1/conv", without the network's own; or "".
        shape: of its first result.
        where: "blocks" (runs on executed blocks), "whole" (runs on the whole frame every time) or
            "constant" (depends on no frame).
        macs: multiply-accumulates for the whole frames, all streams.
        tile: (h, w) of the tiles that its window moves over, or None where it has no window.
        halo: pixels read beyond a tile, or None.
        moved: whether a tile is read as each of the window's places sees it, and not with its halo.
        reads_all: whether each block reads all of an operand, as attention does of its keys.
        window_elements: of the array that its window moves over, all blocks; 0 without a window.
        state_bytes: what is remembered of the tensor that it is the first to read.
        reason: why it runs whole though its input is in blocks, else "".
        causes: numbers of the rows, in `Report.rows`, whose falling back makes this one run whole.
    """

    name: str
    label: str
    layer: str
    shape: tuple[int, ...]
    where: str
    macs: int
    tile: tuple[int, int] | None
    halo: Halo | None
    moved: bool
    reads_all: bool
    window_elements: int
    state_bytes: int
    reason: str
    causes: frozenset[int]

    @property
    def pixels_read(self) -> float:
        """Pixels that the window reads, halo included, for each pixel of the tile; 1 if moved."""
        around = self.tile and self.halo and not self.moved
        return pixels_read(self.tile, self.halo) if around else 1.0


@dataclasses.dataclass(frozen=True)
class Findings:
    """The operations, and their sums.

    Attributes:
        rows: one per operation, in order.
        grid_shape: (N, Gh, Gw).
        block_size: (height, width) in pixels of the frame.
        macs: multiply-accumulates of the dense network, all streams.
        whole_macs: those of them that are spent whatever the grid.
        state_bytes: size of the FrameState.
        memory_bytes: per tensor, what is kept of it.
        at: the findings for blocks of another (height, width), in frames padded to them.
    """

    rows: tuple[Row, ...]
    grid_shape: tuple[int, int, int]
    block_size: tuple[int, int]
    macs: int
    whole_macs: int
    state_bytes: int
    memory_bytes: dict[str, int]
    at: Callable[[tuple[int, int]], "Findings"] = dataclasses.field(repr=False, compare=False)

    @property
    def fallbacks(self) -> tuple[Row, ...]:
        """The operations that run whole though their input is in blocks."""
        return tuple(row for row in self.rows if row.reason)

    def macs_at(self, executed: float) -> float:
        """Multiply-accumulates when `executed` blocks, over all streams, run."""
        blocks = int(np.prod(self.grid_shape))
        return self.whole_macs + (self.macs - self.whole_macs) * executed / blocks

    def forced_macs(self, *fallbacks: int) -> int:
        """Multiply-accumulates that run whole because of these rows of `rows`, their own included.

        Those of an operation that runs whole for several reasons count for each of them.
        """
        return sum(row.macs for row in self.rows if not row.causes.isdisjoint(fallbacks))

    @property
    def pixels_read(self) -> float:
        """Pixels that windows read, halos included, for each pixel of the tiles; 1 at best."""
        windows = [row for row in self.rows if row.where == "blocks" and row.tile]
        elements = sum(row.window_elements for row in windows)
        read = sum(row.window_elements * row.pixels_read for row in windows)
        return read / elements if elements else 1.0
