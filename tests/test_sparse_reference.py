"""The engine against a slow NumPy reference of what every layer of a block-sparse network means.

Each network is written twice, for JAX and for the reference, with the same weights. Tolerance:
1e-4 of the reference's largest value, in float32.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import lax
from zoo import assert_close, random_grids

import bc_jax

PIXELS = (2, 32, 48)
FRAMES = 7


def conv(x, kernel, *, stride=1, padding="SAME", dilation=1, groups=1, upsample=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        ref.pair(stride),
        padding,
        lhs_dilation=ref.pair(upsample),
        rhs_dilation=ref.pair(dilation),
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def pool(x, kind, size, *, stride=1, padding="SAME", count_padding=True):
    size, stride = (1, *ref.pair(size), 1), (1, *ref.pair(stride), 1)
    if not isinstance(padding, str):
        padding = ((0, 0), *padding, (0, 0))
    if kind != "mean":
        start, reducer = {"max": (-jnp.inf, lax.max), "min": (jnp.inf, lax.min)}[kind]
        return lax.reduce_window(x, start, reducer, size, stride, padding)
    total = lax.reduce_window(x, 0.0, lax.add, size, stride, padding)
    if count_padding:
        return total / np.prod(size)
    return total / lax.reduce_window(jnp.ones_like(x), 0.0, lax.add, size, stride, padding)


def resize(x, factor, method, **options):
    n, height, width, channels = x.shape
    shape = (n, round(height * factor), round(width * factor), channels)
    return jax.image.resize(x, shape, method, **options)


def weights(**shapes) -> dict[str, np.ndarray]:
    """Random float32 weights of unit gain, by name."""
    rng = np.random.default_rng(len(shapes))
    gains = {k: 1.5 / np.sqrt(max(np.prod(s[:-1]), 1)) for k, s in shapes.items()}
    return {k: (rng.normal(size=s) * gains[k]).astype(np.float32) for k, s in shapes.items()}


# A residual network: 7x7/2 stem, 3x3/2 max pooling, a 3x3/2 block with a 1x1/2 shortcut.

RESIDUAL = weights(
    stem=(7, 7, 3, 8), a=(3, 3, 8, 12), b=(3, 3, 12, 12), short=(1, 1, 8, 12), head=(3, 3, 12, 4)
)


def residual_jax(p, x):
    x = jax.nn.relu(conv(x, p["stem"], stride=2, padding=((3, 3), (3, 3))))
    x = pool(x, "max", 3, stride=2, padding=((1, 1), (1, 1)))
    y = jax.nn.relu(conv(x, p["a"], stride=2, padding=((1, 1), (1, 1))))
    y = conv(y, p["b"]) + conv(x, p["short"], stride=2, padding="VALID")
    return conv(jax.nn.relu(y), p["head"])


def residual_reference(f, x):
    p = RESIDUAL
    x = f.relu(f.conv(x, p["stem"], stride=2, padding=((3, 3), (3, 3))))
    x = f.pool(x, "max", 3, stride=2, padding=((1, 1), (1, 1)))
    y = f.relu(f.conv(x, p["a"], stride=2, padding=((1, 1), (1, 1))))
    short = f.conv(x, p["short"], stride=2, padding="VALID")
    y = f.pixelwise(np.add, f.conv(y, p["b"]), short)
    return f.conv(f.relu(y), p["head"])


# Dilated branches whose halo passes one tile (8 / 2 = 4) and two, depthwise, even and flat kernels.

WIDE = weights(
    stem=(2, 2, 3, 6),
    d1=(3, 3, 6, 3),
    d3=(3, 3, 6, 3),
    d6=(3, 3, 6, 3),
    d10=(3, 3, 6, 3),
    depthwise=(5, 5, 1, 12),
    grouped=(4, 4, 4, 9),
    row=(1, 5, 9, 6),
    column=(4, 1, 6, 4),
)


def wide_jax(p, x):
    x = jnp.tanh(conv(x, p["stem"], stride=2))
    x = jnp.concatenate([conv(x, p[f"d{d}"], dilation=d) for d in (1, 3, 6, 10)], axis=-1)
    x = jax.nn.relu(conv(x, p["depthwise"], groups=12))
    x = jax.nn.relu(conv(x, p["grouped"], groups=3, padding=((0, 3), (2, 1))))
    return conv(conv(x, p["row"]), p["column"])


def wide_reference(f, x):
    p = WIDE
    x = f.pixelwise(np.tanh, f.conv(x, p["stem"], stride=2))
    x = f.concat(*[f.conv(x, p[f"d{d}"], dilation=d) for d in (1, 3, 6, 10)])
    x = f.relu(f.conv(x, p["depthwise"], groups=12))
    x = f.relu(f.conv(x, p["grouped"], groups=3, padding=((0, 3), (2, 1))))
    return f.conv(f.conv(x, p["row"]), p["column"])


# A U-Net that goes down by resizing and by strides, up by bilinear, nearest and transposed layers.

UNET = weights(
    a=(3, 3, 3, 6), b=(3, 3, 6, 8), c=(3, 3, 8, 8), up=(4, 4, 8, 6), up3=(3, 3, 6, 6),
    up2=(2, 2, 6, 4), head=(3, 3, 10, 3),
)  # fmt: skip


def unet_jax(p, x):
    x = conv(x, p["a"])
    a = jax.nn.relu(x)
    b = jax.nn.relu(conv(resize(a, 1 / 2, "bilinear"), p["b"], stride=2))
    b = b + resize(jax.nn.relu(conv(resize(b, 1 / 2, "nearest"), p["c"])), 2, "bilinear")
    b = lax.conv_transpose(b, p["up"], (2, 2), "SAME")
    c = lax.conv_transpose(b, p["up3"], (2, 2), "SAME")
    d = lax.conv_transpose(resize(b, 1 / 2, "bilinear", antialias=False), p["up2"], (2, 2), "VALID")
    c = jnp.concatenate([c + a, resize(d, 2, "nearest")], axis=-1)
    return conv(c, p["head"])


def unet_reference(f, x):
    p = UNET

    def up(x, kernel, same):
        padding = [ref.transpose_padding(k, 2, same) for k in kernel.shape[:2]]
        return f.conv(x, kernel, padding=padding, upsample=2)

    a = f.relu(f.conv(x, p["a"]))
    b = f.relu(f.conv(f.resize(a, 1 / 2, "bilinear"), p["b"], stride=2))
    c = f.relu(f.conv(f.resize(b, 1 / 2, "nearest"), p["c"]))
    b = up(f.pixelwise(np.add, b, f.resize(c, 2, "bilinear")), p["up"], True)
    c = up(b, p["up3"], True)
    d = up(f.resize(b, 1 / 2, "bilinear", antialias=False), p["up2"], False)
    c = f.concat(f.pixelwise(np.add, c, a), f.resize(d, 2, "nearest"))
    return f.conv(c, p["head"])


# Every pooling, softmax and slices of channels, blocks of pixels to channels and back.

POOLS = weights(mix=(3, 3, 12, 8), up=(3, 3, 12, 16), head=(3, 3, 4, 4))


def pools_jax(p, x):
    n, height, width, _ = x.shape
    x = x.reshape(n, height // 2, 2, width // 2, 2, 3).transpose(0, 1, 3, 2, 4, 5)
    x = conv(x.reshape(n, height // 2, width // 2, 12), p["mix"])
    around = ((1, 1), (1, 1))
    pooled = [
        pool(x, "mean", 3, padding=around),
        pool(x, "mean", (3, 2), padding="SAME", count_padding=False),
        -pool(x, "min", 3, padding="SAME"),
        pool(x, "max", (1, 5), padding="SAME"),
    ]
    x = jnp.concatenate([part[..., 2 * i : 2 * i + 4] for i, part in enumerate(pooled[:3])], -1)
    x = x * jax.nn.softmax(pooled[3], axis=-1)[..., :1]
    x = pool(conv(x, p["up"]), "max", 2, stride=2, padding="VALID")
    n, height, width, _ = x.shape
    x = x.reshape(n, height, width, 2, 2, 4).transpose(0, 1, 3, 2, 4, 5)
    return conv(x.reshape(n, height * 2, width * 2, 4), p["head"])


def pools_reference(f, x):
    p = POOLS
    x = f.pixelwise(lambda a: ref.space_to_depth(a, 2), x)
    x = f.conv(x, p["mix"])
    pooled = [
        f.pool(x, "mean", 3, padding=((1, 1), (1, 1))),
        f.pool(x, "mean", (3, 2), count_padding=False),
        f.pixelwise(np.negative, f.pool(x, "min", 3)),
        f.pool(x, "max", (1, 5)),
    ]
    parts = [
        f.pixelwise(lambda a, i=i: a[..., 2 * i : 2 * i + 4], part)
        for i, part in enumerate(pooled[:3])
    ]
    x = f.pixelwise(lambda a, b: a * ref.softmax(b)[..., :1], f.concat(*parts), pooled[3])
    x = f.pool(f.conv(x, p["up"]), "max", 2, stride=2, padding="VALID")
    return f.conv(f.pixelwise(lambda a: ref.depth_to_space(a, 2), x), p["head"])


# Squeeze-excite: a gate from the whole frame times a block value is a block value again. Mean
# and extremes are made from one value per block, and must be those of all pixels as last executed.

EXCITE = weights(a=(3, 3, 3, 8), gate=(8, 8), b=(3, 3, 8, 8), head=(3, 3, 8, 4))


def excite_jax(p, x):
    x = jax.nn.relu(conv(x, p["a"], stride=2))
    over_space = {"axis": (1, 2), "keepdims": True}
    extremes = x.max(**over_space) + (1 - x * x).min(**over_space)
    gate = jax.nn.sigmoid((4 * x.mean(**over_space) + extremes) @ p["gate"])
    x = jax.nn.relu(conv(x * gate, p["b"]))
    return conv(x, p["head"])


def excite_reference(f, x):
    p = EXCITE
    x = f.relu(f.conv(x, p["a"], stride=2))

    def summary(a):
        pixels = a.reshape(a.shape[0], -1, a.shape[-1])
        return 4 * pixels.mean(1) + pixels.max(1) + (1 - pixels**2).min(1)

    gate = f.whole(lambda a: 1 / (1 + np.exp(-summary(a)[:, None, None] @ p["gate"])), x)
    x = f.relu(f.conv(f.pixelwise(np.multiply, x, gate), p["b"]))
    return f.conv(x, p["head"])


# A shuffle of rows stands for what mixes all of space: fresh everywhere, also after a ReLU, for the
# convolution that reads it; the convolution's own result is block-wise, and so is the sum.

WHOLE = weights(a=(3, 3, 3, 6), b=(3, 3, 6, 6), c=(3, 3, 6, 6), head=(3, 3, 6, 4))


def whole_jax(p, x):
    x = conv(x, p["a"])
    mixed = jnp.flip(jnp.cumsum(x, axis=2) / 16, axis=1)
    direct = conv(jax.nn.relu(mixed), p["b"])
    summed = conv(jax.nn.relu(mixed) - x, p["c"])
    return conv(jax.nn.relu(direct + summed), p["head"])


def whole_reference(f, x):
    p = WHOLE
    x = f.conv(x, p["a"])
    mixed = f.whole(lambda a: np.flip(np.cumsum(a, axis=2) / 16, axis=1), x)
    direct = f.conv(f.relu(mixed), p["b"])
    summed = f.conv(f.pixelwise(np.subtract, f.relu(mixed), x), p["c"])
    return f.conv(f.relu(f.pixelwise(np.add, direct, summed)), p["head"])


# Pyramid pooling: windows wider than a tile, resized back by factors that are no tile's business.

PYRAMID = weights(a=(3, 3, 3, 8), level=(8, 4), b=(3, 3, 12, 8), head=(3, 3, 8, 4))


def pyramid_jax(p, x):
    x = jax.nn.relu(conv(x, p["a"], stride=2))
    n, height, width, _ = x.shape
    level = pool(x, "mean", (8, 12), stride=(8, 12), padding="VALID") @ p["level"]
    level = jax.image.resize(level, (n, height, width, 4), "bilinear")
    x = jax.nn.relu(conv(jnp.concatenate([x, level], axis=-1), p["b"]))
    return conv(x, p["head"])


def pyramid_reference(f, x):
    p = PYRAMID

    def level(a):
        n, height, width, channels = a.shape
        a = a.reshape(n, height // 8, 8, width // 12, 12, channels).mean(axis=(2, 4))
        rows = ref.resize_weights(height // 8, 8, "bilinear", True)
        columns = ref.resize_weights(width // 12, 12, "bilinear", True)
        return np.einsum("ah,bw,nhwc->nabc", rows, columns, a @ p["level"])

    x = f.relu(f.conv(x, p["a"], stride=2))
    x = f.relu(f.conv(f.concat(x, f.whole(level, x)), p["b"]))
    return f.conv(x, p["head"])


# Two layers of a transformer: queries in blocks, which look at the new of what is executed and at
# the kept of the rest. The first has two heads and fewer keys, the second has keys before queries.

TRANSFORMER = weights(
    stem=(4, 4, 3, 8), place=(1, 8, 12, 8), query=(8, 8), fewer=(2, 2, 8, 8), key=(8, 8),
    value=(8, 8), second=(8, 8), grow=(8, 16), local=(3, 3, 1, 16), shrink=(16, 8),
    head=(1, 1, 8, 4),
)  # fmt: skip


def transformer_jax(p, x):
    x = conv(x, p["stem"], stride=4, padding="VALID")
    n, height, width, c = x.shape
    tokens = x.reshape(n, height * width, c) + p["place"].reshape(1, height * width, c)

    def heads(y):
        return y.reshape(n, -1, 2, c // 2)

    fewer = conv(tokens.reshape(x.shape), p["fewer"], stride=2).reshape(n, -1, c)
    key, value = heads(fewer @ p["key"]), heads(fewer @ p["value"])
    scores = jnp.einsum("nqhd,nkhd->nhqk", heads(tokens @ p["query"]), key)
    mixed = jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(scores, axis=-1), value)
    tokens += mixed.reshape(tokens.shape)
    scores = tokens @ (tokens @ p["second"]).swapaxes(1, 2)  # of keys by queries
    tokens += jax.nn.softmax(scores, axis=1).swapaxes(1, 2) @ tokens
    tokens *= jax.nn.sigmoid(tokens.mean(axis=1, keepdims=True))
    grown = (tokens @ p["grow"]).reshape(n, height, width, -1)
    grown = jax.nn.relu(conv(grown, p["local"], groups=16)).reshape(n, height * width, -1)
    return conv((tokens + grown @ p["shrink"]).reshape(x.shape), p["head"])


def transformer_reference(f, x):
    p = TRANSFORMER

    def times(x, name):
        return f.pixelwise(lambda a: a @ p[name], x)

    def attend(query, key, value, heads):
        key, value = (
            a.reshape(len(a), -1, heads, 8 // heads) for a in map(f.combine, (key, value))
        )

        def mixed(q):
            tokens = q.reshape(len(q), -1, heads, 8 // heads)
            scores = ref.softmax(np.einsum("nqhd,nkhd->nhqk", tokens, key))
            return np.einsum("nhqk,nkhd->nqhd", scores, value).reshape(q.shape)

        return f.pixelwise(mixed, query)

    x = f.conv(x, p["stem"], stride=4, padding="VALID")
    x = f.pixelwise(lambda a: a + p["place"], x)
    fewer = f.conv(x, p["fewer"], stride=2)
    mixed = attend(times(x, "query"), times(fewer, "key"), times(fewer, "value"), 2)
    x = f.pixelwise(np.add, x, mixed)
    x = f.pixelwise(np.add, x, attend(times(x, "second"), x, x, 1))
    gate = f.whole(lambda a: 1 / (1 + np.exp(-a.mean(axis=(1, 2), keepdims=True))), x)
    x = f.pixelwise(np.multiply, x, gate)
    grown = f.relu(f.conv(times(x, "grow"), p["local"], groups=16))
    return f.conv(f.pixelwise(np.add, x, times(grown, "shrink")), p["head"])


# A transformer with a class token, which is whole and looks at all pixels in every frame.

CLASS = weights(
    stem=(4, 4, 3, 8), first=(1, 1, 8), place=(1, 97, 8), qkv=(8, 24), out=(8, 8), grow=(8, 16),
    shrink=(16, 8), head=(1, 1, 8, 4),
)  # fmt: skip


def class_jax(p, x):
    x = conv(x, p["stem"], stride=4, padding="VALID")
    n, height, width, c = x.shape
    first = jnp.broadcast_to(p["first"], (n, 1, c))
    tokens = jnp.concatenate([first, x.reshape(n, height * width, c)], axis=1) + p["place"]
    qkv = (tokens @ p["qkv"]).reshape(n, -1, 3, 2, c // 2)
    scores = jnp.einsum("nqhd,nkhd->nhqk", qkv[:, :, 0], qkv[:, :, 1])
    mixed = jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(scores, axis=-1), qkv[:, :, 2])
    tokens += mixed.reshape(tokens.shape) @ p["out"]
    tokens += jax.nn.relu(tokens @ p["grow"]) @ p["shrink"]
    pixels = tokens[:, 1:] * jnp.tanh(tokens[:, :1])
    return conv(pixels.reshape(x.shape), p["head"])


def class_reference(f, x):
    p = CLASS
    place = p["place"][:, 1:].reshape(1, 8, 12, 8)
    x = f.pixelwise(lambda a: a + place, f.conv(x, p["stem"], stride=4, padding="VALID"))
    first = np.repeat(p["first"] + p["place"][:, :1], len(x.array), axis=0)

    def part(a, number):
        return (a @ p["qkv"][:, 8 * number : 8 * number + 8]).reshape(len(a), -1, 2, 4)

    def all_tokens(number):
        kept = f.combine(f.pixelwise(lambda a: a @ p["qkv"][:, 8 * number : 8 * number + 8], x))
        return np.concatenate([part(first, number), kept.reshape(len(kept), -1, 2, 4)], axis=1)

    key, value = all_tokens(1), all_tokens(2)

    def layer(a):
        scores = ref.softmax(np.einsum("nqhd,nkhd->nhqk", part(a, 0), key))
        a = a + np.einsum("nhqk,nkhd->nqhd", scores, value).reshape(a.shape) @ p["out"]
        return a + np.maximum(a @ p["grow"], 0) @ p["shrink"]

    gate = np.tanh(layer(first))[:, None]
    x = f.pixelwise(lambda a: layer(a) * gate, x)
    return f.conv(x, p["head"])


@dataclasses.dataclass(frozen=True)
class Pair:
    """One network twice, and the block sizes to run it with."""

    jax: Callable
    program: Callable
    params: dict[str, np.ndarray]
    blocks: tuple


PAIRS = {
    "residual": Pair(residual_jax, residual_reference, RESIDUAL, (8, (16, 8))),
    "wide": Pair(wide_jax, wide_reference, WIDE, (8, (8, 16))),
    "unet": Pair(unet_jax, unet_reference, UNET, (16, (8, 16))),
    "pools": Pair(pools_jax, pools_reference, POOLS, (8,)),
    "excite": Pair(excite_jax, excite_reference, EXCITE, (8,)),
    "whole": Pair(whole_jax, whole_reference, WHOLE, (8,)),
    "pyramid": Pair(pyramid_jax, pyramid_reference, PYRAMID, (8,)),
    "transformer": Pair(transformer_jax, transformer_reference, TRANSFORMER, (8, (16, 8))),
    "class_token": Pair(class_jax, class_reference, CLASS, (8, (16, 8))),
}


def video(seed: int = 0) -> np.ndarray:
    """Frames [T, N, H, W, 3] of noise: no pixel keeps its value, so what is stale shows."""
    return np.random.default_rng(seed).uniform(size=(FRAMES, *PIXELS, 3)).astype(np.float32)


def grids(block) -> np.ndarray:
    """Grids [T, N, Gh, Gw]: all, then random ones, among them an empty one and a single block."""
    n, height, width = PIXELS
    shape = (n, height // ref.pair(block)[0], width // ref.pair(block)[1])
    out = random_grids(FRAMES, shape, seed=1)
    out[3] = False
    out[4] = False
    out[4, 1, 0, -1] = True
    return out


@functools.cache
def compiled(name: str, block) -> Callable:
    """The network on (params, state, frames, grid), compiled once."""
    return jax.jit(bc_jax.blockcopy(PAIRS[name].jax, block_size=block))


@pytest.mark.parametrize("name", PAIRS)
def test_reference_is_the_dense_network_when_all_is_executed(name):
    pair, frames = PAIRS[name], video()
    everything = np.ones_like(grids(pair.blocks[0])[0])
    run, dense = ref.Reference(pair.program), jax.jit(pair.jax)
    for t in range(2):
        assert_close(dense(pair.params, frames[t]), run(frames[t], everything))


@pytest.mark.parametrize(
    ("name", "block"), [(name, block) for name, pair in PAIRS.items() for block in pair.blocks]
)
def test_engine_is_the_reference(name, block):
    pair, frames, step, run = PAIRS[name], video(), compiled(name, block), None
    run = ref.Reference(pair.program)
    state = bc_jax.blockcopy(pair.jax, block_size=block).init(pair.params, frames[0])
    for t, grid in enumerate(grids(block)):
        out, state = step(pair.params, state, frames[t], grid)
        assert_close(out, run(frames[t], grid), where=f"frame {t}")


@pytest.mark.parametrize("name", ["transformer", "class_token"])
def test_one_stream_of_a_transformer_is_the_reference(name):
    # `jnp.matmul` drops a batch of one.
    pair, frames = PAIRS[name], video()[:, :1]
    sparse, run = bc_jax.blockcopy(pair.jax, block_size=8), ref.Reference(pair.program)
    assert sparse.explain(pair.params, frames[0]).whole_macs == 0
    state, step = sparse.init(pair.params, frames[0]), jax.jit(sparse)
    for t, grid in enumerate(grids(8)[:, :1]):
        out, state = step(pair.params, state, frames[t], grid)
        assert_close(out, run(frames[t], grid), where=f"frame {t}")


def test_reference_tells_stale_halos_from_fresh_ones():
    # The comparison above must be able to fail: with every block's memory a frame older than it
    # should be, or the network run on a picture of pasted blocks, the results differ visibly.
    pair, frames, grid = PAIRS["residual"], video(), grids(8)
    run = ref.Reference(pair.program)
    run(frames[0], grid[0])
    right = run(frames[1], grid[1])
    mask = ref.Layers(grid[1], {}).mask(frames[1])
    pasted = np.where(mask, frames[1], frames[0])
    wrong = np.asarray(pair.jax(pair.params, pasted))
    executed = np.broadcast_to(ref.Layers(grid[1], {}).mask(right), right.shape)
    assert np.abs(right - wrong)[executed].max() > 1e-2 * np.abs(right).max()


@given(st.lists(st.integers(0, 2**48 - 1), min_size=2, max_size=5), st.integers(0, 99))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_engine_is_the_reference_on_any_grids(bits, seed):
    pair, frames, step = PAIRS["wide"], video(seed), compiled("wide", 8)
    run = ref.Reference(pair.program)
    state = bc_jax.blockcopy(pair.jax, block_size=8).init(pair.params, frames[0])
    for t, number in enumerate([2**48 - 1, *bits]):
        grid = (number >> np.arange(48) & 1).astype(bool).reshape(2, 4, 6)
        out, state = step(pair.params, state, frames[t], grid)
        assert_close(out, run(frames[t], grid), where=f"frame {t}")


@st.composite
def windows(draw):
    """Any convolution or pooling whose output is the input's size times upsample / stride."""
    block = draw(st.sampled_from([(4, 4), (8, 4), (4, 8), (8, 8)]))
    tiles = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    kind = draw(st.sampled_from(["conv", "conv", "conv", "max", "min", "mean"]))
    size = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    stride = draw(st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4])))
    one = st.just(1)
    dilation = draw(st.tuples(*[st.integers(1, 3) if kind == "conv" else one] * 2))
    upsample = draw(st.tuples(*[st.sampled_from([1, 1, 2]) if kind == "conv" else one] * 2))
    padding = []
    for axis in range(2):
        length = (block[axis] * tiles[axis] - 1) * upsample[axis] + 1
        span = (size[axis] - 1) * dilation[axis] + 1
        wanted = block[axis] * tiles[axis] * upsample[axis] // stride[axis]
        total = (wanted - 1) * stride[axis] + span - length
        # A pooling may not see padding alone: its result would be infinite, or 0 / 0.
        reach = span + 1 if kind == "conv" else min(size[axis] - 1, max(total, 0))
        front = draw(st.integers(-2 if kind == "conv" else 0, reach))
        back = total + draw(st.integers(0, stride[axis] - 1)) - front
        if kind != "conv":
            back = min(max(back, 0), size[axis] - 1)
        padding.append((front, back))
    options = {"stride": stride, "padding": tuple(padding)}
    if kind == "conv":
        groups = draw(st.sampled_from([1, 2, 4]))
        options |= {"dilation": dilation, "upsample": upsample, "groups": groups}
    elif kind == "mean":
        options["count_padding"] = draw(st.booleans())
    return block, tiles, kind, size, options


@given(windows(), st.integers(0, 2**18 - 1))
@settings(
    max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
def test_any_window_is_the_reference(window, bits):
    block, tiles, kind, size, options = window
    rng = np.random.default_rng(bits)
    shape = (2, *(b * t for b, t in zip(block, tiles, strict=True)), 4)
    frames = rng.normal(size=(2, *shape)).astype(np.float32)
    kernel = rng.normal(size=(*size, 4 // options.get("groups", 1), 4)).astype(np.float32)
    grid = (bits >> np.arange(2 * tiles[0] * tiles[1]) & 1).astype(bool).reshape(2, *tiles)

    def network(p, x):
        return conv(x, p, **options) if kind == "conv" else pool(x, kind, size, **options)

    def program(f, x):
        return f.conv(x, kernel, **options) if kind == "conv" else f.pool(x, kind, size, **options)

    sparse = bc_jax.blockcopy(network, block_size=block)
    wanted = jax.eval_shape(network, kernel, frames[0]).shape
    if any(have % t for have, t in zip(wanted[1:3], tiles, strict=True)):
        return  # such an output has no blocks to copy
    step, run = jax.jit(sparse), ref.Reference(program)
    state = sparse.init(kernel, frames[0])
    for t, executed in enumerate([np.ones_like(grid), grid]):
        out, state = step(kernel, state, frames[t], executed)
        assert_close(out, run(frames[t], executed), where=f"frame {t}")


@given(
    method=st.sampled_from(["nearest", "bilinear"]),
    factor=st.sampled_from([2, 4, 1 / 2]),
    block=st.sampled_from([(4, 4), (8, 4), (4, 8), (8, 12)]),
    antialias=st.booleans(),
    bits=st.integers(0, 2**24 - 1),
)
@settings(
    max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
def test_any_integer_resizing_is_the_reference(method, factor, block, antialias, bits):
    frames = np.random.default_rng(bits).normal(size=(2, 1, 16, 24, 3)).astype(np.float32)
    tiles = (16 // block[0], 24 // block[1])
    grid = (bits >> np.arange(tiles[0] * tiles[1]) & 1).astype(bool).reshape(1, *tiles)

    def network(p, x):
        return resize(x * p, factor, method, antialias=antialias)

    def program(f, x):
        x = f.pixelwise(lambda a: a * 2, x)
        return f.resize(x, factor, method, antialias=antialias)

    sparse, run = bc_jax.blockcopy(network, block_size=block), ref.Reference(program)
    step, state = jax.jit(sparse), sparse.init(jnp.float32(2), frames[0])
    for t, executed in enumerate([np.ones_like(grid), grid]):
        out, state = step(jnp.float32(2), state, frames[t], executed)
        assert_close(out, run(frames[t], executed), where=f"frame {t}")
