"""The ground seen from above: road with its marks, pavement with its kerb, grass."""

import dataclasses

import numpy as np

from bc_jax.data.labels import CLASSES
from bc_jax.data.street.render import Ground
from bc_jax.data.street.texture import Texture, cloud, pack

ROAD, SIDEWALK, TERRAIN = (CLASSES.index(name) for name in ("road", "sidewalk", "terrain"))
GROUND_CLASSES = (ROAD, SIDEWALK, TERRAIN)
LANE = 3.5  # a lane's width in metres; the middle of the road is x = 0
TRACK = 3.4  # a tram's
PARKING = 2.2
_GRAIN = {ROAD: 7.0, SIDEWALK: 7.0, TERRAIN: 17.0}


@dataclasses.dataclass(frozen=True)
class Side:
    """What lies on one side of the road, in metres from its middle."""

    track: bool  # a tram's track beside the lane
    parking: bool
    edge: float  # the kerb
    verge: float  # where the pavement ends and grass begins, where there is no house
    boundary: float  # where houses, walls and fences stand


@dataclasses.dataclass(frozen=True)
class Stretch:
    """A part of one side along the street."""

    kind: str  # houses, wall, fence or park
    start: float
    end: float
    height: float  # of its houses; what casts a shadow


class _Plan:
    """A map of the ground that rectangles are painted on."""

    def __init__(self, x, z, width, length, across, along):
        self.x, self.z, self.across, self.along = x, z, across, along
        shape = (round(length * along), round(width * across))
        self.rgb = np.empty((*shape, 3), np.float32)
        self.labels = np.empty(shape, np.uint8)

    def part(self, x0, z0, x1, z1) -> tuple[slice, slice]:
        low, high = sorted((x0, x1))
        columns = [max(0, round((x - self.x) * self.across)) for x in (low, high)]
        rows = [max(0, round((z - self.z) * self.along)) for z in (z0, z1)]
        return slice(*rows), slice(*columns)

    def rect(self, x0, z0, x1, z1, colour, label: int | None = None) -> None:
        part = self.part(x0, z0, x1, z1)
        self.rgb[part] = colour
        if label is not None:
            self.labels[part] = label

    def tint(self, x0, z0, x1, z1, factor: float) -> None:
        self.rgb[self.part(x0, z0, x1, z1)] *= np.float32(factor)


def ground(
    rng: np.random.Generator,
    sides: dict[int, Side],
    stretches: dict[int, list[Stretch]],
    reach: tuple[float, float],
    detail: float,
    *,
    crossing: float | None,
    sun: int,
) -> Ground:
    """Paint the ground.

    Args:
      rng: for stains and grain.
      sides: -1 the left one, 1 the right one.
      stretches: what stands along each side.
      reach: first and last z that are painted.
      detail: 1 for frames 512 pixels high.
      crossing: z of a zebra crossing, if there is one.
      sun: the side that the sun is on, whose houses throw shadows; 0: it is overcast.
    """
    first, last = reach
    plan = _Plan(-24.0, first, 48.0, last - first, 36 * detail, 11 * detail)
    grass = np.array((118, 126, 66)) * rng.uniform(0.85, 1.1, 3)
    slab = np.array((156, 148, 142)) * rng.uniform(0.9, 1.1)
    tar = np.array((84, 84, 88)) * rng.uniform(0.8, 1.2)
    white = (206, 206, 200)
    plan.rect(-24, first, 24, last, grass, TERRAIN)
    for sign, side in sides.items():
        for stretch in stretches[sign]:
            end = side.boundary if stretch.kind == "houses" else side.verge
            plan.rect(sign * side.edge, stretch.start, sign * end, stretch.end, slab, SIDEWALK)
        for z in np.arange(first, last, 0.9):
            part = plan.part(sign * side.edge, z, sign * side.boundary, z + 0.1)
            plan.rgb[part] *= np.where(plan.labels[part] == SIDEWALK, 0.86, 1)[..., None]
        for x in np.arange(side.edge + 0.9, side.boundary, 0.9):
            part = plan.part(sign * x, first, sign * (x + 0.05), last)
            plan.rgb[part] *= np.where(plan.labels[part] == SIDEWALK, 0.86, 1)[..., None]
        plan.rect(sign * side.edge, first, sign * (side.edge + 0.18), last, slab * 1.18, SIDEWALK)
    left, right = sides[-1], sides[1]
    plan.rect(-left.edge, first, right.edge, last, tar, ROAD)
    for sign, side in sides.items():
        plan.rect(sign * side.edge, first, sign * (side.edge - 0.3), last, tar * 0.86)
        if side.track:
            plan.rect(sign * LANE, first, sign * (LANE + TRACK), last, tar * 1.12)
            for rail in (0.98, 2.42):
                x = sign * (LANE + rail)
                plan.rect(x - 0.05, first, x + 0.05, last, (146, 142, 136))
                plan.rect(x + 0.05, first, x + 0.09, last, tar * 0.5)
        if side.parking:
            edge = side.edge - PARKING
            for z in np.arange(first, last, 6):
                plan.rect(sign * edge, z, sign * side.edge, z + 0.12, white)
                plan.rect(sign * edge, z, sign * (edge + 0.1), z + 2, white)
    for _ in range(int((last - first) / 6)):  # patches, and covers in the road
        x, z = rng.uniform(-left.edge, right.edge - 1), rng.uniform(first, last)
        patch = plan.part(x, z, min(x + rng.uniform(0.5, 1.8), right.edge), z + rng.uniform(1, 6))
        plan.rgb[patch] *= np.float32(rng.uniform(0.84, 1.1))
        if rng.random() < 0.3:
            plan.rect(x, z, min(x + 0.6, right.edge), z + 0.6, tar * 0.6)
    for x in (-1.75, 1.75):  # where wheels have polished it
        for wheel in (-0.75, 0.75):
            plan.tint(x + wheel - 0.2, first, x + wheel + 0.2, last, 0.93)
    if rng.random() < 0.25:
        plan.rect(-0.16, first, -0.05, last, white)
        plan.rect(0.05, first, 0.16, last, white)
    else:
        for z in np.arange(first, last, 9):
            plan.rect(-0.08, z, 0.08, z + 4, white)
    if crossing is not None:
        for x in np.arange(-left.edge + 0.3, right.edge - 0.4, 1.0):
            plan.rect(x, crossing, x + 0.5, crossing + 3, (214, 214, 208))
        plan.rect(0.15, crossing - 1.6, right.edge, crossing - 1.1, white)
    if sun:
        for stretch in stretches[sun]:
            reach = {"houses": 0.55, "park": 0.5}.get(stretch.kind, 0.8) * stretch.height
            edge = sun * (sides[sun].boundary - reach)
            plan.tint(edge, stretch.start, sun * 24.0, stretch.end, 0.62)
    _weather(rng, plan)
    return Ground(
        Texture(pack(plan.rgb, plan.labels)), plan.x, plan.z, plan.across, plan.along
    )  # fmt: skip


def _weather(rng: np.random.Generator, plan: _Plan) -> None:
    """Grain and blotches, by class."""
    side = 512
    fine = rng.standard_normal((side, side), np.float32)
    blotch = cloud(rng, (side, side), side / 6, 3)
    strength = np.zeros(256, np.float32)
    for label, levels in _GRAIN.items():
        strength[label] = levels
    for top in range(0, plan.labels.shape[0], side):
        for left in range(0, plan.labels.shape[1], side):
            part = slice(top, top + side), slice(left, left + side)
            labels = plan.labels[part]
            tall, wide = labels.shape
            noise = (0.6 * fine + blotch)[:tall, :wide] * strength[labels]
            plan.rgb[part] += noise[..., None]
