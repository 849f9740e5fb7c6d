"""Pictures as PNG files in memory: what TFDS stores as they are, so that it needs no TensorFlow."""

import io

import numpy as np


def png(picture: np.ndarray) -> bytes:
    """uint8 [H, W, 3] or [H, W] as the bytes of a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="png", compress_level=1)
    return file.getvalue()
