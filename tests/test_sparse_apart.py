"""Axes that are made one and taken apart again, as PyTorch's products and norms have them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import assert_close, conv, random_grids

import bc_jax
from bc_jax.sparse.apart import keep_apart
from bc_jax.sparse.program import trace

H, W, BLOCK, C = 16, 32, 4, 8
MATRIX = np.random.default_rng(0).normal(size=(C, C)).astype(np.float32) / 3
FEW = np.random.default_rng(1).normal(size=(C, 4)).astype(np.float32) / 3


def image(x):
    """Channels first, [N, C, H, W]."""
    return jnp.tanh(x @ MATRIX[:4]).transpose(0, 3, 1, 2)


def matmul(a, b):
    """PyTorch's: all axes ahead of the matrices' own become one."""
    ahead = a.shape[:-2]
    product = a.reshape(-1, *a.shape[-2:]) @ b.reshape(-1, *b.shape[-2:])
    return product.reshape(*ahead, *product.shape[-2:])


def heads(x, count):
    """Tokens of each head, [N, heads, H * W, C / heads]."""
    return x.reshape(len(x), count, C // count, H * W).swapaxes(2, 3)


def attention(x, count=2):
    query, key = heads(x, count), heads(jnp.tanh(x), count)
    mixed = matmul(jax.nn.softmax(matmul(query, key.swapaxes(2, 3)), axis=-1), key)
    return x + mixed.swapaxes(2, 3).reshape(x.shape)


def one_head(x):
    return attention(x, count=1)


def of_one_product(x):
    # Queries and keys ahead of streams, and each picked from there.
    y = x.reshape(len(x), C, H * W).swapaxes(1, 2) @ np.concatenate([MATRIX, -MATRIX], axis=1)
    query, key = y.reshape(len(x), H * W, 2, 2, C // 2).transpose(2, 0, 3, 1, 4)
    mixed = matmul(jax.nn.softmax(matmul(query, key.swapaxes(2, 3)), axis=-1), key)
    return x + mixed.swapaxes(2, 3).reshape(x.shape)


def to_fewer_keys(x, count=2):
    # Keys from a part of what one layer made, of each 2 x 2 pixels, as SegFormer's.
    few = x.reshape(*x.shape[:2], H // 2, 2, W // 2, 2).mean(axis=(3, 5)).reshape(len(x), C, -1)
    both = few.swapaxes(1, 2) @ np.concatenate([MATRIX, -MATRIX], axis=1)
    both = both.reshape(len(x), -1, 2, count, C // count).transpose(2, 0, 3, 1, 4)
    key, value = both[0], both[1]
    scores = matmul(heads(x, count), key.swapaxes(2, 3)) / 2
    return x + matmul(jax.nn.softmax(scores, axis=-1), value).swapaxes(2, 3).reshape(x.shape)


def one_head_to_fewer_keys(x):
    return to_fewer_keys(x, count=1)


def joined_scores(x):
    # Streams and heads are one from the first product to the last, softmax and a mask between.
    query, key = (heads(y, 2).reshape(-1, H * W, C // 2) for y in (x, jnp.tanh(x)))
    mask = np.tile(np.arange(H * W) % 3 == 0, (2 * len(x), 1, 1))
    scores = jnp.where(mask, query @ key.swapaxes(1, 2) * 0.5, -9)
    weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = (weights / weights.sum(axis=-1)[..., None]) @ key
    return x + mixed.reshape(-1, 2, H * W, C // 2).swapaxes(2, 3).reshape(x.shape)


def tokens_ahead(x):
    # As PyTorch's multi-head attention: tokens ahead of streams, made one for dense layers.
    y = x.reshape(len(x), C, H * W).transpose(2, 0, 1)
    query, key, value = (
        (y.reshape(-1, C) @ (sign * MATRIX)).reshape(H * W, len(x) * 2, C // 2).swapaxes(0, 1)
        for sign in (1, -1, 2)
    )
    mixed = jax.nn.softmax(query @ key.swapaxes(1, 2) / 2, axis=-1) @ value
    y += (mixed.swapaxes(0, 1).reshape(-1, C) @ MATRIX).reshape(y.shape)
    return y.transpose(1, 2, 0).reshape(x.shape)


def units_with_heads(x):
    # As Hiera's: pixels of a unit ahead of units, which look at each other; one axis more of size
    # one, as one stream's.
    y = x.reshape(-1, C, H // 2, 2, W // 2, 2).transpose(0, 3, 5, 2, 4, 1)[:, :, :, :, :, None]
    y = y.reshape(len(x), -1, C)
    both = (y @ np.concatenate([MATRIX, -MATRIX], axis=1)).reshape(len(x), 4, -1, 2, 2, C // 2)
    query, key = both.transpose(3, 0, 4, 2, 1, 5)
    mixed = matmul(jax.nn.softmax(matmul(query, key.swapaxes(3, 4)), axis=-1), key)
    y = mixed.transpose(0, 3, 2, 1, 4).reshape(len(x), 2, 2, H // 2, W // 2, C)
    return y.transpose(0, 5, 3, 1, 4, 2).reshape(x.shape)


def joined_with_own_derivative(x):
    # An activation and a joining of channels between what makes streams and heads one and apart.
    y = heads(x, 2).reshape(-1, H * W, C // 2)
    y = jnp.concatenate([jax.nn.relu(y), jax.nn.silu(y[..., ::-1])], axis=-1)[..., 2:6]
    return y.reshape(-1, 2, H * W, C // 2).swapaxes(2, 3).reshape(x.shape)


def channels_by_channels(x):
    query = x.reshape(len(x), 2, C // 2, H * W)
    weights = jax.nn.softmax(matmul(query, jnp.tanh(query).swapaxes(2, 3)) / 9, axis=-1)
    return matmul(weights, query).reshape(x.shape)


def windows_with_heads(x):
    y = x.reshape(-1, C, H // 4, 4, W // 4, 4).transpose(0, 2, 4, 3, 5, 1).reshape(-1, 16, C)
    y = (y @ np.concatenate([MATRIX, -MATRIX], axis=1)).reshape(-1, 16, 2, 2, C // 2)
    query, key = (y[:, :, i].swapaxes(1, 2) for i in (0, 1))
    mixed = matmul(jax.nn.softmax(matmul(query, key.swapaxes(2, 3)), axis=-1), key)
    y = mixed.swapaxes(1, 2).reshape(len(x), H // 4, W // 4, 4, 4, C)
    return y.transpose(0, 5, 1, 3, 2, 4).reshape(x.shape)


def places_as_a_batch(x):
    # As MobileViT's: what lies in the same place of each 2 x 2 pixels looks at its like.
    n = len(x)
    y = x.reshape(n * C * H // 2, 2, W // 2, 2).transpose(0, 2, 1, 3)
    y = y.reshape(n, C, H * W // 4, 4).transpose(0, 3, 2, 1).reshape(n * 4, H * W // 4, C)
    y = (y - y.mean(axis=-1, keepdims=True)) / jnp.sqrt(y.var(axis=-1, keepdims=True) + 1e-5)
    parts = (y @ np.concatenate([MATRIX, -MATRIX], axis=1)).reshape(n * 4, H * W // 4, 2, 2, 4)
    query, key = (part[0] for part in jnp.split(parts.transpose(2, 0, 3, 1, 4), 2))
    y += (
        matmul(jax.nn.softmax(matmul(query, key.swapaxes(2, 3))), key)
        .swapaxes(1, 2)
        .reshape(y.shape)
    )
    y = y.reshape(n, 4, H * W // 4, C).transpose(0, 3, 2, 1)
    y = y.reshape(n * C * H // 2, W // 2, 2, 2).transpose(0, 2, 1, 3)
    return y.reshape(x.shape)


def group_norm(x, groups=2):
    y = x.reshape(1, len(x) * groups, -1)

    def norm(y):
        mean, variance = y.mean(axis=-1, keepdims=True), y.var(axis=-1, keepdims=True)
        return (y - mean) * jax.lax.rsqrt(variance + 1e-5)

    return jax.lax.map(norm, y).reshape(x.shape) * jnp.arange(1.0, 1 + C)[None, :, None, None]


def layer_norm(x):
    return group_norm(x, groups=1)


def norm_twice(x):
    y = jnp.tanh(group_norm(x)).transpose(0, 2, 3, 1)
    return group_norm(conv(y, MATRIX[None, None]).transpose(0, 3, 1, 2), groups=4)


def joined_dense(x):
    y = x.transpose(0, 2, 3, 1).reshape(-1, W, C)  # streams and rows
    return (
        (jnp.broadcast_to((y @ FEW)[..., None], (*y.shape[:2], 4, 2)) * 0.5)
        .reshape(len(x), H, W, C)
        .transpose(0, 3, 1, 2)
    )


ON_BLOCKS = [
    attention, one_head, of_one_product, to_fewer_keys, one_head_to_fewer_keys, joined_scores,
    tokens_ahead, units_with_heads, joined_with_own_derivative, channels_by_channels,
    windows_with_heads, places_as_a_batch, group_norm, layer_norm, norm_twice, joined_dense,
]  # fmt: skip


def tokens_first(x):
    # As PyTorch's multi-head attention: tokens ahead of streams. The heads' axis is split there.
    y = x.reshape(len(x), C, H * W).transpose(2, 0, 1)
    y = jnp.tanh(y.reshape(H * W, len(x), 2, C // 2)[..., ::-1]).reshape(y.shape)
    return y.transpose(1, 2, 0).reshape(x.shape)


def read_both_ways(x):
    query = heads(x, 2).reshape(-1, H * W, C // 2)
    mixed = jnp.tanh(query @ (query.swapaxes(1, 2) @ query)) / 9
    return {"image": mixed.reshape(-1, 2, H * W, C // 2), "heads": mixed, "least": mixed.min(0)}


def applied(network):
    return lambda _, frames: jax.tree.map(
        lambda y: y.transpose(0, 2, 3, 1) if y.shape[1:] == (C, H, W) else y, network(image(frames))
    )


def frames_of(streams, seed=0):
    return np.random.default_rng(seed).random((streams, H, W, 4), np.float32)


@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("network", [*ON_BLOCKS, tokens_first, read_both_ways])
def test_the_program_computes_the_same(network, streams):
    frames = frames_of(streams)
    program = trace(network, image(frames))
    results = keep_apart(program).run([image(frames)])
    assert_close(results, jax.tree.leaves(network(image(frames))), tolerance=1e-5)


@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("network", [*ON_BLOCKS, tokens_first])
def test_what_comes_apart_again_runs_on_blocks(network, streams):
    frames = jax.ShapeDtypeStruct((streams, H, W, 4), jnp.float32)
    report = bc_jax.blockcopy(applied(network), BLOCK).explain(None, frames)
    assert report.whole_macs <= 1e-3 * report.macs
    assert report.rows[-1].where == "blocks"


@pytest.mark.filterwarnings("ignore::bc_jax.sparse.BlockSparsityWarning")
@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("network", [*ON_BLOCKS, tokens_first, read_both_ways])
def test_an_unchanged_frame_is_the_dense_network_for_any_grid(network, streams):
    apply = applied(network)
    sparse, frames = bc_jax.blockcopy(apply, BLOCK), [frames_of(streams, seed) for seed in (0, 1)]
    state, step = sparse.init(None, frames[0]), jax.jit(sparse)
    wanted = jax.jit(apply)
    for t, grid in enumerate(random_grids(3, sparse.grid_shape(frames[0]), seed=1)):
        out, state = step(None, state, frames[0], grid)
        assert_close(out, wanted(None, frames[0]), where=f"frame {t}")
    out, state = step(None, state, frames[1], np.ones_like(grid))
    assert_close(out, wanted(None, frames[1]), where="another frame, all executed")


# What is normalised twice has the others' pixels as they were normalised when last executed.
@pytest.mark.parametrize("network", [f for f in (*ON_BLOCKS, tokens_first) if f is not norm_twice])
def test_a_block_that_changed_is_this_frames(network):
    apply, place = applied(network), (1, 2, 5)
    before, frames = frames_of(2), frames_of(2)
    here = place[0], *(slice(BLOCK * at, BLOCK * (at + 1)) for at in place[1:])
    frames[here] = frames_of(2, seed=3)[here]
    sparse = bc_jax.blockcopy(apply, BLOCK)
    grid = np.zeros(sparse.grid_shape(frames), bool)
    grid[place] = True
    step = jax.jit(sparse)
    first, state = step(None, sparse.init(None, before), before)
    out, _ = step(None, state, frames, grid)
    assert_close(out[here], jax.jit(apply)(None, frames)[here])
    others = np.ones(out.shape[:3], bool)
    others[here] = False
    np.testing.assert_array_equal(np.asarray(out)[others], np.asarray(first)[others])


def test_what_is_read_both_ways_is_computed_once():
    frames = jax.ShapeDtypeStruct((2, C, H, W), jnp.float32)
    ops = keep_apart(trace(read_both_ways, frames)).ops
    assert [op.name for op in ops].count("dot_general") == 2
