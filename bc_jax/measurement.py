"""What is measured of a policy, frame by frame, and the figures that come of it."""

import dataclasses
import math
import statistics
from collections.abc import Callable

import numpy as np

from bc_jax.data.labels import CLASSES
from bc_jax.metrics import miou
from bc_jax.runner import Runner

LEARNING = ("learned", "paper")
MATCHED = ("random", "static", "difference", "oracle")
DENSE = "dense"


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One frame of one row, all streams.

    Attributes:
        frame: from 0.
        counts: whether it enters the means: a clip's first frame, all executed, does not, nor does
            one that is played again while other streams go on.
        timed: whether its times do: nothing was compiled, and the warm-up is over.
        blocks: executed.
        executed: share of the blocks, in [0, 1].
        disagreement: share of the pixels whose class is not the dense network's.
        policy_ms: deciding and bookkeeping.
        network_ms: the network.
        learning_ms: the policy's update; 0 in a frame without one.
        probability_gap: mean probability of the blocks executed less that of the others; NaN where
            a policy has none, or there are no others.
    """

    frame: int
    counts: bool
    timed: bool
    blocks: int
    executed: float
    disagreement: float
    policy_ms: float
    network_ms: float
    learning_ms: float
    probability_gap: float = math.nan


@dataclasses.dataclass
class Row:
    """A policy in the comparison: how it runs, and what was measured.

    Attributes:
        name: of the policy, or `DENSE`; with its target where there are several: learned@0.3.
        runner: None for the dense network.
        measurements: a frame each.
        confusion: of its classes with the dense network's, over the frames that count.
        labels: confusion with the true labels, where there are any, over the same frames.
        labels_last: the same over the last frames of clips.
        labelled: how many frames are in `labels`; and `labelled_last`, how many in `labels_last`.
        classes: int [N, h, w], its last prediction on the frames without padding.
        executions: int [Gh, Gw], how often each block was executed, over streams and frames that
            count; and `chances`, how often it could have been.
        target: executed fraction that it is held to; None where it is held to none.
    """

    name: str
    runner: Runner | None
    measurements: list[Measurement] = dataclasses.field(default_factory=list)
    confusion: np.ndarray | int = 0
    labels: np.ndarray | int = 0
    labels_last: np.ndarray | int = 0
    labelled: int = 0
    labelled_last: int = 0
    classes: np.ndarray | None = None
    executions: np.ndarray | int = 0
    chances: int = 0
    target: float | None = None

    @property
    def policy(self) -> str:
        """The policy's name alone."""
        return policy_of(self.name)

    @property
    def frequency(self) -> np.ndarray:
        """How often each block was executed, in [0, 1]: [Gh, Gw]."""
        return np.asarray(self.executions) / max(1, self.chances)


def policy_of(name: str) -> str:
    """A row's name without its target."""
    return name.partition("@")[0]


def summary(row: Row, macs: Callable[[float], float], interval: int, streams: int) -> dict:
    """A row's figures.

    Times are medians over the frames that count and are timed, and None where there is none;
    learning, which is done in every `interval`-th frame, enters as its median divided by that. What
    ends in `_all` is over all frames, streams' first ones, in which all is executed, included.

    Args:
        row: with at least one measurement that counts.
        macs: multiply-accumulates of a frame of all streams, of the number of blocks executed.
        interval: frames from one update of the policy to the next.
        streams: N; costs and times are per frame of one stream.
    """
    counted = [m for m in row.measurements if m.counts]
    timed = [m for m in counted if m.timed]
    learning = [m.learning_ms for m in timed if m.learning_ms]
    network = _median([m.network_ms for m in timed])
    policy = _median([m.policy_ms for m in timed])
    update = _median(learning) or 0.0
    whole = None if network is None else (network + policy + update / interval) / streams
    first = [m for m in row.measurements if m.timed and not m.counts]
    whole_all = None
    if first and whole is not None:
        begin = _median([m.network_ms for m in first]) + _median([m.policy_ms for m in first])
        others = len(counted) / len(row.measurements)
        whole_all = others * whole + (1 - others) * (begin + update / interval) / streams
    disagreement = statistics.fmean(m.disagreement for m in counted)
    return {
        "policy": row.name,
        "target": row.target,
        "frames": len(counted),
        "executed_fraction": statistics.fmean(m.executed for m in counted),
        "macs_per_frame": macs(statistics.fmean(m.blocks for m in counted)) / streams,
        "macs_per_frame_all": macs(statistics.fmean(m.blocks for m in row.measurements)) / streams,
        "ms_network": None if network is None else network / streams,
        "ms_policy": None if policy is None else policy / streams,
        "ms_learning": None if whole is None else update / streams,
        "ms_per_frame": whole,
        "ms_per_frame_all": whole_all,
        "timed_frames": len(timed),
        "speedup": None,
        "agreement": 1 - disagreement,
        "disagreement": disagreement,
        "miou": miou(row.confusion),
        "miou_labels": _label_miou(row.labels),
        "miou_labels_last": _label_miou(row.labels_last),
        "labelled_frames": row.labelled,
        "labelled_last_frames": row.labelled_last,
        "gap_closed": None,
        "probability_gap": _mean([m.probability_gap for m in counted]),
    }


def close_gaps(figures: list[dict]) -> None:
    """Write into each row what of the gap from random to oracle its policy closes.

    gap_closed = (random - policy) / (random - oracle), in disagreement; where both are there, at
    the row's target.
    """
    wrong = {row["policy"]: row["disagreement"] for row in figures}
    for row in figures:
        name = row["policy"]
        random, oracle = (wrong.get(name.replace(policy_of(name), p)) for p in ("random", "oracle"))
        if name in (DENSE, "all", "none") or random is None or oracle is None or random <= oracle:
            continue
        row["gap_closed"] = (random - row["disagreement"]) / (random - oracle)


def _label_miou(matrix: np.ndarray | int) -> float | None:
    return miou(matrix, classes=len(CLASSES)) if np.any(matrix) else None


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def _mean(values: list[float]) -> float | None:
    known = [value for value in values if math.isfinite(value)]
    return statistics.fmean(known) if known else None
