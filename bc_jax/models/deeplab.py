"""DeepLabV3+ (Chen et al., ECCV 2018): a dilated ResNet, pyramid of dilations, light decoder."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from .layers import Dtype, adaptive_avg_pool, batch_norm, conv, resize_bilinear
from .resnet import ResNet

# Dilations of the pyramid's 3x3 convolutions, by the stride of the features that they read.
DILATIONS = {16: (6, 12, 18), 8: (12, 24, 36)}


class ConvNormRelu(nn.Module):
    """Convolution, batch norm, ReLU."""

    features: int
    size: int = 1
    dilation: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Float [N, H, W, C] to [N, H, W, features]."""
        x = conv(self.features, self.size, dilation=self.dilation, dtype=self.dtype, name="conv")(x)
        return nn.relu(batch_norm(train, self.dtype, "norm")(x))


class DilatedPyramid(nn.Module):
    """Atrous spatial pyramid pooling: one tensor at several dilations, and its mean over space."""

    features: int
    dilations: tuple[int, int, int]
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Float [N, H, W, C] to [N, H, W, features]."""
        shared = {"features": self.features, "dtype": self.dtype}
        # All read this one tensor, so its surroundings have to be fetched once only.
        levels = [ConvNormRelu(**shared, name="branch0")(x, train=train)]
        for i, dilation in enumerate(self.dilations, start=1):
            branch = ConvNormRelu(size=3, dilation=dilation, **shared, name=f"branch{i}")
            levels.append(branch(x, train=train))
        mean = ConvNormRelu(**shared, name="image")(adaptive_avg_pool(x, (1, 1)), train=train)
        # Resizing a single pixel repeats it.
        levels.append(jnp.broadcast_to(mean, levels[0].shape))
        project = ConvNormRelu(**shared, name="project")
        return project(jnp.concatenate(levels, axis=-1), train=train)


class DeepLabV3Plus(nn.Module):
    """DeepLabV3+: class scores at a quarter of the frame's resolution.

    The original resizes these scores to the frame's size, bilinearly, and drops out a tenth of the
    pyramid's features in training; here neither is done.

    Attributes:
      backbone: 'resnet50' or 'resnet101'; the basic ones, 'resnet18' and 'resnet34', work too.
      num_classes: number of classes.
      output_stride: of the backbone's features, 16 or 8, which is finer and costs thrice as
        much. The parameters are the same.
      base_width: channels of the backbone's stem.
      pyramid_width: channels of the pyramid and the decoder.
      low_level_width: channels that the decoder takes from the backbone's first stage.
      dtype: of the computation; parameters are float32.
    """

    backbone: str = "resnet101"
    num_classes: int = 19
    output_stride: int = 16
    base_width: int = 64
    pyramid_width: int = 256
    low_level_width: int = 48
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
          ValueError: for an unknown backbone or output stride.
        """
        if self.output_stride not in DILATIONS:
            raise ValueError(
                f"output stride {self.output_stride}: choose one of {tuple(DILATIONS)}"
            )
        dtype = self.dtype
        backbone = ResNet(
            self.backbone, self.base_width, dtype, self.output_stride, name="backbone"
        )
        low_level, *_, deepest = backbone(x, train=train)
        dilations = DILATIONS[self.output_stride]
        pyramid = DilatedPyramid(self.pyramid_width, dilations, dtype, name="aspp")
        x = pyramid(nn.relu(deepest), train=train)
        low_level = ConvNormRelu(self.low_level_width, dtype=dtype, name="low_level")(
            nn.relu(low_level), train=train
        )
        x = jnp.concatenate([low_level, resize_bilinear(x, low_level.shape[1:3])], axis=-1)
        x = ConvNormRelu(self.pyramid_width, size=3, dtype=dtype, name="fuse")(x, train=train)
        return conv(self.num_classes, 1, use_bias=True, dtype=dtype, name="logits")(x)
