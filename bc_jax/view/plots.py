"""Plots of a run, drawn by Matplotlib without a display."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

# Okabe and Ito's colours, told apart by colour-blind eyes; yellow is left out, too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*X"


def plot_executed(
    path: str | os.PathLike,
    executed: Mapping[str, Sequence[float]] | Sequence[float],
    target: float | None = None,
    *,
    window: int = 25,
    title: str = "Executed fraction over time",
) -> Path:
    """The executed fraction over frames: each frame faintly, its running mean, the target.

    Args:
      path: of the picture; its suffix (.png, .pdf, .svg) chooses the format.
      executed: fractions in [0, 1], one a frame; or a name -> fractions for several policies.
      target: drawn as a dashed line.
      window: frames that the running mean looks back on.
      title: above the plot.

    Returns:
      The path.
    """
    series = executed if isinstance(executed, Mapping) else {"executed": executed}
    figure, axes = new_figure((9, 4.2))
    for k, (name, values) in enumerate(series.items()):
        values = np.asarray(values, float)
        colour = COLOURS[k % len(COLOURS)]
        axes.plot(values, color=colour, alpha=0.22, linewidth=0.8)
        label = f"{name}: mean {np.nanmean(values):.3f}" if values.size else name
        axes.plot(running_mean(values, window), color=colour, linewidth=2, label=label)
    if target is not None:
        axes.axhline(target, color="#444444", linestyle="--", linewidth=1.2)
        axes.annotate(
            f"target {target:g}",
            (1, target),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color="#444444",
        )
    axes.set(xlabel="frame", ylabel="share of blocks executed", ylim=(0, 1.02), title=title)
    axes.margins(x=0.01)
    axes.xaxis.get_major_locator().set_params(integer=True)  # no frame is number 2.5
    legend_below(axes, len(series))
    return save_figure(figure, path)


def plot_log(
    path: str | os.PathLike,
    log: str | os.PathLike,
    columns: Sequence[str] = ("reward", "loss"),
    *,
    x: str = "step",
    window: int = 25,
) -> Path:
    """Columns of a CSV log, one below the other, over a common axis.

    Args:
      path: of the picture.
      log: CSV file whose first line names its columns; an empty cell is a gap.
      columns: the ones to draw.
      x: the column to draw them over; rows are counted where it is missing.
      window: values that the running mean looks back on.

    Returns:
      The path.

    Raises:
      ValueError: a column is not in the log, or a cell holds no number.
    """
    table = read_log(log)
    missing = [name for name in columns if name not in table]
    if missing:
        raise ValueError(f"{log} has no column {', '.join(missing)}; it has {', '.join(table)}")
    figure, all_axes = new_figure((9, 0.6 + 2.3 * len(columns)), rows=len(columns))
    for k, (name, axes) in enumerate(zip(columns, all_axes, strict=True)):
        values, colour = table[name], COLOURS[k % len(COLOURS)]
        at = table.get(x, np.arange(len(values)))
        there = np.isfinite(values)
        axes.plot(at[there], values[there], color=colour, alpha=0.3, linewidth=0.8)
        axes.plot(at[there], running_mean(values[there], window), color=colour, linewidth=2)
        axes.set_ylabel(name)
        axes.margins(x=0.01)
        axes.xaxis.get_major_locator().set_params(integer=True)
    all_axes[-1].set_xlabel(x if x in table else "row")
    all_axes[0].set_title(f"{Path(log).name}: values and their mean over the last {window}")
    figure.align_ylabels()
    return save_figure(figure, path)


def plot_tradeoff(
    path: str | os.PathLike,
    points: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str = "Disagreement with the dense network",
) -> Path:
    """Disagreement against executed fraction, a line or a point for each policy.

    Args:
      path: of the picture.
      points: policy -> its (executed fraction, disagreement), both in [0, 1], in any order.
      title: above the plot.

    Returns:
      The path.
    """
    from matplotlib.ticker import PercentFormatter

    figure, axes = new_figure((8, 5))
    for k, (name, pairs) in enumerate(points.items()):
        at = np.asarray(sorted(pairs), float).reshape(-1, 2)
        axes.plot(
            at[:, 0],
            at[:, 1],
            color=COLOURS[k % len(COLOURS)],
            marker=MARKERS[k % len(MARKERS)],
            markersize=8,
            linewidth=1.8,
            label=name,
            clip_on=False,
            zorder=3,
        )
    axes.set(xlabel="blocks executed", ylabel="pixels of another class (lower is better)")
    axes.set_title(title)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlim(0, min(1, axes.get_xlim()[1]))
    axes.set_ylim(bottom=0)
    legend_below(axes, len(points))
    return save_figure(figure, path)


def plot_times(
    path: str | os.PathLike,
    parts: Mapping[str, Mapping[str, float]],
    *,
    title: str = "Time per frame",
    unit: str = "milliseconds per frame",
) -> Path:
    """Time of each part of a frame, stacked in a bar for each policy.

    Args:
      path: of the picture.
      parts: policy -> part (network, policy, learning, in one order) -> time, >= 0.
      title: above the plot.
      unit: of the times.

    Returns:
      The path.
    """
    figure, axes = new_figure((9, 1.4 + 0.42 * len(parts)))
    names = list(parts)
    left = np.zeros(len(names))
    kinds = list(dict.fromkeys(kind for times in parts.values() for kind in times))
    for k, kind in enumerate(kinds):
        wide = np.array([parts[name].get(kind, 0.0) for name in names])
        hatch = ("", "//", "..")[k % 3]  # told apart without colours too
        axes.barh(names, wide, left=left, color=COLOURS[k % len(COLOURS)], label=kind, hatch=hatch,
                  edgecolor="white", linewidth=0.5)  # fmt: skip
        left += wide
    for at, total in enumerate(left):
        axes.annotate(f"{total:.1f}", (total, at), xytext=(5, 0), textcoords="offset points",
                      va="center")  # fmt: skip
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set(xlabel=unit, title=title, xlim=(0, 1.15 * max(left, default=1)))
    legend_below(axes, len(kinds))
    return save_figure(figure, path)


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of the last `window` values, of as many as there are at the beginning.

    Args:
      values: float [T]; what is not finite does not count.
      window: >= 1.

    Returns:
      float [T], NaN where the window holds nothing finite.
    """
    if window < 1:
        raise ValueError(f"window is {window}; it is 1 or more")
    values = np.asarray(values, float)
    there = np.isfinite(values)
    total = np.cumsum(np.concatenate([[0], np.where(there, values, 0)]))
    count = np.cumsum(np.concatenate([[0], there]))
    end = np.arange(1, len(values) + 1)
    begin = np.maximum(end - window, 0)
    with np.errstate(invalid="ignore"):
        return (total[end] - total[begin]) / (count[end] - count[begin])


def read_log(log: str | os.PathLike) -> dict[str, np.ndarray]:
    """A CSV file with a header, as float arrays by column; an empty or missing cell is NaN.

    Columns that hold text in every filled cell are left out.

    Raises:
      ValueError: a column holds numbers and text.
    """
    with open(log, newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{log} has no rows below its header")
    table = {}
    for name in rows[0]:
        cells = [row[name] for row in rows]
        values = [_parsed(cell) for cell in cells]
        texts = [k for k, value in enumerate(values) if value is None]
        filled = sum(bool(cell) for cell in cells)
        if texts and len(texts) < filled:
            k = texts[0]
            raise ValueError(f"{log}, line {k + 2}: {name} is {cells[k]!r}, which is no number")
        if not texts:
            table[name] = np.array(values)
    return table


def _parsed(cell: str | None) -> float | None:
    if not cell:
        return np.nan
    try:
        return float(cell)
    except ValueError:
        return None


def new_figure(
    size: tuple[float, float],
    rows: int | None = None,
    *,
    columns: int | None = None,
    sharex: bool = True,
):
    """A figure that no window ever shows, and its axes; a list of them if many are asked for.

    Args:
      size: in inches.
      rows: so many axes below one another.
      columns: so many side by side.
      sharex: whether axes below one another have one x axis.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    shared = "col" if sharex else False
    grid = figure.subplots(rows or 1, columns or 1, sharex=shared, squeeze=False)
    axes = list(grid.ravel())
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(color="#dddddd", linewidth=0.7)
        each.set_axisbelow(True)
    return figure, axes if rows or columns else axes[0]


def legend_below(axes, entries: int):
    """A legend under the plot, where it never covers a curve."""
    axes.figure.legend(
        loc="outside lower center", ncols=min(4, max(1, entries)), frameon=False, fontsize=10
    )


def save_figure(figure, path: str | os.PathLike) -> Path:
    """Write the picture under another name first, so that a half one is never seen."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        figure.savefig(unfinished, dpi=150)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path
