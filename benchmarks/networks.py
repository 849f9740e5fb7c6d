"""Networks of kinds that the package has none of, with random weights, to be measured.

Backbones as they were published, as far as features at a sixteenth of the frame's resolution, and
19 logits for each of these.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

CLASSES = 19
_conv = partial(nn.Conv, use_bias=False)
_norm = partial(nn.BatchNorm, use_running_average=True)


def _around(size: int, dilation: int = 1) -> list[tuple[int, int]]:
    return 2 * [(size // 2 * dilation, size // 2 * dilation)]


class InvertedResidual(nn.Module):
    """Widen, convolve every channel by itself, narrow."""

    features: int
    widen: int
    stride: int = 1
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Float [N, H, W, C] to [N, H/stride, W/stride, features]."""
        y, width = x, self.widen * x.shape[-1]
        if self.widen > 1:
            y = nn.relu6(_norm()(_conv(width, (1, 1))(y)))
        y = _conv(
            width,
            (3, 3),
            strides=self.stride,
            kernel_dilation=self.dilation,
            padding=_around(3, self.dilation),
            feature_group_count=width,
        )(y)
        y = _norm()(_conv(self.features, (1, 1))(nn.relu6(_norm()(y))))
        return x + y if x.shape == y.shape else y


class MobileNetV2(nn.Module):
    """MobileNetV2 (Sandler et al., CVPR 2018), its last stage dilated."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Float [N, H, W, 3] to [N, H/16, W/16, CLASSES]."""
        x = nn.relu6(_norm()(_conv(32, (3, 3), strides=2, padding=_around(3))(x)))
        stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1))
        for widen, features, count, stride in stages:
            for i in range(count):
                x = InvertedResidual(features, widen, 1 if i else stride)(x)
        for features in (160, 160, 160, 320):
            x = InvertedResidual(features, 6, dilation=2)(x)
        return nn.Conv(CLASSES, (1, 1))(x)


class ConvNeXt(nn.Module):
    """The first three stages of ConvNeXt-T (Liu et al., CVPR 2022)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Float [N, H, W, 3] to [N, H/16, W/16, CLASSES]."""
        x = nn.LayerNorm()(nn.Conv(96, (4, 4), strides=4, padding="VALID")(x))
        for features, count in ((96, 3), (192, 3), (384, 9)):
            if x.shape[-1] != features:
                x = nn.Conv(features, (2, 2), strides=2, padding="VALID")(nn.LayerNorm()(x))
            for _ in range(count):
                y = nn.Conv(features, (7, 7), feature_group_count=features)(x)
                y = nn.gelu(nn.Dense(4 * features)(nn.LayerNorm()(y)))
                x += nn.Dense(features)(y)
        return nn.Conv(CLASSES, (1, 1))(x)


class ResNeXt(nn.Module):
    """The first three stages of ResNeXt-50, 32 groups of 4 channels (Xie et al., CVPR 2017)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Float [N, H, W, 3] to [N, H/16, W/16, CLASSES]."""
        x = nn.relu(_norm()(_conv(64, (7, 7), strides=2, padding=_around(7))(x)))
        x = nn.max_pool(x, (3, 3), (2, 2), _around(3))
        for width, count, down in ((128, 3, 1), (256, 4, 2), (512, 6, 2)):
            for i in range(count):
                stride = 1 if i else down
                y = nn.relu(_norm()(_conv(width, (1, 1))(x)))
                y = _conv(
                    width, (3, 3), strides=stride, padding=_around(3), feature_group_count=32
                )(y)
                y = _norm()(_conv(2 * width, (1, 1))(nn.relu(_norm()(y))))
                skip = x if i else _norm()(_conv(2 * width, (1, 1), strides=stride)(x))
                x = nn.relu(skip + y)
        return nn.Conv(CLASSES, (1, 1))(x)


_NETWORKS = {"mobilenet_v2": MobileNetV2, "convnext_tiny": ConvNeXt, "resnext50": ResNeXt}
NAMES = tuple(_NETWORKS)


def build(name: str, key: jax.Array, dtype) -> tuple[Callable, dict]:
    """A network of `NAMES`: `apply_fn(params, frames)` for uint8 frames, and parameters."""
    module = _NETWORKS[name]()

    def apply_fn(params, frames):
        return module.apply(params, frames.astype(dtype) / jnp.asarray(255, dtype))

    params = jax.jit(module.init)(key, jnp.zeros((1, 64, 64, 3)))
    return apply_fn, jax.tree.map(lambda x: x.astype(dtype), params)
