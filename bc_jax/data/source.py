"""A source of frames: what a video file, a folder of images and a camera have in common."""

import dataclasses
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np

OnError = Literal["raise", "stop"]


class TruncatedVideo(ValueError):
    """A source that ends, or cannot be decoded any further, before its last frame.

    Args:
      happened: what was read, and why no more.
      frames_read: frames, counted from the beginning of the file, that could be read.
      usable: how many of them were asked for; where any were, the message says how to use them.
    """

    def __init__(self, happened: str, frames_read: int, usable: int = 0):
        super().__init__(happened + _readable(usable))
        self.happened = happened
        self.frames_read = frames_read


class Labelled(NamedTuple):
    """A frame, and what is known of it."""

    frame: np.ndarray  # uint8 [H, W, 3], RGB
    labels: np.ndarray | None = None  # uint8 [H, W], classes, 255 where a pixel does not count


@dataclasses.dataclass(frozen=True)
class Source:
    """Frames of one video or of many clips; iterating starts anew and yields uint8 RGB [H, W, 3].

    Iterating raises `TruncatedVideo` after the last frame that can be read (it only warns where
    `on_error` is 'stop'), and `ValueError` at a frame whose size is not the first one's where no
    `resize` was asked for. It warns where fewer frames than `frames` come, which a source of known
    `length` says when it is cut with `segment`.
    """

    name: str  # what was opened, for messages
    size: tuple[int, int]  # (H, W) of the frames as they are yielded
    fps: float | None  # frames per second, where known
    length: int | None  # frames that iterating yields, where known
    # decode(skip) yields the frames from frame `skip` on, in their own sizes; as `Labelled` those
    # that have labels
    decode: Callable[[int], Iterator[np.ndarray | Labelled]] = dataclasses.field(repr=False)
    start: int = 0  # first frame, counted in the file
    frames: int | None = None  # at most so many frames; None: all
    resize: tuple[int, int] | None = None  # (H, W) that every frame is resized to
    on_error: OnError = "raise"
    labelled: Literal["all", "last"] | None = None  # which frames of each clip have labels
    clip_frames: int | None = None  # another clip begins after each so many; None: it is one clip
    live: bool = False  # a camera: it has no past, so it cannot be started at a frame

    def __post_init__(self):
        if self.on_error not in ("raise", "stop"):
            raise ValueError(f"on_error is {self.on_error!r}; it can be 'raise' or 'stop'")
        if self.start < 0:
            raise ValueError(f"start is {self.start}; frames are counted from 0")
        if self.live and self.start:
            raise ValueError(f"{self.name} is live: start must be 0, not {self.start}")
        if self.frames is not None and self.frames < 0:
            raise ValueError(f"frames is {self.frames}; it can be None (all) or 0 and more")
        if self.resize is not None and min(self.resize) < 1:
            raise ValueError(f"size is {self.resize}; it is (height, width) in pixels")

    def __iter__(self) -> Iterator[np.ndarray]:
        return (pair.frame for pair in self.pairs())

    def pairs(self) -> Iterator[Labelled]:
        """Iterate over frames with their labels, None where a frame has none."""
        index = self.start
        wanted = None if self.frames is None else self.start + self.frames
        frames = self.decode(self.start)
        try:
            for frame in itertools.islice(frames, self.frames):
                pair = frame if isinstance(frame, Labelled) else Labelled(frame)
                yield self._fitted(pair, index)
                index += 1
            if wanted is not None and index < wanted:
                _warn_of_fewer(self.name, self.start, wanted - self.start, index - self.start)
        except TruncatedVideo as error:
            if self.on_error == "raise":
                raise
            warnings.warn(error.happened, stacklevel=2)
        finally:
            frames.close()

    def segment(self, start: int, frames: int | None = None) -> "Source":
        """The frames from `start` on, at most `frames` of them, counted within this source.

        Args:
          start: >= 0; at most `length` where that is known.
          frames: None for all that are left; where there are fewer, it warns.

        Raises:
          ValueError: start lies beyond the end.
        """
        if self.length is not None and start > self.length:
            raise ValueError(f"start {start} is beyond the end of {self.name}: it has "
                             f"{self.length} frames")  # fmt: skip
        known = self.frames if self.length is None else self.length
        left = None if known is None else max(0, known - start)
        if None not in (frames, left) and frames > left:
            _warn_of_fewer(self.name, self.start + start, frames, left)
            frames = None
        if frames is None and self.frames is not None:
            frames = left
        length = None if self.length is None else left if frames is None else frames
        return dataclasses.replace(self, start=self.start + start, frames=frames, length=length)

    def _fitted(self, pair: Labelled, index: int) -> Labelled:
        size = pair.frame.shape[:2]
        if size == self.size:
            return pair
        if self.resize is None:
            raise ValueError(
                f"{self.name}: frame {index} is {shown(size)} (width x height), the first one "
                f"{shown(self.size)}; resize all frames to one size with size={self.size}, on the "
                f"command line --data.size {self.size[0]} {self.size[1]}"
            )
        labels = None if pair.labels is None else resize_labels(pair.labels, self.resize)
        return Labelled(resize(pair.frame, self.resize), labels)


def _readable(frames: int) -> str:
    """How so many frames before a damaged one are used, as the end of a message."""
    if frames < 1:
        return ""
    return (
        f"; on_error='stop' (or frames={frames}, on the command line --data.frames {frames}) uses "
        "those"
    )


def _warn_of_fewer(name: str, start: int, wanted: int, there: int) -> None:
    warnings.warn(
        f"{name} has {there} frames from frame {start} on, not the {wanted} that were asked for",
        stacklevel=4,
    )


def resize(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize bilinearly, averaging where it shrinks.

    Args:
      frame: uint8 [H, W, 3].
      size: (height, width).

    Returns:
      uint8 [height, width, 3].
    """
    from PIL import Image

    height, width = size
    image = Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image)


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize uint8 [H, W] to `size`, (height, width), each pixel the nearest one's class."""
    rows, columns = (
        (np.arange(to) * 2 + 1) * side // (2 * to)
        for side, to in zip(labels.shape, size, strict=True)
    )
    return labels[rows[:, None], columns]


def shown(size: tuple[int, int]) -> str:
    """(H, W) as people write it: width x height."""
    return f"{size[1]}x{size[0]}"
