"""A folder of images as a video, in the order in which people count."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bc_jax.data.source import Source, TruncatedVideo

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")


def natural_key(name: str) -> tuple:
    """Sort key that compares runs of digits as numbers: img2 before img10.

    Returns:
      A tuple that orders names; names that differ only in leading zeros or in case stay distinct.
    """
    parts = re.split(r"([0-9]+)", name.casefold())
    return (*((int(p), "") if p.isdecimal() else (-1, p) for p in parts if p), (-2, name))


def image_files(folder: Path) -> list[Path]:
    """The images that lie directly in a folder, by `SUFFIXES`, in natural order; no hidden ones.

    Raises:
      ValueError: there is none, or one of them is a link that leads out of the folder.
    """
    root = folder.resolve()
    files = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    ]
    for path in files:
        target = path.resolve()
        if not target.is_relative_to(root):
            raise ValueError(
                f"folder {folder}: {path.name} is a link out of the folder, to {target}; "
                "copy the file, or open the folder that it is in"
            )
    files = [path for path in files if path.is_file()]
    if not files:
        there = len(list(folder.iterdir()))
        raise ValueError(
            f"folder {folder} holds no image: none of its {there} entries is a file that ends in "
            f"{', '.join(SUFFIXES)}"
        )
    return sorted(files, key=lambda path: natural_key(path.name))


def open_folder(folder: Path) -> Source:
    """The images of a folder, one frame each, in natural order.

    Returns:
      The source; its size is the first image's, and its frame rate is not known.

    Raises:
      ValueError: see `image_files`; or the first image cannot be read.
    """
    files = image_files(folder)
    name = f"folder {folder}"

    def decode(skip: int) -> Iterator[np.ndarray]:
        if skip > len(files):
            raise ValueError(f"{name}: start {skip} is beyond its end: it has {len(files)} frames")
        for index in range(skip, len(files)):
            try:
                frame = read_image(files[index])
            except (OSError, SyntaxError) as error:  # Pillow raises both
                raise TruncatedVideo(
                    f"{name}: {files[index].name} cannot be read ({error}): {index} of "
                    f"{len(files)} frames could be read",
                    index,
                    usable=index - skip,
                ) from error
            yield frame

    size = next(decode(0)).shape[:2]
    return Source(name=name, size=size, fps=None, length=len(files), decode=decode)


def read_image(path: Path) -> np.ndarray:
    """An image file as uint8 RGB [H, W, 3], upright; 16-bit grey keeps its upper eight bits."""
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        image.load()
        if image.mode.startswith("I;16"):
            grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
            image = Image.fromarray(grey)
        else:
            image = ImageOps.exif_transpose(image)
        return np.asarray(image.convert("RGB"))
