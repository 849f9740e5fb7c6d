"""What an evaluation leaves in a run's folder, beside what training leaves there."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from bc_jax.data.opening import path_of
from bc_jax.files import alone

# Files, and `views`, a folder; what says what the others are of comes last.
_NAMES = (
    *("views", "video.mp4", "frame.png", "executed.png", "tradeoff.png", "frames.csv"),
    *("table.png", "table.json", "table.md", "results.md", "results.json"),
)
_UNFINISHED = ".evaluation.unfinished"
_PAGE = "report.html"


def check_apart(directory: Path, source: str) -> None:
    """Raise ValueError where frames are read from what an evaluation replaces in a run's folder."""
    path = path_of(source)
    read = path and path.resolve()
    for written in (directory / name for name in _NAMES):
        place = written.resolve()
        if read and (read == place or place in read.parents):
            raise ValueError(
                f"the evaluation would replace {written}, and the frames are read from {path}; "
                "give another --train.directory, or copy the frames elsewhere"
            )


def clear(directory: Path) -> None:
    """Remove an evaluation, and the page that shows it, from a run's folder."""
    for name in (_PAGE, *reversed(_NAMES), _UNFINISHED):
        _remove(directory / name)


@contextlib.contextmanager
def replaced(directory: Path) -> Iterator[Path]:
    """Write an evaluation that takes the place of the one that a run's folder holds.

    Args:
        directory: the run's folder; is made where it is missing.

    Yields:
        An empty folder to write to. What it holds at the end is moved into the run's folder, and
        what an earlier evaluation left there and this one did not write is removed. After an error
        the earlier one is there as it was.

    Raises:
        ValueError: another process is at it.
    """
    unfinished = directory / _UNFINISHED
    busy = f"another evaluation is writing to {directory}; wait for it, or choose another --name"
    with alone(unfinished, otherwise=busy):
        try:
            for left in unfinished.iterdir():  # of a process that was killed
                _remove(left)
            yield unfinished
            for name in _NAMES:
                new, old = unfinished / name, directory / name
                if new.is_dir() or not new.exists():
                    _remove(old)
                if new.exists():
                    os.replace(new, old)
        finally:
            _remove(unfinished)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
