"""Cityscapes' video clips, read from its own folders, and a check of what is there.

    python -m bc_jax.data.cityscapes ROOT [--split val] [--full]

The layout is the official one:

    ROOT/leftImg8bit_sequence/SPLIT/CITY/CITY_SSSSSS_FFFFFF_leftImg8bit.png
    ROOT/gtFine/SPLIT/CITY/CITY_SSSSSS_FFFFFF_gtFine_labelIds.png

A snippet has 30 frames, the 20th of which is labelled; a clip is the 20 frames that end there.
"""

import argparse
import dataclasses
import re
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bc_jax.data.folder import read_image
from bc_jax.data.labels import TRAIN_IDS
from bc_jax.data.source import Labelled, Source, TruncatedVideo, shown

SPLITS = ("train", "val", "test")
CLIP_FRAMES = 20
SNIPPET_FRAMES = 30
SIZE = (1024, 2048)
_IMAGES, _LABELS = "leftImg8bit_sequence", "gtFine"
_NAME = re.compile(r"(.+)_([0-9]{6})_([0-9]{6})_(leftImg8bit|gtFine_labelIds)\.png")
_SIGNATURE, _END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"


@dataclasses.dataclass(frozen=True)
class CityscapesClip:
    """One clip: its frames, of which the last one may have labels."""

    name: str  # CITY_SSSSSS_FFFFFF of its last frame
    frames: tuple[Path, ...]
    labels: Path | None  # None: the split's labels are not there


@dataclasses.dataclass(frozen=True)
class Problem:
    """A file that is not as it should be."""

    path: Path
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


def clips(root: str | Path, split: str) -> list[CityscapesClip]:
    """The clips of a split, in the order of their names; the files need not all be there.

    With labels, a clip ends at each labelled frame. Where gtFine has no such split, the snippets
    are found by counting frames.

    Raises:
      ValueError: there is no such split, or the folder does not hold it.
    """
    root = Path(root).expanduser()
    if split not in SPLITS:
        raise ValueError(f"Cityscapes has no split {split!r}; it has {', '.join(SPLITS)}")
    images, truth = root / _IMAGES / split, root / _LABELS / split
    if not images.is_dir():
        raise ValueError(
            f"{root} holds no Cityscapes clips: there is no folder {images}; unpack "
            f"{_IMAGES}_trainvaltest.zip there"
        )
    labelled = truth.is_dir()
    if labelled:
        ends = [place for place in _places(truth) if place[3] == "gtFine_labelIds"]
    else:
        ends = list(_snippet_ends([p for p in _places(images) if p[3] == "leftImg8bit"]))
    if not ends:
        raise ValueError(f"{truth if labelled else images} holds no file of Cityscapes")
    found = []
    for city, sequence, last, _ in ends:
        numbers = range(last - CLIP_FRAMES + 1, last + 1)
        stem = f"{city}_{sequence:06d}"
        frames = (images / city / f"{stem}_{n:06d}_leftImg8bit.png" for n in numbers)
        label = truth / city / f"{stem}_{last:06d}_gtFine_labelIds.png" if labelled else None
        found.append(CityscapesClip(f"{stem}_{last:06d}", tuple(frames), label))
    return found


def check(
    root: str | Path,
    splits: Sequence[str] = SPLITS,
    *,
    size: tuple[int, int] = SIZE,
    full: bool = False,
) -> list[Problem]:
    """Look at every file that clips of these splits are read from.

    Args:
      root: the folder that holds leftImg8bit_sequence and gtFine.
      splits: which; those without a folder are problems themselves.
      size: (H, W) that every file must have.
      full: decode every file; else its beginning and its end are looked at, which finds files that
        were cut off, and takes minutes for all of Cityscapes.

    Returns:
      What is missing, cut off, damaged, of another size or kind of picture; empty: all is well.
    """
    problems = []
    for split in splits:
        try:
            found = clips(root, split)
        except ValueError as error:
            problems.append(Problem(Path(root), str(error)))
            continue
        for clip in found:
            for path in clip.frames:
                problems += _problem(path, size, colour_type=2, full=full)
            if clip.labels is not None:
                problems += _problem(clip.labels, size, colour_type=0, full=full)
    return problems


def read_labels(path: Path) -> np.ndarray:
    """A *_gtFine_labelIds.png as training numbers, uint8 [H, W], 255 where a pixel is ignored."""
    from PIL import Image

    with Image.open(path) as image:
        return TRAIN_IDS[np.asarray(image.convert("L"))]


def open_cityscapes(spec: str) -> Source:
    """The clips of a split as a source; the last frame of each has labels where gtFine is there.

    Args:
      spec: 'cityscapes:ROOT/SPLIT'.

    Raises:
      ValueError: the folder does not hold the split, or files are missing; the message says which.
    """
    root, _, split = spec.removeprefix("cityscapes:").rstrip("/").rpartition("/")
    if not root or split not in SPLITS:
        raise ValueError(
            f"{spec!r} is no split of Cityscapes; give 'cityscapes:ROOT/val' (or train, test), "
            f"ROOT the folder that holds {_IMAGES}"
        )
    found = clips(root, split)
    missing = [path for clip in found for path in clip.frames if not path.is_file()]
    if missing:
        raise ValueError(
            f"{spec}: {len(missing)} of {len(found) * CLIP_FRAMES} frames are missing, the first "
            f"is {missing[0]}; python -m bc_jax.data.cityscapes {root} --split {split} lists all "
            "that is wrong"
        )

    def decode(skip: int) -> Iterator[Labelled]:
        if skip > len(found) * CLIP_FRAMES:
            raise ValueError(
                f"{spec}: start {skip} is beyond its end: it has {len(found) * CLIP_FRAMES} frames"
            )
        for at in range(skip, len(found) * CLIP_FRAMES):
            clip, t = found[at // CLIP_FRAMES], at % CLIP_FRAMES
            last = t == CLIP_FRAMES - 1
            try:
                yield Labelled(
                    read_image(clip.frames[t]),
                    read_labels(clip.labels) if last and clip.labels is not None else None,
                )
            except (OSError, SyntaxError) as error:
                raise TruncatedVideo(
                    f"{spec}: {clip.frames[t].name} or its labels cannot be read ({error}): {at} "
                    "frames could be read; python -m bc_jax.data.cityscapes lists what is wrong",
                    at,
                ) from error

    return Source(
        name=f"cityscapes {split}",
        size=read_image(found[0].frames[0]).shape[:2],
        fps=17.0,
        length=len(found) * CLIP_FRAMES,
        decode=decode,
        labelled=found[0].labels is not None,
        clip_frames=CLIP_FRAMES,
    )


def _places(folder: Path) -> Iterator[tuple[str, int, int, str]]:
    """(city, sequence, frame, kind) of the files in a split's folder, in order."""
    found = []
    for city in folder.iterdir():
        for path in city.iterdir() if city.is_dir() else ():
            name = _NAME.fullmatch(path.name)
            if name and name[1] == city.name:
                found.append((name[1], int(name[2]), int(name[3]), name[4]))
    return iter(sorted(found))


def _snippet_ends(places) -> Iterator[tuple[str, int, int, str]]:
    """The 20th frame of each 30 that follow one another."""
    begun = None
    for city, sequence, frame, kind in places:
        if begun is None or begun[:2] != (city, sequence) or frame >= begun[2] + SNIPPET_FRAMES:
            begun = (city, sequence, frame)
            yield city, sequence, frame + CLIP_FRAMES - 1, kind


def _problem(path: Path, size, *, colour_type: int, full: bool) -> list[Problem]:
    """What is wrong with a PNG file: nothing, or one thing."""
    if not path.is_file():
        return [Problem(path, "is missing")]
    try:
        with path.open("rb") as file:
            head = file.read(33)
            length = file.seek(0, 2)
            file.seek(max(0, length - len(_END)))
            tail = file.read()
    except OSError as error:
        return [Problem(path, f"cannot be read ({error})")]
    if head[:8] != _SIGNATURE or head[12:16] != b"IHDR" or len(head) < 33:
        return [Problem(path, f"is no PNG file ({length} bytes)")]
    width, height, bits, colour = struct.unpack(">IIBB", head[16:26])
    if (height, width) != tuple(size):
        return [Problem(path, f"is {shown((height, width))} (width x height), not {shown(size)}")]
    if (bits, colour) != (8, colour_type):
        kind = "RGB" if colour_type == 2 else "grey"
        return [Problem(path, f"is no 8-bit {kind} picture: PNG type {colour}, {bits} bits")]
    if tail != _END:
        return [Problem(path, f"is cut off after {length} bytes")]
    if full:
        try:
            read_image(path)
        except (OSError, SyntaxError) as error:
            return [Problem(path, f"is damaged ({error})")]
    return []


def main(argv: Sequence[str] | None = None) -> int:
    """Check a tree and list what is wrong; the exit code is 1 where something is."""
    parser = argparse.ArgumentParser(
        prog="python -m bc_jax.data.cityscapes", description=check.__doc__.splitlines()[0]
    )
    parser.add_argument("root", help=f"the folder that holds {_IMAGES} and {_LABELS}")
    parser.add_argument("--split", choices=SPLITS, action="append", help="only this one")
    parser.add_argument("--size", type=int, nargs=2, default=SIZE, help="height and width")
    parser.add_argument("--full", action="store_true", help="decode every file")
    given = parser.parse_args(argv)
    splits = given.split or SPLITS
    problems = check(given.root, splits, size=tuple(given.size), full=given.full)
    for problem in problems:
        print(problem)
    if problems:
        print(f"{len(problems)} problems", file=sys.stderr)
        return 1
    for split in splits:
        found = clips(given.root, split)
        labels = sum(clip.labels is not None for clip in found)
        print(
            f"{split}: {len(found)} clips of {CLIP_FRAMES} frames, {labels} with labels: all well"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
