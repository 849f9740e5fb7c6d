"""Pictures that the renderer pastes into frames, and the canvas that they are painted on.

A texel is one uint32: red, green, blue and, in the highest byte, the class. Colour and class go
through the same lookup, so a pixel's label is the class of what is seen there.
"""

import math
from collections.abc import Sequence

import numpy as np

EMPTY = 254  # the class of a texel that is seen through
OPAQUE = np.uint32(EMPTY << 24)  # texels below it are not
Colour = Sequence[float]  # red, green, blue, 0 to 255


class Texture:
    """A picture and, made when first needed, the same with rows and columns averaged by 2^i, 2^j.

    Args:
      texels: uint32 [h, w], see `pack`.
    """

    def __init__(self, texels: np.ndarray):
        self._levels = {(0, 0): np.ascontiguousarray(texels)}
        self.shape = texels.shape
        self.most = tuple(max(0, side.bit_length() - 2) for side in texels.shape)  # highest i, j

    def level(self, i: int, j: int) -> np.ndarray:
        """uint32 [ceil(h / 2^i), ceil(w / 2^j)], i and j at most `most`."""
        found = self._levels.get((i, j))
        if found is None:
            larger = self.level(i - 1, j) if i > j else self.level(i, j - 1)
            found = _halved(larger) if i > j else _halved(larger.T).T
            found = self._levels[i, j] = np.ascontiguousarray(found)
        return found


def pack(rgb: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Colours [h, w, 3] in [0, 255] and classes uint8 [h, w] as texels, uint32 [h, w]."""
    texels = np.empty((*labels.shape, 4), np.uint8)
    np.clip(rgb, 0, 255, out=rgb)
    texels[..., :3] = rgb
    texels[..., 3] = labels
    return texels.view("<u4")[..., 0]


def channels(texels: np.ndarray) -> np.ndarray:
    """Texels [h, w] as uint8 [h, w, 4]: red, green, blue, class. A view."""
    return texels.view(np.uint8).reshape(*texels.shape, 4)


def _halved(texels: np.ndarray) -> np.ndarray:
    """Two rows made one: the first one's class, and the mean of the colours that are there."""
    if len(texels) % 2:
        texels = np.concatenate([texels, texels[-1:]])
    one, two = texels[::2], texels[1::2]
    # The mean of the four bytes at once: what both have, and half of what one has.
    mean = (one & two) + (((one ^ two) & np.uint32(0xFEFEFEFE)) >> np.uint32(1))
    mean &= np.uint32(0xFFFFFF)
    mean |= one & np.uint32(0xFF000000)
    through = (one >= OPAQUE) | (two >= OPAQUE)
    np.copyto(mean, one, where=through)
    return mean


def offspring(rng: np.random.Generator) -> np.random.Generator:
    """Another generator, for which this one gives a single number."""
    return np.random.default_rng(int(rng.integers(2**62)))


def cloud(
    rng: np.random.Generator, shape: tuple[int, int], cell: float, octaves: int = 3
) -> np.ndarray:
    """Smooth noise, float32 `shape`, about -1 to 1.

    Args:
      rng: gives one number, whatever the shape, so that what is drawn next is the same at any size.
      shape: (h, w).
      cell: texels from one bump of the coarsest octave to the next; each finer one has half.
      octaves: how many, of falling strength.
    """
    rng = offspring(rng)
    total = np.zeros(shape, np.float32)
    strength, norm = 1.0, 0.0
    for _ in range(octaves):
        cell = max(cell, 1.0)
        down, across = (int(side / cell) + 2 for side in shape)
        grid = rng.uniform(-1, 1, (down, across)).astype(np.float32)
        rows, share = _between(shape[0], cell)
        grid = grid[rows] + (grid[rows + 1] - grid[rows]) * share[:, None]
        columns, share = _between(shape[1], cell)
        total += strength * (
            grid[:, columns] + (grid[:, columns + 1] - grid[:, columns]) * share[None]
        )
        norm, strength, cell = norm + strength, strength * 0.55, cell / 2
    return total * np.float32(1.6 / norm)


def _between(size: int, cell: float) -> tuple[np.ndarray, np.ndarray]:
    at = np.arange(size, dtype=np.float32) / np.float32(cell)
    whole = at.astype(np.int32)
    share = at - whole
    return whole, share * share * (3 - 2 * share)


class Canvas:
    """A picture in metres, its origin at the lower left; what is not painted is seen through.

    Args:
      width: metres.
      height: metres.
      density: texels per metre.
      label: the class of what is painted, where the call does not say another.
    """

    def __init__(self, width: float, height: float, density: float, label: int):
        self.width, self.height, self.density, self.label = width, height, density, int(label)
        shape = (max(2, round(height * density)), max(2, round(width * density)))
        self.rgb = np.zeros((*shape, 3), np.float32)
        self.labels = np.full(shape, EMPTY, np.uint8)

    def rect(self, left, bottom, right, top, colour: Colour, label: int | None = None) -> None:
        """Paint an upright rectangle; a part outside is left out."""
        part = self._part(left, bottom, right, top)
        self.rgb[part] = colour
        self.labels[part] = self.label if label is None else label

    def polygon(self, points, colour: Colour, label: int | None = None) -> None:
        """Paint the inside of a polygon of (x, y) points."""
        xs, ys = zip(*points, strict=True)
        part, x, y = self._around((min(xs), min(ys)), (max(xs), max(ys)))
        inside = np.zeros((y.shape[0], x.shape[1]), bool)
        for (xa, ya), (xb, yb) in zip(points, (*points[1:], points[0]), strict=True):
            if ya != yb:
                crosses = (ya > y) != (yb > y)
                slope = np.float32((xb - xa) / (yb - ya))
                inside ^= crosses & (x < slope * (y - np.float32(ya)) + np.float32(xa))
        self._paint(part, inside, colour, label)

    def ellipse(self, x, y, rx, ry, colour: Colour, label: int | None = None) -> None:
        """Paint an ellipse about (x, y)."""
        part, px, py = self._around((x - rx, y - ry), (x + rx, y + ry))
        inside = ((px - x) / rx) ** 2 + ((py - y) / ry) ** 2 <= 1
        self._paint(part, inside, colour, label)

    def line(self, start, end, width, colour: Colour, label: int | None = None) -> None:
        """Paint a line with flat ends."""
        (xa, ya), (xb, yb) = start, end
        length = max(math.hypot(xb - xa, yb - ya), 1e-6)
        dx, dy = (yb - ya) / length * width / 2, (xa - xb) / length * width / 2
        corners = [(xa + dx, ya + dy), (xb + dx, yb + dy), (xb - dx, yb - dy), (xa - dx, ya - dy)]
        self.polygon(corners, colour, label)

    def shade(self, bottom: float, top: float) -> None:
        """Multiply the colours, from one factor at the bottom to another at the top."""
        self.rgb *= np.linspace(top, bottom, len(self.rgb), dtype=np.float32)[:, None, None]

    def grain(self, rng: np.random.Generator, strength: float, cell: float = 0.0) -> None:
        """Add noise, of levels; with `cell` metres from bump to bump, else from texel to texel."""
        if cell:
            noise = cloud(rng, self.labels.shape, cell * self.density)
        else:
            noise = offspring(rng).standard_normal(self.labels.shape, np.float32)
        self.rgb += strength * noise[..., None]

    def texture(self) -> Texture:
        """What has been painted."""
        return Texture(pack(self.rgb, self.labels))

    def _part(self, left, bottom, right, top) -> tuple[slice, slice]:
        height, width = self.labels.shape
        rows = (height - min(max(round(y * self.density), 0), height) for y in (top, bottom))
        columns = (min(max(round(x * self.density), 0), width) for x in (left, right))
        return slice(*rows), slice(*columns)

    def _around(self, low, high):
        """The part that holds two corners, and its texels' x [1, w] and y [h, 1] in metres."""
        margin = 1 / self.density
        part = self._part(low[0] - margin, low[1] - margin, high[0] + margin, high[1] + margin)
        rows = np.arange(part[0].start, part[0].stop, dtype=np.float32)
        columns = np.arange(part[1].start, part[1].stop, dtype=np.float32)
        x = (columns + np.float32(0.5)) / np.float32(self.density)
        y = (np.float32(len(self.rgb) - 0.5) - rows) / np.float32(self.density)
        return part, x[None], y[:, None]

    def _paint(self, part, inside, colour: Colour, label: int | None) -> None:
        self.rgb[part][inside] = colour
        self.labels[part][inside] = self.label if label is None else label
