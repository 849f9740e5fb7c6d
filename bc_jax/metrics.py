"""Figures of merit: confusion, intersection over union, average precision, agreement, means."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from bc_jax.policy.rewards import box_iou


def confusion(
    prediction: ArrayLike, target: ArrayLike, *, classes: int, ignore: int = 255
) -> np.ndarray:
    """How often each class is taken for each: `M[i, j]` pixels of class i were predicted as j.

    Confusions of several frames are added.

    Args:
      prediction: integers in [0, classes), of any shape.
      target: integers of the same shape, in [0, classes) or `ignore`.
      classes: how many there are.
      ignore: the target's value where a pixel does not count.

    Returns:
      int64 [classes, classes].

    Raises:
      ValueError: the shapes differ, a value is no integer or no class.
    """
    prediction, target = _same_shape(prediction, target)
    for name, values in (("prediction", prediction), ("target", target)):
        if values.dtype.kind not in "iu":
            raise ValueError(f"{name} is {values.dtype}, and classes are integers")
    counted = target != ignore
    # int64, so that neither the comparison nor the index below overflows an 8-bit type.
    prediction, target = (x[counted].astype(np.int64) for x in (prediction, target))
    for name, values in (("prediction", prediction), ("target", target)):
        wrong = values[(values < 0) | (values >= classes)]
        if wrong.size:
            raise ValueError(f"{name} has class {wrong[0]}, and there are {classes} (from 0)")
    counts = np.bincount(target * classes + prediction, minlength=classes * classes)
    return counts.reshape(classes, classes)


def class_iou(matrix: ArrayLike) -> np.ndarray:
    """Intersection over union of each class: `M[c, c] / (sum_j M[c, j] + sum_i M[i, c] - M[c, c])`.

    Args:
      matrix: [classes, classes] from `confusion`.

    Returns:
      float64 [classes] in [0, 1]; NaN where a class is neither in the target nor predicted.

    Raises:
      ValueError: the matrix is not square.
    """
    matrix = np.asarray(matrix, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"a confusion is [classes, classes], and this is {list(matrix.shape)}")
    hit = np.diag(matrix)
    union = matrix.sum(0) + matrix.sum(1) - hit
    return np.divide(hit, union, out=np.full_like(hit, np.nan), where=union > 0)


def miou(matrix: ArrayLike, *, classes: int | None = None) -> float:
    """Mean of `class_iou` over the classes that are in the target or predicted; NaN without any.

    Args:
      matrix: [classes, classes] from `confusion`.
      classes: only the first so many enter the mean, others only count as wrong predictions
        (such as the background, which Cityscapes' labels lack); None: all enter.
    """
    ious = class_iou(matrix)[:classes]
    there = ious[~np.isnan(ious)]
    return float(there.mean()) if there.size else float("nan")


def average_precision(
    found: Sequence[tuple[ArrayLike, ArrayLike]], true: Sequence[ArrayLike], *, iou: float = 0.5
) -> float:
    """Area under a detector's curve of precision over recall, of one class and all frames.

    Boxes are taken by their scores, the highest first; each is right where it overlaps enough with
    a true box of its frame that none before it was right by. Precision at a recall is the largest
    at that recall and beyond. (Everingham et al., The Pascal Visual Object Classes Challenge: a
    Retrospective, IJCV 2015, Section 3.4.)

    Args:
      found: for each frame boxes [M, 4] (x1, y1, x2, y2) and their scores [M].
      true: for each frame boxes [T, 4].
      iou: the least intersection over union of a box that is right, in (0, 1].

    Returns:
      In [0, 1]; NaN where there is no true box.

    Raises:
      ValueError: frames, boxes and scores are not as many, or `iou` is out of range.
    """
    if not 0 < iou <= 1:
        raise ValueError(f"iou is {iou}; it is above 0 and at most 1")
    if len(found) != len(true):
        raise ValueError(f"boxes were found in {len(found)} frames, and {len(true)} have true ones")
    scores, right = [np.zeros(0)], [np.zeros(0, bool)]
    for (boxes, score), boxes_there in zip(found, true, strict=True):
        boxes, there = (np.asarray(b, np.float64).reshape(-1, 4) for b in (boxes, boxes_there))
        score = np.asarray(score, np.float64)
        if score.shape != boxes.shape[:1]:
            raise ValueError(f"{len(boxes)} boxes have scores of shape {list(score.shape)}")
        order = np.argsort(-score, kind="stable")
        scores.append(score[order])
        right.append(_right(box_iou(boxes[order], there), iou))
    total = sum(np.size(boxes) // 4 for boxes in true)
    if not total:
        return float("nan")
    hits = np.concatenate(right)[np.argsort(-np.concatenate(scores), kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best[hits].sum() / total)


def _right(overlaps: np.ndarray, iou: float) -> np.ndarray:
    """Which of a frame's boxes are right, bool [M], of their overlaps with true ones [M, T]."""
    free, right = np.ones(overlaps.shape[1], bool), np.zeros(len(overlaps), bool)
    for number, overlap in enumerate(overlaps):
        left = np.where(free, overlap, 0)
        if left.max(initial=0) >= iou:
            right[number] = True
            free[left.argmax()] = False
    return right


def agreement(prediction: ArrayLike, target: ArrayLike) -> float:
    """Share of places, in [0, 1], where two arrays of the same shape are equal.

    Raises:
      ValueError: the shapes differ, or the arrays are empty.
    """
    prediction, target = _same_shape(prediction, target)
    if not prediction.size:
        raise ValueError("agreement of nothing: the arrays are empty")
    return float(np.mean(prediction == target))


def percentiles(values: ArrayLike, at: Sequence[float] = (10, 50, 90)) -> dict[str, float]:
    """Percentiles as `{'p10': ..., 'p50': ..., 'p90': ...}`; the median is robust against pauses.

    Args:
      values: one number per frame, such as milliseconds.
      at: which percentiles, in [0, 100].

    Raises:
      ValueError: there are no values.
    """
    values = np.asarray(values, np.float64).ravel()
    if not values.size:
        raise ValueError("percentiles of no values")
    return {f"p{p:g}": float(v) for p, v in zip(at, np.percentile(values, at), strict=True)}


@dataclasses.dataclass
class RunningMean:
    """A mean that values are added to, one at a time or weighted; NaN while there is none."""

    total: float = 0.0  # sum of weight x value
    weight: float = 0.0  # sum of the weights

    def add(self, value: float, weight: float = 1.0) -> None:
        """Adds a value that counts `weight` times."""
        self.total += float(value) * weight
        self.weight += weight

    @property
    def mean(self) -> float:
        """The mean so far."""
        return self.total / self.weight if self.weight else float("nan")


def _same_shape(prediction: ArrayLike, target: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    prediction, target = np.asarray(prediction), np.asarray(target)
    if prediction.shape != target.shape:
        raise ValueError(
            f"the prediction is {list(prediction.shape)} and the target {list(target.shape)}; "
            "resize one of them"
        )
    return prediction, target
