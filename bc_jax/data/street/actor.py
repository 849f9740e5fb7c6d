"""Things that have boxes and may move: where they are, and the panels that they consist of."""

import dataclasses
import math

from bc_jax.data.street import people, vehicles
from bc_jax.data.street.camera import Path, View
from bc_jax.data.street.render import Panel, Shadow
from bc_jax.data.street.texture import Texture

SIGHT = 130.0  # metres ahead that the street is seen
_BEHIND = 30.0  # metres behind the camera in which things go on moving
_PACE = 1.5  # metres that a walker goes in one step of both legs


@dataclasses.dataclass(frozen=True)
class Actor:
    """A thing that has boxes and may move.

    Attributes:
      owner: its number, from 1.
      classes: whose pixels it consists of, the thing itself first.
      x, z: the middle of its ground plan at time 0, in metres.
      speed: (along x, along z), metres per second.
      heading: radians from +z to the right.
      body: its faces, or None where it is a picture that turns to the camera.
      pictures: of a figure that turns to the camera.
      sides, rears: of a cycle: pictures along it and across it.
      measures: length, width and height.
    """

    owner: int
    classes: tuple[int, ...]
    x: float
    z: float
    speed: tuple[float, float]
    heading: float
    measures: tuple[float, float, float]
    body: vehicles.Body | None = None
    pictures: tuple[Texture, ...] = ()
    sides: tuple[Texture, ...] = ()
    rears: tuple[Texture, ...] = ()

    @property
    def moves(self) -> bool:
        """Whether it ever does."""
        return self.speed != (0.0, 0.0)

    def place(self, seconds: float, camera: Path) -> tuple[float, float]:
        """Where it is: what has left the street at one end enters it at the other."""
        x, z = self.x + self.speed[0] * seconds, self.z + self.speed[1] * seconds
        if self.speed[1]:
            low = camera.speed * seconds - _BEHIND
            z = low + (z - low) % (SIGHT + _BEHIND - 10)
        if self.speed[0]:
            x = (x + 15) % 30 - 15
        return x, z

    def panels(self, seconds: float, camera: Path, view: View) -> list[Panel]:
        """Its faces as the camera sees them."""
        x, z = self.place(seconds, camera)
        if z - view.z > SIGHT - 12:  # beyond the end of the street
            return []
        length, width, height = self.measures
        if self.body is not None:
            return [
                self._upright(wall.texture, wall.start, wall.end, x, z, wall.height)
                for wall in self.body.walls
            ]
        went = math.hypot(*self.speed) * seconds + 0.37 * self.owner
        step = int(went / _PACE * people.PHASES) % people.PHASES
        if self.pictures:
            # Turned to the camera, and mirrored where it walks to the camera's left.
            a = width / 2 * (-1 if self.speed[0] < 0 or self.owner % 2 else 1)
            cos, sin = a * math.cos(view.yaw), a * math.sin(view.yaw)
            texture = self.pictures[step % len(self.pictures)]
            return [Panel(texture, (x - cos, z + sin), (x + cos, z - sin), 0, height, self.owner)]
        side, rear = (p[step % len(p)] for p in (self.sides, self.rears))
        a, b = length / 2, width / 2
        return [
            self._upright(side, (0, -a), (0, a), x, z, height),
            self._upright(rear, (-b, -0.2), (b, -0.2), x, z, height),
        ]

    def shadow(self, seconds: float, camera: Path) -> Shadow:
        """The dark patch under it."""
        x, z = self.place(seconds, camera)
        length, width, _ = self.measures
        if abs(math.sin(self.heading)) > 0.7:
            length, width = width, length
        return Shadow(x, z, (width * 0.66 + 0.12, length * 0.6 + 0.12))

    def _upright(self, texture, start, end, x, z, height) -> Panel:
        cos, sin = math.cos(self.heading), math.sin(self.heading)
        ends = [(x + r * cos + a * sin, z - r * sin + a * cos) for r, a in (start, end)]
        return Panel(texture, *ends, 0, height, self.owner)
