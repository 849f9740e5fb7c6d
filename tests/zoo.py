"""Small networks that between them use every rule and every fallback of the engine, and checks.

A network here knows nothing of blocks: it is a function `apply(params, frames)` with parameters
from a fixed seed. The weights are drawn with NumPy from the shapes alone, so nothing is compiled.
"""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name

N, H, W = 3, 32, 48
# What batch norm's scales and variances are called, in Flax and in Keras.
NEAR_ONE = {"scale", "var", "gamma", "moving_variance"}


@dataclasses.dataclass(frozen=True)
class Network:
    """One network and what is expected of it."""

    name: str
    apply: Callable  # (params, frames [N, H, W, 3]) -> pytree
    params: object
    block: int | tuple[int, int] = 16
    # Primitives of which `explain` must name one; () where nothing may fall back; None: either.
    falls_back: tuple[str, ...] | None = None
    dtype: str = "float32"  # of the frames


def random_like(shapes, seed: int = 0, dtype: str = "float32"):
    """Random parameters: unit gain for kernels, near 1 for scales, small for the rest."""
    rng = np.random.default_rng(seed)

    def leaf(path, s):
        names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        if not NEAR_ONE.isdisjoint(names):
            return jnp.asarray(rng.uniform(0.5, 1.5, s.shape), dtype)
        gain = 1.4 / np.sqrt(max(np.prod(s.shape[:-1]), 1)) if len(s.shape) > 1 else 0.2
        return jnp.asarray(rng.normal(size=s.shape) * gain, dtype)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def frames_of(seed: int, count: int = 1, streams: int = N, dtype: str = "float32") -> np.ndarray:
    """Noise [T, N, H, W, 3], in [0, 1) or uint8 in [0, 255]: no pixel keeps its value."""
    rng = np.random.default_rng(seed)
    shape = (count, streams, H, W, 3)
    if dtype == "uint8":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.uniform(size=shape).astype(np.float32).astype(dtype)


def random_grids(count: int, shape: tuple[int, ...], seed: int, share: float = 0.4) -> np.ndarray:
    """Grids bool [T, N, Gh, Gw]: the first executes everything, the others are random."""
    grids = np.random.default_rng(seed).uniform(size=(count, *shape)) < share
    grids[0] = True
    return grids


def assert_close(actual, desired, *, tolerance: float = 1e-4, where: str = "") -> None:
    """Each leaf within `tolerance` of the desired leaf's largest value; integers on 99 %."""
    assert jax.tree.structure(actual) == jax.tree.structure(desired)
    leaves = jax.tree_util.tree_leaves_with_path(actual)
    for (path, a), d in zip(leaves, jax.tree.leaves(desired), strict=True):
        name = f"{where} output {jax.tree_util.keystr(path)}"
        assert a.shape == d.shape, f"{name}: shape {a.shape}, wanted {d.shape}"
        a, d = np.asarray(a), np.asarray(d)
        if not d.size:
            continue
        if d.dtype.kind in "biu":
            assert a.dtype == d.dtype
            # An arg-max may turn where two logits are equal up to rounding.
            assert (a != d).mean() <= 0.01, f"{name}: {(a != d).mean():.1%} of the values differ"
            continue
        a, d = a.astype(np.float64), d.astype(np.float64)
        assert np.isfinite(d).all() and np.isfinite(a).all(), f"{name}: not finite"
        error = np.abs(a - d).max() / max(np.abs(d).max(), 1e-6)
        assert error <= tolerance, f"{name}: error {error:.2e} of the largest value"


def assert_equal(actual, desired, *, where: str = "") -> None:
    """Each leaf equal, bit by bit."""
    assert jax.tree.structure(actual) == jax.tree.structure(desired)
    leaves = jax.tree_util.tree_leaves_with_path(actual)
    for (path, a), d in zip(leaves, jax.tree.leaves(desired), strict=True):
        message = f"{where} {jax.tree_util.keystr(path)}"
        np.testing.assert_array_equal(np.asarray(a), np.asarray(d), err_msg=message)


def executed_pixels(grid: np.ndarray, leaf) -> np.ndarray | None:
    """Mask [N, h, w, 1...] of executed pixels of an output, None if it has no blocks."""
    if leaf.ndim < 3 or leaf.shape[1] * W != leaf.shape[2] * H:
        return None
    if any(leaf.shape[i] % grid.shape[i] for i in (1, 2)):
        return None
    mask = np.repeat(grid, leaf.shape[1] // grid.shape[1], axis=1)
    mask = np.repeat(mask, leaf.shape[2] // grid.shape[2], axis=2)
    return mask.reshape(*mask.shape, *[1] * (leaf.ndim - 3))


# --- Flax -----------------------------------------------------------------------------------------

Conv = functools.partial(nn.Conv, kernel_size=(3, 3))
Norm = functools.partial(nn.BatchNorm, use_running_average=True)


def network(function: Callable) -> type[nn.Module]:
    """A Flax module whose compact __call__(frames) is the function."""
    return type(function.__name__, (nn.Module,), {"__call__": nn.compact(lambda _, x: function(x))})


def resize(x, factor: float, method: str, **options):
    n, height, width, channels = x.shape
    shape = (n, round(height * factor), round(width * factor), channels)
    return jax.image.resize(x, shape, method, **options)


def plain_cnn(x):
    x = nn.relu(Norm()(Conv(8)(x - 0.5)))
    x = nn.relu(Norm()(Conv(8, use_bias=False)(x)))
    return Conv(4, kernel_size=(1, 1))(x)


def strided(x):
    x = nn.relu(Norm()(Conv(8, kernel_size=(7, 7), strides=2, padding=3)(x)))
    x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    y = nn.relu(Norm()(Conv(12, strides=2, padding=1)(x)))
    y = Norm()(Conv(12)(y)) + Norm()(Conv(12, kernel_size=(1, 1), strides=2)(x))
    return Conv(4)(nn.relu(y))


def dilated(x):
    for dilation in (1, 2, 4):
        x = nn.leaky_relu(Conv(6, kernel_dilation=dilation)(x))
    return Conv(4, kernel_dilation=(1, 9))(x)


def depthwise(x):
    x = nn.relu6(Conv(8, strides=2)(x))
    x = nn.hard_swish(Conv(8, feature_group_count=8)(x))
    x = nn.relu(Conv(16, kernel_size=(5, 5), strides=2, feature_group_count=8)(x))
    x = nn.relu(Conv(8, feature_group_count=2)(x))
    return Conv(4, kernel_size=(1, 1))(x)


def transposed(x):
    x = nn.relu(Conv(6, strides=4, kernel_size=(5, 5))(x))
    x = nn.relu(nn.ConvTranspose(6, (2, 2), (2, 2), padding="VALID")(x))
    x = nn.relu(Conv(6, strides=2)(x))
    x = nn.relu(nn.ConvTranspose(6, (3, 3), (2, 2))(x))
    return nn.ConvTranspose(4, (4, 4), (2, 2), transpose_kernel=True)(x)


def unet_bilinear(x):
    a = nn.relu(Conv(6)(x))
    b = nn.relu(Conv(8)(nn.max_pool(a, (2, 2), (2, 2))))
    c = nn.relu(Conv(8, strides=2)(b))
    b = nn.relu(Conv(6)(jnp.concatenate([resize(c, 2, "bilinear"), b], axis=-1)))
    return Conv(4)(jnp.concatenate([resize(b, 2, "bilinear"), a], axis=-1))


def unet_nearest(x):
    a = nn.relu(Conv(6)(x))
    b = nn.relu(Conv(8, strides=2)(a))
    c = nn.relu(Conv(6, strides=2)(b))
    c = nn.relu(Conv(6)(jnp.repeat(jnp.repeat(c, 2, axis=1), 2, axis=2)) + resize(c, 2, "nearest"))
    return Conv(4)(resize(c, 2, "nearest") + a)


def resizing(x):
    x = nn.relu(Conv(6)(x))
    x = nn.relu(Conv(6)(resize(x, 1 / 2, "bilinear")))
    x = nn.relu(Conv(6)(resize(x, 1 / 2, "nearest") + resize(x, 1 / 2, "linear", antialias=False)))
    y = Conv(4)(resize(x, 4, "bilinear"))
    return y + Conv(4)(resize(resize(x, 2, "cubic"), 2, "nearest"))


def pooling(x):
    x = Conv(6)(x)
    around = ((1, 1), (1, 1))
    least = nn.pool(x, jnp.inf, lax.min, (2, 2), (2, 2), "VALID")
    x = nn.max_pool(x, (3, 3), (2, 2), around) - least
    x = nn.avg_pool(x, (3, 3), padding=around) + nn.max_pool(x, (2, 2), padding="SAME")
    x = nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)
    y = nn.avg_pool(x, (2, 2), (2, 2)) * nn.avg_pool(x, (3, 3), (2, 2), "SAME")
    return Conv(4)(jnp.exp(0.1 * y))


def even_kernels(x):
    x = nn.relu(Conv(6, kernel_size=(2, 2))(x))
    x = nn.relu(Conv(6, kernel_size=(4, 4))(x))
    x = nn.relu(Conv(6, kernel_size=(5, 1))(Conv(6, kernel_size=(1, 5))(x)))
    x = nn.relu(Conv(6, padding=((2, 0), (0, 2)))(x))
    return Conv(4, kernel_size=(4, 2), strides=(2, 1))(x)


def explicit_padding(x):
    amounts = ((0, 0), (1, 1), (2, 2), (0, 0))
    x = nn.relu(Conv(6, padding="VALID", kernel_size=(3, 5))(jnp.pad(x, amounts)))
    x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=0.5)
    x = nn.relu(Conv(6, padding="VALID", strides=2)(x))
    x = Conv(6, padding="VALID")(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge"))
    return Conv(4, padding="CIRCULAR")(Conv(4, padding="REFLECT")(x))


def squeeze_excite(x):
    x = nn.relu(Conv(8, strides=2)(x))
    gate = nn.relu(nn.Dense(4)(jnp.mean(x, axis=(1, 2))))
    x = x * nn.sigmoid(nn.Dense(8)(gate))[:, None, None, :]
    return Conv(4)(nn.relu(Conv(8)(x)))


def whole_norms(x):
    x = nn.relu(nn.GroupNorm(num_groups=2)(Conv(8, strides=2)(x)))
    x = nn.relu(nn.InstanceNorm()(Conv(8)(x)))
    return Conv(4)(x)


def pyramid_pooling(x):
    x = nn.relu(Conv(8, strides=4)(x))
    shape = (x.shape[0], *x.shape[1:3], 4)
    levels = [x]
    for window in (4, (8, 12)):
        size = (window, window) if isinstance(window, int) else window
        level = Conv(4, kernel_size=(1, 1))(nn.relu(nn.avg_pool(x, size, size)))
        levels.append(jax.image.resize(level, shape, "bilinear"))
    return Conv(4)(nn.relu(Conv(8)(jnp.concatenate(levels, axis=-1))))


def multi_output(x):
    x = nn.relu(Conv(8, strides=2)(x))
    y = nn.relu(Conv(8, strides=2)(x))
    logits = Conv(5)(y)
    return {
        "fine": x,
        "coarse": (logits, jnp.argmax(logits, axis=-1)),
        "sure": [logits.max(axis=-1, keepdims=True) > 0.5],
        "image": nn.Dense(3)(y.mean(axis=(1, 2))),
    }


def aspp(x):
    x = nn.relu(Conv(8, strides=2)(x))
    rates = (3, 6, 10)
    branches = [Conv(4, kernel_size=(1, 1))(x)]
    branches += [nn.relu(Conv(4, kernel_dilation=rate)(x)) for rate in rates]
    image = nn.relu(nn.Dense(4)(x.mean(axis=(1, 2), keepdims=True)))
    branches.append(jnp.broadcast_to(image, branches[0].shape))
    return Conv(4, kernel_size=(1, 1))(jnp.concatenate(branches, axis=-1))


def five_branches(x):
    x = nn.relu(Conv(5, strides=2)(x))
    slope = nn.PReLU()
    branches = [Conv(5, kernel_dilation=rate, use_bias=False)(x) for rate in (1, 2, 4, 8, 16)]
    sums = [branches[0], branches[1]]
    for branch in branches[2:]:
        sums.append(sums[-1] + branch)
    return slope(Norm()(x + sum(sums)))


def depth_to_space(x):
    n, height, width, _ = x.shape
    x = x.reshape(n, height // 4, 4, width // 4, 4, 3).transpose(0, 1, 3, 2, 4, 5)
    x = nn.relu(Conv(16)(x.reshape(n, height // 4, width // 4, 48)))
    x = x.reshape(n, height // 4, width // 4, 2, 2, 4).transpose(0, 1, 3, 2, 4, 5)
    return Conv(4)(x.reshape(n, height // 2, width // 2, 4))


def channels(x):
    x = Conv(9)(x)
    a, b, c = jnp.split(x, 3, axis=-1)
    x = jnp.concatenate([nn.softmax(a), b[..., 1:], nn.LayerNorm()(c), x[..., ::2]], axis=-1)
    x = nn.gelu(nn.Dense(8)(x))
    x = jnp.einsum("nhwc,dc->nhwd", x, jnp.eye(6, 8) + 0.1)
    x = Conv(5)(jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, 2)), constant_values=0.3))
    norm = jnp.linalg.norm(x, axis=-1, keepdims=True) + x.var(axis=-1, keepdims=True)
    best = jnp.argmax(x, axis=-1)
    return {"probabilities": nn.softmax(x / norm), "classes": best, "least": x.min(axis=-1)}


def ranking(x):
    x = Conv(6, strides=2)(x)
    values, places = lax.top_k(x, 2)
    table = nn.Embed(6, 3)(jnp.argmax(x, axis=-1))
    ordered = jnp.sort(x, axis=-1)[..., :2] + jnp.cumsum(x, axis=-1)[..., 3:5]
    ordered = ordered + jnp.argsort(x, axis=-1)[..., :2] / 6
    one_hot = nn.one_hot(places[..., 0], 6)
    return Conv(4)(
        jnp.concatenate([values, table, ordered, one_hot, x[..., ::-1]], axis=-1)
    ), places


def attention(x):
    x = nn.relu(Conv(8, kernel_size=(5, 5), strides=8)(x))
    tokens = x.reshape(x.shape[0], -1, 8)
    tokens = tokens + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(tokens))
    return Conv(4)(tokens.reshape(x.shape))


def axial(x):
    # Attention within rows, then within columns.
    x = nn.relu(Conv(8, kernel_size=(3, 3), strides=4)(x))
    x = x + nn.MultiHeadDotProductAttention(2)(x)
    turned = x.swapaxes(1, 2)
    turned = turned + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(turned))
    return Conv(4)(turned.swapaxes(1, 2))


def convnext(x):
    x = Conv(8, kernel_size=(4, 4), strides=4, padding="VALID")(x)
    y = nn.LayerNorm()(Conv(8, kernel_size=(7, 7), feature_group_count=8)(x))
    return Conv(4)(x + nn.Dense(8)(nn.gelu(nn.Dense(16)(y))))


def recomputed(x):
    x = nn.remat(nn.Conv)(6, (3, 3))(x)
    x = nn.silu(x) + jax.jit(nn.softplus)(x) + nn.gelu(x, approximate=False)
    return Conv(4)(nn.elu(nn.remat(nn.Conv)(6, (3, 3), strides=2)(x)))


def over_strided(x):
    # Stride 16 with blocks of 8: less than a pixel a block, which no tile can hold.
    x = nn.relu(Conv(6, strides=4)(x))
    y = nn.relu(Conv(6, strides=2)(nn.relu(Conv(6, strides=2)(x))))
    return Conv(4)(x + resize(y, 4, "bilinear"))


# --- plain JAX ------------------------------------------------------------------------------------


def conv(x, kernel, stride=1, padding="SAME", layout="NHWC", **options):
    numbers = (layout, "HWIO", layout)
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=numbers, **options
    )


def nchw(p, x):
    x = x.transpose(0, 3, 1, 2)
    x = jax.nn.relu(conv(x, p["a"], 2, layout="NCHW") + p["bias"][None, :, None, None])
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 3, 3), (1, 1, 1, 1), "SAME")
    return conv(x, p["b"], layout="NCHW").transpose(0, 2, 3, 1)


def control_flow(p, x):
    x = conv(x, p["a"], 2)
    x, _ = lax.scan(lambda h, k: (jax.nn.relu(conv(h, k)), None), x, p["stack"])
    x = lax.while_loop(
        lambda c: c[0] < 2, lambda c: (c[0] + 1, jnp.tanh(conv(c[1], p["b"]))), (0, x)
    )
    x = lax.cond(p["flag"] > 0, lambda h: conv(h, p["b"]), lambda h: -h, x[1])
    return conv(x, p["head"])


def looped(p, x):
    # Layers with stacked parameters, steps of refinement, parts of what comes with a frame, and a
    # loop in a loop; a choice that is known; a loop over streams.
    x = lax.map(lambda image: conv(image[None], p["a"], 2)[0], x)

    def layer(h, kernel):
        return h + jnp.tanh(conv(h, kernel)), h.mean(axis=-1)

    y, means = lax.scan(layer, x, p["stack"], reverse=True)
    y = lax.fori_loop(0, 3, lambda i, h: jnp.tanh(conv(h, p["b"])) * i + x, y)
    parts = x.reshape(*x.shape[:3], 2, 3).transpose(3, 0, 1, 2, 4)
    z, parts = lax.scan(lambda h, part: (h + part, (h * part, 7)), parts[1], parts)
    inner = jax.checkpoint(lambda h: lax.scan(layer, h, p["stack"])[0])
    y, _ = lax.scan(lambda h, _: (inner(h) / 2, None), y, length=2)
    y = lax.cond(True, lambda h: conv(h, p["b"]), jnp.negative, y)
    return y, means.transpose(1, 2, 3, 0), z, parts[0].transpose(1, 2, 3, 0, 4), parts[1]


@jax.custom_vjp
def scaled(x):
    return 2 * x


scaled.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g,))


def nested_calls(p, x):
    layer = jax.jit(lambda h, k, stride: jax.nn.relu(conv(h, k, stride)), static_argnums=2)
    x = layer(x, p["a"], 2)
    x = jax.checkpoint(lambda h: layer(layer(h, p["b"], 1), p["b"], 1))(scaled(x))
    return jax.named_call(lambda h: jax.nn.swish(conv(h, p["head"])), name="head")(x)


def coordinates(p, x):
    n, height, width, _ = x.shape
    rows = jnp.broadcast_to(jnp.linspace(-1, 1, height)[None, :, None, None], (n, height, width, 1))
    columns = lax.broadcasted_iota(x.dtype, (n, height, width, 1), 2) / width
    x = conv(jnp.concatenate([x, rows.astype(x.dtype), columns], axis=-1), p["a"], 2)
    x = jax.nn.relu(x + p["position"])
    return conv(x, p["head"]) * jnp.hypot(rows[:, ::2, ::2], columns[:, ::2, ::2])


def whole_shuffles(p, x):
    x = conv(x, p["a"], 2)
    y = jnp.roll(x, 3, axis=2) + jnp.cumsum(x, axis=2) / 8
    y = jax.nn.relu(y).swapaxes(1, 2)[:, 1:-1].swapaxes(1, 2)
    y = jnp.pad(y, ((0, 0), (0, 0), (1, 1), (0, 0)), mode="reflect")
    return conv(jax.nn.relu(conv(y, p["b"])), p["head"])


def flipped(p, x):
    # Each frame and its mirror image, as at test time; and an output that is mirrored.
    def features(x):
        return conv(jax.nn.relu(conv(x, p["a"], 2)), p["b"])

    y = features(x) + jnp.flip(features(jnp.flip(x, axis=2)), axis=2)
    return conv(jax.nn.relu(y), p["head"]), jnp.flip(y.swapaxes(1, 2)[:, ::-1], axis=2)


def twice_resized(p, x):
    # One pick or matrix after the other along the same axis.
    x = conv(x, p["a"], 2)
    n, h, w, c = x.shape

    def down(x):
        return jnp.take(x, np.clip(np.arange(h) - 1, 0, h - 1), axis=1)

    half = jax.image.resize(down(x), (n, h // 2, w // 2, c), "bilinear")
    large = jax.image.resize(half, (n, h, w, c), "nearest")
    large = jax.image.resize(large, (n, 2 * h, w, c), "nearest")
    near = (np.tri(h, k=1) - np.tri(h, k=-2)).astype(x.dtype)
    mixed = jnp.tensordot(near, down(x), ((1,), (1,))).swapaxes(0, 1)
    return down(down(x)), conv(large, p["b"]), jax.image.resize(mixed, (n, 2 * h, w, c), "nearest")


def quantised(p, x):
    # Products of whole numbers, which are scaled and divided afterwards.
    kernel = jnp.round(20 * p["a"]).astype(jnp.int8)
    x = lax.conv_general_dilated(
        jnp.round(127 * x.astype(jnp.float32)).astype(jnp.int8),
        kernel,
        (2, 2),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=jnp.int32,
    )
    bias = p["bias"].astype(jnp.float32).reshape(1, 1, 1, -1)
    return x.astype(jnp.float32) * 0.01 + bias, x // 7


@jax.custom_jvp
@jax.jit
def relu(x):  # with an upper bound, and the name of another
    return jnp.clip(x, 0, 0.5)


relu.defjvp(lambda primals, tangents: (relu(*primals), tangents[0]))
leaky = jax.custom_jvp(lambda x, slope: jnp.where(x > 0, x, slope * x))
leaky.defjvp(lambda primals, tangents: (leaky(*primals), tangents[0]))


def own_activations(p, x):
    return conv(leaky(conv(relu(conv(x, p["a"], 2)), p["b"]), 0.1), p["b"])


def cut_and_padded(p, x):
    # Frames that are moved by padding and cutting, then padded anew; padded before gaps.
    zero, still = jnp.zeros((), x.dtype), (0, 0, 0)
    moved = conv(lax.pad(x, zero, (still, (2, -2, 0), (0, 0, 0), still)), p["a"])
    cut = conv(lax.pad(x, zero, (still, (-1, 1, 0), (3, -1, 0), still)), p["a"], padding="VALID")
    around = lax.pad(x, zero, (still, (1, 1, 0), (1, 1, 0), still))
    gaps = lax.conv_general_dilated(
        around, p["a"], (1, 1), ((0, -1), (-1, 0)), lhs_dilation=(2, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    pooled = lax.reduce_window(
        lax.pad(x, zero, (still, (1, -1, 0), still, still)), -jnp.inf, lax.max, (1, 3, 3, 1),
        (1, 1, 1, 1), "SAME",
    )  # fmt: skip
    return moved, cut, gaps, pooled, jnp.pad(x, ((0, 0), (1, 1), (2, 0), (0, 0)))


def mirrored(p, x):
    # Padding by a frame's own pixels, of several kinds; also channels first, and before a pool.
    def around(x, amount, mode):
        return jnp.pad(x, ((0, 0), (amount, amount), (amount, amount), (0, 0)), mode=mode)

    x = jax.nn.relu(conv(around(x, 2, "reflect"), p["wide"], 2, "VALID"))
    y = conv(around(x, 1, "edge"), p["b"], padding="VALID")
    y = jnp.pad(y.transpose(0, 3, 1, 2), ((0, 0), (0, 0), (1, 1), (2, 0)), mode="symmetric")
    y = conv(y, p["b"][:, :, :, :4], padding="VALID", layout="NCHW")
    pooled = lax.reduce_window(
        around(x, 1, "reflect"), -jnp.inf, lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "VALID"
    )
    return y, pooled, around(x, 3, "reflect"), jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)), "wrap")


def stacked(p, x):
    # Axes that are made and taken apart; channels that are written.
    x = conv(x, p["a"], 2)
    pairs = jnp.stack([x, -x], axis=-1).max(axis=-1)
    first, *others = jnp.unstack(x, axis=-1)
    bias = jnp.broadcast_to(p["bias"][None, None, None, :3], (*x.shape[:3], 3))
    written = x.at[..., :2].set(jnp.tanh(x[..., 1:3])).at[..., 3:].add(bias)
    written = written.at[..., 4:5].multiply(0.5)
    return jnp.stack([first, sum(others)], axis=1), conv(written + pairs, p["b"])


def filled(p, x):
    # Channels of one value each: zeros, a parameter, a mean of the frame.
    x = conv(x, p["a"], 2)
    mean = jnp.broadcast_to(x.mean(axis=(1, 2, 3), keepdims=True), (*x.shape[:3], 2))
    bias = jnp.broadcast_to(p["bias"][None, None, None, :1], (*x.shape[:3], 3))
    y = jnp.concatenate([jnp.zeros((*x.shape[:3], 3), x.dtype), x, mean, bias], axis=-1)
    return conv(y[..., 2:8], p["b"]), y


def written_channels(p, x):
    # Single channels that are written, also where they come first; several at a known place.
    x = conv(x, p["a"], 2)
    y = x.at[..., 0].set(0.5).at[..., -1].add(2 * x[..., 1]).transpose(0, 3, 1, 2)
    y = y.at[:, 3].multiply(jnp.linspace(0, 1, x.shape[1], dtype=x.dtype)[None, :, None])
    y = jax.lax.dynamic_update_slice_in_dim(y, jnp.tanh(y[:, 2:4]), 4, axis=1)
    pairs = x.reshape(*x.shape[:3], 3, 2)
    several = x.at[..., ::2].multiply(2.0).at[..., np.array([5, 1])].set(jnp.tanh(x[..., :2]))
    several = jnp.zeros_like(x).at[..., np.array([3, 3, 0])].add(several[..., 1:4])
    several = jax.lax.reduce(several, np.zeros((), x.dtype), lambda a, b: a + b + a * b, (3,))
    return (
        conv(y, p["b"], layout="NCHW"),
        pairs.at[..., 1, :].set(pairs[..., 0, :]),
        several + jnp.median(x, -1),
        jax.lax.bitcast_convert_type(jax.lax.bitcast_convert_type(x, jnp.uint32), x.dtype) + x,
        jnp.quantile(x.astype(jnp.float32), 0.3, axis=-1, method="lower"),
        jnp.take_along_axis(pairs, (pairs[..., :1, :1] > 0).astype(int), -2),
    )


def grouped_products(p, x):
    # A matrix for each group of channels, of pixels and of tokens.
    x = conv(x, p["a"], 2)
    n, h, w, _ = x.shape
    groups = p["b"][0, :2, :, :3].transpose(0, 2, 1)  # [2, 3, 6]
    y = jnp.einsum("nhwgc,gcd->nhwgd", x.reshape(n, h, w, 2, 3), groups)
    tokens = jnp.einsum("dgc,ntgc->ndtg", groups.transpose(2, 0, 1), x.reshape(n, h * w, 2, 3))
    flat = jnp.einsum("bgc,gcd->bgd", x.reshape(-1, 2, 3), jnp.broadcast_to(groups[:1], (2, 3, 6)))
    mapped = jax.vmap(jnp.matmul, in_axes=(3, 0), out_axes=1)(x.reshape(n, h, w, 2, 3), groups)
    return y, tokens, flat.reshape(n, h, w, 12), mapped.transpose(0, 2, 3, 1, 4)


def linear_attention(p, x):
    # Keys meet values before queries; channels attend to channels.
    x = jax.nn.relu(conv(x, p["a"], 2))
    n, h, w, c = x.shape
    tokens = x.reshape(n, h * w, 2, c // 2)
    q, k = jax.nn.relu(tokens), jax.nn.relu(tokens * p["scale"])
    values = jnp.einsum("nphc,nphd->nhcd", k, tokens)
    y = jnp.einsum("nphc,nhcd->nphd", q, values)
    y = y / (jnp.einsum("nphc,nhc->nph", q, k.sum(axis=1))[..., None] + 1)
    scores = jax.nn.softmax(jnp.einsum("nhwc,nhwd->ndc", x, x * x) / (h * w), axis=1)
    return conv(y.reshape(x.shape) + jnp.einsum("nhwc,ndc->nhwd", x, scores), p["b"])


def criss_cross(p, x):
    # Each pixel looks at its row and its column with one softmax; a channels-first map, by pairs.
    x = conv(x, p["a"], 4)
    keys, width = jnp.tanh(x), x.shape[2]
    rows = jnp.einsum("nhwc,nhvc->nhwv", x, keys)
    columns = jnp.einsum("nhwc,ngwc->nhwg", x, keys)
    scores = jax.nn.softmax(jnp.concatenate([rows, columns], axis=-1), axis=-1)
    y = jnp.einsum("nhwv,nhvc->nhwc", scores[..., :width], x)
    y = y + jnp.einsum("nhwg,ngwc->nhwc", scores[..., width:], x)
    first = y.transpose(0, 3, 1, 2)
    pairs = jnp.exp(jnp.einsum("nchw,nchv->nhvw", first, keys.transpose(0, 3, 1, 2)))
    pairs = pairs / pairs.sum(axis=2, keepdims=True)
    return conv(y, p["b"]), jnp.einsum("nhvw,nchv->nchw", pairs, first)


def neighbourhoods(p, x):
    # Each pixel's neighbours, moved to it by padding and cutting; gradients and shifts.
    x = conv(x, p["a"], 2)
    h, w = x.shape[1:3]
    zeros = jnp.pad(x, ((0, 0), (1, 1), (2, 2), (0, 0)))
    mirror = jnp.pad(x, ((0, 0), (1, 1), (2, 2), (0, 0)), mode="reflect")
    places = [(i, j) for i in range(3) for j in (0, 1, 4)]
    seen = jnp.stack([zeros[:, i : i + h, j : j + w] for i, j in places], axis=-1)
    y = (seen * jax.nn.softmax(p["weights"])).sum(axis=-1)
    y = y + jnp.stack([mirror[:, i : i + h, j : j + w] for i, j in places], axis=-1).max(axis=-1)
    down = jnp.pad(x[:, 1:], ((0, 0), (0, 1), (0, 0), (0, 0)), constant_values=0.5) - x
    right = jnp.pad(x, ((0, 0), (0, 0), (2, 0), (0, 0)))[:, :, :-2, 1:4]
    thin = zeros[:, 1 : h + 1 : 2, 3 : w + 3 : 2]
    cropped = conv(mirror[:, :, 1:-1], p["b"], padding="VALID")
    below = lax.reduce_window(
        x[:, 1:], 0.0, lax.add, (1, 2, 3, 1), (1, 1, 1, 1), ((0, 0), (0, 2), (1, 1), (0, 0))
    )
    return conv(y, p["b"]) + cropped, down, right, thin, below


def own_pools(p, x):
    # Pooling by a function of one's own, of masks, and over channels.
    x = conv(x, p["a"], 2)
    pool, window, still = lax.reduce_window, (1, 3, 3, 1), (1, 1, 1, 1)
    largest = pool(x, 0.0, lambda a, b: jnp.maximum(abs(a), abs(b)), window, (1, 2, 2, 1), "SAME")
    grown = pool(x > 0.4, False, lax.bitwise_or, window, still, "SAME")
    shrunk = pool(x > 0.4, True, lax.min, window, still, "SAME")
    response = pool(x * x, 0.0, lax.add, (1, 1, 1, 3), still, "SAME")
    both = pool(x, -jnp.inf, lax.max, (1, 2, 2, 2), (1, 2, 2, 2), "VALID")
    counted = pool(x, 0.5, lambda a, b: a + b, window, still, "SAME")
    return conv(x * grown / (1 + response), p["b"]), largest, shrunk, both, counted


def looked_up(p, x):
    # Tables that pixels pick from: a palette, an embedding of each of the largest, a codebook; and
    # their own channels.
    x = conv(x, p["a"], 2)
    best, largest = jnp.argmax(x, axis=-1), lax.top_k(x, 2)[1]
    palette = jnp.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], jnp.uint8)[best % 3]
    embedded = jnp.take(p["table"], largest, axis=0).sum(axis=3)
    codes = p["table"].T[:, jnp.argmin(x, axis=-1)].transpose(1, 0, 2, 3)
    pairs = p["table"][best.reshape(x.shape[0], -1), largest[..., 0].reshape(x.shape[0], -1) % 4]
    groups = x.reshape(*x.shape[:3], 2, 3)
    deepest = jnp.take_along_axis(groups, jnp.argmin(groups, axis=4, keepdims=True), axis=4)
    tokens = x.reshape(x.shape[0], -1, x.shape[3])
    second = jnp.take_along_axis(tokens, jnp.argsort(tokens, axis=2)[..., -2:], axis=2)
    nchw = jnp.take_along_axis(x.transpose(0, 3, 1, 2), best[:, None], axis=1)
    return palette, conv(embedded, p["b"]), codes, pairs, deepest[..., 0], second, nchw


def strips(p, x):
    # Rows and columns that are pooled, as coordinate attention and strip pooling do.
    x = conv(x, p["a"], 2)
    rows = jax.nn.sigmoid(conv(x.mean(axis=2, keepdims=True), p["b"]))
    columns = jax.nn.sigmoid(conv(x.max(axis=1, keepdims=True), p["b"]))
    return conv(x * rows * columns, p["b"]), x.transpose(0, 3, 2, 1).sum(axis=(1, 2))


def by_name(p, x):
    # What a compiler is told; complex numbers.
    x = checkpoint_name(conv(x, p["a"], 2), "stem")
    x, bias = lax.optimization_barrier((x, p["bias"]))
    turned = lax.complex(x[..., :3], x[..., 3:]) * jnp.exp(0.5j)
    return conv(x + bias[None, None, None], p["b"]), turned.real * turned.imag, jnp.abs(turned)


def integer_frames(p, x):
    # Sums of bytes, in float16 on the way: rounding aside, what a camera's frames go through.
    x = jnp.where(x > 10, x, 0).astype(jnp.float32) / 255
    x = jax.nn.relu(conv(x.astype(jnp.float16).astype(jnp.float32), p["a"], 2))
    return conv(x, p["head"]), (x > 0.5).sum(axis=-1)


def computed_places(p, x):
    # Places that depend on the frame, picked from resizings of two shapes.
    x = conv(x, p["a"], 2)
    n, h, w, c = x.shape
    places = jnp.argsort(x.mean(axis=(2, 3)), axis=1)
    pick = jax.vmap(lambda rows, places: rows[places])
    wide = pick(jax.image.resize(x, (n, h, 2 * w, c), "nearest"), places)
    tall = pick(jax.image.resize(conv(x, p["b"]), (n, 2 * h, w, c), "nearest"), places)
    return conv(wide[:, :, ::2] + tall, p["b"])


def picked_places(p, x):
    # Bilinear resizing by hand, as `torchax` has it, with channels last and first; rows and columns
    # exchanged; channels and columns at once.
    x = conv(x, p["a"], 2)
    h, w = x.shape[1:3]
    rows, columns = (np.clip((np.arange(2 * s) + 0.5) / 2 - 0.5, 0, s - 1) for s in (h, w))
    below, beside = (np.minimum(v.astype(int) + 1, s - 1) for v, s in ((rows, h), (columns, w)))
    above, before = rows.astype(int)[:, None], columns.astype(int)[None]
    down, right = (rows % 1)[None, :, None, None], (columns % 1)[None, None, :, None]
    upper = x[:, above, before] * (1 - right) + x[:, above, beside[None]] * right
    lower = x[:, below[:, None], before] * (1 - right) + x[:, below[:, None], beside[None]] * right
    large = (upper * (1 - down) + lower * down).astype(x.dtype)
    first = jnp.transpose(x, (0, 3, 1, 2))[:, :, above, before]
    turned = conv(x, p["b"])[:, above.T, before.T]  # [N, columns, rows, C]
    mixed = jnp.transpose(x, (0, 3, 1, 2))[:, np.array([[2], [0], [2]]), :, np.arange(2 * w) // 2]
    return conv(large, p["b"]), first, turned.swapaxes(1, 2), jnp.transpose(mixed, (2, 3, 1, 0))


def whole_outputs(p, x):
    # What the whole frame gave is an output like any other: copied where nothing is executed, but
    # where it is moved.
    y = conv(x, p["a"], 2)
    valid = conv(y, p["b"], padding="VALID")
    return jnp.roll(y, 5, axis=1), y - y.mean(axis=1, keepdims=True), valid


def odd_outputs(p, x):
    y = conv(x, p["a"])
    return (
        x,
        (y, y),
        jnp.zeros((x.shape[0], 4, 6, 1)),
        jnp.broadcast_to(p["bias"], (*x.shape[:3], 6)),
    )


PLAIN = {
    "nchw": (nchw, {"a": (3, 3, 3, 6), "b": (3, 3, 6, 4), "bias": (6,)}, 16),
    "control_flow": (
        control_flow,
        {
            "a": (3, 3, 3, 6),
            "b": (3, 3, 6, 6),
            "stack": (2, 3, 3, 6, 6),
            "flag": (),
            "head": (1, 1, 6, 4),
        },
        16,
    ),
    "looped": (looped, {"a": (3, 3, 3, 6), "b": (3, 3, 6, 6), "stack": (2, 3, 3, 6, 6)}, 16),
    "nested_calls": (nested_calls, {"a": (3, 3, 3, 6), "b": (3, 3, 6, 6), "head": (3, 3, 6, 4)}, 8),
    "coordinates": (
        coordinates,
        {"a": (3, 3, 5, 6), "position": (1, H // 2, W // 2, 6), "head": (3, 3, 6, 4)},
        16,
    ),
    "whole_shuffles": (
        whole_shuffles,
        {"a": (3, 3, 3, 6), "b": (3, 3, 6, 6), "head": (3, 3, 6, 4)},
        16,
    ),
    "filled": (filled, {"a": (3, 3, 3, 6), "b": (3, 3, 6, 4), "bias": (6,)}, 16),
    "written_channels": (written_channels, {"a": (3, 3, 3, 6), "b": (3, 3, 6, 4)}, (8, 16)),
    "grouped_products": (grouped_products, {"a": (3, 3, 3, 6), "b": (3, 3, 6, 6)}, 16),
    "linear_attention": (
        linear_attention,
        {"a": (3, 3, 3, 6), "b": (3, 3, 6, 4), "scale": (1, 1, 1, 3)},
        (8, 16),
    ),
    "criss_cross": (criss_cross, {"a": (5, 5, 3, 6), "b": (3, 3, 6, 4)}, 16),
    "neighbourhoods": (
        neighbourhoods,
        {"a": (3, 3, 3, 6), "b": (3, 3, 6, 6), "weights": (1, 1, 1, 1, 9)},
        16,
    ),
    "own_pools": (own_pools, {"a": (3, 3, 3, 6), "b": (3, 3, 6, 4)}, (8, 16)),
    "looked_up": (looked_up, {"a": (3, 3, 3, 6), "b": (3, 3, 4, 4), "table": (6, 4)}, (8, 16)),
    "strips": (strips, {"a": (3, 3, 3, 6), "b": (3, 3, 6, 6)}, (16, 8)),
    "by_name": (by_name, {"a": (3, 3, 3, 6), "b": (3, 3, 6, 4), "bias": (6,)}, 16),
    "integer_frames": (integer_frames, {"a": (3, 3, 3, 6), "head": (3, 3, 6, 4)}, 16),
    "computed_places": (computed_places, {"a": (3, 3, 3, 6), "b": (3, 3, 6, 6)}, 16),
    "picked_places": (picked_places, {"a": (3, 3, 3, 6), "b": (3, 3, 6, 4)}, (8, 16)),
    "flipped": (
        flipped,
        {"a": (3, 3, 3, 6), "b": (3, 3, 6, 6), "head": (3, 3, 6, 4)},
        16,
    ),
    "twice_resized": (twice_resized, {"a": (3, 3, 3, 6), "b": (3, 3, 6, 4)}, 16),
    "quantised": (quantised, {"a": (3, 3, 3, 6), "bias": (6,)}, 16),
    "own_activations": (own_activations, {"a": (3, 3, 3, 6), "b": (3, 3, 6, 6)}, 16),
    "cut_and_padded": (cut_and_padded, {"a": (3, 3, 3, 6)}, 16),
    "mirrored": (mirrored, {"wide": (5, 5, 3, 6), "b": (3, 3, 6, 6)}, 16),
    "stacked": (stacked, {"a": (3, 3, 3, 6), "b": (3, 3, 6, 4), "bias": (6,)}, 16),
    "whole_outputs": (whole_outputs, {"a": (3, 3, 3, 6), "b": (3, 3, 6, 2)}, 16),
    "odd_outputs": (odd_outputs, {"a": (3, 3, 3, 6), "bias": (1, 1, 1, 6)}, 8),
}

FLAX = {
    plain_cnn: 8,
    strided: (16, 8),
    dilated: 8,
    depthwise: 8,
    transposed: 8,
    unet_bilinear: (8, 16),
    unet_nearest: 16,
    resizing: 16,
    pooling: 8,
    even_kernels: 8,
    explicit_padding: 16,
    squeeze_excite: 16,
    whole_norms: 16,
    pyramid_pooling: 16,
    multi_output: 16,
    aspp: 8,
    five_branches: 16,
    depth_to_space: 16,
    channels: (8, 16),
    ranking: 16,
    attention: 16,
    axial: 16,
    convnext: 16,
    recomputed: 8,
    over_strided: 8,
}

# The primitive that mixes space, as the jaxpr calls it; where several are possible, any of them.
NONE = (plain_cnn, strided, dilated, depthwise, transposed, unet_bilinear, unet_nearest, pooling)
NONE += (even_kernels, five_branches, depth_to_space, channels, convnext, recomputed, ranking)
NONE += (
    looked_up,
    looped,
    nested_calls,
    integer_frames,
    picked_places,
    twice_resized,
    quantised,
    own_activations,
    stacked,
    written_channels,
    grouped_products,
    criss_cross,
    neighbourhoods,
    by_name,
)
MEAN = ("reduce_sum", "reshape", "square")
FALLS_BACK = {f.__name__: () for f in NONE} | {
    "nnx": (),
    "keras": (),
    "squeeze_excite": MEAN,
    "filled": MEAN,
    "whole_norms": MEAN,
    "linear_attention": MEAN,
    "pyramid_pooling": ("reduce_window_sum",),
    "aspp": MEAN,
    "attention": (),
    "axial": (),
    "control_flow": ("while", "cond"),
    "whole_shuffles": ("cumsum", "slice"),
    "flipped": ("rev",),
}
# Which output of a network is moved, so that no block of it is that of a frame's: all of it is this
# frame's, wherever the grid is.
MOVED = {"flipped": 1, "whole_shuffles": 0, "whole_outputs": 0, "computed_places": 0}


def build_equinox() -> tuple[Callable, object]:
    """An Equinox network: CHW, one frame at a time, mapped over the streams."""
    import equinox as eqx

    def make(key):
        keys = jax.random.split(key, 3)
        return eqx.nn.Sequential([
            eqx.nn.Conv2d(3, 6, 3, stride=2, padding=1, key=keys[0]),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.MaxPool2d(3, 1, padding=1),
            eqx.nn.GroupNorm(2, 6),
            eqx.nn.ConvTranspose2d(6, 4, 2, stride=2, key=keys[1]),
        ])  # fmt: skip

    shapes, static = eqx.partition(eqx.filter_eval_shape(make, jax.random.key(0)), is_array)

    def apply(params, frames):
        model = eqx.combine(params, static)
        return jax.vmap(lambda x: model(x.transpose(2, 0, 1)).transpose(1, 2, 0))(frames)

    return apply, shapes


def is_array(x) -> bool:
    return isinstance(x, jax.ShapeDtypeStruct)


def build_nnx() -> tuple[Callable, object]:
    """A network of Flax's NNX, whose modules hold their parameters."""
    from flax import nnx

    class Segmenter(nnx.Module):
        def __init__(self, rngs):
            self.down = nnx.Conv(3, 6, (3, 3), strides=2, use_bias=False, rngs=rngs)
            self.norm = nnx.BatchNorm(6, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)
            self.up = nnx.ConvTranspose(6, 6, (2, 2), strides=(2, 2), rngs=rngs)
            self.head = nnx.Conv(6, 4, (3, 3), rngs=rngs)

        def __call__(self, frames):
            x = nnx.relu(self.norm(self.dropout(self.down(frames))))
            return self.head(nnx.relu(self.up(x)))

    def make():
        network = Segmenter(nnx.Rngs(0))
        network.eval()
        return network

    numbers = (nnx.Param, nnx.BatchStat)
    definition, shapes, rest = nnx.split(nnx.eval_shape(make), numbers, ...)
    return lambda params, frames: nnx.merge(definition, params, rest)(frames), shapes


def build_keras() -> tuple[Callable, object]:
    """A network of Keras, whose JAX backend takes variables in lists."""
    import keras
    from keras import layers

    frames = keras.Input((H, W, 3))
    x = layers.Conv2D(6, 3, strides=2, padding="same", use_bias=False)(frames)
    skip = x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.SeparableConv2D(8, 3, padding="same", activation="swish")(x)
    x = layers.MaxPooling2D(2)(x)
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    x = layers.Concatenate()([skip, x])
    model = keras.Model(frames, layers.Conv2D(4, 1)(layers.Dropout(0.5)(x)))
    kinds = model.trainable_variables, model.non_trainable_variables
    shapes = {v.path: jax.ShapeDtypeStruct(v.shape, v.dtype) for kind in kinds for v in kind}

    def apply(params, frames):
        values = [[params[v.path] for v in kind] for kind in kinds]
        return model.stateless_call(*values, frames, training=False)[0]

    return apply, shapes


MADE = {"equinox": build_equinox, "nnx": build_nnx, "keras": build_keras}

NAMES = (*(f.__name__ for f in FLAX), *PLAIN, *MADE)


@functools.cache
def build(name: str, dtype: str = "float32") -> Network:
    """The network of that name, with parameters in `dtype` (and frames, if they are floats)."""
    frame_dtype = "uint8" if name == "integer_frames" else dtype
    functions = {f.__name__: f for f in FLAX}
    if name in functions:
        module = network(functions[name])()
        frames = jax.ShapeDtypeStruct((N, H, W, 3), dtype)
        apply, block = module.apply, FLAX[functions[name]]
        shapes = jax.eval_shape(module.init, jax.random.key(0), frames)
    elif name in MADE:
        (apply, shapes), block = MADE[name](), 16
    else:
        apply, shapes, block = PLAIN[name]
        shapes = {k: jax.ShapeDtypeStruct(s, dtype) for k, s in shapes.items()}
    params = random_like(shapes, seed=len(name), dtype=dtype)
    return Network(name, apply, params, block, FALLS_BACK.get(name), frame_dtype)


def tiny_network():
    """Two convolutions, which compile at once, as `bc_jax.models.load` gives a network."""
    from bc_jax.models import Network

    def apply(params, frames):
        x = frames.astype(jnp.float32) / 255
        return conv(jax.nn.relu(conv(x, params["stem"], 4)), params["head"])

    params = random_like({
        "stem": jax.ShapeDtypeStruct((3, 3, 3, 6), "float32"),
        "head": jax.ShapeDtypeStruct((3, 3, 6, 4), "float32"),
    })  # fmt: skip
    palette = np.array([[0, 114, 178], [213, 94, 0], [0, 158, 115], [230, 159, 0]], np.uint8)
    return Network("tiny", apply, params, ("sky", "road", "grass", "car"), palette, stride=4)
