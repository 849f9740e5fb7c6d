"""Labelled frames at random, for training a network: shuffled, cropped, read ahead by processes.

A batch is a function of its number: where iteration stands is one number, and going on from there
gives the same batches bit for bit, whatever the number of processes.
"""

import dataclasses
import math
import signal
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bc_jax.data.labels import IGNORE
from bc_jax.data.opening import open_labelled

_GREY = 114  # of what lies beyond a frame
_PASSES = 10**6  # as good as without end; without one, lengths overflow


class Examples(NamedTuple):
    """A batch to train with."""

    frames: np.ndarray  # uint8 [N, H, W, 3], RGB
    labels: np.ndarray  # uint8 [N, H, W], classes, 255 where a pixel does not count


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How a part of a frame is chosen.

    Raises:
      ValueError: a side or a scale is not positive.
    """

    crop: tuple[int, int]  # (H, W) of what is trained with
    scale: tuple[float, float] = (0.5, 2.0)  # least and most that frames are enlarged by
    flip: bool = True  # half of them are mirrored

    def __post_init__(self):
        if min(self.crop) < 1:
            raise ValueError(f"crop is {self.crop}; it is (height, width) in pixels")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale is {self.scale}; it is the least and the most, above 0")

    def __call__(self, frame, labels, rng: np.random.Generator):
        """Scale, cut out and mirror at random; grey and ignored where that reaches beyond.

        Args:
          frame: uint8 [H, W, 3].
          labels: uint8 [H, W].
          rng: decides.

        Returns:
          uint8 [*crop, 3] and uint8 [*crop].
        """
        from PIL import Image

        factor = math.exp(rng.uniform(*np.log(self.scale)))
        inside, seen = [], []  # along each axis: where in the crop, and which part of the frame
        for side, wanted in zip(labels.shape, self.crop, strict=True):
            window = wanted / factor
            start = rng.uniform(min(0.0, side - window), max(0.0, side - window))
            low, high = max(0.0, start), min(float(side), start + window)
            first, last = round((low - start) * factor), round((high - start) * factor)
            inside.append(slice(first, max(last, first + 1)))
            seen.append((low, high))
        sizes = [part.stop - part.start for part in inside]
        image = Image.fromarray(frame).resize(
            sizes[::-1],
            Image.Resampling.BILINEAR,
            box=(seen[1][0], seen[0][0], seen[1][1], seen[0][1]),
        )
        nearest = [
            np.minimum(low + (np.arange(n) + 0.5) * (high - low) / n, side - 1).astype(int)
            for n, (low, high), side in zip(sizes, seen, labels.shape, strict=True)
        ]
        frames = np.full((*self.crop, 3), _GREY, np.uint8)
        classes = np.full(self.crop, IGNORE, np.uint8)
        frames[tuple(inside)] = np.asarray(image)
        classes[tuple(inside)] = labels[nearest[0][:, None], nearest[1]]
        if self.flip and rng.random() < 0.5:
            frames, classes = frames[:, ::-1], classes[:, ::-1]
        return frames, classes


class TrainingBatches(Iterator[Examples]):
    """Batches without end: in each pass every clip comes once, in another order.

    Args:
      spec: of a source with labels, such as 'street:train' or 'cityscapes:ROOT/train'.
      batch_size: N.
      augmentation: what becomes of each frame.
      size: (H, W) of the frames before that; None: the source's.
      frames_per_clip: frames that are taken of a clip when its turn comes, side by side in one
        batch, where all are labelled; to lay out a generated clip takes longer than to draw it.
      crops_per_frame: parts that are cut out of each of them.
      batches_per_clip: batches in a row that a clip has its turn in, for the same reason; a
        batch's clips are replaced one after the other, not all at once. With more than one
        process, each lays out every clip.
      seed: of the order and of the augmentation.
      workers: processes that read ahead; 0: none. With more, a script needs
        `if __name__ == "__main__":`.
      position: what `position` was; iteration goes on with the batch after it.

    Raises:
      ValueError: the source has no clips with labels, the batch is no multiple of the frames per
        clip, there are too few clips, or the position belongs to other batches.
    """

    def __init__(
        self,
        spec: str,
        batch_size: int,
        augmentation: Augmentation,
        *,
        size: tuple[int, int] | None = None,
        frames_per_clip: int = 1,
        crops_per_frame: int = 1,
        batches_per_clip: int = 1,
        seed: int = 0,
        workers: int = 0,
        position: dict | None = None,
    ):
        try:
            import grain
        except ImportError as error:
            raise ImportError("training batches need grain: pip install grain") from error

        source = open_labelled(spec, size=size)
        if source.labelled == "last" and frames_per_clip > 1:
            raise ValueError(
                f"frames_per_clip is {frames_per_clip}, and {spec} has labels on a clip's last "
                "frame alone: give 1"
            )
        if not 1 <= frames_per_clip <= source.clip_frames:
            raise ValueError(
                f"frames_per_clip is {frames_per_clip}; it can be 1 to {source.clip_frames}"
            )
        of_a_clip = frames_per_clip * crops_per_frame
        if min(of_a_clip, batches_per_clip) < 1 or batch_size % of_a_clip:
            raise ValueError(
                f"frames_per_clip is {frames_per_clip}, crops_per_frame {crops_per_frame} and "
                f"batches_per_clip {batches_per_clip}; each is at least 1, and batch_size, "
                f"{batch_size}, is a multiple of the first two's product"
            )
        clips, together = source.length // source.clip_frames, batch_size // of_a_clip
        if not 1 <= together <= clips:
            raise ValueError(
                f"batch_size {batch_size} takes {together} clips, and {spec} has {clips}"
            )
        self._what = {
            "source": source.name,
            "size": list(source.size),
            "batch_size": batch_size,
            "frames_per_clip": frames_per_clip,
            "crops_per_frame": crops_per_frame,
            "batches_per_clip": batches_per_clip,
            "seed": seed,
            "crop": list(augmentation.crop),
            "scale": list(augmentation.scale),
            "flip": augmentation.flip,
        }
        self._next = 0
        if position is not None:
            if position.get("of") != self._what:
                raise ValueError(
                    f"the position was saved for {position.get('of')}, and these batches are "
                    f"{self._what}"
                )
            self._next = position["batch"]
        sample = _Sample(spec, size, frames_per_clip, crops_per_frame, augmentation)
        order = grain.MapDataset.range(clips).shuffle(seed=seed).repeat(_PASSES)
        dataset = (
            grain.MapDataset.source(_Turns(order, together, batches_per_clip))
            .random_map(sample, seed=seed)
            .batch(together, batch_fn=_joined)
        )
        dataset = dataset.slice(slice(self._next, None))
        # One thread a process: to draw and to decode is work, not waiting.
        reading = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
        ahead = dataset.to_iter_dataset(reading)
        if workers:
            from absl import flags

            if not flags.FLAGS.is_parsed():  # grain looks at its own; scripts here have none
                flags.FLAGS.mark_as_parsed()
            options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
            ahead = ahead.mp_prefetch(options, worker_init_fn=_ignore_interrupts)
        self._batches = iter(ahead)

    @property
    def position(self) -> dict:
        """Where iteration stands, after the batch last returned; holds only what JSON holds."""
        return {"batch": self._next, "of": self._what}

    def __next__(self) -> Examples:
        # Copied: memory that is shared with a process is given back as soon as it is read, for what
        # is still held when Python ends is never given back.
        batch = Examples(*(np.array(part) for part in next(self._batches)))
        self._next += 1
        return batch

    def close(self) -> None:
        """End the processes; there are no batches afterwards."""
        if hasattr(self._batches, "close"):
            self._batches.close()
        self._batches = iter(())


def _ignore_interrupts(process: int, processes: int) -> None:
    """Let whoever reads the batches hear of Ctrl-C, and end the processes."""
    del process, processes
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclasses.dataclass(frozen=True)
class _Turns:
    """Clips in an order, `together` in a batch, each in so many `batches` in a row.

    Slot j of a batch begins j/together of a turn ahead of slot 0, so that the slots' clips change
    one after the other.
    """

    order: Sequence[int]
    together: int
    batches: int

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> int:
        batch, slot = divmod(index, self.together)
        turn = (batch + slot * self.batches // self.together) // self.batches
        return self.order[turn * self.together + slot]


@dataclasses.dataclass(frozen=True)
class _Sample:
    """Takes frames of a clip, given by its number; opens the source where it is called."""

    spec: str
    size: tuple[int, int] | None
    frames: int
    crops: int
    augmentation: Augmentation

    def __call__(self, clip, rng: np.random.Generator) -> Examples:
        source = open_labelled(self.spec, size=self.size)
        times = [source.clip_frames - 1]
        if source.labelled == "all":
            times = sorted(rng.choice(source.clip_frames, self.frames, replace=False))
        taken = []
        for t in times:
            at = int(clip) * source.clip_frames + int(t)
            pair = next(source.segment(at, 1).pairs())
            for _ in range(self.crops):
                taken.append(self.augmentation(pair.frame, pair.labels, rng))
        return Examples(*(np.stack(part) for part in zip(*taken, strict=True)))


def _joined(clips) -> Examples:
    return Examples(*(np.concatenate(part) for part in zip(*clips, strict=True)))
