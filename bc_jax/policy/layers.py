"""The policy network's convolution and batch norm, in forms that train fast on a CPU.

Both compute what `flax.linen.Conv` and `flax.linen.BatchNorm` do, with the same variables. XLA's
gradient of a convolution's kernel, and its sums over space of few channels, are several times
slower on a CPU than a matrix product and than sums over many columns.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# Neighbouring pixels whose channels batch norm sums side by side.
_PIXELS_ABREAST = 8


def _plainly(x, kernel, strides, padding):
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_DIMENSIONS)


_convolve = jax.custom_vjp(_plainly, nondiff_argnums=(2, 3))


def _forward(x, kernel, strides, padding):
    return _plainly(x, kernel, strides, padding), (x, kernel)


def _backward(strides, padding, kept, cotangent):
    x, kernel = kept
    (for_x,) = jax.linear_transpose(lambda x: _plainly(x, kernel, strides, padding), x)(cotangent)
    return for_x, kernel_gradient(x, cotangent, kernel.shape[:2], strides, padding)


_convolve.defvjp(_forward, _backward)


def kernel_gradient(x, cotangent, size, strides, padding) -> jax.Array:
    """Returns the gradient of a convolution's kernel: [kh, kw, C, D].

    A product of the input, its kw columns one below the other, with the cotangent, its shifts by
    a row side by side: [kw C, pixels] by [pixels, kh D], one for each row of the stride. Neither
    side is as large as the patches that the kernel sees, both are wide enough for a fast product,
    and the input lies as a product reads it fastest, channels first.

    Args:
      x: the input [N, H, W, C].
      cotangent: of the output, [N, h, w, D].
      size: (kh, kw).
      strides: of the convolution, (vertical, horizontal).
      padding: likewise, ((top, bottom), (left, right)).
    """
    (_, h, w, features), channels = cotangent.shape, x.shape[-1]
    (kh, kw), (down, right) = size, strides
    x = jnp.pad(jnp.transpose(x, (3, 0, 1, 2)), ((0, 0), (0, 0), *padding))
    gradient = [None] * kh
    for first in range(min(kh, down)):
        rows = range(first, kh, down)  # of the kernel, that meet the same rows of the input
        shifts = len(rows)
        met = x[:, :, first : first + (h + shifts - 2) * down + 1 : down]
        met = [met[..., j : j + (w - 1) * right + 1 : right] for j in range(kw)]
        met = jnp.concatenate(met).reshape(kw * channels, -1)
        shifted = [
            jnp.pad(cotangent, ((0, 0), (t, shifts - 1 - t), (0, 0), (0, 0))) for t in range(shifts)
        ]
        shifted = jnp.concatenate(shifted, axis=-1).reshape(-1, shifts * features)
        product = (met @ shifted).reshape(kw, channels, shifts, features)
        for t, row in enumerate(rows):
            gradient[row] = product[:, :, t]
    return jnp.stack(gradient)


def convolve(lhs, rhs, window_strides, padding, *, lhs_dilation, rhs_dilation, **options):
    """`jax.lax.conv_general_dilated` as `flax.linen.Conv` calls it; on a CPU its gradient is fast.

    Without dilation and groups, the policy network's only case. Forward mode is not available on a
    CPU.

    Raises:
      ValueError: for a dilated or grouped convolution.
    """
    if {*lhs_dilation, *rhs_dilation, options.get("feature_group_count", 1)} != {1}:
        raise ValueError("the policy's convolution has neither dilation nor groups")
    fits = _convolve if jax.default_backend() == "cpu" else _plainly
    return fits(lhs, rhs, tuple(window_strides), tuple(map(tuple, padding)))


class BatchNorm(nn.Module):
    """Batch norm over all but the channels, as `flax.linen.BatchNorm`, in float32."""

    use_running_average: bool
    decay: float  # of the running statistics
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Float32 [N, H, W, C] to the same shape."""
        channels = x.shape[-1]
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        var = self.variable("batch_stats", "var", jnp.ones, channels)
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        # Sums over the rows of a wide matrix are fast, forward and backward.
        abreast = math.gcd(_PIXELS_ABREAST, x.size // channels)
        wide = x.reshape(-1, abreast * channels)
        if self.use_running_average:
            now, spread = mean.value, var.value
        else:
            sums = [jnp.mean(m, axis=0).reshape(abreast, channels) for m in (wide, wide * wide)]
            now, square = (jnp.mean(s, axis=0) for s in sums)
            spread = jnp.maximum(0.0, square - now * now)
            if not self.is_initializing():
                mean.value = self.decay * mean.value + (1 - self.decay) * now
                var.value = self.decay * var.value + (1 - self.decay) * spread
        gain = scale * jax.lax.rsqrt(spread + self.epsilon)
        gain, shift = (jnp.tile(v, abreast)[None] for v in (gain, bias - now * gain))
        return (wide * gain + shift).reshape(x.shape)
