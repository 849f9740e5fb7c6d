"""The gradients of a convolution without dilation and groups, in forms that run fast."""

import jax
import jax.numpy as jnp

from bc_jax.lowering import backend
from bc_jax.lowering.convolution import Convolution, convolve
from bc_jax.lowering.winograd import best_at_once, columns, gradient_of_rows


def input_gradient(cotangent, kernel, size: tuple[int, int], how: Convolution) -> jax.Array:
    """The gradient of a convolution's input: [N, H, W, C].

    The transposed convolution, which itself has a fast way.

    Args:
        cotangent: of the output, [N, h, w, D].
        kernel: [kh, kw, C, D].
        size: (H, W) of the input.
        how: the convolution's strides and padding, with neither dilation nor groups.
    """
    padding = []
    for whole, results, extent, stride, (low, _) in zip(
        size, cotangent.shape[1:3], kernel.shape[:2], how.strides, how.padding, strict=True
    ):
        padding.append((extent - 1 - low, whole - 1 - (results - 1) * stride + low))
    turned = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
    if backend.on_gpu():
        # Else XLA takes it for a gradient, which cuDNN is slow at.
        turned = jax.lax.optimization_barrier(turned)
    transposed = Convolution(padding=tuple(padding), lhs_dilation=how.strides)
    return convolve(cotangent, turned, transposed)


def kernel_gradient(x, cotangent, size: tuple[int, int], how: Convolution) -> jax.Array:
    """The gradient of a convolution's kernel: [kh, kw, C, D].

    Products of two wide matrices, one for each row of the stride: the input, its kw columns one
    below the other, with the cotangent, its shifts by a row side by side: [kw C, pixels] by
    [pixels, kh D]. Neither side is as large as the patches that the kernel sees, both are wide
    enough for a fast product, and the input lies as a product reads it fastest, channels first.
    Without strides, where rows are best made several at once, so are their gradients.

    Args:
        x: the input [N, H, W, C].
        cotangent: of the output, [N, h, w, D].
        size: (kh, kw).
        how: the convolution's strides and padding, with neither dilation nor groups.
    """
    x = jnp.pad(jnp.transpose(x, (3, 0, 1, 2)), ((0, 0), (0, 0), *how.padding))
    (n, h, w, features), channels = cotangent.shape, len(x)
    (kh, kw), (down, right) = size, how.strides
    if how.strides == (1, 1):
        rows, _ = best_at_once((n, h, w), (kh, kw, channels, features))
        if rows > 1:
            return gradient_of_rows(x, cotangent, kw, rows)
    gradient = [None] * kh
    for first in range(min(kh, down)):
        rows = range(first, kh, down)  # of the kernel, that meet the same rows of the input
        shifts = len(rows)
        met = columns(x[:, :, first : first + (h + shifts - 2) * down + 1 : down], kw, w, right)
        shifted = [
            jnp.pad(cotangent, ((0, 0), (t, shifts - 1 - t), (0, 0), (0, 0))) for t in range(shifts)
        ]
        shifted = jnp.concatenate(shifted, axis=-1).reshape(-1, shifts * features)
        product = (met @ shifted).reshape(kw, channels, shifts, features)
        for t, row in enumerate(rows):
            gradient[row] = product[:, :, t]
    return jnp.stack(gradient)
