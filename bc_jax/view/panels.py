"""One picture of everything that happens at a frame: six views side by side."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from bc_jax.view.drawing import fit_text, font, viridis
from bc_jax.view.layers import TITLES, draw_layers, highest

_BACKGROUND, _TEXT, _FAINT = (18, 20, 24), (238, 240, 244), (160, 166, 176)
_TALLEST = 9 / 16  # of the width: what fills a screen
_NARROWEST = 400  # pixels of a column at a width of 1920, for what stands above and below


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
      class_names: a name for each class.
      figures: name -> value, shown in a strip on top; numbers get three significant digits.
      title: stands left of the figures, in two lines where it has no room in one.
      block_size: a block's side or (height, width) in pixels of the frame, where the frame was
        cropped and the last blocks reach beyond it; None: the blocks divide the frame.
      gain_max: the gain that gets the brightest colour; None: this frame's largest. A fixed one
        keeps the colours of a video comparable.
      width: the picture's largest width in pixels, even, at least 960. The picture is as large as
        fits it and 16:9; its size depends on the frame's shape and the number of figures alone.

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

    figures = {name: _number(value) for name, value in (figures or {}).items()}
    height_, width_ = np.shape(frame)[:2]
    plan = _plan((height_, width_), width, title, figures)
    top = highest(gain, gain_max)
    images = draw_layers(
        frame, classes, executed, frame_state, gain, probabilities, palette, block_size, top,
        plan.view, line=max(1, round(width / 960)),
    )  # fmt: skip
    count = int(executed.sum())
    share = f"{count} of {executed.size} blocks ({count / executed.size:.1%}); dark: copied"
    below = {
        "frame": _Note(f"{width_} × {height_} pixels"),
        "prediction": _legend(classes, palette, class_names),
        "blocks": _Note(share),
        "state": _Note("each block as it was last executed"),
        "gain": _Bar(top),
        "probability": _Bar(1.0),
        "classes": _Note("the prediction by itself"),
    }
    views = [(TITLES[name], image, below[name]) for name, image in images.items()]
    return _draw(plan, views, title, figures)


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
    scale: float  # pixels for one pixel at a width of 1920


@dataclasses.dataclass(frozen=True)
class _Note:
    text: str


@dataclasses.dataclass(frozen=True)
class _Bar:
    top: float  # what the brightest colour stands for


@dataclasses.dataclass(frozen=True)
class _Legend:
    entries: tuple[tuple[str, tuple[int, int, int]], ...]


def _plan(frame: tuple[int, int], width: int, title: str, figures: Mapping[str, str]) -> _Plan:
    scale = width / 1920
    gap, heading, line = round(20 * scale), round(40 * scale), round(31 * scale)
    strip = 0
    # More figures make the strip higher, the views smaller, and the strip's lines shorter.
    for _ in range(len(figures) + 1):
        plan = _views_plan(frame, width, scale, gap, heading, line, strip)
        cells = _cells(plan, title, figures)
        needed = round(74 * scale) * (1 + max((row for row, _, _ in cells), default=0))
        if needed <= strip:
            break
        strip = needed
    return plan


def _views_plan(
    frame: tuple[int, int], width: int, scale: float, gap: int, heading: int, line: int, strip: int
) -> _Plan:
    # The upper row has two lines below each view, for the classes; the lower row has one.
    around = strip + 2 * heading + 3 * line + gap
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
        scale=scale,
    )


def _draw(plan: _Plan, views, title: str, figures: Mapping[str, str]) -> np.ndarray:
    from PIL import Image, ImageDraw

    height, width = plan.size
    canvas = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    _draw_strip(draw, plan, title, figures)
    heading = font(round(22 * plan.scale), bold=True)
    for place, (name, image, below) in enumerate(views):
        row, column = divmod(place, 3)
        x = plan.gap + column * (plan.column + plan.gap)
        y = plan.strip + row * (plan.heading + plan.view[0] + 2 * plan.line)
        draw.text((x, y + plan.heading // 2), name, _TEXT, heading, anchor="lm")
        canvas.paste(Image.fromarray(image), (x, y + plan.heading))
        _draw_below(canvas, draw, plan, x, y + plan.heading + plan.view[0], below)
    return np.array(canvas)


def _strip_fonts(plan: _Plan):
    return font(round(17 * plan.scale)), font(round(25 * plan.scale), bold=True)


def _title_lines(plan: _Plan, title: str, figures: Mapping[str, str]) -> tuple[list[str], int]:
    """The title, in two lines where figures leave it no room for one, and its width."""
    wide = _strip_fonts(plan)[1].getlength
    most = plan.column if figures else plan.size[1] - 2 * plan.gap
    words = title.split(" ")
    lines = [title]
    if wide(title) > most and len(words) > 1:
        halves = ([" ".join(words[:n]), " ".join(words[n:])] for n in range(1, len(words)))
        lines = min(halves, key=lambda pair: max(map(wide, pair)))
    return lines, min(most, math.ceil(max(map(wide, lines))))


def _cells(plan: _Plan, title: str, figures: Mapping[str, str]) -> list[tuple[int, int, int]]:
    """(row, x, width) of each figure, as wide as its name, a usual number or a short text."""
    small, large = _strip_fonts(plan)
    _, taken = _title_lines(plan, title, figures)
    left = plan.gap + (taken + 2 * plan.gap if taken else 0)
    right = plan.size[1] - plan.gap
    cells, row, x = [], 0, left
    for name, value in figures.items():
        least = large.getlength("-0.00123")  # so that a changing number does not move the rest
        if not _is_number(value):
            least = max(least, large.getlength(value))
        wide = round(min(max(small.getlength(name), least), right - left))
        if x > left and x + wide > right:
            row, x = row + 1, left
        cells.append((row, x, wide))
        x += wide + plan.gap
    return cells


def _draw_strip(draw, plan: _Plan, title: str, figures: Mapping[str, str]):
    """The title on the left, the figures beside it: a name above each value."""
    small, large = _strip_fonts(plan)
    lines, room = _title_lines(plan, title, figures)
    for place, text in enumerate(lines):
        y = plan.strip / 2 + (place - (len(lines) - 1) / 2) * plan.line
        draw.text((plan.gap, y), fit_text(text, large, room), _TEXT, large, anchor="lm")
    cells = _cells(plan, title, figures)
    high = plan.strip / (1 + max((row for row, _, _ in cells), default=0))
    for (name, value), (row, x, wide) in zip(figures.items(), cells, strict=True):
        y = row * high
        name, value = fit_text(name, small, wide + 1), fit_text(value, large, wide + 1)
        draw.text((x, y + high * 0.3), name, _FAINT, small, anchor="lm")
        draw.text((x, y + high * 0.68), value, _TEXT, large, anchor="lm")


def _draw_below(canvas, draw, plan: _Plan, x: int, y: int, below):
    small = font(round(17 * plan.scale))
    line = plan.line
    if isinstance(below, _Note):
        text = fit_text(below.text, small, plan.column)
        draw.text((x, y + line // 2 + 2), text, _FAINT, small, anchor="lm")
    elif isinstance(below, _Bar):
        from PIL import Image

        ends = "0", _number(below.top)
        bar, thick = plan.column * 2 // 5, max(4, round(14 * plan.scale))
        pad, middle = round(8 * plan.scale), y + line // 2 + 2
        ramp = np.broadcast_to(viridis()[np.arange(bar) * 256 // bar], (thick, bar, 3))
        at = x + round(small.getlength(ends[0])) + pad
        draw.text((x, middle), ends[0], _FAINT, small, anchor="lm")
        canvas.paste(Image.fromarray(np.ascontiguousarray(ramp)), (at, middle - thick // 2))
        draw.text((at + bar + pad, middle), ends[1], _FAINT, small, anchor="lm")
        told = at + bar + 3 * pad + round(small.getlength(ends[1]))
        text = fit_text("white: executed", small, x + plan.column - told)
        draw.text((told, middle), text, _FAINT, small, anchor="lm")
    else:
        _draw_legend(draw, plan, x, y, below, small)


def _draw_legend(draw, plan: _Plan, x: int, y: int, legend: _Legend, small):
    """Classes in two lines, the most frequent first; what finds no room is counted."""
    side, pad, line = round(15 * plan.scale), round(7 * plan.scale), plan.line
    right = x + plan.column
    at, row = x, 0
    for place, (name, colour) in enumerate(legend.entries):
        left = len(legend.entries) - place
        more = small.getlength(f"+{left - 1} more") if left > 1 and row == 1 else 0
        wide = side + pad + small.getlength(name)
        if row == 0 and at > x and at + wide > right:
            at, row = x, 1
            more = small.getlength(f"+{left - 1} more") if left > 1 else 0
        middle = y + row * line + line // 2 + 2
        if row == 1 and at > x and at + wide + (2 * pad + more if more else 0) > right:
            draw.text((at, middle), f"+{left} more", _FAINT, small, anchor="lm")
            return
        box = (at, middle - side // 2, at + side, middle - side // 2 + side)
        draw.rectangle(box, fill=colour, outline=_FAINT)
        text = fit_text(name, small, right - at - side - pad)
        draw.text((at + side + pad, middle), text, _TEXT, small, anchor="lm")
        at += round(wide) + 2 * pad


def _legend(classes: np.ndarray, palette: np.ndarray, names: Sequence[str]) -> _Legend:
    counts = np.bincount(classes.ravel(), minlength=len(palette))
    order = [k for k in np.argsort(-counts, kind="stable") if counts[k]]
    return _Legend(tuple((names[k], tuple(map(int, palette[k]))) for k in order))


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
    if width < 960 or width % 2:
        raise ValueError(f"width is {width}; it is even and at least 960")
