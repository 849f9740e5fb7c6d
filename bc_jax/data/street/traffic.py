"""What moves through a street, and what is parked in it."""

import math

import numpy as np

from bc_jax.data.street import people, vehicles
from bc_jax.data.street.actor import SIGHT, Actor
from bc_jax.data.street.pavement import LANE, PARKING
from bc_jax.data.street.scenery import Scenery
from bc_jax.data.street.settings import StreetConfig


class Traffic:
    """People and vehicles put into a street at random; `actors` lists them.

    Args:
      config: how much moves, and how fast.
      scenery: that they move through.
      rng: decides the rest.
    """

    def __init__(self, config: StreetConfig, scenery: Scenery, rng: np.random.Generator):
        self.config, self.scenery, self.rng = config, scenery, rng
        self.actors: list[Actor] = []
        for sign in (-1, 1):
            self._parked(sign)
            self._walkers(sign)
        self._lanes()
        self._crossing_walkers()

    def _add(self, **fields) -> None:
        self.actors.append(Actor(owner=len(self.actors) + 1, **fields))

    def _vehicle(self, kind: str, x, z, speed=0.0, heading=0.0) -> None:
        body = getattr(vehicles, kind)(self.rng, self.scenery.things)
        height = max(wall.height for wall in body.walls)
        self._add(
            classes=(body.label,), x=x, z=z, speed=(0.0, speed), heading=heading, body=body,
            measures=(body.length, body.width, height),
        )  # fmt: skip

    def _cycle(self, kind: str, x, z, speed=(0.0, 0.0), heading=0.0) -> None:
        ridden = speed != (0.0, 0.0)
        make = people.bicycle if kind == "bicycle" else people.motorcycle
        sides, rears, measures = make(self.rng, self.scenery.things, ridden)
        own = people.BICYCLE if kind == "bicycle" else people.MOTORCYCLE
        self._add(
            classes=(own, people.RIDER) if ridden else (own,), x=x, z=z, speed=speed,
            heading=heading, sides=sides, rears=rears, measures=measures,
        )  # fmt: skip

    def _walker(self, x, z, speed) -> None:
        pictures, height = people.pedestrian(self.rng, self.scenery.things * 1.5)
        self._add(
            classes=(people.PERSON,), x=x, z=z, speed=speed, heading=0.0, pictures=pictures,
            measures=(0.5, height / 1.8, height),
        )  # fmt: skip

    def _parked(self, sign: int) -> None:
        rng, side = self.rng, self.scenery.sides[sign]
        clear = 11.0 if sign > 0 and self.scenery.kind != "driving" else 4.0
        heading = 0.0 if sign > 0 else math.pi
        last = min(
            self.scenery.reach[1],
            75 + self.scenery.path.speed * self.config.frames / self.config.fps,
        )
        if side.parking:
            for z in np.arange(-6 + 2.9, last, 6):
                if z > clear and rng.random() < 0.6:
                    x = sign * (side.edge - PARKING / 2 + rng.uniform(-0.1, 0.1))
                    self._vehicle("car", x, z, heading=heading)
        for kind, chance in (("bicycle", 0.8), ("motorcycle", 0.55)):
            if rng.random() > chance:
                continue
            z = rng.uniform(9, 26)
            for _ in range(int(rng.integers(1, 4))):
                x = sign * (side.verge - rng.uniform(0.3, 0.6))
                turned = rng.random() < 0.5  # across the pavement, else along it
                self._cycle(kind, x, z, heading=sign * math.pi / 2 if turned else heading)
                z += 0.9 if turned else 2.2

    def _clear(self, sign: int) -> float:
        """How far from the middle of the road people walk: not into the camera."""
        return self.scenery.sides[sign].edge + (
            1.6 if sign > 0 and self.scenery.kind != "driving" else 0.5
        )

    def _walkers(self, sign: int) -> None:
        rng, side, config = self.rng, self.scenery.sides[sign], self.config
        for z in np.arange(rng.uniform(-10, 0), 75, 8.5 / max(config.traffic, 1e-3)):
            speed = rng.uniform(1.0, 1.7) * rng.choice((-1, 1)) * config.speed
            z = z + rng.uniform(0, 5)
            for k in range(int(rng.integers(1, 4)) if rng.random() < 0.35 else 1):
                x = sign * rng.uniform(self._clear(sign), side.verge - 0.3)
                self._walker(x, z + 0.5 * k, (0.0, speed))
        for _ in range(int(rng.integers(0, 3))):  # who stands and waits
            x = sign * rng.uniform(self._clear(sign), side.verge - 0.3)
            self._walker(x, rng.uniform(8, 30), (0.0, 0.0))

    def _crossing_walkers(self) -> None:
        rng, config, crossing = self.rng, self.config, self.scenery.crossing
        for _ in range(round(rng.integers(1, 5) * config.traffic)):
            z = (crossing if crossing else rng.uniform(12, 30)) + rng.uniform(0.3, 2.7)
            speed = rng.uniform(1.0, 1.8) * rng.choice((-1, 1)) * config.speed
            self._walker(rng.uniform(-10, 10), z, (speed, 0.0))
        if rng.random() < 0.35 and config.traffic:
            sign = int(rng.choice((-1, 1)))
            speed = sign * rng.uniform(3, 5) * config.speed
            self._cycle("bicycle", -sign * rng.uniform(0, 8), rng.uniform(12, 24), (speed, 0.0),
                        sign * math.pi / 2)  # fmt: skip

    def _lanes(self) -> None:
        """What drives in the lanes, on the track and along the kerbs."""
        rng, config = self.rng, self.config
        driving = self.scenery.kind == "driving"
        if not config.traffic:
            return
        rare = [k for k, share in (("bus", 0.6), ("truck", 0.6)) if rng.random() < share]
        rng.shuffle(rare)
        for sign in (1, -1):
            own = driving and sign > 0
            # One speed for a lane, so that nobody runs into another; at times all stand.
            speed = rng.uniform(5, 10) * config.speed
            if own:
                speed = self.scenery.path.speed * rng.uniform(1.0, 1.08)
            elif rng.random() < 0.2:
                speed = 0.0
            z = rng.uniform(10, 15) if own or sign > 0 else rng.uniform(4, 14)
            special = [rare.pop()] if rare and not own else []
            if own and rare and rng.random() < 0.5:
                special = [rare.pop()]
            while z < SIGHT - 45:
                kind = "car"
                if special and z > 8:
                    kind = special.pop()
                elif rng.random() < 0.16:
                    kind = "motorcycle"
                half = {"car": 2.5, "motorcycle": 1.5, "truck": 4.8, "bus": 6.3}[kind]
                z += half
                x = sign * (LANE / 2 + rng.uniform(-0.15, 0.15))
                heading = 0.0 if sign > 0 else math.pi
                if kind == "motorcycle":
                    going = (0.0, sign * max(speed, 0.5))
                    self._cycle(kind, x + sign * 0.5, z, going, heading)
                else:
                    self._vehicle(kind, x, z, sign * speed, heading)
                z += half + rng.uniform(5, 20) / min(config.traffic, 2)
        if self.scenery.sides[-1].track and rng.random() < 0.85:
            sign = int(rng.choice((-1, 1)))
            speed = sign * rng.uniform(4, 8) * config.speed if rng.random() < 0.75 else 0.0
            self._vehicle("train", -(LANE + 1.7), rng.uniform(22, 40), speed,
                          0.0 if sign > 0 else math.pi)  # fmt: skip
        for sign in (-1, 1):
            for kind, chance, pace in (("bicycle", 0.75, (3, 5.5)), ("motorcycle", 0.3, (5, 9))):
                if rng.random() < chance:
                    side = self.scenery.sides[sign]
                    x = sign * (side.edge - PARKING * side.parking - 0.55)
                    going = (0.0, sign * rng.uniform(*pace) * max(config.speed, 0.1))
                    self._cycle(kind, x, rng.uniform(7, 22), going, 0.0 if sign > 0 else math.pi)
