"""Files that are there as a whole, or not at all, and folders that one process writes to."""

import contextlib
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # a system without such locks
    fcntl = None

# What a process that was killed while it wrote has left.
UNFINISHED = re.compile(r"\..+\.\d+\.unfinished")


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step: whoever looks sees the old one or all of the new one.

    That holds after a loss of power too; what is written has reached the disk on return.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def checksums(folder: Path) -> dict[str, int]:
    """The CRC-32 of each file in and below a folder, by its place there; none where it is gone."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        crc32 = 0
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                crc32 = zlib.crc32(part, crc32)
        found[path.relative_to(folder).as_posix()] = crc32
    return found


@contextlib.contextmanager
def alone(folder: Path, *, otherwise: str) -> Iterator[None]:
    """Hold a folder against other processes; a process that ends in any way no longer holds it.

    Args:
        folder: is made where it is missing, and goes again where nothing was written to it.
        otherwise: what the error says.

    Raises:
        ValueError: another process holds it, or it is a file.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise ValueError(f"{folder} is a file, and a folder is to be there") from error
    held = os.open(folder, os.O_RDONLY)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(otherwise) from None
            except OSError:  # a file system without locks
                pass
        yield
    finally:
        os.close(held)
        with contextlib.suppress(OSError):  # it has been written to
            for path in made:
                path.rmdir()
