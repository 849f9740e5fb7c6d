"""What the pixels along an axis of rows, of columns or of streams show of the frames.

A side is float [size, 2]: where the part of the frame's height or width that each pixel shows
begins and ends, from 0 to 1, or beyond in padding; a pixel of what was made larger shows as much as
before. NaN is said of one that shows nothing of the frame, as a constant does, or a gap between
pixels; what is infinite is not known. None in an array's place says that all pixels show their own
places, as a frame's do, at whatever resolution.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Side = np.ndarray | None

UNKNOWN = np.full((1, 2), np.inf)
_FAR = 1e6


class Reads(NamedTuple):
    """What each pixel that an operation makes along an axis reads of it.

    Attributes:
        places: float [made], the middle of the pixels read, which may lie beyond the axis, as
            padding does; NaN for none, infinite where it is not known.
        width: how many pixels belong to one that is made.
        part: of what pixels show that leave no gap between them, where others that are made show
            the rest.
    """

    places: np.ndarray
    width: float = 1
    part: tuple[float, float] = (0, 1)


ANY = Reads(np.array([np.inf]))


def every(step: float, first: float, made: int) -> Reads:
    """What windows read: each pixel that is made, `step` behind the last.

    What a stride leaves out of its steps belongs to them too: those that are made lie between those
    that they read, by less than half a step, as a resized image's do.

    Args:
        step: between the places of what they read.
        first: the place that the first one reads, or the middle of its places.
        made: how many there are.
    """
    between = (np.arange(made) + 0.5) * step - 0.5
    unit = max(step, 1)
    return Reads(between + unit * np.round((first - step / 2 + 0.5) / unit), step)


def among(places: np.ndarray, gaps: int, low: int) -> Reads:
    """What pixels with gaps between them read, as those are that are woven together.

    Args:
        places: float [made], NaN in the gaps.
        gaps: pixels from one to the next, in which others may lie.
        low: pixels ahead of the first.
    """
    phase = low % (gaps + 1)
    return Reads(places, part=(phase / (gaps + 1), (phase + 1) / (gaps + 1)))


def by_matrix(matrix: np.ndarray) -> Reads:
    """What the results of a matrix [made, read] read on average."""
    weights = np.abs(matrix)
    total = weights.sum(axis=1)
    places = weights @ np.arange(matrix.shape[1]) / np.where(total > 0, total, np.nan)
    return Reads(places, matrix.shape[1] / max(len(matrix), 1))


def after(side: Side, reads: Reads, size: int) -> Side:
    """The side of pixels that read others.

    Args:
        side: of those that are read.
        reads: what each reads of them.
        size: how many are read.
    """
    if not known(side) or np.isinf(reads.places).any():
        return UNKNOWN
    if not size:
        return nothing(len(reads.places))
    shows = ~np.isnan(reads.places)
    middle, around = np.where(shows, reads.places, 0) + 0.5, max(0, reads.width - 1) / 2
    first = np.floor(middle - around).astype(int)
    last = np.maximum(np.ceil(middle + around).astype(int) - 1, first)
    cells = resized(side, size)
    # Where one end of what is read shows nothing, as a gap does, the other tells.
    begin, end = _cells(cells, first), _cells(cells, last)
    shown = np.where(np.isnan(begin), end, begin)[:, 0], np.where(np.isnan(end), begin, end)[:, 1]
    shown = np.stack(shown, axis=1)
    if reads.part != (0, 1):
        shown = _parts(shown, reads.part, apart=np.median(np.diff(cells[:, 0], append=1)))
    return _plain(np.where(shows[:, None], np.sort(shown), np.nan))


def together(sides: Sequence[Side], size: int) -> Side:
    """The side of pixels that each show what those of several axes do, of a size all.

    It is that of the axis that is furthest from the frame's: of unknown places, of another order,
    of the smallest part of the frame or the largest; of those alike but for a pixel, the last.
    Where it shows nothing, the others tell.
    """
    distances = [_distance(side, size) for side in sides]
    least = max(distances) - 1 / max(size, 1)
    at = max(i for i, distance in enumerate(distances) if distance >= least)
    if sides[at] is None or not known(sides[at]):
        return sides[at]
    cells = resized(sides[at], size)
    for other in (*sides[:at], *sides[at + 1 :]):
        cells = np.where(np.isnan(cells), resized(other, size), cells)
    return _plain(cells)


def joined(sides: Sequence[np.ndarray]) -> Side:
    """The side of axes one behind the other, as arrays."""
    return _plain(np.concatenate(sides))


def resized(side: Side, size: int) -> np.ndarray:
    """A side as an array, at a resolution of so many pixels."""
    if side is None:
        edges = np.arange(size + 1) / max(size, 1)
        return np.stack([edges[:-1], edges[1:]], axis=1)
    if not known(side):
        return np.full((size, 2), np.inf)
    if len(side) == size:
        return side
    step = len(side) / max(size, 1)
    found = after(side, every(step, (step - 1) / 2, size), len(side))
    return resized(found, size)


def nothing(size: int) -> np.ndarray:
    """The side of pixels that show nothing of the frame, as an array."""
    return np.full((size, 2), np.nan)


def at_own_places(side: Side, blocks: int, near: float = 0) -> bool:
    """Whether an axis can be cut into the frame's blocks: all pixels show what is in their own.

    Where they are in the frame's order, what is less than half a block away will do.

    Args:
        side: of the axis.
        blocks: along it.
        near: how far away they may always be, as a part of the frame, if in its order.
    """
    if side is None:
        return True
    if not known(side):
        return False
    shows = _shows(side)
    side, own = side[shows], resized(None, len(side))[shows]
    places, own_places = side.mean(axis=1), own.mean(axis=1)
    if in_order(places):
        # Of two pixels one of which shows a part of the other, none is away.
        within = abs(np.diff(side) - np.diff(own))[:, 0] / 2
        return bool((abs(places - own_places) - within < max(0.5 / blocks, near)).all())
    return bool((np.floor(places * blocks) == np.floor(own_places * blocks)).all())


def known(side: Side) -> bool:
    """Whether all places are known that an axis shows."""
    return side is None or not np.isinf(side).any()


def in_order(places: np.ndarray) -> bool:
    """Whether places [size], but for those that are NaN, are in the frame's order."""
    return bool((np.diff(places[~np.isnan(places)]) >= 0).all())


def _cells(cells: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The cells at places of an axis; beyond it they go on as they are at its end."""
    nearest = index.clip(0, len(cells) - 1)
    return cells[nearest] + (index - nearest)[:, None] * np.diff(cells)[nearest]


def _parts(cells: np.ndarray, part: tuple[float, float], apart: float) -> np.ndarray:
    """A part of each cell, but of those that leave gaps, as they are so far apart."""
    width = np.diff(cells)
    return np.where(width > 0.75 * apart, cells[:, :1] + width * part, cells)


def _shows(side: np.ndarray) -> np.ndarray:
    return ~np.isnan(side[:, 0])


def _distance(side: Side, size: int) -> float:
    """How far from the frame's an axis of so many pixels is."""
    if side is None:
        return 0.0
    if not known(side):
        return 2 * _FAR
    if not in_order(side.mean(axis=1)):
        return _FAR
    cells = resized(side, size)
    (shown,) = np.nonzero(_shows(cells))
    if not len(shown):
        return 0.0
    first, last = shown[[0, -1]]
    begin, end = cells[first, 0], cells[last, 1]
    pixel = (end - begin) / (last + 1 - first)
    begin, end = begin - first * pixel, end + (size - 1 - last) * pixel
    return max(abs(begin), abs(1 - end))


def _plain(side: np.ndarray) -> Side:
    """None where a side is that of an axis whose pixels show their own places."""
    return None if np.allclose(side, resized(None, len(side)), atol=1e-9) else side
