"""What a generated street is like: size, camera, traffic, noise."""

import dataclasses
from typing import Literal, get_args

Camera = Literal["mixed", "driving", "slow", "fixed"]
# As many clips as Cityscapes has labelled frames.
SPLITS = {"train": 2975, "val": 500, "test": 1525}


@dataclasses.dataclass(frozen=True)
class StreetConfig:
    """Size and difficulty of the generated clips; the defaults are like Cityscapes, at half size.

    Raises:
      ValueError: a field is outside its range; the message says which it is.
    """

    size: tuple[int, int] = (512, 1024)  # (H, W) of the frames, 16 to 1024 x 16 to 2048
    frames: int = 20  # of a clip, at least 1; the last one stands for Cityscapes' labelled one
    camera: Camera = "mixed"  # how the camera moves; mixed: every third clip alike
    traffic: float = 1.0  # how many things move, as a multiple; 0: nothing does
    speed: float = 1.0  # how fast they do, as a multiple; the driving camera's speed as well
    noise: float = 2.0  # standard deviation of the sensor's noise, of 255 levels
    flicker: float = 0.01  # standard deviation of a frame's exposure, as a share
    fps: float = 17.0  # frames per second
    seed: int = 0  # another one gives another data set

    def __post_init__(self):
        height, width = self.size
        if not (16 <= height <= 1024 and 16 <= width <= 2048):
            raise ValueError(
                f"size is {tuple(self.size)}: (height, width) can be 16 x 16 to 1024 x 2048"
            )
        if self.camera not in get_args(Camera):
            raise ValueError(f"camera is {self.camera!r}; it can be {', '.join(get_args(Camera))}")
        for name, least, most in (
            *(("frames", 1, 10_000), ("traffic", 0, 4), ("speed", 0, 4), ("noise", 0, 64)),
            *(("flicker", 0, 1), ("fps", 1, 1000), ("seed", 0, 2**31)),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"{name} is {value}; it can be {least} to {most}")
