"""Layers that several networks share, with PyTorch's padding and sampling conventions."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

Dtype = Any
# Keeps the size of gradients through a ReLU; `variables.random_variables` draws likewise.
KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def conv(
    features: int,
    size: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    use_bias: bool = False,
    dtype: Dtype = jnp.float32,
    name: str | None = None,
) -> nn.Conv:
    """A convolution padded by `dilation * (size // 2)` on every side, whatever the input's size.

    'SAME' would pad a strided convolution unevenly on even sizes, which PyTorch's weights do not
    expect.
    """
    pad = dilation * (size // 2)
    return nn.Conv(
        features,
        (size, size),
        strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        kernel_dilation=(dilation, dilation),
        feature_group_count=groups,
        use_bias=use_bias,
        dtype=dtype,
        kernel_init=KERNEL_INIT,
        name=name,
    )


def batch_norm(
    train: bool, dtype: Dtype, name: str, *, momentum: float = 0.9, epsilon: float = 1e-5
) -> nn.BatchNorm:
    """Batch norm over all but the channels; `momentum` is the old statistics' share."""
    return nn.BatchNorm(
        use_running_average=not train, momentum=momentum, epsilon=epsilon, dtype=dtype, name=name
    )


class PReLU(nn.Module):
    """`max(x, 0) + alpha * min(x, 0)` with one learnt `alpha` per channel."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Float [..., C] to the same shape."""
        alpha = self.param("alpha", nn.initializers.constant(0.25), (x.shape[-1],))
        alpha = alpha.astype(self.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
        return jnp.maximum(x, 0) + alpha * jnp.minimum(x, 0)


def _pooling_matrix(size: int, cells: int) -> np.ndarray:
    """Row i averages the pixels floor(i*size/cells) .. ceil((i+1)*size/cells) - 1."""
    matrix = np.zeros((cells, size), np.float32)
    for i in range(cells):
        start, stop = i * size // cells, -(-(i + 1) * size // cells)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix


def adaptive_avg_pool(x: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Average over a grid of cells which cover the image, overlapping where they must.

    Args:
      x: float [N, H, W, C].
      grid: cells down and across, (Gh, Gw); may exceed (H, W).

    Returns:
      [N, Gh, Gw, C], of x's dtype.
    """
    (height, width), (down, across) = x.shape[1:3], grid
    if grid == (1, 1):
        # A plain mean: summed up in parts it is cheap, where a window over everything is not.
        return x.mean(axis=(1, 2), keepdims=True)
    if height % down == 0 and width % across == 0:
        window = (height // down, width // across)
        # In 16 bits, sums of a few hundred pixels would be off by percents, or infinite.
        wide = x.astype(jnp.float32) if x.dtype.itemsize < 4 else x
        return nn.avg_pool(wide, window, strides=window).astype(x.dtype)
    rows = jnp.asarray(_pooling_matrix(height, down), x.dtype)
    columns = jnp.asarray(_pooling_matrix(width, across), x.dtype)
    exact = jax.lax.Precision.HIGHEST
    x = jnp.einsum("gh,nhwc->ngwc", rows, x, precision=exact)
    return jnp.einsum("gw,nhwc->nhgc", columns, x, precision=exact)


def resize_bilinear(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resize [N, H, W, C] to `size` = (h, w), bilinear, as PyTorch with align_corners=False."""
    shape = (x.shape[0], *size, x.shape[-1])
    return jax.image.resize(x, shape, "bilinear", antialias=False)
