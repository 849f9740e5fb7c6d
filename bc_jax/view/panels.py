"""One picture of everything that happens at a frame: six views side by side."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from bc_jax.limits import check_width
from bc_jax.view.drawing import fit_text, font, font_of, viridis, warn_of_missing_letters
from bc_jax.view.layers import GAIN_POWER, TITLES, draw_layers, highest

_BACKGROUND, _TEXT, _FAINT = (18, 20, 24), (238, 240, 244), (160, 166, 176)
_TALLEST = 9 / 16  # of the width: what fills a screen
_NARROWEST = 400  # pixels of a column at a width of 1920, for what stands above and below
_LEGEND = 2  # lines of the legend at most


def panel(
    frame: np.ndarray,
    prediction_classes: np.ndarray,
    executed: np.ndarray,
    frame_state: np.ndarray,
    information_gain: np.ndarray,
    probabilities: np.ndarray | None = None,
    *,
    palette: np.ndarray,
    class_names: Sequence[str],
    figures: Mapping[str, object] | None = None,
    title: str = "",
    block_size: int | tuple[int, int] | None = None,
    gain_max: float | None = None,
    width: int = 1920,
) -> np.ndarray:
    """Frame, prediction, executed blocks, frame state, information gain and probabilities.

    Args:
      frame: [H, W, 3], uint8, or float in [0, 1].
      prediction_classes: integers [h, w] in [0, number of classes), at any stride.
      executed: bool [Gh, Gw].
      frame_state: as the frame; each block's pixels when it was last executed.
      information_gain: float [Gh, Gw], >= 0.
      probabilities: of execution, float [Gh, Gw] in [0, 1]; None: the sixth view shows the
        prediction's colours by themselves.
      palette: uint8 [classes, 3].
      class_names: a name for each class. The legend has them all, each in a place of its own, those
        that are not in the prediction hollow; where they are too many for two lines, it has those
        in the prediction, in the same order, and counts what finds no room.
      figures: name -> value, shown in a strip on top; numbers get three significant digits.
      title: stands left of the figures, in two lines where it has no room in one.
      block_size: a block's side or (height, width) in pixels of the frame, where the frame was
        cropped and the last blocks reach beyond it; None: the blocks divide the frame.
      gain_max: the gain that gets the brightest colour; None: this frame's largest. A fixed one
        keeps the colours of a video comparable. They are even in the gain's square root.
      width: the picture's largest width in pixels, even, at least 960. The picture is as large as
        fits it and 16:9; its size depends on the frame's shape, the figures' names, the title and
        the class names alone.

    Returns:
      uint8 RGB picture, its sides even.

    Raises:
      ValueError: an argument's shape or range is not as above.
    """
    executed = np.asarray(executed, bool)
    gain = np.asarray(information_gain, np.float32)
    classes = np.asarray(prediction_classes)
    palette = np.asarray(palette, np.uint8)
    _check(frame, classes, executed, frame_state, gain, probabilities, palette, class_names, width)

    warn_of_missing_letters((*class_names, title))
    figures = {name: _number(value) for name, value in (figures or {}).items()}
    height_, width_ = np.shape(frame)[:2]
    plan = _plan((height_, width_), width, title, figures, class_names)
    top = highest(gain, gain_max)
    images = draw_layers(
        frame, classes, executed, frame_state, gain, probabilities, palette, block_size, top,
        plan.view, line=max(1, round(width / 960)),
    )  # fmt: skip
    count = int(executed.sum())
    counts = np.bincount(classes.ravel(), minlength=len(palette))
    shown, left = _shown(plan, counts, class_names)
    named = f"{sum(counts[shown] > 0)} of them named below" if left else "named below"
    there = f"{np.count_nonzero(counts)} of {len(class_names)} classes, {named}"
    share = f"{count} of {executed.size} blocks ({count / executed.size:.1%}); dark: copied"
    below = {
        "frame": _Note(f"{width_} × {height_} pixels"),
        "prediction": _Note(there),
        "blocks": _Note(share),
        "state": _Note("each block as it was last executed"),
        "gain": _Bar(top, GAIN_POWER),
        "probability": _Bar(1.0, 1.0),
        "classes": _Note("the prediction by itself"),
    }
    views = [(TITLES[name], image, below[name]) for name, image in images.items()]
    picture = _draw(plan, views, title, figures)
    _draw_legend(picture, plan, counts, palette, class_names, shown, left)
    return np.array(picture)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Where things stand, in pixels."""

    size: tuple[int, int]  # (H, W) of the whole picture
    view: tuple[int, int]  # (H, W) of one view
    column: int  # width of a column, at least the view's
    gap: int
    strip: int  # height of the title's and the figures' strip
    heading: int  # height of a view's title
    line: int  # height of a line under a view
    legend: int  # lines of the legend
    scale: float  # pixels for one pixel at a width of 1920


@dataclasses.dataclass(frozen=True)
class _Note:
    text: str


@dataclasses.dataclass(frozen=True)
class _Bar:
    top: float  # what the brightest colour stands for
    power: float  # of value / top, in which the colours are even


def _plan(
    frame: tuple[int, int],
    width: int,
    title: str,
    figures: Mapping[str, str],
    class_names: Sequence[str],
) -> _Plan:
    # More lines above and below make the views smaller, and thereby, maybe, the lines shorter.
    strip, legend = 0, 1
    while True:
        plan = _views_plan(frame, width, strip, legend)
        _, _, cells = _strip(plan, title, figures)
        rows = 1 + max((row for row, _, _ in cells), default=0)
        needed = round(74 * plan.scale) * rows if title or figures else 0
        lines = min(_LEGEND, _lines(plan, _wide(plan, class_names)))
        if needed <= strip and lines <= legend:
            return plan
        strip, legend = max(strip, needed), max(legend, lines)


def _views_plan(frame: tuple[int, int], width: int, strip: int, legend: int) -> _Plan:
    scale = width / 1920
    gap, heading, line = round(20 * scale), round(40 * scale), round(31 * scale)
    # A line below each view, and the legend below the upper ones.
    around = strip + 2 * heading + (2 + legend) * line + gap
    room = (round(width * _TALLEST) - around) // 2
    widest = (width - 4 * gap) // 3
    factor = min(widest / frame[1], room / frame[0])
    view = (max(1, int(frame[0] * factor)), max(1, int(frame[1] * factor)))
    column = max(view[1], round(_NARROWEST * scale))
    size = (around + 2 * view[0], 3 * column + 4 * gap)
    return _Plan(
        size=(size[0] // 2 * 2, size[1] // 2 * 2),
        view=view,
        column=column,
        gap=gap,
        strip=strip,
        heading=heading,
        line=line,
        legend=legend,
        scale=scale,
    )


def _draw(plan: _Plan, views, title: str, figures: Mapping[str, str]):
    from PIL import Image, ImageDraw

    height, width = plan.size
    canvas = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    _draw_strip(draw, plan, title, figures)
    heading = font(round(22 * plan.scale), bold=True)
    for place, (name, image, below) in enumerate(views):
        row, column = divmod(place, 3)
        x = plan.gap + column * (plan.column + plan.gap)
        y = plan.strip + row * (plan.heading + plan.view[0] + (1 + plan.legend) * plan.line)
        draw.text((x, y + plan.heading // 2), name, _TEXT, heading, anchor="lm")
        canvas.paste(Image.fromarray(image), (x, y + plan.heading))
        _draw_below(canvas, draw, plan, x, y + plan.heading + plan.view[0], below)
    return canvas


def _strip_fonts(plan: _Plan):
    return font(round(17 * plan.scale)), font(round(25 * plan.scale), bold=True)


def _title_font(plan: _Plan, title: str):
    return font_of(title, round(25 * plan.scale), bold=True)


def _strip(
    plan: _Plan, title: str, figures: Mapping[str, str]
) -> tuple[list[str], int, list[tuple[int, int, int]]]:
    """The title's lines, their width, and the (row, x, width) of each figure beside it.

    The title is broken in two where it has no room otherwise, or that spares a row of figures.
    """
    wide = _title_font(plan, title).getlength
    most = plan.column if figures else plan.size[1] - 2 * plan.gap
    words = title.split(" ")
    halves = [[" ".join(words[:n]), " ".join(words[n:])] for n in range(1, len(words))]
    broken = min(halves, key=lambda pair: max(map(wide, pair)), default=[title])
    options = []
    for lines in [title], broken:
        taken = min(most, math.ceil(max(map(wide, lines))))
        cells = _cells(plan, plan.gap + (taken + 2 * plan.gap if taken else 0), figures)
        rows = max((row for row, _, _ in cells), default=0)
        options.append((max(map(wide, lines)) > most, rows, lines, taken, cells))
    return min(options, key=lambda option: option[:2])[2:]


def _cells(plan: _Plan, left: int, figures: Mapping[str, str]) -> list[tuple[int, int, int]]:
    """(row, x, width) of each figure from `left` on: a table of as few rows as there is room for.

    A figure is as wide as its name, a usual number or a short text.
    """
    small, large = _strip_fonts(plan)
    right, wide = plan.size[1] - plan.gap, []
    for name, value in figures.items():
        least = large.getlength("-0.00123")  # so that a changing number does not move the rest
        if not _is_number(value):
            least = max(least, large.getlength(value))
        wide.append(round(min(max(small.getlength(name), least), right - left)))
    for rows in range(1, len(wide) + 1):
        columns = math.ceil(len(wide) / rows)
        widths = [max(wide[column::columns]) for column in range(columns)]
        starts = list(itertools.accumulate((w + plan.gap for w in widths), initial=left))
        if starts[-1] - plan.gap <= right:
            break
    places = (divmod(place, columns) for place in range(len(wide)))
    return [(row, starts[column], widths[column]) for row, column in places]


def _draw_strip(draw, plan: _Plan, title: str, figures: Mapping[str, str]):
    """The title on the left, the figures beside it: a name above each value."""
    small, large = _strip_fonts(plan)
    lines, room, cells = _strip(plan, title, figures)
    wide = _title_font(plan, title)
    for place, text in enumerate(lines):
        y = plan.strip / 2 + (place - (len(lines) - 1) / 2) * plan.line
        draw.text((plan.gap, y), fit_text(text, wide, room), _TEXT, wide, anchor="lm")
    high = plan.strip / (1 + max((row for row, _, _ in cells), default=0))
    for (name, value), (row, x, room) in zip(figures.items(), cells, strict=True):
        y = row * high
        name, value = fit_text(name, small, room + 1), fit_text(value, large, room + 1)
        draw.text((x, y + high * 0.3), name, _FAINT, small, anchor="lm")
        draw.text((x, y + high * 0.68), value, _TEXT, large, anchor="lm")


def _draw_below(canvas, draw, plan: _Plan, x: int, y: int, below):
    small = font(round(17 * plan.scale))
    line = plan.line
    if isinstance(below, _Note):
        text = fit_text(below.text, small, plan.column)
        draw.text((x, y + line // 2 + 2), text, _FAINT, small, anchor="lm")
        return
    from PIL import Image

    half, thick = plan.column // 6, max(4, round(14 * plan.scale))
    pad, middle = round(8 * plan.scale), y + line // 2 + 2
    ramp = np.broadcast_to(viridis()[np.arange(2 * half) * 128 // half], (thick, 2 * half, 3))
    at = x
    for place, level in enumerate((0.0, 0.5, 1.0)):  # a value at each end and in the middle
        text = _number(level ** (1 / below.power) * below.top)
        draw.text((at, middle), text, _FAINT, small, anchor="lm")
        at += round(small.getlength(text)) + pad
        part = np.ascontiguousarray(ramp[:, place * half : (place + 1) * half])
        if part.size:
            canvas.paste(Image.fromarray(part), (at, middle - thick // 2))
            at += half + pad
    text = fit_text("white: executed", small, x + plan.column - at - pad)
    draw.text((at + pad, middle), text, _FAINT, small, anchor="lm")


def _wide(plan: _Plan, names: Sequence[str]) -> list[int]:
    """The width of each entry of a legend: a box and a name, which is cut where it is too long."""
    size, box = round(17 * plan.scale), round(22 * plan.scale)
    most = plan.size[1] - 2 * plan.gap
    return [min(most, box + math.ceil(font_of(name, size).getlength(name))) for name in names]


def _places(plan: _Plan, wide: Sequence[int]) -> list[tuple[int, int]]:
    """(line, x) of entries that follow one another in as many lines as they need."""
    places, line, x = [], 0, plan.gap
    for each in wide:
        if x > plan.gap and x + each > plan.size[1] - plan.gap:
            line, x = line + 1, plan.gap
        places.append((line, x))
        x += each + round(14 * plan.scale)
    return places


def _lines(plan: _Plan, wide: Sequence[int]) -> int:
    return 1 + max((line for line, _ in _places(plan, wide)), default=0)


def _shown(plan: _Plan, counts: np.ndarray, names: Sequence[str]) -> tuple[list[int], list[str]]:
    """The classes of the legend, and what counts those that find no room, if there are any."""
    wide = _wide(plan, names)
    there = [k for k in np.argsort(-counts, kind="stable") if counts[k]]
    shown, left = list(range(len(names))), []
    while _lines(plan, [*(wide[k] for k in shown), *(_wide(plan, left))]) > plan.legend:
        # The most frequent ones, one fewer each time, in the order of the classes.
        most = len(there) if len(shown) > len(there) else len(shown) - 1
        shown = sorted(there[:most])
        left = [f"+{len(there) - most} more"] if most < len(there) else []
    return shown, left


def _draw_legend(canvas, plan: _Plan, counts: np.ndarray, palette, names, shown, left):
    """All classes in their places, or as many of those that are there as find room."""
    from PIL import ImageDraw

    draw, size = ImageDraw.Draw(canvas), round(17 * plan.scale)
    wide = _wide(plan, names)
    places = _places(plan, [*(wide[k] for k in shown), *_wide(plan, left)])
    top = plan.strip + plan.heading + plan.view[0] + plan.line
    side = round(15 * plan.scale)
    for k, (line, x) in itertools.zip_longest(shown, places, fillvalue=None):
        y = top + line * plan.line + plan.line // 2 + 2
        if k is None:
            draw.text((x, y), left[0], _FAINT, font(size), anchor="lm")
            break
        box = (x, y - side // 2, x + side, y - side // 2 + side)
        fill = tuple(map(int, palette[k])) if counts[k] else None
        draw.rectangle(box, fill=fill, outline=_FAINT)
        small = font_of(names[k], size)
        text = fit_text(names[k], small, wide[k] - round(22 * plan.scale) + 1)
        x += round(22 * plan.scale)
        draw.text((x, y), text, _TEXT if counts[k] else _FAINT, small, anchor="lm")


def _number(value) -> str:
    """Three significant digits for a float, everything for the rest."""
    if isinstance(value, str | bool | int | np.integer):
        return str(value)
    value = float(value)
    if 100 <= abs(value) < 1e6:
        return f"{value:.0f}"
    return f"{value:.3g}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check(frame, classes, executed, state, gain, probabilities, palette, names, width):
    """Raise ValueError for the first argument that does not fit."""
    if np.ndim(frame) != 3 or np.shape(frame)[-1] != 3:
        raise ValueError(f"frame has shape {np.shape(frame)}; it is [H, W, 3]")
    if np.shape(state) != np.shape(frame):
        raise ValueError(f"frame_state has shape {np.shape(state)}, frame {np.shape(frame)}")
    if executed.ndim != 2:
        raise ValueError(f"executed has shape {executed.shape}; it is [Gh, Gw]")
    grids = {"information_gain": gain, "probabilities": probabilities}
    for name, grid in grids.items():
        if grid is not None and np.shape(grid) != executed.shape:
            raise ValueError(f"{name} has shape {np.shape(grid)}, executed {executed.shape}")
    if classes.ndim != 2 or not np.issubdtype(classes.dtype, np.integer):
        raise ValueError(
            f"prediction_classes are {classes.dtype} {classes.shape}; they are integers [h, w]"
        )
    if palette.ndim != 2 or palette.shape[1] != 3 or len(palette) != len(names):
        raise ValueError(
            f"palette has shape {palette.shape} for {len(names)} class names; it is [classes, 3]"
        )
    if classes.size and not 0 <= classes.min() <= classes.max() < len(palette):
        raise ValueError(
            f"prediction_classes go from {classes.min()} to {classes.max()}; there are "
            f"{len(palette)} classes"
        )
    check_width(width)
