"""The policy network's convolution and batch norm, in forms that train fast.

Both compute what `flax.linen.Conv` and `flax.linen.BatchNorm` do, with the same variables. XLA's
gradients of a convolution, and its sums over space of few channels, are several times slower on a
CPU than `bc_jax.lowering`'s and than sums over many columns.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from bc_jax import lowering

# Neighbouring pixels whose channels batch norm sums side by side.
_PIXELS_ABREAST = 8


def convolve(lhs, rhs, window_strides, padding, *, lhs_dilation, rhs_dilation, **options):
    """`jax.lax.conv_general_dilated` as `flax.linen.Conv` calls it, with a fast gradient.

    Without dilation and groups, the policy network's only case. Forward mode is not available.

    Raises:
      ValueError: for a dilated or grouped convolution.
    """
    if {*lhs_dilation, *rhs_dilation, options.get("feature_group_count", 1)} != {1}:
        raise ValueError("the policy's convolution has neither dilation nor groups")
    how = lowering.Convolution(tuple(window_strides), tuple(map(tuple, padding)))
    return lowering.convolve_to_learn(lhs, rhs, how)


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
    """`jax.nn.relu`, whose gradient needs the result alone, which what reads it keeps too.

    `jax.nn.relu` keeps where `x` is positive, and as many zeros.
    """
    return jnp.maximum(x, 0)


def _relu_forward(x):
    y = relu(x)
    return y, y


relu.defvjp(_relu_forward, lambda y, cotangent: (jnp.where(y > 0, cotangent, 0),))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sum_rows(rows, *matrices):
    return lowering.sum_rows(*matrices)


def _spread_over_rows(rows, _, cotangents):
    return tuple(jnp.broadcast_to(c[None], (rows, len(c))) for c in cotangents)


_sum_rows.defvjp(lambda rows, *matrices: (_sum_rows(rows, *matrices), None), _spread_over_rows)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _scale_rows(matrix, gain, shift, rectify):
    """Each row of a matrix [R, C], by its columns' gain, and shifted: both [C]; then ReLU or not.

    The gradient needs the matrix alone, which batch norm's statistics need too.
    """
    scaled = matrix * gain[None] + shift[None]
    return jnp.maximum(scaled, 0) if rectify else scaled


def _scale_forward(matrix, gain, shift, rectify):
    gain, shift = lowering.for_all_rows(gain, shift)
    return _scale_rows(matrix, gain, shift, rectify), (matrix, gain, shift)


def _scale_backward(rectify, kept, cotangent):
    matrix, gain, shift = kept
    if rectify:
        cotangent = jnp.where(matrix * gain[None] + shift[None] > 0, cotangent, 0)
    return cotangent * gain[None], *lowering.sum_rows(cotangent * matrix, cotangent)


_scale_rows.defvjp(_scale_forward, _scale_backward)


class BatchNorm(nn.Module):
    """Batch norm over all but the channels, as `flax.linen.BatchNorm`, in float32; maybe ReLU."""

    use_running_average: bool
    decay: float  # of the running statistics
    epsilon: float = 1e-5
    rectify: bool = False  # whether ReLU follows

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Float32 [N, H, W, C] to the same shape."""
        channels = x.shape[-1]
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        # Sums over the rows of a wide matrix are fast, forward and backward.
        abreast = math.gcd(_PIXELS_ABREAST, x.size // channels)
        wide = x.reshape(-1, abreast * channels)
        if self.use_running_average:
            now, spread = mean.value, var.value
        else:
            sums = _sum_rows(len(wide), wide, wide * wide)
            now, square = (s.reshape(abreast, channels).sum(0) * channels / x.size for s in sums)
            spread = jnp.maximum(0.0, square - now * now)
            if not self.is_initializing():
                mean.value = self.decay * mean.value + (1 - self.decay) * now
                var.value = self.decay * var.value + (1 - self.decay) * spread
        gain = scale * jax.lax.rsqrt(spread + self.epsilon)
        gain, shift = (jnp.tile(v, abreast) for v in (gain, bias - now * gain))
        return _scale_rows(wide, gain, shift, self.rectify).reshape(x.shape)
