"""What stands along a street: houses, walls, trees, posts, signs; and the camera's way past it."""

from typing import NamedTuple

import numpy as np

from bc_jax.data.street import roadside
from bc_jax.data.street.actor import SIGHT
from bc_jax.data.street.camera import Path
from bc_jax.data.street.pavement import LANE, PARKING, TRACK, Side, Stretch
from bc_jax.data.street.render import Panel, Shadow
from bc_jax.data.street.settings import StreetConfig
from bc_jax.data.street.texture import Texture


class Faced(NamedTuple):
    """An upright picture that turns to the camera, in metres."""

    texture: Texture
    x: float  # its middle
    z: float
    width: float
    bottom: float  # above the road
    top: float


class Scenery:
    """What stands along a street, laid out at random.

    Args:
      config: how big frames are.
      camera: driving, slow or fixed.
      rng: decides the rest.

    Attributes:
      path: the camera's.
      sides: of the road, -1 the left one and 1 the right one.
      stretches: what stands along each side, one after the other.
      crossing: z of the zebra crossing; None: there is none.
      panels: pictures that stand where they are.
      faced: those that turn to the camera.
      shadows: under them.
    """

    def __init__(self, config: StreetConfig, camera: str, rng: np.random.Generator):
        self.config, self.kind, self.rng = config, camera, rng
        self.detail = max(0.12, min(1.6, config.size[0] / 512))
        # Texels per metre, of what is large and of what is small.
        self.houses, self.things = 30 * self.detail, 64 * self.detail
        self.sun = int(rng.choice((-1, 0, 1)))
        self.panels: list[Panel] = []
        self.faced: list[Faced] = []
        self.shadows: list[Shadow] = []
        self.sides = {sign: self._side(sign) for sign in (-1, 1)}
        self.path = self._path()
        self.reach = (-12.0, SIGHT + self.path.speed * config.frames / config.fps)
        self.stretches = {sign: self._stretches() for sign in (-1, 1)}
        self.crossing = rng.uniform(9, 24) if rng.random() < 0.6 else None
        for sign in (-1, 1):
            self._buildings(sign)
            self._greenery(sign)
            self._posts(sign)
        self._end_of_the_street()
        self._lights()

    def _side(self, sign: int) -> Side:
        rng = self.rng
        track = sign < 0 and rng.random() < 0.6
        parking = rng.random() < (0.65 if sign > 0 else 0.5)
        edge = LANE + TRACK * track + PARKING * parking
        verge = edge + rng.uniform(2.2, 3.2)
        return Side(track, parking, edge, verge, verge + rng.uniform(2.2, 4.5))

    def _path(self) -> Path:
        rng, config = self.rng, self.config
        edge = self.sides[1].edge
        speed = {"driving": rng.uniform(6, 12), "slow": rng.uniform(0.5, 1.4), "fixed": 0.0}
        # At the kerb, out of the way of cars and of walkers.
        aside = edge + (rng.uniform(-1.2, -0.6) if self.sides[1].parking else 0.2)
        driving, fixed = self.kind == "driving", self.kind == "fixed"
        return Path(
            x=rng.uniform(1.5, 2.0) if driving else aside,
            height=rng.uniform(1.25, 1.42),
            speed=speed[self.kind] * (config.speed if driving else 1.0),
            yaw=rng.uniform(-0.03, 0.03) if driving else rng.uniform(-0.26, -0.02),
            pan=0.0 if fixed else 0.025,
            pan_rate=rng.uniform(0.4, 1.0),
            sway=0.0 if fixed else 0.08,
            bounce=0.0 if fixed else 0.0016 if driving else 0.0006,
            phase=rng.uniform(0, 2 * np.pi),
            size=config.size,
        )

    def _stretches(self) -> list[Stretch]:
        rng = self.rng
        first, last = self.reach
        kinds = rng.permutation(["houses", "houses", "wall", "fence", "park"])
        found, z, k = [], first, 0
        while z < last:
            kind = str(kinds[k % len(kinds)])
            size = rng.uniform(14, 26)
            height = {"houses": rng.uniform(7, 14), "park": 5.0}.get(kind, 2.0)
            found.append(Stretch(kind, z, min(z + size, last), height))
            z, k = z + size, k + 1
        return found

    def _along(self, texture, x, start, end, height, bottom=0.0) -> None:
        self.panels.append(Panel(texture, (x, start), (x, end), bottom, height))

    def _buildings(self, sign: int) -> None:
        rng, boundary = self.rng, self.sides[sign].boundary
        light = {0: 1.0, sign: 0.68, -sign: 1.1}[self.sun]
        for stretch in self.stretches[sign]:
            if stretch.kind == "houses":
                z = stretch.start
                while z < stretch.end - 3:
                    width = min(rng.uniform(8, 15), stretch.end - z)
                    height = stretch.height * rng.uniform(0.8, 1.2)
                    texture = roadside.house(rng, width, height, self.houses, light)
                    x = sign * boundary
                    self._along(texture, x, z, z + width, height)
                    flank = roadside.gable(rng, 10, height, self.houses, light * 0.9)
                    self.panels.append(Panel(flank, (x, z), (x + sign * 10, z), 0, height))
                    z += width + (rng.uniform(1, 4) if rng.random() < 0.3 else 0)
            elif stretch.kind in ("wall", "fence"):
                paint = roadside.masonry if stretch.kind == "wall" else roadside.fence
                height = rng.uniform(2.0, 3.0) if stretch.kind == "wall" else rng.uniform(1.4, 2.2)
                width = stretch.end - stretch.start
                texture = paint(rng, width, height, self.houses * 1.3)
                self._along(texture, sign * boundary, stretch.start, stretch.end, height)

    def _greenery(self, sign: int) -> None:
        rng, side = self.rng, self.sides[sign]
        first, last = self.reach
        far = sign * (side.boundary + 13)
        texture = roadside.hedge(rng, 60, 9, self.houses * 0.6)
        for z in np.arange(first, last, 60):
            self._along(texture, far, z, z + 60, 9)
        trees = [roadside.tree(rng, self.houses) for _ in range(3)]
        bush = roadside.hedge(rng, 12, 1.5, self.houses * 1.2)
        for stretch in self.stretches[sign]:
            length = stretch.end - stretch.start
            if stretch.kind == "houses":
                if rng.random() < 0.4:  # a row of trees along the kerb
                    for z in np.arange(stretch.start + 3, stretch.end, rng.uniform(9, 13)):
                        if z > 12:  # not before the camera
                            self._tree(trees, sign * (side.edge + 0.8), z)
                continue
            if stretch.kind == "park":
                texture = roadside.hedge(rng, length, rng.uniform(1.0, 2.2), self.houses * 1.2)
                self._along(texture, sign * (side.boundary + 2), stretch.start, stretch.end, 1.8)
            behind = side.boundary + (0.0 if stretch.kind == "park" else 2.5)
            for z in np.arange(stretch.start + 2, stretch.end - 1, rng.uniform(4, 8)):
                self._tree(trees, sign * (behind + rng.uniform(0, 3)), z + rng.uniform(0, 2))
            if rng.random() < 0.5:
                z = stretch.start + rng.uniform(0, max(1, length - 6))
                x = sign * (side.boundary - 0.6)
                self._along(bush, x, z, min(z + 6, stretch.end), rng.uniform(0.9, 1.4))

    def _tree(self, trees, x, z) -> None:
        texture, width, height = trees[self.rng.integers(len(trees))]
        self.faced.append(Faced(texture, x, z, width, 0.0, height))
        self.shadows.append(Shadow(x, z, (width * 0.4, width * 0.4), 0.35))

    def _end_of_the_street(self) -> None:
        rng = self.rng
        z = self.reach[1] - 1.0
        wood = roadside.hedge(rng, 120, 12, self.houses * 0.35)
        self.panels.append(Panel(wood, (-120, z + 8), (120, z + 8), 0, 9))
        for x in np.arange(-70, 70, 14):
            if rng.random() < 0.65:
                height = rng.uniform(7, 17)
                texture = roadside.house(rng, 14, height, self.houses * 0.4, 0.95)
                self.panels.append(Panel(texture, (x, z), (x + 14, z), 0, height))

    def _post(self, x, z, height, width=0.16) -> None:
        texture = roadside.pole(self.things, height, width)
        self.faced.append(Faced(texture, x, z, width, 0.0, height))
        self.shadows.append(Shadow(x, z, (0.3, 0.3), 0.35))

    def _posts(self, sign: int) -> None:
        """Street lamps and signs."""
        rng, side = self.rng, self.sides[sign]
        first, last = self.reach
        x = sign * (side.edge + 0.45)
        arm = roadside.lamp_arm(self.houses, 2.4)
        for z in np.arange(first + rng.uniform(20, 32), last, rng.uniform(16, 26)):
            self._post(x, z, 7.5, 0.2)
            self.panels.append(Panel(arm, (x, z), (x - sign * 2.4, z), 7.3, 7.6))
        for z in np.arange(rng.uniform(7, 12), last, rng.uniform(9, 16)):
            height = rng.uniform(2.6, 3.1)
            x = sign * (side.edge + rng.uniform(0.35, 0.8))
            self._post(x, z, height, 0.11)
            texture, width, tall = roadside.sign(rng, self.things)
            self.faced.append(
                Faced(texture, x, z - 0.06, width * 1.15, height - tall * 1.15, height)
            )
            if rng.random() < 0.4:
                texture, width, tall = roadside.board(rng, self.things, 0.8, 0.4)
                self.faced.append(
                    Faced(texture, x, z - 0.06, width, height - 1.6, height - 1.6 + tall)
                )

    def _lights(self) -> None:
        """Traffic lights at the crossing, or farther on, and boards over the road."""
        rng = self.rng
        at = [self.crossing + 3.6 if self.crossing else rng.uniform(12, 26)]
        at += list(np.arange(at[0] + rng.uniform(16, 30), self.reach[1] - 20, rng.uniform(30, 50)))
        for z in at:
            texture = roadside.traffic_light(self.things, int(rng.integers(3)))
            for sign in (-1, 1):
                x = sign * (self.sides[sign].edge + 0.4)
                self._post(x, z, 3.6, 0.15)
                self.faced.append(Faced(texture, x, z - 0.09, 0.5, 2.4, 3.7))
                if sign > 0 or rng.random() < 0.4:  # a mast with a second head over the lane
                    over = sign * min(2.0, self.sides[sign].edge - 0.5)
                    self._post(x, z + 0.2, 6.0, 0.2)
                    arm = roadside.pole(self.things, 0.16, abs(x - over))
                    self.panels.append(Panel(arm, (over, z + 0.2), (x, z + 0.2), 5.7, 5.88))
                    self.faced.append(Faced(texture, over, z + 0.1, 0.5, 4.8, 6.1))
        if rng.random() < 0.6:
            z = rng.uniform(18, 40)
            x = self.sides[1].edge + 0.7
            self._post(x, z, 6.2, 0.24)
            arm = roadside.pole(self.things, 0.2, x + 0.5)
            self.panels.append(Panel(arm, (-0.5, z), (x, z), 5.5, 5.7))
            texture, width, height = roadside.board(rng, self.things, 3.2, 1.6)
            self.panels.append(
                Panel(texture, (0.2, z - 0.1), (0.2 + width, z - 0.1), 4.9, 4.9 + height)
            )
