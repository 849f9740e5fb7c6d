"""The figure of the paper's Figure 7: methods by accuracy and time, quoted and measured."""

import dataclasses
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bc_jax.view.plots import COLOURS, MARKERS, new_figure, save_figure

_GREY, _PALE = "#4a4a4a", "#b0b0b0"
# Where a label may stand beside its point: distance in pixels and direction, the nearest first.
_PLACES = [
    (distance * dx, distance * dy)
    for distance in (10, 20, 34, 52, 74)
    for dx, dy in ((1, 0), (0.8, 0.8), (0.8, -0.8), (0, 1), (0, -1), (-0.8, 0.8), (-0.8, -0.8),
                   (-1, 0))
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Method:
    """One method's points, in the order in which they are linked.

    Attributes:
        name: of the method.
        points: (time, accuracy), one or more.
        quoted: whether they are somebody else's figures; these are grey and named beside a point,
            one's own are coloured and named in the legend.
        hollow: drawn without filling: the time is not what the axis says.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    quoted: bool = False
    hollow: bool = False


def plot_methods(
    path: str | os.PathLike,
    absolute: Sequence[Method],
    relative: Sequence[Method],
    *,
    note: str = "",
) -> Path:
    """Accuracy against time on one data set, and beside it the change of both on any.

    Args:
      path: of the picture.
      absolute: (normalised milliseconds, mIoU in per cent) on Cityscapes.
      relative: (time / the dense network's, mIoU - the dense network's in points), each method on
        its own data set.
      note: what is left out and why, above the plots.

    Returns:
      The path.
    """
    figure, (left, right) = new_figure((14, 7.2), columns=2)
    left.set_xscale("log")
    left.set(
        title="Cityscapes val (the paper's Figure 7)",
        xlabel="milliseconds per frame, normalised to a GTX 1080 Ti",
        ylabel="mIoU on the labelled frame, %",
    )
    ticks = (50, 100, 200, 500, 1000, 2000)
    left.set_xticks(ticks, labels=list(map(str, ticks)))
    left.xaxis.minorticks_off()
    right.set(
        title="Against each one's own dense network",
        xlabel="time / dense network's time",
        ylabel="mIoU - dense network's mIoU, points",
    )
    for at in (right.axhline(0, zorder=1), right.axvline(1, zorder=1)):
        at.set(color="#444444", linestyle="--", linewidth=1)
    styles = _styles([*absolute, *relative])
    for axes, methods in ((left, absolute), (right, relative)):
        for method in methods:
            axes.plot(*zip(*method.points, strict=True), **styles[method.name, method.hollow])
        axes.margins(0.08)
    right.set_xlim(left=0)
    entries = {}
    for axes in (left, right):
        for line in axes.get_lines():
            if not line.get_label().startswith("_"):
                entries.setdefault(line.get_label(), line)
    figure.legend(
        entries.values(), entries.keys(), loc="outside lower center",
        ncols=2 if max(map(len, entries), default=0) > 50 else 3, frameon=False, fontsize=10,
    )  # fmt: skip
    if note:
        figure.suptitle(note, fontsize=9, color="#444444")
    figure.draw_without_rendering()  # where things stand is known from here on
    for axes, methods in ((left, absolute), (right, relative)):
        _label(axes, methods)
    return save_figure(figure, path)


def _styles(methods: Sequence[Method]) -> dict[tuple[str, bool], dict]:
    """How each method is drawn, the same wherever it is; one's own by colour and marker."""
    own = list(dict.fromkeys(method.name for method in methods if not method.quoted))
    styles = {}
    for method in methods:
        look = {"linewidth": 1.1, "markersize": 6, "zorder": 2, "color": _PALE, "marker": "o"}
        look |= {"markerfacecolor": _GREY, "markeredgecolor": _GREY}
        look["label"] = "quoted from the supplement"
        if method.quoted and method.hollow:
            look["label"] += "; its GPU is unknown, time as reported"
        if not method.quoted:
            k = own.index(method.name)
            colour = COLOURS[k % len(COLOURS)]
            look |= dict.fromkeys(("color", "markerfacecolor", "markeredgecolor"), colour)
            look |= {"marker": MARKERS[k % len(MARKERS)]}
            look |= {"linewidth": 2, "markersize": 9, "zorder": 3, "label": method.name}
        if method.hollow:
            look["markerfacecolor"] = "white"
        styles[method.name, method.hollow] = look
    return styles


def _label(axes, methods: Sequence[Method]) -> None:
    """Name each quoted method beside one of its points, where it covers least."""
    from matplotlib.patheffects import withStroke

    pixels = [axes.transData.transform(method.points) for method in methods]
    markers = np.concatenate([np.empty((0, 2)), *pixels])
    lines = np.concatenate([np.empty((0, 2)), *(_along(points) for points in pixels)])
    frame, boxes, scale = axes.get_window_extent(), [], axes.figure.dpi / 72
    for number, (method, points) in enumerate(zip(methods, pixels, strict=True)):
        if not method.quoted:
            continue
        others = np.concatenate([np.full((1, 2), 1e6), *pixels[:number], *pixels[number + 1 :]])
        text = axes.annotate(method.name, method.points[0], fontsize=9)
        size = text.get_window_extent().size
        text.remove()
        tried = []
        for offset in _PLACES:
            for k, point in enumerate(points):
                box = _box(point + np.multiply(scale, offset), size, offset)
                leader = _along(np.stack([point, np.clip(point, *box)]))[2:-1]
                cost = _covered(box, leader, markers, lines, boxes, frame) + np.hypot(*offset) / 10
                # It must be plain whose label it is.
                away = np.hypot(*(others - np.clip(others, *box)).T).min()
                cost += max(0.0, 2 * np.hypot(*(point - np.clip(point, *box))) - away)
                tried.append((cost, len(tried), k, offset, box, leader))
        _, _, k, offset, box, leader = min(tried, key=lambda each: each[:2])
        boxes.append(box)
        lines = np.concatenate([lines, leader])
        far = np.hypot(*offset) > 25
        axes.annotate(
            method.name,
            method.points[k],
            offset,
            textcoords="offset points",
            ha=("center", "left", "right")[int(np.sign(offset[0]))],
            va=("center", "bottom", "top")[int(np.sign(offset[1]))],
            fontsize=9,
            color=_GREY,
            arrowprops={"arrowstyle": "-", "color": _GREY, "linewidth": 0.6} if far else None,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        ).set_in_layout(False)


def _box(at: np.ndarray, size: np.ndarray, direction: tuple[float, float]) -> np.ndarray:
    """Lower and upper corner of a text that stands at a place, on the side of that direction."""
    low = at - size * (1 - np.sign(direction)) / 2
    return np.stack([low, low + size])


def _along(points: np.ndarray) -> np.ndarray:
    """Points every few pixels along a line, its ends included."""
    steps = [
        np.linspace(a, b, max(2, int(np.hypot(*(b - a)) // 4)))
        for a, b in itertools.pairwise(points)
    ]
    return np.concatenate([points, *steps])


def _covered(box, leader, markers, lines, boxes, frame) -> float:
    """How bad it is for a label to stand in a box with a leader to it; points are pixels."""

    def within(points, low, high):
        return int(np.sum(np.all((points > low) & (points < high), axis=1)))

    cost = 40.0 * within(markers, box[0] - 7, box[1] + 7)  # a marker reaches so far
    cost += 0.8 * within(lines, box[0] - 2, box[1] + 2)
    for other in boxes:
        cost += 200.0 * np.all((other[0] < box[1] + 2) & (other[1] > box[0] - 2))
        cost += 40.0 * bool(within(leader, *other))
    for at in leader[2:]:
        cost += 2.0 * within(markers, at - 6, at + 6)
    outside = np.any(box[0] < (frame.x0, frame.y0)) or np.any(box[1] > (frame.x1, frame.y1))
    return cost + 1000.0 * bool(outside)
