"""ESPNet: efficient spatial pyramid of dilated convolutions (Mehta et al., ECCV 2018)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from .layers import KERNEL_INIT, Dtype, PReLU, batch_norm, conv

DILATIONS = (1, 2, 4, 8, 16)
EPSILON = 1e-3  # of every batch norm
STRIDE = 8  # of the deepest features; the frame's sides are multiples of it


def _upsample(features: int, dtype: Dtype, name: str) -> nn.ConvTranspose:
    return nn.ConvTranspose(
        features,
        (2, 2),
        strides=(2, 2),
        padding="VALID",
        use_bias=False,
        dtype=dtype,
        kernel_init=KERNEL_INIT,
        name=name,
    )


def _half(x: jax.Array) -> jax.Array:
    """Average over 3x3 pixels at stride 2; the zeros around the image are counted."""
    return nn.avg_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)), count_include_pad=True)


class BR(nn.Module):
    """Batch norm and PReLU."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Float [N, H, W, C] to the same shape."""
        return PReLU(self.dtype, name="act")(
            batch_norm(train, self.dtype, "bn", epsilon=EPSILON)(x)
        )


class CBR(nn.Module):
    """3x3 convolution, batch norm and PReLU."""

    features: int
    stride: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Float [N, H, W, C] to [N, H/stride, W/stride, features]."""
        x = conv(self.features, 3, stride=self.stride, dtype=self.dtype, name="conv")(x)
        return PReLU(self.dtype, name="act")(
            batch_norm(train, self.dtype, "bn", epsilon=EPSILON)(x)
        )


class ESPBlock(nn.Module):
    """Reduce, split into five dilated convolutions, sum the larger ones up, merge (Fig. 1).

    A block with `downsample` reduces with a 3x3 stride-2 convolution, else with a 1x1 one; one with
    `residual` adds its input before the last batch norm and PReLU.
    """

    features: int
    downsample: bool = False
    residual: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Float [N, H, W, C] to [N, H, W, features], or half of H and W."""
        width = self.features // 5
        size, stride = (3, 2) if self.downsample else (1, 1)
        reduced = conv(width, size, stride=stride, dtype=self.dtype, name="c1")(x)
        # All five read this one tensor, so its surroundings have to be fetched once only.
        first, *larger = (
            conv(
                self.features - 4 * width if dilation == 1 else width,
                3,
                dilation=dilation,
                dtype=self.dtype,
                name=f"d{dilation}",
            )(reduced)
            for dilation in DILATIONS
        )
        # Sums of growing dilations take away the chequered pattern that a single one leaves.
        sums = [larger[0]]
        for branch in larger[1:]:
            sums.append(sums[-1] + branch)
        merged = jnp.concatenate([first, *sums], axis=-1)
        if self.residual:
            merged = x + merged
        return BR(self.dtype, name="br")(merged, train=train)


class Encoder(nn.Module):
    """ESPNet-C: features at strides 2 and 4, and class scores at stride 8."""

    num_classes: int
    depth2: int
    depth3: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Float [N, H, W, 3] to (half, quarter, scores).

        Their shapes: [N, H/2, W/2, 16], [N, H/4, W/4, 131], [N, H/8, W/8, num_classes].
        """
        dtype = self.dtype
        half = CBR(16, stride=2, dtype=dtype, name="level1")(x, train=train)
        x_half = _half(x)
        x_quarter = _half(x_half)

        level1 = jnp.concatenate([half, x_half], axis=-1)
        level1 = BR(dtype, name="b1")(level1, train=train)
        down2 = ESPBlock(64, downsample=True, dtype=dtype, name="level2_down")(level1, train=train)
        level2 = down2
        for i in range(self.depth2):
            block = ESPBlock(64, residual=True, dtype=dtype, name=f"level2_{i}")
            level2 = block(level2, train=train)
        quarter = jnp.concatenate([level2, down2, x_quarter], axis=-1)
        quarter = BR(dtype, name="b2")(quarter, train=train)

        down3 = ESPBlock(128, downsample=True, dtype=dtype, name="level3_down")
        down3 = down3(quarter, train=train)
        level3 = down3
        for i in range(self.depth3):
            block = ESPBlock(128, residual=True, dtype=dtype, name=f"level3_{i}")
            level3 = block(level3, train=train)
        eighth = jnp.concatenate([down3, level3], axis=-1)
        eighth = BR(dtype, name="b3")(eighth, train=train)
        return half, quarter, conv(self.num_classes, 1, dtype=dtype, name="classifier")(eighth)


class ESPNet(nn.Module):
    """ESPNet with its decoder: class scores for every pixel.

    Attributes:
      num_classes: number of classes.
      depth2: number of residual ESP blocks at stride 4, the paper's p.
      depth3: number of residual ESP blocks at stride 8, the paper's q.
      dtype: of the computation; parameters are float32.
    """

    num_classes: int = 20
    depth2: int = 2
    depth3: int = 8
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Class scores of frames.

        Args:
          x: float [N, H, W, 3], normalised frames; H and W multiples of 8.
          train: whether batch norm uses the batch's own statistics, and updates the running ones
            if `apply` is given `mutable=["batch_stats"]`.

        Returns:
          Logits, of type `dtype`, [N, H, W, num_classes].

        Raises:
          ValueError: if H or W is not a multiple of 8.
        """
        height, width = x.shape[1:3]
        if height % STRIDE or width % STRIDE:
            raise ValueError(
                f"ESPNet: frame of {height}x{width} pixels: both sides must be multiples of "
                f"{STRIDE}; pad to {-(-height // STRIDE) * STRIDE}x{-(-width // STRIDE) * STRIDE}"
            )
        classes, dtype = self.num_classes, self.dtype
        encoder = Encoder(classes, self.depth2, self.depth3, dtype, name="encoder")
        half, quarter, scores = encoder(x.astype(dtype), train=train)

        scores = batch_norm(train, dtype, "scores_bn", epsilon=EPSILON)(scores)
        scores = _upsample(classes, dtype, "scores_up")(scores)
        quarter = conv(classes, 1, dtype=dtype, name="quarter_project")(quarter)
        quarter = jnp.concatenate([quarter, scores], axis=-1)
        quarter = BR(dtype, name="quarter_br")(quarter, train=train)
        quarter = ESPBlock(classes, dtype=dtype, name="quarter_esp")(quarter, train=train)

        quarter = _upsample(classes, dtype, "quarter_up")(quarter)
        quarter = BR(dtype, name="quarter_up_br")(quarter, train=train)
        half = jnp.concatenate([quarter, half], axis=-1)
        half = CBR(classes, dtype=dtype, name="half_fuse")(half, train=train)
        return _upsample(classes, dtype, "half_up")(half)
