"""Figures of merit: confusion, intersection over union, agreement, running means, percentiles."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


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
      classes: only the first so many enter the mean, all others are but wrong predictions (such
        as the background, which Cityscapes' labels have not); None: all enter.
    """
    ious = class_iou(matrix)[:classes]
    there = ious[~np.isnan(ious)]
    return float(there.mean()) if there.size else float("nan")


def agreement(prediction: ArrayLike, target: ArrayLike) -> float:
    """Share of places, in [0, 1], where two arrays of the same shape are equal."""
    prediction, target = _same_shape(prediction, target)
    if not prediction.size:
        raise ValueError("agreement of nothing: the arrays are empty")
    return float(np.mean(prediction == target))


def percentiles(values: ArrayLike, at: Sequence[float] = (10, 50, 90)) -> dict[str, float]:
    """Percentiles as `{'p10': ..., 'p50': ..., 'p90': ...}`; the median is robust against pauses.

    Args:
      values: one number a frame, such as milliseconds; at least one.
      at: which percentiles, in [0, 100].
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
