"""How a network is trained with labels."""

import dataclasses
from typing import Literal

from bc_jax.limits import check_sides
from bc_jax.typed import ConfigError, check_at_least, check_types


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """How the network itself is trained, with labels, from model.weights or from random ones.

    Checkpoints and rows of metrics are written as `train` says, a step counting as a frame.
    """

    # The labelled clips to learn from: "street:train" or "cityscapes:ROOT/train".
    source: str = "street:train"
    # Height and width of the frames before they are scaled and cropped; None keeps the source's.
    size: tuple[int, int] | None = None
    # Steps of the whole run; the learning rate ends at 0 there.
    steps: int = 2000
    # Crops in a step.
    batch_size: int = 8
    # Height and width of a crop.
    crop: tuple[int, int] = (256, 512)
    # Least and most that a frame is enlarged by before it is cropped.
    scale: tuple[float, float] = (0.5, 2.0)
    # Whether half of the crops are mirrored.
    flip: bool = True
    # Frames of a clip in one batch; 1 where only the last one is labelled, as in Cityscapes.
    frames_per_clip: int = 1
    # Crops of a frame in one batch.
    crops_per_frame: int = 1
    # Batches in a row that a clip serves: a generated one takes long to lay out.
    batches_per_clip: int = 1
    # Processes that prepare batches ahead; 0 prepares them between the steps.
    workers: int = 1
    # What moves the parameters; sgd has Nesterov's momentum.
    optimizer: Literal["adamw", "sgd"] = "adamw"
    # The highest learning rate.
    learning_rate: float = 2e-3
    # Steps in which the learning rate rises to it.
    warm_up: int = 100
    # How it falls afterwards: a half cosine, or (1 - t)^0.9.
    schedule: Literal["cosine", "poly"] = "cosine"
    # Decay of the kernels; of nothing else.
    weight_decay: float = 1e-2
    # Momentum of sgd.
    momentum: float = 0.9
    # Share of the old in each step of the weights' running average, which is what is validated
    # and kept; 0 keeps the weights themselves.
    ema: float = 0.998
    # Exponent b of the classes' weights in the loss, frequency^-b: 0 counts every pixel alike, 1
    # every class.
    class_balance: float = 0.0
    # The loss takes one pixel of each square of this side, another one in each step; 2 is faster
    # than 1, which takes all, where the network's classes are coarser anyway.
    loss_stride: int = 1
    # The mIoU is measured after every so many steps, and at the end.
    validate_every: int = 250
    # The labelled clips that it is measured on.
    validation: str = "street:val"
    # Their frames' height and width; None keeps the source's.
    validation_size: tuple[int, int] | None = None
    # How many frames it is measured on along the way: last ones of clips, spread over the source.
    validation_frames: int = 20
    # How many at the end.
    final_frames: int = 100
    # What weights.npz holds; float16 is half the size, and is read back as float32.
    weights_dtype: Literal["float32", "float16"] = "float32"

    def __post_init__(self):
        check_types(self, "task")
        check_at_least(self, "task", 0, "workers", "warm_up", "weight_decay")
        counts = ("steps", "batch_size", "frames_per_clip", "crops_per_frame", "batches_per_clip")
        counts += ("loss_stride", "validate_every", "validation_frames", "final_frames")
        check_at_least(self, "task", 1, *counts)
        check_sides(self, "task", "size", "crop", "validation_size")
        if any(side % self.loss_stride for side in self.crop):
            raise ConfigError(
                f"task.crop {self.crop} has a side that task.loss_stride {self.loss_stride} does "
                "not divide"
            )
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ConfigError(f"task.scale {self.scale} is not the least and the most, above 0")
        if not self.learning_rate > 0:
            raise ConfigError(f"task.learning_rate {self.learning_rate} is not above 0")
        if self.warm_up >= self.steps:
            raise ConfigError(f"task.warm_up {self.warm_up} is not below task.steps {self.steps}")
        for name in ("momentum", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"task.{name} {getattr(self, name)} is not in [0, 1)")
        if not 0 <= self.class_balance <= 1:
            raise ConfigError(f"task.class_balance {self.class_balance} is not in [0, 1]")
