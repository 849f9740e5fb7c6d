"""Frames padded to whole blocks, predictions cropped back."""

import numpy as np


def padded_size(size: tuple[int, int], block_size: int | tuple[int, int]) -> tuple[int, int]:
    """The smallest (H', W') that holds (H, W) and is a multiple of the block.

    Raises:
      ValueError: a side of the block, or of the frame, is not positive.
    """
    block = (block_size, block_size) if isinstance(block_size, int) else tuple(block_size)
    if len(block) != 2 or min(block) < 1:
        raise ValueError(f"block_size is {block_size}; it is one side, or (height, width)")
    if min(size) < 1:
        raise ValueError(f"the frame is empty: its (height, width) is {tuple(size)}")
    return tuple(-(-side // b) * b for side, b in zip(size, block, strict=True))


def pad_to_blocks(
    frames: np.ndarray, block_size: int | tuple[int, int]
) -> tuple[np.ndarray, tuple[int, int]]:
    """Pad below and on the right with the edge's pixels, up to whole blocks.

    Args:
      frames: [..., H, W, C], any dtype.
      block_size: a block's side, or (height, width).

    Returns:
      Frames [..., H', W', C], the very array that was given where nothing is missing; and the
      size (H, W) to give to `crop`.

    Raises:
      ValueError: frames have fewer than three axes, or no pixels; or see `padded_size`.
    """
    if np.ndim(frames) < 3:
        raise ValueError(f"frames have shape {np.shape(frames)}; they are [..., H, W, C]")
    size = frames.shape[-3], frames.shape[-2]
    padded = padded_size(size, block_size)
    if padded == size:
        return frames, size
    below, right = padded[0] - size[0], padded[1] - size[1]
    widths = [(0, 0)] * (frames.ndim - 3) + [(0, below), (0, right), (0, 0)]
    return np.pad(frames, widths, mode="edge"), size


def crop(prediction, size: tuple[int, int], stride: int = 1, *, axes: tuple[int, int] = (1, 2)):
    """Cut a prediction on padded frames back to the frame: the inverse of `pad_to_blocks`.

    Args:
      prediction: array (NumPy or JAX) [N, H'/stride, W'/stride, ...]; padded frames themselves
        with stride 1.
      size: (H, W) as `pad_to_blocks` returned it.
      stride: pixels of the frame per pixel of the prediction.
      axes: the axes of height and width; (0, 1) for a prediction without a batch axis.

    Returns:
      A view [N, ceil(H/stride), ceil(W/stride), ...].

    Raises:
      ValueError: the prediction is smaller than that.
    """
    cut = [slice(None)] * prediction.ndim
    for axis, side in zip(axes, size, strict=True):
        kept = -(-side // stride)
        if prediction.shape[axis] < kept:
            raise ValueError(
                f"prediction has shape {tuple(prediction.shape)}: its axis {axis} is shorter than "
                f"the {kept} that a frame of {size} (height, width) needs at stride {stride}"
            )
        cut[axis] = slice(0, kept)
    return prediction[tuple(cut)]
