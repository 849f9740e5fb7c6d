"""Files that are there as a whole, or not at all."""

import os
import re
from pathlib import Path

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
