"""How well a network does on labelled frames."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from bc_jax.data import Labelled, crop, open_labelled, pad_to_blocks, padded_size
from bc_jax.data.labels import CLASSES
from bc_jax.evaluation import pixel_classes
from bc_jax.metrics import confusion
from bc_jax.models import Network


def labelled_frames(
    spec: str, number: int, *, size: tuple[int, int] | None = None
) -> Iterator[Labelled]:
    """The last frames of `number` clips, spread evenly over a source, or of all that it has.

    Args:
        spec: of a source with labels, such as 'street:val' or 'cityscapes:ROOT/val'.
        number: of frames.
        size: (H, W) that they are resized to; None leaves them.

    Raises:
        ValueError: the source has no clips with labels.
    """
    source = open_labelled(spec, size=size)
    clips = source.length // source.clip_frames
    for clip in sorted({int((k + 0.5) * clips / number) for k in range(number)}):
        yield next(source.segment((clip + 1) * source.clip_frames - 1, 1).pairs())


class Validation:
    """Compares a network's classes with true labels, at the frames' own resolution.

    Args:
        network: that is run; its parameters are given with each call.
        block: (height, width) that frames are padded to multiples of, as where it is evaluated.
    """

    def __init__(self, network: Network, block: tuple[int, int]):
        self._classes = len(network.class_names)
        self._block = block
        self._predict = jax.jit(
            lambda variables, frames: pixel_classes(
                network.apply_fn(variables, frames), padded_size(frames.shape[1:3], block)
            )
        )

    def __call__(self, variables: Any, frames: Iterator[Labelled] | list[Labelled]) -> np.ndarray:
        """The confusion over frames, int64 [classes, classes].

        Args:
            variables: {'params': ..., 'batch_stats': ...}.
            frames: with labels.
        """
        found = np.zeros((self._classes, self._classes), np.int64)
        for pair in frames:
            padded, _ = pad_to_blocks(pair.frame[None], self._block)
            classes = crop(np.asarray(self._predict(variables, padded)), pair.labels.shape)
            found += confusion(classes, pair.labels[None], classes=self._classes)
        return found


def class_table(ious: np.ndarray) -> str:
    """Each Cityscapes class's intersection over union, in percent, as text.

    Args:
        ious: float [classes], NaN for a class that was nowhere.
    """
    shown = [f"{name:14}{iou:6.1%}" for name, iou in zip(CLASSES, ious, strict=False)]
    return "\n".join(line.replace("nan%", "  -") for line in shown)
