"""The capacities that a network is compiled for, and the programs that are there already."""

import concurrent.futures
import warnings
from collections.abc import Callable

import numpy as np

from bc_jax.sparse.state import check_capacity


def capacities(total: int, steps: int) -> tuple[int, ...]:
    """The capacities that programs are compiled for: multiples of total/steps, rounded up."""
    unit = -(-total // steps)
    return tuple(min(total, unit * i) for i in range(1, -(-total // unit) + 1))


def blocks_of(capacity: float, total: int) -> int:
    """How many blocks a `Runner`'s capacity is, of all; ValueError where it is none."""
    if not np.issubdtype(getattr(capacity, "dtype", type(capacity)), np.floating):
        return check_capacity(capacity, total)
    if not 0 < capacity <= 1:
        raise ValueError(
            f"capacity must be a number of blocks from 1 to {total}, or a share of them above 0.0 "
            f"and at most 1.0; got {capacity}"
        )
    return max(1, round(float(capacity) * total))


class Sizes:
    """Which capacity a frame's program has, while others are compiled in another thread.

    One is compiled at a time: what a video needs next shows in the frames to come.

    Attributes:
        compiling: the capacity whose program is compiled now; None for none.
        exact: whether each number of blocks has a capacity of its own, so that none is filled up.
    """

    def __init__(self, total: int, steps: int):
        """With none there.

        Args:
            total: blocks of all streams.
            steps: how many capacities there are at most.
        """
        self.compiling: int | None = None
        self._all = capacities(total, steps)
        self.exact = self._all[0] == 1
        self._there: set[int] = set()
        self._failed: set[int] = set()
        self._job: concurrent.futures.Future | None = None
        self._thread: concurrent.futures.Executor | None = None

    def fitting(self, blocks: int) -> int:
        """The smallest capacity for so many blocks."""
        return next(size for size in self._all if size >= blocks)

    def add(self, capacity: int) -> None:
        """Note that a program is there."""
        self._there.add(capacity)

    def room(self, capacity: int) -> int:
        """The smallest capacity from this one on whose program is there; this one for none.

        What a job of `compile` has failed with is a warning, once: its capacity is left out.
        """
        if self._job is not None and self._job.done():
            job, size, self._job, self.compiling = self._job, self.compiling, None, None
            error = job.exception()
            (self._there if error is None else self._failed).add(size)
            if error is not None:
                warnings.warn(
                    f"the program for {size} blocks could not be compiled in the background, and "
                    f"frames of so many go on in a larger one: {type(error).__name__}: {error}",
                    stacklevel=5,
                )
        return min((size for size in self._there if size >= capacity), default=capacity)

    def lacks(self, capacity: int) -> bool:
        """Whether a program may be compiled now: none is, and this one has not failed."""
        return self._job is None and capacity not in self._failed

    def compile(self, capacity: int, job: Callable[[], object]) -> bool:
        """Have another thread do what compiles a program; False where it is not `lacks`."""
        if not self.lacks(capacity):
            return False
        if self._thread is None:
            self._thread = concurrent.futures.ThreadPoolExecutor(1, "compiling")
        self.compiling, self._job = capacity, self._thread.submit(job)
        return True
