"""What stands beside the road: houses, walls, fences, trees, posts and signs; and the sky."""

import numpy as np

from bc_jax.data.labels import CLASSES
from bc_jax.data.street.texture import Canvas, Texture, cloud, offspring, pack

BUILDING, WALL, FENCE, POLE, LIGHT, SIGN, VEGETATION, SKY = (
    CLASSES.index(name)
    for name in (
        *("building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
        "sky",
    )
)
_FACADES = (
    *((196, 178, 150), (170, 110, 88), (206, 200, 188), (150, 144, 136), (214, 190, 140)),
    *((132, 78, 62), (178, 164, 150), (160, 170, 176), (200, 160, 130)),
)
_ROOFS = ((96, 52, 42), (66, 66, 72), (84, 74, 68))
_STONE = ((128, 122, 112), (150, 140, 124), (108, 108, 112))
_METAL = (112, 116, 118)


def _one(rng: np.random.Generator, colours) -> np.ndarray:
    return np.array(colours[rng.integers(len(colours))], float) * rng.uniform(0.9, 1.08)


def house(
    rng: np.random.Generator, width: float, height: float, density: float, light: float
) -> Texture:
    """A front with windows, a ground floor with shops or a door, and a cornice or a roof."""
    canvas = Canvas(width, height, density, BUILDING)
    paint, trim = _one(rng, _FACADES), rng.uniform(0.72, 1.2)
    canvas.rect(0, 0, width, height, paint)
    if rng.random() < 0.4:  # courses of brick or of panels
        for y in np.arange(0.3, height, 0.3):
            canvas.rect(0, y, width, y + 0.06, paint * 0.93)
    canvas.grain(rng, 7, 2.5)
    canvas.grain(rng, 4)
    ground, storey = rng.uniform(3.4, 4.2), rng.uniform(2.9, 3.5)
    roof = rng.uniform(0.5, 2.2)
    bay = rng.uniform(2.0, 3.2)
    wide, tall = bay * rng.uniform(0.42, 0.7), storey * rng.uniform(0.5, 0.68)
    glass = np.array((58, 68, 80)) * rng.uniform(0.8, 1.3)
    bays = max(1, int((width - 0.6) / bay))
    margin = (width - bays * bay) / 2
    floors = max(0, int((height - ground - roof) / storey))
    balcony = rng.random() < 0.3
    for floor in range(floors):
        y = ground + floor * storey + (storey - tall) / 2
        canvas.rect(0, ground + floor * storey - 0.08, width, ground + floor * storey + 0.08,
                    paint * trim)  # fmt: skip
        for k in range(bays):
            x = margin + k * bay + (bay - wide) / 2
            canvas.rect(x - 0.12, y - 0.16, x + wide + 0.12, y + tall + 0.12, paint * trim * 1.04)
            pane = glass * rng.uniform(0.7, 1.35)
            if rng.random() < 0.12:
                pane = np.array((196, 176, 120)) * rng.uniform(0.8, 1.0)  # a lamp, or a curtain
            canvas.rect(x, y, x + wide, y + tall, pane)
            canvas.rect(x, y + tall * 0.55, x + wide, y + tall, pane * 1.25)
            canvas.rect(x + wide / 2 - 0.05, y, x + wide / 2 + 0.05, y + tall, paint * trim)
            if balcony:
                canvas.rect(x - 0.3, y - 0.2, x + wide + 0.3, y + 0.6, (70, 72, 76))
                for bar in np.arange(x - 0.2, x + wide + 0.3, 0.3):
                    canvas.rect(bar, y - 0.1, bar + 0.14, y + 0.5, paint * 0.8)
    shops = rng.random() < 0.65
    canvas.rect(0, 0, width, 0.5, paint * 0.7)
    for k in range(bays):
        x = margin + k * bay
        if shops:
            sill = 0.15 if rng.random() < 0.35 else 0.6
            canvas.rect(x + 0.2, sill, x + bay - 0.2, ground - 1.0, glass * rng.uniform(0.6, 1.3))
            canvas.rect(x + 0.2, 1.6, x + bay - 0.2, 1.66, paint * 0.6)
        elif rng.random() < 0.2:
            canvas.rect(x + bay / 2 - 0.6, 0, x + bay / 2 + 0.6, 2.4, _one(rng, _ROOFS))
        else:
            pane = glass * rng.uniform(0.7, 1.3)
            canvas.rect(x + (bay - wide) / 2, 1.1, x + (bay + wide) / 2, 1.1 + tall, pane)
    if shops:
        awning = _one(rng, ((150, 40, 40), (40, 80, 60), (60, 70, 110), (180, 160, 120), paint))
        canvas.rect(0.15, ground - 0.95, width - 0.15, ground - 0.35, awning)
    if roof > 1.3:
        canvas.rect(0, height - roof, width, height, _one(rng, _ROOFS))
        for y in np.arange(height - roof, height, 0.35):
            canvas.rect(0, y, width, y + 0.08, _one(rng, _ROOFS) * 0.8)
        for k in range(0, bays, 2):
            x = margin + k * bay + bay / 2
            canvas.rect(x - 0.5, height - roof + 0.3, x + 0.5, height - 0.35, glass * 1.3)
    else:
        canvas.rect(0, height - roof * 0.5, width, height, paint * trim * 0.9)
        canvas.rect(0, height - roof * 0.5 - 0.1, width, height - roof * 0.5, paint * 0.6)
    canvas.rgb *= np.float32(light)
    return canvas.texture()


def gable(rng: np.random.Generator, width: float, height: float, density: float, light) -> Texture:
    """A house's blank side wall."""
    canvas = Canvas(width, height, density / 2, BUILDING)
    canvas.rect(0, 0, width, height, _one(rng, _FACADES) * 0.85 * light)
    canvas.grain(rng, 8, 2.0)
    for y in np.arange(2, height - 2, 3.2):
        if rng.random() < 0.5:
            canvas.rect(width * 0.4, y, width * 0.4 + 1.0, y + 1.4, (60, 68, 78))
    return canvas.texture()


def masonry(rng: np.random.Generator, width: float, height: float, density: float) -> Texture:
    """A wall of rough stones under a coping."""
    canvas = Canvas(width, height, density, WALL)
    stone = _one(rng, _STONE)
    canvas.rect(0, 0, width, height, stone * 0.62)
    course = rng.uniform(0.28, 0.4)
    for row, y in enumerate(np.arange(0, height, course)):
        x = -rng.uniform(0, 0.6) - 0.3 * (row % 2)
        while x < width:
            size = rng.uniform(0.45, 0.9)
            canvas.rect(max(x, 0) + 0.02, y + 0.03, x + size - 0.03, y + course - 0.02,
                        stone * rng.uniform(0.8, 1.15))  # fmt: skip
            x += size
    canvas.grain(rng, 6, 0.4)
    canvas.rect(0, height - 0.16, width, height, stone * 1.2)
    canvas.shade(0.8, 1.02)
    return canvas.texture()


def fence(rng: np.random.Generator, width: float, height: float, density: float) -> Texture:
    """Wooden slats, or bars before a dark ground."""
    canvas = Canvas(width, height, density, FENCE)
    if rng.random() < 0.5:
        wood = _one(rng, ((142, 98, 58), (120, 84, 56), (166, 132, 88)))
        canvas.rect(0, 0, width, height - 0.1, wood * 0.5)
        for x in np.arange(0, width, 0.16):
            top = height - (0.0 if int(x / 0.16) % 2 else 0.06)
            canvas.rect(x, 0.03, x + 0.12, top, wood * rng.uniform(0.82, 1.14))
        rail = wood * 0.7
    else:
        rail = _one(rng, ((58, 96, 74), (52, 58, 66), (188, 190, 188)))
        canvas.rect(0, 0, width, height - 0.12, np.array((66, 74, 62)) * 0.8)
        for x in np.arange(0, width, 0.22):
            canvas.rect(x, 0, x + 0.08, height, rail)
    for y in (0.25, height - 0.3):
        canvas.rect(0, y, width, y + 0.09, rail * 0.9)
    for x in np.arange(0, width, 2.0):
        canvas.rect(x, 0, x + 0.14, height, rail * 0.75)
    return canvas.texture()


def _leaves(rng: np.random.Generator, shape: tuple[int, int], density: float) -> np.ndarray:
    green = _one(rng, ((66, 88, 40), (54, 80, 42), (84, 96, 44), (48, 70, 36), (98, 104, 52)))
    clumps = cloud(rng, shape, 0.9 * density, 3)
    fine = offspring(rng).standard_normal(shape, np.float32)
    light = 1 + 0.34 * clumps + 0.16 * fine
    return (green.astype(np.float32) * light[..., None]).astype(np.float32)


def hedge(rng: np.random.Generator, width: float, height: float, density: float) -> Texture:
    """Bushes or a wood's edge, ragged above."""
    canvas = Canvas(width, height, density, VEGETATION)
    shape = canvas.labels.shape
    edge = cloud(rng, (1, shape[1]), 2.2 * density, 4)[0]
    edge = height * (0.86 + 0.13 * np.clip(edge, -1, 1)) * density
    rows = shape[0] - np.arange(shape[0])[:, None]
    canvas.labels[rows < edge] = VEGETATION
    canvas.rgb[:] = _leaves(rng, shape, density)
    canvas.shade(0.6, 1.15)
    return canvas.texture()


def tree(rng: np.random.Generator, density: float) -> tuple[Texture, float, float]:
    """A tree: its picture, its width and its height in metres."""
    height = rng.uniform(5.5, 9.5)
    width = height * rng.uniform(0.55, 0.8)
    canvas = Canvas(width, height, density, VEGETATION)
    shape = canvas.labels.shape
    crown = height * rng.uniform(0.27, 0.36)  # where it begins
    bark = np.array((84, 68, 54)) * rng.uniform(0.8, 1.2)
    middle, thick = width / 2, 0.022 * height
    canvas.polygon(
        [(middle - thick * 1.4, 0), (middle - thick * 0.8, height * 0.6),
         (middle + thick * 0.8, height * 0.6), (middle + thick * 1.4, 0)], bark,
    )  # fmt: skip
    for sign in (-1, 1):
        canvas.line(
            (middle, crown * 0.9), (middle + sign * width * 0.22, height * 0.6), thick, bark
        )
    x = (np.arange(shape[1], dtype=np.float32) + 0.5) / shape[1] * 2 - 1
    y = 1 - (np.arange(shape[0], dtype=np.float32) + 0.5) / shape[0]
    y = (y - (crown + height) / 2 / height) / ((height - crown) / 2 / height)
    bumps = cloud(rng, shape, width * density * 0.3, 3)
    inside = x[None] ** 2 + y[:, None] ** 2 < 0.74 + 0.3 * bumps
    leaves = _leaves(rng, shape, density)
    leaves *= (1 + 0.22 * y.clip(-1, 1))[:, None, None]
    canvas.rgb[inside], canvas.labels[inside] = leaves[inside], VEGETATION
    return canvas.texture(), width, height


def pole(density: float, height: float, width: float) -> Texture:
    """A grey post, round by its shading."""
    canvas = Canvas(width, height, density, POLE)
    canvas.rect(0, 0, width, height, _METAL)
    across = np.linspace(-0.9, 0.9, canvas.rgb.shape[1])
    canvas.rgb *= (0.62 + 0.55 * np.cos(across - 0.4))[:, None].astype(np.float32)
    return canvas.texture()


def lamp_arm(density: float, length: float) -> Texture:
    """A street lamp's arm."""
    canvas = Canvas(length, 0.3, density, POLE)
    canvas.rect(0, 0.08, length, 0.24, _METAL)
    canvas.rect(length - 0.7, 0.0, length, 0.2, (150, 152, 150))
    return canvas.texture()


def traffic_light(density: float, lit: int) -> Texture:
    """A signal head, 0.42 m by 1.1 m; `lit` is 0 for red, 1 for amber, 2 for green."""
    canvas = Canvas(0.42, 1.1, density, LIGHT)
    canvas.rect(0, 0, 0.42, 1.1, (26, 28, 26))
    canvas.rect(0.03, 0.03, 0.39, 1.07, (44, 46, 40))
    colours = ((255, 60, 44), (255, 186, 40), (70, 240, 130))
    for k, colour in enumerate(colours):
        light = np.array(colour) * (1.0 if k == lit else 0.24)
        canvas.ellipse(0.21, 0.9 - 0.34 * k, 0.14, 0.14, light)
    return canvas.texture()


def sign(rng: np.random.Generator, density: float) -> tuple[Texture, float, float]:
    """A plate: its picture, its width and its height in metres."""
    kind = rng.integers(5)
    red, blue, white, yellow = (200, 24, 32), (26, 78, 164), (240, 240, 238), (244, 200, 36)
    if kind == 0:  # no entry, or a limit
        canvas = Canvas(0.85, 0.85, density, SIGN)
        canvas.ellipse(0.425, 0.425, 0.42, 0.42, red)
        if rng.random() < 0.5:
            canvas.rect(0.14, 0.35, 0.71, 0.5, white)
        else:
            canvas.ellipse(0.425, 0.425, 0.3, 0.3, white)
            canvas.rect(0.25, 0.28, 0.38, 0.58, (30, 30, 30))
            canvas.rect(0.47, 0.28, 0.6, 0.58, (30, 30, 30))
    elif kind == 1:  # a warning
        canvas = Canvas(0.95, 0.85, density, SIGN)
        canvas.polygon([(0.0, 0.02), (0.475, 0.84), (0.95, 0.02)], red)
        canvas.polygon([(0.16, 0.11), (0.475, 0.66), (0.79, 0.11)], white)
        canvas.rect(0.44, 0.2, 0.51, 0.45, (30, 30, 30))
    elif kind == 2:  # the way of priority
        canvas = Canvas(0.9, 0.9, density, SIGN)
        canvas.polygon([(0.45, 0), (0.9, 0.45), (0.45, 0.9), (0, 0.45)], white)
        canvas.polygon([(0.45, 0.12), (0.78, 0.45), (0.45, 0.78), (0.12, 0.45)], yellow)
    elif kind == 3:  # a direction
        canvas = Canvas(0.85, 0.85, density, SIGN)
        canvas.ellipse(0.425, 0.425, 0.42, 0.42, blue)
        canvas.rect(0.38, 0.18, 0.47, 0.5, white)
        canvas.polygon([(0.22, 0.46), (0.425, 0.7), (0.63, 0.46)], white)
    else:
        return board(rng, density, 1.4, 0.8)
    return canvas.texture(), canvas.width, canvas.height


def board(
    rng: np.random.Generator, density: float, width: float, height: float
) -> tuple[Texture, float, float]:
    """A sign with lines of writing; see `sign`."""
    ground = _one(rng, ((28, 80, 160), (244, 204, 50), (32, 110, 70)))
    ink = (245, 245, 242) if ground.mean() < 130 else (28, 28, 28)
    canvas = Canvas(width, height, density, SIGN)
    canvas.rect(0, 0, width, height, ink)
    canvas.rect(0.05, 0.05, width - 0.05, height - 0.05, ground)
    for y in np.arange(0.18, height - 0.2, 0.28):
        x = 0.15
        while x < width - 0.4:
            size = rng.uniform(0.08, 0.14)
            canvas.rect(x, y, x + size, y + 0.14, ink)
            x += size + rng.uniform(0.04, 0.12)
    return canvas.texture(), width, height


def panorama(rng: np.random.Generator, size: tuple[int, int], haze, blue, cover: float):
    """The sky as texels [h, w]: haze above the horizon, blue higher up, clouds.

    Args:
      rng: for the clouds.
      size: (h, w).
      haze: colour at the horizon.
      blue: colour of the zenith.
      cover: 0 without clouds, 1 overcast.
    """
    up = np.linspace(1, 0, size[0], dtype=np.float32)[:, None]
    sky = (1 - up[..., None] ** 0.7) * np.asarray(haze, np.float32)
    sky = sky + up[..., None] ** 0.7 * np.asarray(blue, np.float32)
    sky = np.broadcast_to(sky, (*size, 3)).copy()
    shapes = cloud(rng, size, max(4, size[0] * 0.45), 5)
    puff = np.clip((shapes + 1.7 * cover - 0.9) * 1.6, 0, 1) * (0.35 + 0.65 * up)
    sky += puff[..., None] * (np.array((236, 237, 240), np.float32) - 18 * up[..., None] - sky)
    return pack(sky, np.full(size, SKY, np.uint8))
