"""Clips of a generated street, frame by frame."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bc_jax.data.street.actor import Actor
from bc_jax.data.street.camera import View
from bc_jax.data.street.pavement import GROUND_CLASSES
from bc_jax.data.street.render import FAR, Picture
from bc_jax.data.street.scene import build
from bc_jax.data.street.settings import SPLITS, StreetConfig
from bc_jax.data.street.texture import channels

_CAMERAS = ("driving", "slow", "fixed")
_SPARE = 1 << 18  # values of noise beyond those that a frame needs


class Box(NamedTuple):
    """Where the pixels of a thing are that are seen."""

    label: int  # its class, 11 (person) to 18 (bicycle)
    track: int  # the thing's number, the same throughout a clip; a rider has its cycle's
    top: int  # rows top to bottom - 1
    left: int  # columns left to right - 1
    bottom: int
    right: int


@dataclasses.dataclass(frozen=True)
class Frame:
    """One frame and the truth about it."""

    image: np.ndarray  # uint8 [H, W, 3], RGB
    labels: np.ndarray  # uint8 [H, W], class 0 to 18 of what is seen
    boxes: tuple[Box, ...]  # of the things that are seen
    # float32 [H, W, 2]: how far right and how far down what is seen moves until the next frame,
    # in pixels, be it seen there or not; None where it was not asked for.
    flow: np.ndarray | None


class Clip:
    """A generated clip: the same for the same config, split and index.

    Iterating yields its frames without flow.

    Args:
      config: what streets are like.
      split: train, val or test: other streets.
      index: which of the split's clips, from 0.

    Raises:
      ValueError: there is no such split or clip.
    """

    def __init__(self, config: StreetConfig, split: str, index: int):
        if split not in SPLITS:
            raise ValueError(f"there is no split {split!r}; there are {', '.join(SPLITS)}")
        if not 0 <= index < SPLITS[split]:
            raise ValueError(
                f"there is no clip {index} in '{split}': it has clips 0 to {SPLITS[split] - 1}"
            )
        self.config, self.split, self.index = config, split, index
        self.camera = config.camera if config.camera != "mixed" else _CAMERAS[index % 3]
        self._seed = (config.seed, tuple(SPLITS).index(split), index)
        self._scene = build(config, self.camera, np.random.default_rng(self._seed))
        self._backdrop: Picture | None = None  # of a fixed camera: what never changes
        owners = len(self._scene.actors) + 1
        self._moves = np.zeros((2, owners), np.float32)  # metres from a frame to the next
        for actor in self._scene.actors:
            self._moves[:, actor.owner] = np.array(actor.speed) / config.fps

    def __len__(self) -> int:
        return self.config.frames

    def __iter__(self) -> Iterator[Frame]:
        return (self.frame(t) for t in range(len(self)))

    def frame(self, index: int, *, flow: bool = False) -> Frame:
        """One frame.

        Args:
          index: 0 to `len(self) - 1`.
          flow: whether optical flow is computed.

        Raises:
          IndexError: there is no such frame.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"there is no frame {index}: the clip has frames 0 to {len(self) - 1}")
        seconds = index / self.config.fps
        view = self._scene.camera.view(seconds)
        picture = self._draw(view, seconds)
        rng = np.random.default_rng((*self._seed, index))
        return Frame(
            image=self._develop(picture, rng),
            labels=channels(picture.texels)[..., 3].copy(),
            boxes=tuple(_boxes(picture, self._scene.actors)),
            flow=self._flow(picture, seconds + 1 / self.config.fps) if flow else None,
        )

    def _draw(self, view: View, seconds: float) -> Picture:
        scene = self._scene
        if self._backdrop is not None:
            picture = self._backdrop.copy()
        else:
            picture = Picture(view, self.config.size)
            picture.sky(scene.sky)
            picture.ground(scene.ground)
            for shadow in scene.shadows:
                picture.shadow(shadow, GROUND_CLASSES)
            for panel in (*scene.panels, *scene.facing(view)):
                picture.panel(panel)
            for actor in scene.actors:
                if not actor.moves:
                    _draw_actor(picture, actor, seconds, scene.camera)
            if self.camera == "fixed":
                self._backdrop = picture.copy()
        moving = [actor for actor in scene.actors if actor.moves]
        for actor in moving:
            picture.shadow(actor.shadow(seconds, scene.camera), GROUND_CLASSES)
        for actor in moving:
            _draw_actor(picture, actor, seconds, scene.camera)
        return picture

    def _develop(self, picture: Picture, rng: np.random.Generator) -> np.ndarray:
        """From what is there to what a camera takes: haze, lens, exposure, noise."""
        config, scene = self.config, self._scene
        colours = channels(picture.texels)[..., :3].astype(np.int16)
        share = 1 - np.exp(picture.depth * np.float32(-1 / scene.haze_distance))
        share[picture.depth >= FAR] = 0
        share = (share * 127).astype(np.int16)[..., None]
        colours += ((scene.haze.astype(np.int16) - colours) * share) >> 7
        colours = _soften(colours)
        exposure = 1 + config.flicker * rng.standard_normal()
        factors = np.clip(scene.grade * exposure * 64, 0, 127).astype(np.int16)
        colours *= factors
        colours >>= 6
        if config.noise:
            noise = _noise(colours.size, config.noise)
            start = int(rng.integers(_SPARE))
            colours += noise[start : start + colours.size].reshape(colours.shape)
        return np.clip(colours, 0, 255, out=colours).astype(np.uint8)

    def _flow(self, picture: Picture, seconds: float) -> np.ndarray:
        """Where what each pixel shows will be at another time, minus where it is."""
        view, later = picture.view, self._scene.camera.view(seconds)
        height, width = self.config.size
        rows = np.arange(height, dtype=np.float32)[:, None] + np.float32(0.5)
        columns = np.arange(width, dtype=np.float32)[None] + np.float32(0.5)
        depth, focal = picture.depth, np.float32(view.focal)
        right = (columns - np.float32(view.centre)) / focal * depth
        sin, cos = np.float32(np.sin(view.yaw)), np.float32(np.cos(view.yaw))
        x = np.float32(view.x) + right * cos + depth * sin + self._moves[0][picture.owner]
        z = np.float32(view.z) + depth * cos - right * sin + self._moves[1][picture.owner]
        below = (rows - np.float32(view.horizon)) / focal * depth
        right, along = later.place(x, z)
        along = np.maximum(along, np.float32(0.1))
        flow = np.empty((height, width, 2), np.float32)
        flow[..., 0] = later.centre + later.focal * right / along - columns
        flow[..., 1] = later.horizon + later.focal * below / along - rows
        return flow


def _draw_actor(picture: Picture, actor: Actor, seconds: float, camera) -> None:
    for panel in actor.panels(seconds, camera, picture.view):
        picture.panel(panel)


def _boxes(picture: Picture, actors: list[Actor]) -> Iterator[Box]:
    labels = channels(picture.texels)[..., 3]
    for actor in actors:
        part = picture.extent(actor.owner)
        if part is None:
            continue
        own = picture.owner[part] == actor.owner
        for label in actor.classes:
            seen = own if len(actor.classes) == 1 else own & (labels[part] == label)
            rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
            if len(rows):
                top, left = part[0].start, part[1].start
                yield Box(
                    label, actor.owner, top + int(rows[0]), left + int(columns[0]),
                    top + int(rows[-1]) + 1, left + int(columns[-1]) + 1,
                )  # fmt: skip


def _soften(colours: np.ndarray) -> np.ndarray:
    """Each pixel blended with its neighbours by 1 2 1 down and across, as a lens does."""
    height, width, _ = colours.shape
    for axis, size in ((0, height), (1, width)):
        blended = colours * np.int16(2)
        ends = [slice(None)] * 2
        for here, there in ((slice(1, None), slice(0, -1)), (slice(0, -1), slice(1, None))):
            ends[axis] = here
            target = blended[tuple(ends)]
            ends[axis] = there
            target += colours[tuple(ends)]
        for edge in (0, size - 1):
            ends[axis] = slice(edge, edge + 1)
            blended[tuple(ends)] += colours[tuple(ends)]
        blended >>= 2
        colours = blended
    return colours


@functools.lru_cache(maxsize=2)
def _noise(values: int, deviation: float) -> np.ndarray:
    """Noise that frames take a stretch of, int16 [values + _SPARE]."""
    drawn = np.random.default_rng(0).standard_normal(values + _SPARE, np.float32)
    return np.rint(drawn * np.float32(deviation)).astype(np.int16)
