"""Pedestrians, and people on bicycles and motorcycles; each a few steps of a walk or a turn."""

import numpy as np

from bc_jax.data.labels import CLASSES
from bc_jax.data.street.texture import Canvas, Texture
from bc_jax.data.street.vehicles import LAMP, RED, RIM, RUBBER

PERSON, RIDER, MOTORCYCLE, BICYCLE = (
    CLASSES.index(name) for name in ("person", "rider", "motorcycle", "bicycle")
)
PHASES = 6  # pictures of one step, or of one turn of the pedals

_SKIN = ((224, 178, 148), (198, 146, 112), (140, 96, 68), (92, 62, 46))
_HAIR = ((44, 32, 24), (96, 66, 40), (150, 116, 70), (24, 22, 22), (120, 120, 120))
_CLOTHES = (
    *((46, 56, 84), (120, 30, 36), (40, 40, 44), (196, 190, 178), (62, 86, 66), (176, 124, 56)),
    *((86, 60, 96), (210, 208, 204), (150, 60, 90), (40, 96, 124), (98, 84, 70)),
)
_TROUSERS = ((38, 44, 64), (28, 28, 32), (86, 78, 66), (60, 66, 76), (110, 100, 84))


def _one(rng: np.random.Generator, colours) -> np.ndarray:
    return np.array(colours[rng.integers(len(colours))], float) * rng.uniform(0.85, 1.12)


def pedestrian(rng: np.random.Generator, density: float) -> tuple[tuple[Texture, ...], float]:
    """Someone who walks.

    Returns:
      `PHASES` pictures, one metre wide, and their height in metres.
    """
    tall = rng.uniform(1.58, 1.9) if rng.random() < 0.85 else rng.uniform(1.1, 1.4)
    skin, hair, coat, trousers = (_one(rng, c) for c in (_SKIN, _HAIR, _CLOTHES, _TROUSERS))
    skirt, bag, long_hair = rng.random(3) < (0.2, 0.4, 0.4)
    stout = rng.uniform(0.9, 1.15)
    bag_colour = _one(rng, _CLOTHES) * 0.7
    pictures = []
    for step in range(PHASES):
        swing = np.sin(2 * np.pi * step / PHASES)
        canvas = Canvas(1.0, 1.8, density * tall / 1.8, PERSON)
        x = 0.5
        for sign, shade in ((-1, 0.7), (1, 1.0)):
            foot = x + sign * 0.3 * swing
            lift = 0.06 * max(0.0, np.cos(2 * np.pi * step / PHASES) * sign)
            knee = (x + sign * 0.2 * swing + 0.04, 0.46 + lift / 2)
            hip = (x, 0.9)
            leg = skin if skirt else trousers
            canvas.line(hip, knee, 0.19 * stout, leg * shade)
            canvas.line(knee, (foot, 0.08 + lift), 0.14, leg * shade)
            canvas.rect(foot - 0.08, lift, foot + 0.15, 0.09 + lift, np.array((36, 30, 28)) * shade)
        arm = (x + 0.02, 1.42)
        canvas.line(arm, (x - 0.26 * swing, 0.9), 0.12, coat * 0.62)
        canvas.polygon(
            [(x - 0.2 * stout, 1.44), (x - 0.08, 1.53), (x + 0.08, 1.53), (x + 0.2 * stout, 1.44),
             (x + 0.19 * stout, 0.84), (x - 0.19 * stout, 0.84)], coat,
        )  # fmt: skip
        canvas.polygon(
            [(x + 0.06, 1.52), (x + 0.2 * stout, 1.44), (x + 0.19 * stout, 0.84), (x + 0.08, 0.84)],
            coat * 0.82,
        )
        if skirt:
            canvas.polygon(
                [(x - 0.18, 0.9), (x + 0.18, 0.9), (x + 0.26, 0.5), (x - 0.26, 0.5)], trousers * 1.1
            )
        if bag:
            canvas.rect(x - 0.34, 0.92, x - 0.12, 1.26, bag_colour)
        canvas.line(arm, (x + 0.28 * swing + 0.02, 0.92), 0.12, coat * 0.9)
        canvas.ellipse(x + 0.28 * swing + 0.02, 0.88, 0.06, 0.07, skin)
        canvas.rect(x - 0.05, 1.48, x + 0.05, 1.58, skin * 0.85)
        canvas.ellipse(x, 1.66, 0.115, 0.14, skin)
        canvas.ellipse(x - 0.02, 1.7, 0.13, 0.1, hair)
        if long_hair:
            canvas.rect(x - 0.15, 1.46, x - 0.03, 1.7, hair)
        canvas.ellipse(x + 0.05, 1.62, 0.07, 0.08, skin)
        pictures.append(canvas.texture())
    return tuple(pictures), tall


def _spoked(canvas: Canvas, x: float, turn: float, label: int) -> None:
    canvas.ellipse(x, 0.35, 0.35, 0.35, (26, 26, 28), label)
    canvas.ellipse(x, 0.35, 0.29, 0.29, (124, 126, 124), label)
    for spoke in range(3):
        angle = turn + spoke * np.pi / 3
        dx, dy = 0.29 * np.cos(angle), 0.29 * np.sin(angle)
        canvas.line((x - dx, 0.35 - dy), (x + dx, 0.35 + dy), 0.03, (70, 70, 72), label)


def bicycle(
    rng: np.random.Generator, density: float, ridden: bool
) -> tuple[tuple[Texture, ...], tuple[Texture, ...], tuple[float, float, float]]:
    """A bicycle, with or without someone on it.

    Returns:
      Pictures of its right side, front to the right, and of its rear, `PHASES` of each where it
      is ridden and else one; and its length, width and height in metres.
    """
    skin, coat, trousers, helmet = (_one(rng, c) for c in (_SKIN, _CLOTHES, _TROUSERS, _CLOTHES))
    frame = _one(rng, ((170, 30, 30), (30, 70, 140), (30, 30, 34), (200, 200, 200), (40, 110, 70)))
    height = 1.85 if ridden else 1.1
    sides, rears = [], []
    for step in range(PHASES if ridden else 1):
        turn = 2 * np.pi * step / PHASES
        side = Canvas(1.8, height, density, BICYCLE)
        pedal = (0.13 * np.cos(-turn), 0.13 * np.sin(-turn))

        def leg(side, sign, shade, pedal=pedal):
            foot = (0.86 + sign * pedal[0], 0.32 + sign * pedal[1])
            knee = ((0.62 + foot[0]) / 2 + 0.2, (1.0 + foot[1]) / 2 + 0.08)
            side.line((0.62, 1.02), knee, 0.17, trousers * shade, RIDER)
            side.line(knee, foot, 0.13, trousers * shade, RIDER)
            side.rect(foot[0] - 0.06, foot[1] - 0.06, foot[0] + 0.16, foot[1] + 0.02,
                      (30, 28, 28), RIDER)  # fmt: skip

        if ridden:
            leg(side, -1, 0.7)
        for x in (0.36, 1.42):
            _spoked(side, x, -turn, BICYCLE)
        for start, end in (
            ((0.36, 0.35), (0.62, 0.82)), ((0.36, 0.35), (0.86, 0.32)),
            ((0.62, 0.82), (0.86, 0.32)), ((0.66, 0.8), (1.28, 0.86)),
            ((0.86, 0.32), (1.26, 0.78)), ((1.42, 0.35), (1.24, 0.98)),
        ):  # fmt: skip
            side.line(start, end, 0.065, frame)
        side.line((1.08, 1.02), (1.3, 0.98), 0.07, (40, 40, 42))
        side.rect(0.48, 0.86, 0.76, 0.95, (36, 32, 30))
        side.line((0.62, 0.8), (0.62, 0.9), 0.06, (90, 90, 94))
        if ridden:
            leg(side, 1, 1.0)
            side.polygon([(0.5, 0.98), (0.74, 0.94), (1.02, 1.4), (0.86, 1.52), (0.72, 1.46)],
                         coat, RIDER)  # fmt: skip
            side.line((0.94, 1.4), (1.08, 1.14), 0.11, coat * 0.85, RIDER)
            side.line((1.08, 1.14), (1.2, 1.06), 0.09, skin, RIDER)
            side.ellipse(1.0, 1.63, 0.115, 0.14, skin, RIDER)
            side.ellipse(0.98, 1.7, 0.14, 0.1, helmet, RIDER)
        sides.append(side.texture())

        rear = Canvas(0.7, height, density, BICYCLE)
        rear.rect(0.3, 0, 0.4, 0.7, (28, 28, 30))
        rear.rect(0.06, 0.98, 0.64, 1.04, (44, 44, 46))
        rear.rect(0.32, 0.5, 0.38, 0.9, frame)
        rear.rect(0.26, 0.86, 0.44, 0.94, (36, 32, 30))
        rear.rect(0.31, 0.66, 0.39, 0.72, RED)
        if ridden:
            for sign in (-1, 1):
                low = 0.3 + 0.13 * np.sin(turn) * sign
                x = 0.35 + sign * 0.13
                rear.line((0.35 + sign * 0.09, 1.0), (x, low), 0.14, trousers * 0.9, RIDER)
                rear.rect(x - 0.06, low - 0.05, x + 0.06, low + 0.05, (30, 28, 28), RIDER)
                rear.line((0.35 + sign * 0.17, 1.44), (0.35 + sign * 0.28, 1.06), 0.11,
                          coat * 0.85, RIDER)  # fmt: skip
            rear.polygon([(0.15, 1.46), (0.28, 1.54), (0.42, 1.54), (0.55, 1.46), (0.5, 0.94),
                          (0.2, 0.94)], coat, RIDER)  # fmt: skip
            rear.ellipse(0.35, 1.65, 0.11, 0.14, skin, RIDER)
            rear.ellipse(0.35, 1.7, 0.13, 0.11, helmet, RIDER)
        rears.append(rear.texture())
    return tuple(sides), tuple(rears), (1.8, 0.7, height)


def motorcycle(
    rng: np.random.Generator, density: float, ridden: bool
) -> tuple[tuple[Texture, ...], tuple[Texture, ...], tuple[float, float, float]]:
    """A motorcycle or scooter, with or without someone on it; see `bicycle`."""
    coat, trousers, helmet = (_one(rng, c) for c in (_CLOTHES, _TROUSERS, _CLOTHES))
    paint = _one(rng, ((180, 28, 28), (28, 60, 150), (40, 130, 60), (220, 130, 30), (36, 36, 40)))
    height = 1.75 if ridden else 1.25
    side = Canvas(2.1, height, density, MOTORCYCLE)
    for x in (0.4, 1.7):
        side.ellipse(x, 0.33, 0.33, 0.33, RUBBER)
        side.ellipse(x, 0.33, 0.19, 0.19, RIM)
    side.polygon([(0.5, 0.35), (0.75, 0.65), (1.3, 0.65), (1.45, 0.3), (0.9, 0.2)], (62, 62, 66))
    side.ellipse(1.02, 0.42, 0.2, 0.17, (134, 136, 140))
    side.line((0.3, 0.3), (1.0, 0.24), 0.1, (150, 150, 152))
    side.polygon([(0.1, 0.72), (0.12, 0.86), (0.95, 0.86), (0.95, 0.7), (0.5, 0.6)], (30, 30, 32))
    side.polygon([(0.0, 0.72), (0.05, 0.92), (0.45, 0.78)], paint)
    side.polygon([(0.9, 0.68), (0.98, 0.98), (1.36, 1.0), (1.5, 0.72)], paint)
    side.polygon([(1.4, 0.6), (1.3, 1.05), (1.52, 1.18), (1.7, 0.8)], paint * 0.9)
    side.line((1.7, 0.33), (1.42, 1.0), 0.09, (120, 122, 126))
    side.line((1.2, 1.1), (1.45, 1.08), 0.07, (36, 36, 38))
    side.ellipse(1.6, 0.92, 0.1, 0.1, LAMP)
    side.rect(0.0, 0.76, 0.1, 0.84, RED)
    if ridden:
        side.line((0.7, 0.92), (1.12, 0.72), 0.2, trousers, RIDER)
        side.line((1.1, 0.76), (0.92, 0.34), 0.15, trousers * 0.85, RIDER)
        side.rect(0.84, 0.26, 1.08, 0.36, (26, 26, 28), RIDER)
        side.polygon([(0.55, 0.86), (0.84, 0.84), (1.04, 1.26), (0.9, 1.42), (0.7, 1.38)],
                     coat, RIDER)  # fmt: skip
        side.line((0.94, 1.3), (1.32, 1.1), 0.12, coat * 0.8, RIDER)
        side.ellipse(1.0, 1.57, 0.17, 0.17, helmet, RIDER)
        side.polygon([(1.06, 1.52), (1.06, 1.64), (1.17, 1.62), (1.17, 1.53)], (40, 44, 50), RIDER)
    rear = Canvas(0.85, height, density, MOTORCYCLE)
    rear.rect(0.34, 0, 0.51, 0.62, RUBBER)
    rear.polygon([(0.25, 0.55), (0.22, 0.86), (0.63, 0.86), (0.6, 0.55)], paint)
    rear.rect(0.3, 0.68, 0.55, 0.76, RED)
    rear.rect(0.32, 0.42, 0.53, 0.54, (220, 220, 214))
    rear.rect(0.04, 1.0, 0.81, 1.06, (40, 40, 42))
    for x in (0.0, 0.73):
        rear.rect(x, 1.08, x + 0.12, 1.18, (90, 92, 96))
    rear.rect(0.14, 0.28, 0.3, 0.4, (140, 140, 144))
    if ridden:
        for sign in (-1, 1):
            x = 0.425 + sign * 0.2
            rear.line((0.425 + sign * 0.1, 0.9), (x, 0.62), 0.17, trousers, RIDER)
            rear.line((x, 0.66), (x, 0.3), 0.14, trousers * 0.85, RIDER)
            rear.line((0.425 + sign * 0.2, 1.36), (0.425 + sign * 0.33, 1.06), 0.12, coat * 0.8,
                      RIDER)  # fmt: skip
        rear.polygon([(0.2, 1.36), (0.34, 1.45), (0.51, 1.45), (0.65, 1.36), (0.6, 0.84),
                      (0.25, 0.84)], coat, RIDER)  # fmt: skip
        rear.ellipse(0.425, 1.56, 0.16, 0.17, helmet, RIDER)
    return (side.texture(),), (rear.texture(),), (2.1, 0.85, height)
