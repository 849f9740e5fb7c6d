"""ResNet (He et al., CVPR 2016) as a backbone: one feature map per stage, before its last ReLU."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from .layers import Dtype, batch_norm, conv

# Blocks per stage, and whether they are bottlenecks (1x1, 3x3, 1x1) or basic ones (3x3, 3x3).
DEPTHS = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
}
OUTPUT_STRIDES = (32, 16, 8)
_EXPANSION = 4  # of a bottleneck's output over its width


class ResidualBlock(nn.Module):
    """A basic or bottleneck block without its last ReLU, which is the caller's.

    `dilation` is that of its 3x3 convolutions.
    """

    width: int
    stride: int = 1
    dilation: int = 1
    bottleneck: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Float [N, H, W, C] to [N, H/stride, W/stride, width], or 4 * width of a bottleneck."""
        dtype = self.dtype
        features = self.width * (_EXPANSION if self.bottleneck else 1)
        # (features, kernel size, stride) of each convolution.
        if self.bottleneck:
            convs = ((self.width, 1, 1), (self.width, 3, self.stride), (features, 1, 1))
        else:
            convs = ((features, 3, self.stride), (features, 3, 1))
        residual = x
        for i, (out, size, stride) in enumerate(convs, start=1):
            dilation = self.dilation if size > 1 else 1
            x = conv(out, size, stride=stride, dilation=dilation, dtype=dtype, name=f"conv{i}")(x)
            x = batch_norm(train, dtype, f"bn{i}")(x)
            if i < len(convs):
                x = nn.relu(x)
        if residual.shape != x.shape:
            project = conv(features, 1, stride=self.stride, dtype=dtype, name="downsample_conv")
            residual = batch_norm(train, dtype, "downsample_bn")(project(residual))
        return x + residual


class ResNet(nn.Module):
    """ResNet without its classifier.

    With an output stride below 32 the last stages do not stride: they dilate instead, so that their
    convolutions see as far as before. A stage's first block still has the dilation of the stage
    before it, as in torchvision.

    Attributes:
      variant: a name in `DEPTHS`.
      base_width: channels of the stem; each stage is twice as wide as the one before.
      dtype: of the computation; parameters are float32.
      output_stride: of the last stage, one of `OUTPUT_STRIDES`.
    """

    variant: str = "resnet18"
    base_width: int = 64
    dtype: Dtype = jnp.float32
    output_stride: int = 32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> list[jax.Array]:
        """Float [N, H, W, 3] to the four stages' features before their last ReLU.

        They lie at strides 4, 8, 16 and 32, or at `output_stride` where that is less. Raises
        ValueError for an unknown variant or output stride.
        """
        if self.variant not in DEPTHS:
            raise ValueError(f"backbone {self.variant!r}: choose one of {', '.join(DEPTHS)}")
        if self.output_stride not in OUTPUT_STRIDES:
            raise ValueError(f"output stride {self.output_stride}: choose one of {OUTPUT_STRIDES}")
        depths, bottleneck = DEPTHS[self.variant]
        dtype = self.dtype
        x = conv(self.base_width, 7, stride=2, dtype=dtype, name="conv1")(x.astype(dtype))
        x = nn.relu(batch_norm(train, dtype, "bn1")(x))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        stages, reached, dilation = [], 4, 1
        for stage, depth in enumerate(depths):
            strides = stage > 0 and reached < self.output_stride
            reached *= 2 if strides else 1
            for i in range(depth):
                if i == 1:
                    dilation = 4 * 2**stage // reached
                block = ResidualBlock(
                    width=self.base_width * 2**stage,
                    stride=2 if strides and i == 0 else 1,
                    dilation=dilation,
                    bottleneck=bottleneck,
                    dtype=dtype,
                    name=f"layer{stage + 1}_{i}",
                )
                before_relu = block(x, train=train)
                x = nn.relu(before_relu)
            stages.append(before_relu)
        return stages
