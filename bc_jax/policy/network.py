"""The policy network: from what changed on the screen to one logit per block."""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from bc_jax.policy.layers import BatchNorm, convolve, relu

# What strides may be made of: a kernel at least as wide as its stride must stay affordable.
_PRIMES = (2, 3, 5, 7)


def stride_factors(pixels: int) -> list[int]:
    """Returns primes whose product is `pixels`, small ones first.

    Raises:
      ValueError: `pixels` has a prime factor above 7.
    """
    factors, rest = [], pixels
    for prime in _PRIMES:
        while rest > 1 and rest % prime == 0:
            factors.append(prime)
            rest //= prime
    if pixels < 1 or rest != 1:
        raise ValueError(
            f"{pixels} policy pixels per block cannot be reduced to one logit: need a product of "
            f"{_PRIMES}; choose another block size or pixels_per_block"
        )
    return factors


def plan_strides(block_pixels: tuple[int, int], stages: int) -> list[tuple[int, int]]:
    """Returns the (vertical, horizontal) stride of every striding layer, backbone first.

    The first `stages - 1` belong to the backbone, the rest (one at least, the layer that gives the
    logit) to the head. Their product is `block_pixels`.
    """
    vertical, horizontal = (stride_factors(p) for p in block_pixels)
    length = max(len(vertical), len(horizontal), stages)
    vertical += [1] * (length - len(vertical))
    horizontal += [1] * (length - len(horizontal))
    return list(zip(vertical, horizontal, strict=True))


def _conv(features, strides, *, convolve, kernel=3, name, head=False, bias=False, zero=False):
    """A convolution that divides the resolution by `strides`, padded on both sides alike."""
    # A stride above 3 would skip pixels with a 3x3 kernel.
    size = tuple(max(kernel, s + 1 - s % 2) for s in strides) if kernel > 1 else (1, 1)
    if zero:
        init = nn.initializers.zeros
    elif head:
        init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    else:
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    return nn.Conv(
        features,
        size,
        strides=strides,
        padding=[((k - 1) // 2, (k - 1) // 2) for k in size],
        use_bias=bias,
        kernel_init=init,
        conv_general_dilated=convolve,
        name=name,
    )


class PolicyNet(nn.Module):
    """CIFAR-style ResNet with a striding head: one logit per block.

    The paper's is the default: ResNet-8 with widths 32, 64, 128 and total stride 4, then 3x3
    stride-2 convolutions to 128, 128 (batch norm, ReLU) and 1 (bias), for blocks of 32x32 policy
    pixels. With other `block_pixels` the strides follow: the total stride is always one block.
    Always float32.
    """

    block_pixels: tuple[int, int] = (32, 32)  # policy pixels per block: (vertical, horizontal)
    widths: Sequence[int] = (32, 64, 128)  # channels of each stage; the stem has the first
    blocks_per_stage: int = 1  # residual blocks in a stage
    head_width: int = 128  # channels of the head's convolutions but the last
    decay: float = 0.98  # of the batch norm's running statistics
    zero_init: bool = False  # the logits start at zero (for a network that corrects a prior)
    convolve: Callable = convolve  # as `jax.lax.conv_general_dilated`

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns logits.

        Args:
          x: policy inputs [N, Gh*ph, Gw*pw, F], float.
          train: normalise with the batch's statistics and update the running ones.

        Returns:
          Logits [N, Gh, Gw], float32.

        Raises:
          ValueError: `x` is not a whole number of blocks.
        """
        n, h, w, _ = x.shape
        ph, pw = self.block_pixels
        if h % ph or w % pw:
            raise ValueError(f"policy input of {h}x{w} is not a whole number of {ph}x{pw} blocks")

        def norm(y, name, rectify=False):
            return BatchNorm(not train, self.decay, rectify=rectify, name=name)(y)

        conv = functools.partial(_conv, convolve=self.convolve)
        strides = plan_strides(self.block_pixels, len(self.widths))
        x = x.astype(jnp.float32)
        x = norm(conv(self.widths[0], (1, 1), name="stem")(x), "stem_norm", rectify=True)
        for stage, width in enumerate(self.widths):
            for block in range(self.blocks_per_stage):
                stride = strides[stage - 1] if stage and not block else (1, 1)
                name = f"stage{stage}_block{block}"
                y = conv(width, stride, name=f"{name}_conv0")(x)
                y = norm(y, f"{name}_norm0", rectify=True)
                y = norm(conv(width, (1, 1), name=f"{name}_conv1")(y), f"{name}_norm1")
                if stride != (1, 1) or x.shape[-1] != width:
                    skip = conv(width, stride, kernel=1, name=f"{name}_skip")(x)
                    x = norm(skip, f"{name}_skip_norm")
                x = relu(x + y)
        *hidden, last = strides[len(self.widths) - 1 :]
        for i, stride in enumerate(hidden):
            x = conv(self.head_width, stride, head=True, name=f"head{i}")(x)
            x = norm(x, f"head{i}_norm", rectify=True)
        x = conv(1, last, head=True, bias=True, zero=self.zero_init, name="logit")(x)
        return x.reshape(n, h // ph, w // pw)
