"""One function that opens whatever frames can come from."""

import dataclasses
import re
from os import PathLike
from pathlib import Path

from bc_jax.data.folder import open_folder
from bc_jax.data.source import OnError, Source
from bc_jax.data.video import open_camera, open_video

_CLIPS = Path(__file__).parent / "clips"
_POSSIBLE = "give a video file, a folder of images, 'camera:0', 'street:val', 'cityscapes:ROOT/val'"
# What begins so is no path of its own.
_SCHEMES = ("camera:", "street:", "cityscapes:")


def shipped_clips() -> dict[str, Path]:
    """The clips that come with the package: name -> video file; CREDITS.md beside them."""
    return {path.stem: path for path in sorted(_CLIPS.glob("*.mp4"))}


def path_of(spec: str | PathLike) -> Path | None:
    """Where the frames of a spec of `open_source` lie; None where that is no file or folder."""
    if str(spec).startswith(_SCHEMES):
        return None
    clips = shipped_clips()
    return clips[spec] if isinstance(spec, str) and spec in clips else Path(spec).expanduser()


def open_source(
    spec: str | PathLike,
    *,
    size: tuple[int, int] | None = None,
    start: int = 0,
    frames: int | None = None,
    on_error: OnError = "raise",
) -> Source:
    """Open a video file, a folder of images, a camera, a shipped clip or a data set.

    Args:
      spec: a path of a video file or of a folder of images (read in natural order),
        'camera:0' for the first camera (Video4Linux), or the name of a shipped clip such as
        'pedestrians' ('./pedestrians' is a path). 'street:val/0-99?camera=fixed' generates
        clips 0 to 99 of a split, with any fields of `StreetConfig`; 'cityscapes:ROOT/val' reads
        the clips of a split from Cityscapes' own folders.
      size: (height, width) to resize every frame to; None leaves them and insists on one size.
        A street is rendered at that size.
      start: the first frame to yield, counted from 0. Those before it are decoded and dropped,
        since seeking is not exact to the frame in every format.
      frames: at most so many frames; None for all. Where there are fewer, a warning says so.
      on_error: at a frame that cannot be read, 'raise' raises `TruncatedVideo` after the last
        frame that can be; 'stop' ends there with a warning.

    Returns:
      A `Source`: iterate it for uint8 RGB [H, W, 3]; it knows `size`, `fps` and `length`.

    Raises:
      ValueError: the spec leads to nothing that frames can be read from, or start lies beyond
        the end.
      FileNotFoundError: there is no such path.
    """
    if camera := re.fullmatch(r"camera:([0-9]+)", str(spec)):
        source = open_camera(int(camera[1]))
    elif str(spec).startswith("camera:"):
        raise ValueError(f"{str(spec)!r}: a camera is given by its number, such as 'camera:0'")
    elif str(spec).startswith("street:"):
        from bc_jax.data.street.source import open_street

        source = open_street(str(spec), size)
    elif str(spec).startswith("cityscapes:"):
        from bc_jax.data.cityscapes import open_cityscapes

        source = open_cityscapes(str(spec))
    elif not str(spec) or re.match(r"[a-z0-9+]+://", str(spec), re.IGNORECASE):
        what = "an address, and none is read over a network" if str(spec) else "empty"
        raise ValueError(
            f"{str(spec)!r} is {what}; {_POSSIBLE} (frames from elsewhere are given to Runner in "
            "a loop of your own)"
        )
    else:
        source = _open_path(path_of(spec))
    source = dataclasses.replace(source, on_error=on_error, resize=size, size=size or source.size)
    return source.segment(start, frames)


def open_labelled(spec: str, *, size: tuple[int, int] | None = None) -> Source:
    """Open clips with labels; arguments and errors as for `open_source`.

    Raises:
      ValueError: the source has none.
    """
    source = open_source(spec, size=size)
    if not source.labelled or not source.clip_frames:
        raise ValueError(
            f"{spec} has no clips with labels; give one that has, such as 'street:train' or "
            "'cityscapes:ROOT/val'"
        )
    return source


def _open_path(path: Path) -> Source:
    if path.is_dir():
        return open_folder(path)
    if not path.exists():
        raise FileNotFoundError(
            f"there is no file or folder {path}; {_POSSIBLE}, or a clip that comes with the "
            f"package: {', '.join(shipped_clips())}"
        )
    return open_video(path)
