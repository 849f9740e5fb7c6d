"""Functions timed in turn, so that what slows the machine down slows all of them down."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds per call.

    Attributes:
        median: of all repeats.
        p10: a tenth of the calls are faster.
        p90: a tenth of the calls are slower.
    """

    median: float
    p10: float
    p90: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Timing":
        """Of the calls' seconds, one at least."""
        return cls(*map(float, np.percentile(seconds, (50, 10, 90))))

    def milliseconds(self, name: str) -> dict[str, float]:
        """The fields NAME_ms, NAME_p10_ms and NAME_p90_ms of a row of results."""
        return {
            f"{name}_ms": 1e3 * self.median,
            f"{name}_p10_ms": 1e3 * self.p10,
            f"{name}_p90_ms": 1e3 * self.p90,
        }


def alternate(
    functions: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    warm_up: int = 2,
    in_a_row: int = 1,
    on_round: Callable[[int], None] = lambda rounds: None,
) -> dict[str, Timing]:
    """Time functions in turn; every second round runs backwards, so that none follows the same one.

    Args:
        functions: by name; each is called without arguments, and its result is waited for.
        repeats: rounds that count.
        warm_up: rounds before them that do not.
        in_a_row: calls of each function in each of its turns. Only the last one's result is waited
            for, so that a GPU is kept busy as a video does; the time is that of one call.
        on_round: told how many rounds are over.

    Returns:
        A Timing per name.

    Raises:
        ValueError: where repeats or in_a_row is not positive or warm_up is negative.
    """
    if repeats < 1 or warm_up < 0 or in_a_row < 1:
        raise ValueError(
            f"repeats is {repeats}, warm_up {warm_up} and in_a_row {in_a_row}; at least 1, 0 and 1 "
            "are needed"
        )
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    order = list(functions)
    for turn in range(warm_up + repeats):
        for name in order if turn % 2 == 0 else reversed(order):
            start = time.perf_counter()
            for _ in range(in_a_row):
                result = functions[name]()
            jax.block_until_ready(result)
            elapsed = (time.perf_counter() - start) / in_a_row
            if turn >= warm_up:
                seconds[name].append(elapsed)
        on_round(turn + 1)
    return {name: Timing.of(s) for name, s in seconds.items()}


def fastest(timings: Mapping[str, Timing], names) -> str:
    """The name of the smallest median among `names`."""
    return min(names, key=lambda name: timings[name].median)


def efficiency(fraction: float, dense: float, sparse: float) -> float:
    """Ideal time over measured time, fraction * dense / sparse; 1 is ideal."""
    return fraction * dense / sparse
