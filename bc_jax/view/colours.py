"""Colours of classes that are told apart by all eyes."""

import functools

import numpy as np

# Machado, Oliveira and Fernandes (2009): linear RGB as protanopes and deuteranopes see it.
_SEEN = np.array([
    np.eye(3),
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
     [-0.003882, -0.048116, 1.051998]],
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
     [-0.011820, 0.042940, 0.968881]],
])  # fmt: skip
_TO_XYZ = np.array([
    [0.412456, 0.357576, 0.180438], [0.212673, 0.715152, 0.072175], [0.019334, 0.119192, 0.950304],
])  # fmt: skip
_WHITE = _TO_XYZ.sum(axis=1)


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How different colours are in CIELAB, for the eye that tells them apart least.

    Args:
      a: uint8 [A, 3], sRGB.
      b: uint8 [B, 3], sRGB.

    Returns:
      float [A, B]; 2 is just noticeable.
    """
    each = np.linalg.norm(_lab(a)[:, :, None] - _lab(b)[:, None], axis=-1)
    return each.min(axis=0)


@functools.cache
def distinct(classes: int) -> np.ndarray:
    """Colours that are as different as can be, with and without red-green blindness.

    Args:
      classes: how many; from 1 to 256.

    Returns:
      uint8 [classes, 3]; more classes begin with the colours of fewer.
    """
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    all_ = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    chosen = [np.array([128, 64, 128], np.uint8)]  # the first class is often the road
    nearest = distances(all_, chosen[0][None])[:, 0]
    while len(chosen) < classes:
        chosen.append(all_[nearest.argmax()])
        nearest = np.minimum(nearest, distances(all_, chosen[-1][None])[:, 0])
    return np.array(chosen)


def _lab(colours: np.ndarray) -> np.ndarray:
    """CIELAB [3, N, 3] of sRGB colours, as each kind of eye sees them."""
    encoded = np.asarray(colours, float) / 255
    linear = np.where(encoded > 0.04045, ((encoded + 0.055) / 1.055) ** 2.4, encoded / 12.92)
    seen = np.clip(np.einsum("kij,nj->kni", _SEEN, linear), 0, 1)
    xyz = seen @ _TO_XYZ.T / _WHITE
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)
