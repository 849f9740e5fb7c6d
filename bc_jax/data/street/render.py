"""A frame put together: upright panels and the ground, each pixel with its depth and its class."""

import dataclasses
import itertools

import numpy as np

from bc_jax.data.street.camera import NEAR, View
from bc_jax.data.street.texture import OPAQUE, Texture, channels

FAR = np.float32(1e4)  # the depth of the sky


@dataclasses.dataclass(frozen=True)
class Panel:
    """An upright picture between two points of the ground plan."""

    texture: Texture
    start: tuple[float, float]  # (x, z) of its left edge, in metres
    end: tuple[float, float]  # of its right edge
    bottom: float  # above the road, metres
    top: float
    owner: int = 0  # number of the thing that it is a part of; 0: of none


@dataclasses.dataclass(frozen=True)
class Ground:
    """The road and what lies beside it, seen from above; beyond its edges they go on."""

    texture: Texture  # rows along z, columns along x
    x: float  # of the first column's edge
    z: float  # of the first row's
    columns_per_metre: float
    rows_per_metre: float


@dataclasses.dataclass(frozen=True)
class Shadow:
    """A dark patch on the ground under something."""

    x: float
    z: float
    half: tuple[float, float]  # half its extent along x and along z
    darkness: float = 0.5  # 0 to 1


class Picture:
    """What has been drawn of a frame.

    Attributes:
      texels: uint32 [H, W], colours and classes.
      depth: float32 [H, W], metres along the optical axis; `FAR` for the sky.
      owner: int16 [H, W], the number of the thing that is seen; 0 for none.
    """

    def __init__(self, view: View, size: tuple[int, int]):
        self.view, self.size = view, size
        self.texels = np.zeros(size, np.uint32)
        self.depth = np.full(size, FAR, np.float32)
        self.owner = np.zeros(size, np.int16)
        self._extents: dict[
            int, tuple[int, int, int, int]
        ] = {}  # of each owner: top, left, bottom, right

    def copy(self) -> "Picture":
        """Another one, to draw on."""
        other = object.__new__(Picture)
        other.view, other.size = self.view, self.size
        for name in ("texels", "depth", "owner"):
            setattr(other, name, getattr(self, name).copy())
        other._extents = dict(self._extents)
        return other

    def extent(self, owner: int) -> tuple[slice, slice] | None:
        """A part of the picture that holds all of a thing; None: it was not drawn."""
        found = self._extents.get(owner)
        return found and (slice(found[0], found[2]), slice(found[1], found[3]))

    def sky(self, panorama: np.ndarray) -> None:
        """Fill with the sky: texels [h, w], the bottom row at the horizon, the middle at yaw 0."""
        height, width = self.size
        view = self.view
        rows = np.arange(height) - round(view.horizon) + len(panorama)
        shift = round(panorama.shape[1] / 2 + np.tan(view.yaw) * view.focal - view.centre)
        columns = np.clip(np.arange(width) + shift, 0, panorama.shape[1] - 1)
        self.texels[:] = panorama[np.clip(rows, 0, len(panorama) - 1)[:, None], columns]

    def ground(self, ground: Ground) -> None:
        """Draw the ground wherever it is seen below the horizon."""
        height, width = self.size
        view, texture = self.view, ground.texture
        first = max(0, int(np.ceil(view.horizon + 0.5)))
        rows = np.arange(first, height, dtype=np.float32) + np.float32(0.5)
        columns = np.arange(width, dtype=np.float32)[None] + np.float32(0.5)
        depth = np.float32(view.focal * view.height) / (rows - np.float32(view.horizon))
        # Texels per pixel: across, depth/focal metres; along, depth^2/(focal height).
        across = depth / view.focal * ground.columns_per_metre
        along = depth * depth / (view.focal * view.height) * ground.rows_per_metre
        levels = [_level(along, texture.most[0]), _level(across, texture.most[1])]
        for band, (i, j) in _runs(*levels):
            level = texture.level(i, j)
            far, x, z = view.ground(rows[band, None], columns)
            tall, wide = level.shape
            at_x = (x - np.float32(ground.x)) * np.float32(ground.columns_per_metre / 2**j)
            at_z = (z - np.float32(ground.z)) * np.float32(ground.rows_per_metre / 2**i)
            at_x = np.clip(at_x, 0, wide - 1).astype(np.int32)
            at_z = np.clip(at_z, 0, tall - 1).astype(np.int32)
            part = slice(first + band.start, first + band.stop)
            self.texels[part] = level.ravel().take(at_z * wide + at_x)
            self.depth[part] = far

    def shadow(self, shadow: Shadow, ground_classes) -> None:
        """Darken the ground around a point, softly towards the edge."""
        view = self.view
        a, b = shadow.half
        corners = [(shadow.x + p * a, shadow.z + q * b) for p in (-1, 1) for q in (-1, 1)]
        right, along = view.place(*np.array(corners, np.float32).T)
        if along.max() < NEAR:
            return
        along = np.maximum(along, NEAR)
        rows = view.horizon + view.focal * view.height / along
        columns = view.centre + view.focal * right / along
        part = self._part(rows.min(), rows.max(), columns.min(), columns.max())
        if part is None:
            return
        rows, columns = _centres(part)
        _, x, z = view.ground(rows[:, None], columns[None])
        away = np.sqrt(((x - shadow.x) / a) ** 2 + ((z - shadow.z) / b) ** 2)
        factor = 1 - shadow.darkness * np.clip(2 * (1 - away), 0, 1)
        pixels = channels(self.texels)[part]
        seen = np.isin(pixels[..., 3], ground_classes)
        factor = np.where(seen, factor, 1).astype(np.float32)
        pixels[..., :3] = (pixels[..., :3] * factor[..., None]).astype(np.uint8)

    def panel(self, panel: Panel) -> None:
        """Draw a panel where nothing nearer is."""
        view = self.view
        (xa, za), (xb, zb) = view.place(*panel.start), view.place(*panel.end)
        if max(za, zb) < NEAR:
            return
        # The part in front of the camera, as shares of the panel's length.
        low, high = 0.0, 1.0
        if za < NEAR:
            low = (NEAR - za) / (zb - za)
        if zb < NEAR:
            high = (NEAR - za) / (zb - za)
        ends = [
            view.centre + view.focal * (xa + s * (xb - xa)) / (za + s * (zb - za))
            for s in (low, high)
        ]
        c0, c1 = (int(np.ceil(e - 0.5)) for e in sorted(ends))
        c0, c1 = max(c0, 0), min(c1, self.size[1])
        if c0 >= c1:
            return
        slope = (np.arange(c0, c1, dtype=np.float32) + np.float32(0.5 - view.centre)) / np.float32(
            view.focal
        )
        along = (slope * za - xa) / ((xb - xa) - slope * (zb - za))
        along = np.clip(along, low, high)
        depth = (za + along * (zb - za)).astype(np.float32)
        scale = view.focal / depth
        top = view.horizon - (panel.top - view.height) * scale
        bottom = view.horizon - (panel.bottom - view.height) * scale
        texture = panel.texture
        tall, wide = texture.shape
        rows = _level(tall / np.maximum(bottom - top, 1e-3), texture.most[0])
        step = np.abs(np.gradient(along)) if c1 - c0 > 1 else np.array([high - low])
        columns = _level(wide * step, texture.most[1])
        if c1 - c0 < 48:  # too few to be worth several lookups
            middle = (c1 - c0) // 2
            rows[:], columns[:] = rows[middle], columns[middle]
        for run, (i, j) in _runs(rows, columns):
            self._paste(
                texture.level(i, j), c0 + run.start, along[run], depth[run], top[run], bottom[run],
                panel.owner,
            )  # fmt: skip

    def _paste(self, level, column, along, depth, top, bottom, owner) -> None:
        r0 = max(0, int(np.ceil(top.min() - 0.5)))
        r1 = min(self.size[0], int(np.ceil(bottom.max() - 0.5)))
        if r0 >= r1:
            return
        part = slice(r0, r1), slice(column, column + len(along))
        tall, wide = level.shape
        at = np.arange(r0, r1, dtype=np.float32)[:, None] + np.float32(0.5)
        rows = (at - top.astype(np.float32)) * (tall / (bottom - top)).astype(np.float32)
        inside = (rows >= 0) & (rows < tall)
        columns = np.minimum((along * wide).astype(np.int32), wide - 1)
        texels = level.ravel().take(rows.astype(np.int32) * wide + columns, mode="clip")
        seen = inside & (texels < OPAQUE) & (depth < self.depth[part])
        np.copyto(self.texels[part], texels, where=seen)
        np.copyto(self.depth[part], np.broadcast_to(depth, seen.shape), where=seen)
        np.copyto(self.owner[part], np.int16(owner), where=seen)
        if owner:
            c1 = column + len(along)
            top, left, low, right = self._extents.get(owner, (r0, column, r1, c1))
            self._extents[owner] = min(top, r0), min(left, column), max(low, r1), max(right, c1)

    def _part(self, top, bottom, left, right) -> tuple[slice, slice] | None:
        """The pixels in a rectangle and below the horizon; None: there is none."""
        top = max(top, self.view.horizon + 0.5)
        edges = [np.ceil(np.clip(e, -1, 1e5) - 0.5) for e in (top, bottom, left, right)]
        r0, r1, c0, c1 = (int(max(0, e)) for e in edges)
        r1, c1 = min(r1, self.size[0]), min(c1, self.size[1])
        return (slice(r0, r1), slice(c0, c1)) if r0 < r1 and c0 < c1 else None


def _centres(part: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray]:
    """Rows [h] and columns [w] of the middles of a part's pixels."""
    return tuple(np.arange(s.start, s.stop, dtype=np.float32) + np.float32(0.5) for s in part)


def _level(texels_per_pixel, most: int) -> np.ndarray:
    """How often to halve so that a pixel holds about one texel."""
    halvings = np.log2(np.maximum(texels_per_pixel, 1)) + 0.3
    return np.minimum(halvings.astype(np.int32), most)


def _runs(rows: np.ndarray, columns: np.ndarray):
    """Stretches with the same pair of levels, as (slice, (i, j))."""
    key = rows * 64 + columns
    edges = [0, *(np.flatnonzero(np.diff(key)) + 1).tolist(), len(key)]
    for start, stop in itertools.pairwise(edges):
        yield slice(start, stop), (int(rows[start]), int(columns[start]))
