"""Cars, trucks, buses and trains: boxes whose sides are painted."""

import dataclasses

import numpy as np

from bc_jax.data.labels import CLASSES
from bc_jax.data.street.texture import Canvas, Texture

CAR, TRUCK, BUS, TRAIN = (CLASSES.index(name) for name in ("car", "truck", "bus", "train"))

GLASS = (38, 48, 58)
GLASS_SKY = (86, 104, 120)
RUBBER = (22, 22, 24)
RIM = (120, 122, 126)
RED = (196, 28, 30)
LAMP = (250, 246, 220)
PLATE = (228, 228, 220)
_CAR_COLOURS = (
    *((176, 180, 186), (208, 210, 212), (38, 40, 46), (92, 96, 102), (120, 24, 30)),
    *((28, 52, 96), (196, 196, 190), (52, 84, 70), (152, 130, 96), (64, 68, 78), (30, 92, 140)),
)
_TRUCK_COLOURS = ((206, 208, 204), (188, 150, 48), (60, 100, 150), (150, 52, 40), (228, 228, 226))
_BUS_COLOURS = ((232, 190, 40), (196, 36, 40), (226, 224, 214), (40, 120, 116), (236, 140, 40))
_TRAIN_COLOURS = ((214, 214, 208), (188, 40, 44), (60, 132, 84), (44, 70, 132))


@dataclasses.dataclass(frozen=True)
class Wall:
    """One upright face of a vehicle, in its own measures: x to its right, z ahead, in metres."""

    texture: Texture
    start: tuple[float, float]  # where the picture's left edge is
    end: tuple[float, float]
    height: float


@dataclasses.dataclass(frozen=True)
class Body:
    """A thing with faces, its origin in the middle of its ground plan."""

    label: int
    length: float
    width: float
    walls: tuple[Wall, ...]


def box(label: int, length, width, height, *, side, front, rear, inner=()) -> Body:
    """A box from the pictures of its faces.

    Args:
      label: its class.
      length: metres, as are the others.
      width: across.
      height: of all faces.
      side: seen from its right: its front at the picture's right edge.
      front: seen from ahead.
      rear: seen from behind.
      inner: (picture, z): further faces across it.
    """
    a, b = width / 2, length / 2
    walls = [
        Wall(side, (a, -b), (a, b), height),
        Wall(side, (-a, -b), (-a, b), height),
        Wall(rear, (-a, -b), (a, -b), height),
        Wall(front, (a, b), (-a, b), height),
        *(Wall(picture, (-a * 0.96, z), (a * 0.96, z), height) for picture, z in inner),
    ]
    return Body(label, length, width, tuple(walls))


def _wheels(canvas: Canvas, places, radius: float) -> None:
    for x in places:
        canvas.ellipse(x, radius + 0.03, radius * 1.18, radius * 1.18, (16, 16, 18))
    for x in places:
        canvas.ellipse(x, radius, radius, radius, RUBBER)
        canvas.ellipse(x, radius, radius * 0.62, radius * 0.62, RIM)
        canvas.ellipse(x, radius, radius * 0.22, radius * 0.22, (60, 60, 64))


def _colour(rng: np.random.Generator, colours) -> np.ndarray:
    return np.array(colours[rng.integers(len(colours))], float) * rng.uniform(0.85, 1.1)


def car(rng: np.random.Generator, density: float) -> Body:
    """A hatchback, saloon, estate or van of a colour of its own."""
    style = ("hatch", "saloon", "estate", "van")[rng.choice(4, p=(0.35, 0.3, 0.25, 0.1))]
    length = {"hatch": 3.9, "saloon": 4.6, "estate": 4.6, "van": 4.9}[style]
    height = 1.95 if style == "van" else rng.uniform(1.48, 1.62)
    width, colour = 1.82, _colour(rng, _CAR_COLOURS)
    bonnet = 0.95 if style != "van" else 1.15
    waist = bonnet + 0.02
    # Where the roof and the windows begin and end along the car, from the rear.
    tail = {"hatch": 0.06, "saloon": 0.95, "estate": 0.06, "van": 0.03}[style]
    roof = (tail + (0.55 if style == "saloon" else 0.25), length - (1.9 if style != "van" else 1.3))
    screen = length - (1.15 if style != "van" else 0.7)

    side = Canvas(length, height, density, CAR)
    side.polygon(
        [(0.03, 0.2), (0.0, bonnet - 0.1), (0.1, bonnet), (screen, bonnet), (length - 0.25, 0.82),
         (length - 0.02, 0.66), (length, 0.3), (length - 0.1, 0.2)], colour,
    )  # fmt: skip
    cabin = [(tail, waist - 0.05), (roof[0], height), (roof[1], height), (screen, waist - 0.05)]
    side.polygon(cabin, colour)
    side.shade(0.62, 1.08)
    glass = [
        (tail + 0.22, waist),
        (roof[0] + 0.12, height - 0.11),
        (roof[1] - 0.04, height - 0.11),
        (screen - 0.28, waist),
    ]
    side.polygon(glass, GLASS)
    middle = (roof[0] + screen) / 2 - 0.1
    side.rect(middle - 0.05, waist - 0.02, middle + 0.05, height - 0.1, colour * 0.8)
    side.rect(middle - 0.01, 0.3, middle + 0.01, waist, colour * 0.6)
    side.rect(screen - 0.32, 0.3, screen - 0.3, waist, colour * 0.6)
    side.rect(0.25, 0.22, length - 0.3, 0.3, colour * 0.45)
    side.rect(middle + 0.1, waist - 0.14, middle + 0.26, waist - 0.1, colour * 0.5)
    side.rect(0.02, bonnet - 0.24, 0.2, bonnet - 0.08, RED)
    side.polygon(
        [(length - 0.42, 0.64), (length - 0.3, 0.76), (length - 0.06, 0.66), (length - 0.05, 0.6)],
        LAMP,
    )
    _wheels(side, (0.72, length - 0.8), 0.32)

    def across(level: float, ahead: bool) -> Canvas:
        """The body's front or rear, up to a level."""
        face = Canvas(width, height, density, CAR)
        face.rect(0.06, 0.0, 0.28, 0.4, RUBBER)
        face.rect(width - 0.28, 0.0, width - 0.06, 0.4, RUBBER)
        face.polygon(
            [(0.04, 0.2), (0.0, 0.6), (0.05, level), (width - 0.05, level), (width, 0.6),
             (width - 0.04, 0.2)], colour,
        )  # fmt: skip
        face.shade(0.6, 1.0)
        face.rect(0.03, 0.2, width - 0.03, 0.36, (34, 34, 36))
        lamp = LAMP if ahead else RED
        low, high = (0.56, 0.74) if ahead else (0.62, 0.86)
        face.polygon([(0.06, low), (0.06, high), (0.4, high - 0.04), (0.34, low)], lamp)
        mirrored = [(0.06, low), (0.06, high), (0.4, high - 0.04), (0.34, low)]
        face.polygon([(width - x, y) for x, y in mirrored], lamp)
        if ahead:
            face.rect(0.5, 0.5, width - 0.5, 0.7, (26, 27, 30))
            face.rect(0.5, 0.59, width - 0.5, 0.61, RIM)
        else:
            face.rect(0.06, 0.44, width - 0.06, 0.46, colour * 0.5)
        face.rect(width / 2 - 0.26, 0.4, width / 2 + 0.26, 0.51, PLATE)
        return face

    def cabin_across(sky: bool) -> Canvas:
        face = Canvas(width, height, density, CAR)
        face.rect(0.02, 0.25, width - 0.02, waist, colour * 0.92)
        face.polygon(
            [(0.05, waist - 0.02), (0.2, height), (width - 0.2, height), (width - 0.05, waist)],
            colour * 1.02,
        )
        face.polygon(
            [(0.14, waist + 0.02), (0.27, height - 0.1), (width - 0.27, height - 0.1),
             (width - 0.14, waist + 0.02)], GLASS_SKY if sky else GLASS,
        )  # fmt: skip
        face.polygon(
            [(0.5, waist + 0.02), (0.7, height - 0.1), (0.95, height - 0.1), (0.72, waist + 0.02)],
            (112, 128, 142) if sky else (58, 70, 82),
        )
        return face

    b = length / 2
    rear_cabin, front_cabin = cabin_across(False).texture(), cabin_across(True).texture()
    rear = across(bonnet, False)
    if style != "saloon":  # the cabin ends where the car does
        whole = cabin_across(False)
        seen = rear.labels == CAR
        whole.rgb[seen], whole.labels[seen] = rear.rgb[seen], CAR
        rear = whole
    inner = [(rear_cabin, tail - b + 0.1), (front_cabin, (roof[1] + screen) / 2 - b)]
    return box(
        CAR, length, width, height,
        side=side.texture(), front=across(bonnet - 0.12, True).texture(), rear=rear.texture(),
        inner=inner,
    )  # fmt: skip


def truck(rng: np.random.Generator, density: float) -> Body:
    """A lorry: a cab, and a box or a tarpaulin behind it."""
    length, height, width = rng.uniform(7, 9), rng.uniform(3.2, 3.7), 2.45
    paint, load = _colour(rng, _TRUCK_COLOURS), _colour(rng, _TRUCK_COLOURS)
    cab = length - 1.9

    side = Canvas(length, height, density, TRUCK)
    side.rect(0.1, 0.75, cab - 0.15, height, load)
    for x in np.arange(0.5, cab - 0.4, 0.6):
        side.rect(x, 0.8, x + 0.05, height - 0.05, load * 0.84)
    side.rect(0.1, height - 0.14, cab - 0.15, height, load * 0.75)
    stripe = _colour(rng, _TRUCK_COLOURS) * 0.8
    side.rect(cab * 0.2, height * 0.52, cab * 0.72, height * 0.68, stripe)
    side.polygon(
        [(cab, 0.5), (cab, 2.7), (length - 0.35, 2.7), (length, 1.5), (length, 0.5)], paint
    )
    side.shade(0.75, 1.05)
    side.polygon(
        [(cab + 0.45, 1.55), (cab + 0.45, 2.45), (length - 0.5, 2.45), (length - 0.15, 1.55)], GLASS
    )
    side.rect(0.1, 0.55, length - 0.1, 0.78, (44, 44, 48))
    side.rect(cab + 0.35, 0.7, cab + 0.38, 2.5, paint * 0.6)
    _wheels(side, (1.1, 2.15, length - 1.0), 0.5)

    rear = Canvas(width, height, density, TRUCK)
    rear.rect(0, 0.75, width, height, load)
    rear.rect(0.08, 0.85, width - 0.08, height - 0.1, load * 0.9)
    rear.rect(width / 2 - 0.02, 0.85, width / 2 + 0.02, height - 0.1, load * 0.5)
    for x in (0.5, width - 0.5):
        rear.rect(x - 0.03, 0.9, x + 0.03, height - 0.2, (150, 152, 154))
    rear.shade(0.8, 1.0)
    rear.rect(0.05, 0.45, width - 0.05, 0.75, (40, 40, 44))
    rear.rect(0.1, 0.52, 0.5, 0.68, RED)
    rear.rect(width - 0.5, 0.52, width - 0.1, 0.68, RED)
    rear.rect(width / 2 - 0.26, 0.52, width / 2 + 0.26, 0.64, PLATE)
    for x in (0.2, width - 0.6):
        rear.rect(x, 0, x + 0.4, 0.6, RUBBER)

    front = Canvas(width, height, density, TRUCK)
    front.rect(0, 0.75, width, height, load * 0.8)
    front.rect(0.05, 0.35, width - 0.05, 2.75, paint)
    front.shade(0.7, 1.05)
    front.rect(0.15, 1.5, width - 0.15, 2.5, GLASS_SKY)
    front.rect(0.4, 0.9, width - 0.4, 1.3, (40, 42, 46))
    for x in (0.15, width - 0.5):
        front.rect(x, 0.6, x + 0.35, 0.8, LAMP)
        front.rect(x, 0, x + 0.35, 0.4, RUBBER)
    return box(
        TRUCK, length, width, height,
        side=side.texture(), front=front.texture(), rear=rear.texture(),
    )  # fmt: skip


def bus(rng: np.random.Generator, density: float) -> Body:
    """A city bus: a long row of windows, doors, a number ahead."""
    length, height, width = rng.uniform(10, 12), 3.05, 2.5
    paint = _colour(rng, _BUS_COLOURS)

    side = Canvas(length, height, density, BUS)
    side.rect(0, 0.3, length, height, paint)
    side.rect(0, height - 0.25, length, height, paint * 0.82)
    side.shade(0.7, 1.06)
    side.rect(0.3, 1.25, length - 0.15, height - 0.45, GLASS)
    for x in np.arange(1.6, length - 1, 1.45):
        side.rect(x, 1.25, x + 0.09, height - 0.45, paint * 0.55)
        side.polygon(
            [(x + 0.3, 1.25), (x + 0.75, 2.6), (x + 1.0, 2.6), (x + 0.55, 1.25)], GLASS_SKY
        )
    for x in (length * 0.42, length - 1.45):
        side.rect(x, 0.4, x + 1.15, height - 0.4, (52, 60, 68))
        side.rect(x + 0.55, 0.4, x + 0.6, height - 0.4, paint * 0.5)
    side.rect(0, 0.32, length, 0.42, (50, 50, 52))
    _wheels(side, (2.1, length - 2.6), 0.48)

    def across(ahead: bool) -> Texture:
        face = Canvas(width, height, density, BUS)
        face.rect(0.2, 0, 0.5, 0.4, RUBBER)
        face.rect(width - 0.5, 0, width - 0.2, 0.4, RUBBER)
        face.rect(0, 0.28, width, height, paint)
        face.shade(0.72, 1.05)
        face.rect(0.14, 1.2 if ahead else 1.6, width - 0.14, height - 0.55, GLASS_SKY)
        face.polygon([(0.5, 1.7), (1.0, 2.5), (1.4, 2.5), (0.9, 1.7)], (120, 136, 148))
        face.rect(0.3, height - 0.45, width - 0.3, height - 0.14, (24, 24, 26))
        face.rect(0.5, height - 0.38, 1.1, height - 0.2, (250, 170, 40))
        if ahead:
            face.rect(1.3, height - 0.36, width - 0.5, height - 0.22, (250, 170, 40))
        lamp = LAMP if ahead else RED
        for x in (0.12, width - 0.5):
            face.rect(x, 0.6, x + 0.38, 0.8, lamp)
        face.rect(width / 2 - 0.28, 0.42, width / 2 + 0.28, 0.54, PLATE)
        face.rect(0.1, 0.3, width - 0.1, 0.38, (44, 44, 46))
        return face.texture()

    return box(BUS, length, width, height, side=side.texture(), front=across(True),
               rear=across(False))  # fmt: skip


def train(rng: np.random.Generator, density: float) -> Body:
    """A tram of three cars, with its pantograph."""
    length, height, width = 27.0, 3.5, 2.5
    paint, stripe = (
        _colour(rng, _TRAIN_COLOURS[:1]),
        _colour(rng, _TRAIN_COLOURS[1:]),
    )
    body = height - 0.35

    side = Canvas(length, height, density * 0.75, TRAIN)
    side.rect(0, 0.25, length, body, paint)
    side.rect(0, 0.25, length, 1.15, stripe)
    side.rect(0, body - 0.3, length, body, stripe * 0.8)
    side.shade(0.8, 1.04)
    side.rect(0, 1.35, length, body - 0.42, GLASS)
    for x in np.arange(1.2, length, 1.7):
        side.rect(x, 1.35, x + 0.16, body - 0.42, paint * 0.9)
    for x in np.arange(2.9, length - 2, 5.1):
        side.rect(x, 0.4, x + 1.4, body - 0.35, stripe * 0.55)
        side.rect(x + 0.1, 1.1, x + 0.64, body - 0.5, GLASS_SKY)
        side.rect(x + 0.76, 1.1, x + 1.3, body - 0.5, GLASS_SKY)
    for x in (length / 3, 2 * length / 3):
        side.rect(x - 0.35, 0.2, x + 0.35, body, (58, 58, 62))
        for fold in np.arange(-0.3, 0.3, 0.14):
            side.rect(x + fold, 0.2, x + fold + 0.05, body, (34, 34, 36))
    side.rect(0, 0.1, length, 0.28, (40, 40, 42))
    side.polygon([(4.0, body), (4.6, height), (5.4, height), (4.8, body)], (70, 70, 74))

    end = Canvas(width, height, density, TRAIN)
    end.polygon(
        [(0.0, 0.2), (0.0, body - 0.5), (0.3, body), (width - 0.3, body), (width, body - 0.5),
         (width, 0.2)], paint,
    )  # fmt: skip
    end.rect(0, 0.2, width, 1.15, stripe)
    end.shade(0.75, 1.05)
    end.polygon(
        [(0.18, 1.3), (0.3, body - 0.45), (width - 0.3, body - 0.45), (width - 0.18, 1.3)],
        GLASS_SKY,
    )
    end.rect(0.6, body - 0.38, width - 0.6, body - 0.12, (24, 24, 26))
    end.rect(0.8, body - 0.32, 1.6, body - 0.18, (250, 170, 40))
    for x in (0.15, width - 0.45):
        end.rect(x, 0.75, x + 0.3, 0.95, LAMP)
    end.rect(0.1, 0.1, width - 0.1, 0.28, (40, 40, 42))
    end = end.texture()
    return box(TRAIN, length, width, height, side=side.texture(), front=end, rear=end)
