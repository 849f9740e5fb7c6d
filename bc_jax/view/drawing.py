"""Pillow and NumPy pieces that pictures are put together from: fonts, text, colours, blocks."""

import functools
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

EXECUTED = (255, 176, 0)  # amber stands out from viridis and from street colours, for all eyes


@functools.lru_cache(maxsize=32)
def font(size: int, *, bold: bool = False, file: str | None = None):
    """DejaVu Sans, which Matplotlib brings along, or a file; Pillow's own font without either."""
    from PIL import ImageFont

    try:
        return ImageFont.truetype(file or _usual_file(bold=bold), size)
    except (ImportError, OSError):
        return ImageFont.load_default(size)


def font_of(text: str, size: int, *, bold: bool = False):
    """`font`, or where it lacks a letter of the text, one that is installed and has all of them."""
    return font(size, bold=bold, file=_file_with(_letters(text), bold=bold))


@functools.cache
def warn_of_missing_letters(texts: tuple[str, ...]) -> None:
    """Warn, once, of texts that no font which is installed has the letters of."""
    missing = [text for text in texts if not _file_with(_letters(text))]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        warnings.warn(
            f"no font that is installed has all letters of {', '.join(missing[:3])}{more}: "
            "pictures show boxes for them; install one of their script, such as Noto Sans, or "
            "give other names",
            stacklevel=3,
        )


def _letters(text: str) -> frozenset[int]:
    return frozenset(ord(letter) for letter in text if not letter.isspace())


@functools.lru_cache(maxsize=1024)
def _file_with(letters: frozenset[int], *, bold: bool = False) -> str | None:
    """A font's file with all of the letters, the usual one before all others; None for none."""
    if letters <= _usual_letters():
        return _usual_file(bold=bold)
    return next((file for file in _installed() if letters <= _letters_in(file)), None)


def _usual_file(*, bold: bool = False) -> str:
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name)


def _usual_letters() -> frozenset[int]:
    """Those of the usual font, in both weights."""
    return _letters_in(_usual_file()) & _letters_in(_usual_file(bold=True))


@functools.cache
def _letters_in(file: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError):  # a font that is gone, or has no outlines
        return frozenset()


@functools.cache
def _installed() -> tuple[str, ...]:
    from matplotlib.font_manager import fontManager

    # Fonts of last resort have a box for every letter.
    found = {entry.fname for entry in fontManager.ttflist if "Last Resort" not in entry.name}
    return tuple(sorted(found, key=lambda file: ("Sans" not in file, "Regular" not in file, file)))


def fit_text(text: str, text_font, width: float) -> str:
    """The text, shortened with an ellipsis to fit `width` pixels; empty where nothing fits."""
    if text_font.getlength(text) <= width:
        return text
    while text and text_font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…" if text else ""


@functools.cache
def viridis() -> np.ndarray:
    """The viridis colour map, uint8 [256, 3]: even steps look even, also without red or green."""
    import matplotlib

    return (matplotlib.colormaps["viridis"](np.arange(256))[:, :3] * 255 + 0.5).astype(np.uint8)


def colour_mapped(values: np.ndarray, top: float, *, power: float = 1.0) -> np.ndarray:
    """Values in [0, top] to viridis; beyond it the last colour, and grey where not finite.

    Args:
      values: float [...].
      top: > 0.
      power: of values / top; below 1 it tells small values apart.

    Returns:
      uint8 [..., 3].
    """
    finite = np.isfinite(values)
    level = np.clip(np.where(finite, values, 0) / top, 0, 1) ** power
    colours = viridis()[np.round(level * 255).astype(int)]
    return np.where(finite[..., None], colours, np.uint8(128))


def to_uint8(image: np.ndarray) -> np.ndarray:
    """An image of either convention (uint8, or float in [0, 1]) as uint8."""
    image = np.asarray(image)
    if image.dtype == np.uint8:
        return image
    return (np.clip(np.nan_to_num(image.astype(np.float32)), 0, 1) * 255 + 0.5).astype(np.uint8)


def scaled(image: np.ndarray, size: tuple[int, int], *, smooth: bool = True) -> np.ndarray:
    """Resize uint8 [h, w, 3] to (H, W): smoothly, or by nearest neighbour for class colours."""
    from PIL import Image

    how = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    return np.array(Image.fromarray(image).resize((size[1], size[0]), how))


def block_edges(blocks: int, side: float, shown: int, whole: int) -> np.ndarray:
    """Where blocks begin and end, in pixels of a picture.

    Args:
      blocks: their number along the axis.
      side: a block's side in pixels of the frame.
      shown: the picture's side.
      whole: the frame's side; the last block may reach beyond it, and is cut.

    Returns:
      int [blocks + 1], from 0 to at most `shown`.
    """
    edges = np.arange(blocks + 1) * side * shown / whole
    return np.minimum(np.round(edges), shown).astype(int)


def spread(grid: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Paint each block of [Gh, Gw, ...] over its pixels: [rows[-1], columns[-1], ...]."""
    return np.repeat(np.repeat(grid, np.diff(rows), 0), np.diff(columns), 1)


def outline(
    image: np.ndarray,
    grid: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    colour: Sequence[int],
    width: int,
) -> np.ndarray:
    """Draw the borders of the blocks that are set, `width` pixels thick, inside each block."""
    from PIL import Image, ImageDraw

    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    for y, x in np.argwhere(grid):
        left, top, right, bottom = columns[x], rows[y], columns[x + 1] - 1, rows[y + 1] - 1
        if right >= left and bottom >= top:
            draw.rectangle((left, top, right, bottom), outline=tuple(colour), width=width)
    return np.array(picture)
