"""Where the camera is in each frame, and how points of the street come to be seen."""

import dataclasses
import math

import numpy as np

NEAR = 0.6  # metres; nothing nearer is drawn


@dataclasses.dataclass(frozen=True)
class View:
    """A camera at one moment: x to the right, y up, z along the street, in metres."""

    x: float
    z: float
    height: float  # above the road
    yaw: float  # radians, to the right
    focal: float  # pixels
    centre: float  # column of the optical axis
    horizon: float  # row of the horizon

    def place(self, x, z):
        """Points of the ground plan as (to the right of the axis, along the axis)."""
        sin, cos = math.sin(self.yaw), math.cos(self.yaw)
        return (x - self.x) * cos - (z - self.z) * sin, (x - self.x) * sin + (z - self.z) * cos

    def ground(self, rows, columns):
        """Where the rays of pixels meet the road: depth of each row, x and z of each pixel.

        Args:
          rows: float32 [h, 1], below the horizon.
          columns: float32 [1, w].
        """
        sin, cos = np.float32(math.sin(self.yaw)), np.float32(math.cos(self.yaw))
        depth = np.float32(self.focal * self.height) / (rows - np.float32(self.horizon))
        across = (columns - np.float32(self.centre)) / np.float32(self.focal)
        x = np.float32(self.x) + depth * (across * cos + sin)
        z = np.float32(self.z) + depth * (cos - across * sin)
        return depth, x, z


@dataclasses.dataclass(frozen=True)
class Path:
    """A camera's way through a clip; `view(seconds)` is the camera at a time."""

    x: float
    height: float
    speed: float  # metres per second
    yaw: float  # radians, at rest
    pan: float  # radians that it swings to each side
    pan_rate: float  # radians of the swing's phase per second
    sway: float  # metres to each side
    bounce: float  # how much the horizon moves, as a share of the frame's height
    phase: float
    size: tuple[int, int]

    def view(self, seconds: float) -> View:
        """The camera after so many seconds."""
        height, width = self.size
        swing = self.phase + self.pan_rate * seconds
        # Sums of a few sines: smooth, and without a period that shows.
        bounce = math.sin(9 * seconds + self.phase) + 0.6 * math.sin(23 * seconds + 2 * self.phase)
        return View(
            x=self.x + self.sway * math.sin(0.7 * seconds + self.phase),
            z=self.speed * seconds,
            height=self.height,
            yaw=self.yaw + self.pan * math.sin(swing),
            focal=0.95 * width,
            centre=width / 2,
            horizon=height * (0.44 + self.bounce * bounce),
        )
