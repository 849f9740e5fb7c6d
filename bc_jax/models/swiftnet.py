"""SwiftNet, single scale (Orsic et al., CVPR 2019): a ResNet with a light ladder decoder."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from .layers import Dtype, adaptive_avg_pool, batch_norm, conv, resize_bilinear
from .resnet import ResNet

PYRAMID_ROWS = (8, 4, 2)


class BNReluConv(nn.Module):
    """Batch norm, ReLU, convolution."""

    features: int
    size: int = 1
    use_bias: bool = False
    momentum: float = 0.9
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Float [N, H, W, C] to [N, H, W, features]."""
        x = nn.relu(batch_norm(train, self.dtype, "norm", momentum=self.momentum)(x))
        return conv(
            self.features, self.size, use_bias=self.use_bias, dtype=self.dtype, name="conv"
        )(x)


class PyramidPooling(nn.Module):
    """Spatial pyramid pooling: the features beside their averages over three grids of cells.

    A grid has 8, 4 or 2 rows, and as many columns as make its cells about square.
    """

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Float [N, H, W, C] to [N, H, W, features]."""
        # The statistics of a handful of cells are noisy, hence the slow average.
        shared = {"momentum": 0.995, "dtype": self.dtype}
        height, width = x.shape[1:3]
        x = BNReluConv(self.features, name="spp_bn", **shared)(x, train=train)
        levels = [x]
        for i, rows in enumerate(PYRAMID_ROWS):
            grid = (rows, max(1, round(width / height * rows)))
            level = BNReluConv(self.features // len(PYRAMID_ROWS), name=f"spp{i}", **shared)
            pooled = level(adaptive_avg_pool(x, grid), train=train)
            levels.append(resize_bilinear(pooled, (height, width)))
        fuse = BNReluConv(self.features, name="spp_fuse", **shared)
        return fuse(jnp.concatenate(levels, axis=-1), train=train)


class Upsample(nn.Module):
    """Brings x to the skip's size, adds the skip, and blends the two with a 3x3 convolution."""

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, skip: jax.Array, *, train: bool) -> jax.Array:
        """Float x [N, h, w, features] and skip [N, H, W, C] to [N, H, W, features]."""
        skip = BNReluConv(self.features, dtype=self.dtype, name="bottleneck")(skip, train=train)
        x = resize_bilinear(x, skip.shape[1:3]) + skip
        return BNReluConv(self.features, size=3, dtype=self.dtype, name="blend_conv")(
            x, train=train
        )


class SwiftNet(nn.Module):
    """SwiftNet: class scores at a quarter of the frame's resolution.

    Attributes:
      backbone: 'resnet18', 'resnet34' or 'resnet50'.
      num_classes: number of classes.
      base_width: channels of the backbone's first stage; each later one has twice as many.
      decoder_width: channels of the decoder.
      dtype: of the computation; parameters are float32.
    """

    backbone: str = "resnet18"
    num_classes: int = 19
    base_width: int = 64
    decoder_width: int = 128
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Class scores of frames.

        Args:
          x: float [N, H, W, 3], normalised frames of any size.
          train: whether batch norm uses the batch's own statistics, and updates the running ones
            if `apply` is given `mutable=["batch_stats"]`.

        Returns:
          Logits, of type `dtype`, [N, ceil(H/4), ceil(W/4), num_classes].

        Raises:
          ValueError: for an unknown backbone.
        """
        width, dtype = self.decoder_width, self.dtype
        backbone = ResNet(self.backbone, self.base_width, dtype, name="backbone")
        *skips, deepest = backbone(x, train=train)
        x = PyramidPooling(width, dtype, name="spp")(deepest, train=train)
        for i, skip in enumerate(reversed(skips)):
            x = Upsample(width, dtype, name=f"upsample_{i}")(x, skip, train=train)
        logits = BNReluConv(self.num_classes, use_bias=True, dtype=dtype, name="logits")
        return logits(x, train=train)
