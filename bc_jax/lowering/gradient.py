"""Convolutions that are learnt from, without dilation and groups, and their gradients."""

import functools

import jax
import jax.numpy as jnp

from bc_jax.lowering import backend
from bc_jax.lowering.convolution import Convolution, convolve, pad
from bc_jax.lowering.places import overlap_add, places
from bc_jax.lowering.winograd import SummedKernel, best_to_learn, convolve_seen, pull_back, see

_NONE = (1, 1)
# Float32 numbers that a CPU computes with at once, where it computes with most.
_VECTOR = 16


def convolve_to_learn(x: jax.Array, kernel: jax.Array, how: Convolution) -> jax.Array:
    """`convolve`, with gradients that are fast. Forward mode is not available.

    Args:
        x: [N, H, W, C], float32 where it is to be fast.
        kernel: [kh, kw, C, D], likewise.
        how: strides and padding, with neither dilation nor groups, and the default precision.
    """
    at_once = _at_once(x, kernel, how)
    if at_once != _NONE:
        # Each is made of many sums, each of which is over a pixel's channels.
        x, kernel = _in_vectors(x, 3), _in_vectors(kernel, 2)
    return _convolve(x, kernel, how, at_once)


def _in_vectors(x: jax.Array, axis: int) -> jax.Array:
    """An array with zeros after its channels, up to a whole number of a CPU's vectors."""
    widths = [(0, -x.shape[axis] % _VECTOR if i == axis else 0) for i in range(x.ndim)]
    return jnp.pad(x, widths)


def _at_once(x, kernel, how: Convolution) -> tuple[int, int]:
    """For how many (rows, columns) of results at once the gradients are best made."""
    same = how.strides == _NONE and all(sum(sides) == 2 for sides in how.padding)
    if not backend.on_cpu() or not same or {x.dtype, kernel.dtype} != {jnp.dtype(jnp.float32)}:
        return _NONE
    return best_to_learn(x.shape[:3], kernel.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: jax.Array, kernel: jax.Array, how: Convolution, at_once) -> jax.Array:
    return convolve(x, kernel, how)


def _forward(x, kernel, how: Convolution, at_once):
    if at_once == _NONE:
        return convolve(x, kernel, how), (x, kernel)
    # What several results at once are made of is kept in place of the input.
    seen = see(pad(x, how.padding), at_once, x.dtype)
    return convolve_seen(seen, SummedKernel.of(kernel, at_once)), (seen, kernel)


def _backward(how: Convolution, at_once, kept, cotangent):
    x, kernel = kept
    if not backend.on_cpu():
        return _gradients_elsewhere(x, kernel, cotangent, how)
    cotangent = jax.lax.optimization_barrier(cotangent)  # computed once for all that read it
    if at_once != _NONE:
        before = tuple(low for low, _ in how.padding)
        kernel = SummedKernel.of(kernel, at_once)
        return pull_back(x, kernel, cotangent, before, cotangent.shape[1:3])
    by_kernel = _by_rows if how.strides == _NONE else _by_places
    return (
        _input_gradient(cotangent, kernel, x.shape[1:3], how),
        by_kernel(x, cotangent, kernel.shape[:2], how),
    )


_convolve.defvjp(_forward, _backward)


def _gradients_elsewhere(x, kernel, cotangent, how):
    """XLA's, but for the input's: a convolution, several times faster than cuDNN's gradients."""
    pullback = jax.vjp(lambda x, kernel: convolve(x, kernel, how), x, kernel)[1]
    by_input, by_kernel = pullback(cotangent)
    if how.strides == _NONE:
        by_input = _transposed(cotangent, kernel, x.shape[1:3], how)
    return by_input, by_kernel


def _input_gradient(cotangent, kernel, size: tuple[int, int], how: Convolution) -> jax.Array:
    """[N, H, W, C] of [N, h, w, D] and [kh, kw, C, D], size being (H, W)."""
    whole = not any(side % step for side, step in zip(size, how.strides, strict=True))
    if how.strides == _NONE or not whole:
        return _transposed(cotangent, kernel, size, how)
    # One product gives what each pixel of the results hands to each of the kernel's places.
    kh, kw, channels, features = kernel.shape
    parts = cotangent.reshape(-1, features) @ kernel.reshape(-1, features).T
    parts = jax.lax.optimization_barrier(parts).reshape(*cotangent.shape[:3], kh, kw, channels)
    (down, right), (top, left) = how.strides, (low for low, _ in how.padding)
    rows = [
        overlap_add([parts[..., i, j, :] for j in range(kw)], 2, size[1], right, left)
        for i in range(kh)
    ]
    return overlap_add(rows, 1, size[0], down, top)


def _transposed(cotangent, kernel, size: tuple[int, int], how: Convolution) -> jax.Array:
    """The same as a transposed convolution, which itself has a fast way."""
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


def _by_places(x, cotangent, size: tuple[int, int], how: Convolution) -> jax.Array:
    """[kh, kw, C, D], (kh, kw) being the size: a product for each place."""
    x, cotangent = pad(x, how.padding), cotangent.reshape(-1, cotangent.shape[-1])
    (down, right), (kh, kw) = how.strides, size
    gradient = [
        [seen.reshape(-1, x.shape[-1]).T @ cotangent for seen in places(row, 2, kw, right, 1)]
        for row in places(x, 1, kh, down, 1)
    ]
    return jnp.stack([jnp.stack(row) for row in gradient])


def _by_rows(x, cotangent, size: tuple[int, int], how: Convolution) -> jax.Array:
    """The same without strides, of few channels: one product of two wide matrices.

    The input, its kw columns one below the other, with the cotangent, its shifts by a row side by
    side: [kw C, pixels] by [pixels, kh D]. Neither side is as large as the patches that the kernel
    sees, both are wide enough for a fast product, and the input lies as a product reads it fastest,
    channels first.
    """
    x = jnp.pad(jnp.transpose(x, (3, 0, 1, 2)), ((0, 0), (0, 0), *how.padding))
    (kh, kw), channels, features = size, len(x), cotangent.shape[-1]
    met = jnp.concatenate(places(x, 3, kw, 1, 1)).reshape(kw * channels, -1)
    around = [((0, 0), (i, kh - 1 - i), (0, 0), (0, 0)) for i in range(kh)]
    shifted = jnp.concatenate([jnp.pad(cotangent, pads) for pads in around], axis=-1)
    product = met @ shifted.reshape(-1, kh * features)
    product = product.reshape(kw, channels, kh, features)
    return jnp.transpose(product, (2, 0, 1, 3))
