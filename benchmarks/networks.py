"""Networks of kinds that the package has none of, with random weights, to be measured.

Backbones as they were published, as far as features at a sixteenth of the frame's resolution, and
19 logits for each of these; and a whole transformer.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from bc_jax.models.layers import Dtype, batch_norm, conv

CLASSES = 19


class ConvNorm(nn.Module):
    """Convolution and batch norm."""

    features: int
    size: int = 1
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Float [N, H, W, C] to [N, H/stride, W/stride, features]."""
        x = conv(
            self.features,
            self.size,
            stride=self.stride,
            dilation=self.dilation,
            groups=self.groups,
            dtype=self.dtype,
            name="conv",
        )(x)
        return batch_norm(False, self.dtype, "norm")(x)


class InvertedResidual(nn.Module):
    """Widen, convolve every channel by itself, narrow."""

    features: int
    widen: int
    stride: int = 1
    dilation: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Float [N, H, W, C] to [N, H/stride, W/stride, features]."""
        y, width = x, self.widen * x.shape[-1]
        if self.widen > 1:
            y = nn.relu6(ConvNorm(width, dtype=self.dtype)(y))
        apart = {"stride": self.stride, "dilation": self.dilation, "groups": width}
        y = nn.relu6(ConvNorm(width, 3, **apart, dtype=self.dtype)(y))
        y = ConvNorm(self.features, dtype=self.dtype)(y)
        return x + y if x.shape == y.shape else y


class MobileNetV2(nn.Module):
    """MobileNetV2 (Sandler et al., CVPR 2018), its last stage dilated."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Float [N, H, W, 3] to [N, H/16, W/16, CLASSES]."""
        dtype = self.dtype
        x = nn.relu6(ConvNorm(32, 3, 2, dtype=dtype)(x))
        stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1))
        for widen, features, count, stride in stages:
            for i in range(count):
                x = InvertedResidual(features, widen, 1 if i else stride, dtype=dtype)(x)
        for features in (160, 160, 160, 320):
            x = InvertedResidual(features, 6, dilation=2, dtype=dtype)(x)
        return conv(CLASSES, 1, use_bias=True, dtype=self.dtype)(x)


class ConvNeXt(nn.Module):
    """The first three stages of ConvNeXt-T (Liu et al., CVPR 2022)."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Float [N, H, W, 3] to [N, H/16, W/16, CLASSES]."""
        dtype = self.dtype

        def patches(features, side):
            sides = (side, side)
            return nn.Conv(features, sides, strides=sides, padding="VALID", dtype=dtype)

        x = nn.LayerNorm(dtype=dtype)(patches(96, 4)(x))
        for features, count in ((96, 3), (192, 3), (384, 9)):
            if x.shape[-1] != features:
                x = patches(features, 2)(nn.LayerNorm(dtype=dtype)(x))
            for _ in range(count):
                y = conv(features, 7, groups=features, use_bias=True, dtype=dtype)(x)
                y = nn.LayerNorm(dtype=dtype)(y)
                y = nn.gelu(nn.Dense(4 * features, dtype=dtype)(y))
                x += nn.Dense(features, dtype=dtype)(y)
        return conv(CLASSES, 1, use_bias=True, dtype=self.dtype)(x)


class ResNeXt(nn.Module):
    """The first three stages of ResNeXt-50, 32 groups of 4 channels (Xie et al., CVPR 2017)."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Float [N, H, W, 3] to [N, H/16, W/16, CLASSES]."""
        dtype = self.dtype
        x = nn.relu(ConvNorm(64, 7, 2, dtype=dtype)(x))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for width, count, down in ((128, 3, 1), (256, 4, 2), (512, 6, 2)):
            for i in range(count):
                stride = 1 if i else down
                y = nn.relu(ConvNorm(width, dtype=dtype)(x))
                y = nn.relu(ConvNorm(width, 3, stride, groups=32, dtype=dtype)(y))
                y = ConvNorm(2 * width, dtype=dtype)(y)
                skip = x if i else ConvNorm(2 * width, 1, stride, dtype=dtype)(x)
                x = nn.relu(skip + y)
        return conv(CLASSES, 1, use_bias=True, dtype=self.dtype)(x)


class MixLayer(nn.Module):
    """A layer of SegFormer's encoder: attention to fewer keys, and a convolution between pixels."""

    heads: int
    fewer: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Float [N, H, W, C] to the same shape."""
        n, h, w, c = x.shape

        def dense(features, name):
            return nn.Dense(features, dtype=self.dtype, name=name)

        def norm(x, name):
            return nn.LayerNorm(dtype=self.dtype, name=name)(x)

        def apart(x):
            return x.reshape(n, -1, self.heads, c // self.heads)

        tokens = x.reshape(n, h * w, c)
        y = keys = norm(tokens, "norm_attention")
        if self.fewer > 1:
            sides = (self.fewer, self.fewer)
            reduce = nn.Conv(c, sides, strides=sides, padding="VALID", dtype=self.dtype)
            keys = norm(reduce(y.reshape(x.shape)).reshape(n, -1, c), "norm_keys")
        query, key, value = dense(c, "query")(y), dense(c, "key")(keys), dense(c, "value")(keys)
        mixed = nn.dot_product_attention(apart(query), apart(key), apart(value))
        tokens += dense(c, "mixed")(mixed.reshape(tokens.shape))
        y = dense(4 * c, "grow")(norm(tokens, "norm_features"))
        local = conv(4 * c, 3, groups=4 * c, use_bias=True, dtype=self.dtype)
        y = local(y.reshape(n, h, w, -1)).reshape(n, h * w, -1)
        return (tokens + dense(c, "shrink")(nn.gelu(y))).reshape(x.shape)


class SegFormer(nn.Module):
    """SegFormer-B0 (Xie et al., NeurIPS 2021), whose decoder has 256 features."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Float [N, H, W, 3] to [N, H/4, W/4, CLASSES]."""
        levels, dtype = [], self.dtype
        stages = ((32, 7, 4, 1, 8), (64, 3, 2, 2, 4), (160, 3, 2, 5, 2), (256, 3, 2, 8, 1))
        for features, size, stride, heads, fewer in stages:
            x = conv(features, size, stride=stride, use_bias=True, dtype=dtype)(x)
            x = nn.LayerNorm(dtype=dtype)(x)
            for _ in range(2):
                x = MixLayer(heads, fewer, dtype)(x)
            x = nn.LayerNorm(dtype=dtype)(x)
            levels.append(nn.Dense(256, dtype=dtype)(x))
        shape = levels[0].shape
        levels = [jax.image.resize(level, shape, "bilinear") for level in reversed(levels)]
        x = nn.relu(ConvNorm(256, dtype=dtype)(jnp.concatenate(levels, axis=-1)))
        return conv(CLASSES, 1, use_bias=True, dtype=dtype)(x)


_NETWORKS = {
    "mobilenet_v2": MobileNetV2,
    "convnext_tiny": ConvNeXt,
    "resnext50": ResNeXt,
    "segformer_b0": SegFormer,
}
NAMES = tuple(_NETWORKS)


def build(name: str, key: jax.Array, dtype) -> tuple[Callable, dict]:
    """A network of `NAMES`: `apply_fn(params, frames)` for uint8 frames, and parameters."""
    module = _NETWORKS[name](dtype=dtype)

    def apply_fn(params, frames):
        return module.apply(params, frames.astype(dtype) / jnp.asarray(255, dtype))

    params = jax.jit(module.init)(key, jnp.zeros((1, 64, 64, 3)))
    return apply_fn, jax.tree.map(lambda x: x.astype(dtype), params)
