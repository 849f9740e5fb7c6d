"""All that a clip is rendered from: scenery, traffic, ground, sky and light."""

import dataclasses
import math

import numpy as np

from bc_jax.data.street import roadside
from bc_jax.data.street.actor import Actor
from bc_jax.data.street.camera import Path, View
from bc_jax.data.street.pavement import ground
from bc_jax.data.street.render import Ground, Panel, Shadow
from bc_jax.data.street.scenery import Faced, Scenery
from bc_jax.data.street.settings import StreetConfig
from bc_jax.data.street.traffic import Traffic


@dataclasses.dataclass(frozen=True)
class Scene:
    """All that a clip is rendered from."""

    camera: Path
    ground: Ground
    sky: np.ndarray  # texels
    panels: list[Panel]  # what stands still
    faced: list[Faced]
    actors: list[Actor]
    shadows: list[Shadow]  # of what stands still
    haze: np.ndarray  # colour, float32 [3]
    haze_distance: float  # metres
    grade: np.ndarray  # factors of red, green, blue, float32 [3]

    def facing(self, view: View) -> list[Panel]:
        """Trees, posts and plates, turned to the camera."""
        cos, sin = math.cos(view.yaw) / 2, math.sin(view.yaw) / 2
        return [
            Panel(texture, (x - w * cos, z + w * sin), (x + w * cos, z - w * sin), low, high)
            for texture, x, z, w, low, high in self.faced
        ]


def build(config: StreetConfig, camera: str, rng: np.random.Generator) -> Scene:
    """Lay out a street.

    Args:
      config: says how big frames are and how much moves.
      camera: driving, slow or fixed.
      rng: decides the rest.
    """
    scenery = Scenery(config, camera, rng)
    actors = Traffic(config, scenery, rng).actors
    haze = np.array((206, 212, 220)) * rng.uniform(0.88, 1.04)
    cover = rng.uniform(0.1, 0.6) if scenery.sun else rng.uniform(0.75, 1.0)
    blue = np.array((92, 136, 196)) * (1 - 0.3 * cover) + 60 * 0.3 * cover
    above = max(8, round(config.size[0] * 0.56)), round(config.size[1] * 2.2)
    return Scene(
        camera=scenery.path,
        ground=ground(
            rng,
            scenery.sides,
            scenery.stretches,
            scenery.reach,
            scenery.detail,
            crossing=scenery.crossing,
            sun=scenery.sun,
        ),
        sky=roadside.panorama(rng, above, haze, blue, cover),
        panels=scenery.panels,
        faced=scenery.faced,
        actors=actors,
        shadows=scenery.shadows + [a.shadow(0, scenery.path) for a in actors if not a.moves],
        haze=haze.astype(np.float32),
        haze_distance=rng.uniform(160, 420),
        grade=(rng.uniform(0.86, 1.08) * rng.uniform(0.97, 1.03, 3)).astype(np.float32),
    )
