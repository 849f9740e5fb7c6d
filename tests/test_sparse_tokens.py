"""Rows and columns as one axis, as transformers have them: what stays on blocks, and what does not.

`test_sparse_reference.py` has a whole transformer; here are single operations on tokens.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from zoo import assert_close, conv, frames_of, random_grids

import bc_jax

STREAMS, H, W, C = 3, 8, 12, 6
BLOCK = 8  # of which a tile has 2 x 2 tokens
PARAMS = {
    "stem": np.random.default_rng(0).normal(size=(4, 4, 3, C)).astype(np.float32) / 7,
    "dense": np.random.default_rng(1).normal(size=(C, 4)).astype(np.float32) / 2,
    "place": np.random.default_rng(2).normal(size=(1, H * W, C)).astype(np.float32),
    "mix": np.random.default_rng(3).normal(size=(H * W, H * W)).astype(np.float32) / 9,
}


def pixels(params, frames):
    return conv(frames, params["stem"], 4, padding="VALID")


def tokens_of(params, frames):
    return pixels(params, frames).reshape(frames.shape[0], H * W, C)


def network(operation):
    return lambda params, frames: operation(params, tokens_of(params, frames))


def layer_norm(p, x):
    return (x - x.mean(axis=-1, keepdims=True)) * lax.rsqrt(x.var(axis=-1, keepdims=True) + 1e-5)


def gate(p, x):
    return x * jax.nn.sigmoid(x.mean(axis=1, keepdims=True) - x.max(axis=1, keepdims=True))


def attend(p, x):
    return jax.nn.dot_product_attention(*3 * [x.reshape(*x.shape[:2], 2, C // 2)])


def attend_to_few(p, x):
    few = x.reshape(-1, 16, 6, C).mean(axis=2)  # whole
    return jax.nn.softmax(jnp.einsum("nqc,nkc->nqk", x, few), axis=-1) @ few


def attend_pixels(p, x):
    x = x.reshape(-1, H, W, C)
    scores = jnp.einsum("nhwc,nxyc->nhwxy", x, jnp.tanh(x))
    scores = jnp.exp(scores) / jnp.exp(scores).sum(axis=(3, 4), keepdims=True)
    return jnp.einsum("nhwxy,nxyc->nhwc", scores, x)


def heads_as_a_batch(p, x):  # streams and heads are one axis
    q, k, v = (y.reshape(-1, H * W, 2, 3).swapaxes(1, 2).reshape(-1, H * W, 3) for y in
               (x, jnp.tanh(x), x[..., ::-1]))  # fmt: skip
    scores = jax.nn.softmax((q / 2) @ k.swapaxes(1, 2) + p["mix"][None], axis=-1)
    mixed = jnp.concatenate([scores @ v, q], axis=-1)[:, :, 1:5].astype(jnp.float32)
    gates = jax.nn.relu(jnp.broadcast_to(mixed.max(axis=2)[:, :, None], mixed.shape))
    x = (mixed + gates).reshape(-1, 2, H * W, 4).swapaxes(1, 2).reshape(*x.shape[:2], 8)
    return x @ p["stem"].reshape(-1, C)[:8]


def tokens_first(p, x):  # as PyTorch's own attention
    y = x.swapaxes(0, 1)
    q, k = (
        (y @ (s * p["dense"])).reshape(H * W, len(x) * 2, 2).transpose(1, 0, 2) for s in (1, -1)
    )
    mixed = jax.nn.softmax(jnp.einsum("bqc,bkc->bqk", q, k), axis=-1) @ k
    return mixed.transpose(1, 0, 2).reshape(H * W, len(x), 4).swapaxes(0, 1)


def class_and_heads_as_a_batch(p, x):
    x = with_class(p, x)
    heads = x.reshape(*x.shape[:2], 2, 3).swapaxes(1, 2).reshape(-1, x.shape[1], 3)
    mixed = jax.nn.softmax(heads @ heads.swapaxes(1, 2), axis=-1) @ heads
    x = mixed.reshape(-1, 2, x.shape[1], 3).swapaxes(1, 2).reshape(x.shape)
    return x[:, 1:], x[:, 0]


def heads_of_few_keys(p, x):
    query = x.reshape(-1, H * W, 2, 3).swapaxes(1, 2).reshape(-1, H * W, 3)
    image = x.reshape(-1, H, W, C).reshape(-1, H // 2, 2, W // 2, 2, C)
    few = image.mean(axis=(2, 4)).reshape(len(x), -1, 2, 3)
    few = few.swapaxes(1, 2).reshape(len(query), -1, 3)
    mixed = jax.nn.softmax(query @ few.swapaxes(1, 2), axis=-1) @ few
    return mixed.reshape(-1, 2, H * W, 3).swapaxes(1, 2).reshape(x.shape)


def relative_places(p, x):  # scores meet rows' and columns' own numbers
    scores = jnp.einsum("nqc,nkc->nqk", x, x).reshape(-1, H, W, H, W)
    scores += p["mix"][:H, :H][None, :, None, :, None] + p["mix"][:W, :W][None, None, :, None]
    return jax.nn.softmax(scores.reshape(-1, H * W, H * W), axis=-1) @ x


def by_covariance(p, x):
    return x @ jnp.einsum("ntc,ntd->ncd", x, x) / 9


def with_class(p, x):
    first = jnp.broadcast_to(p["place"][:, :1], (x.shape[0], 1, C))
    return jnp.concatenate([first, x], axis=1)


def vision_transformer(p, x):
    x = with_class(p, x)
    qkv = (x @ jnp.concatenate([p["dense"], p["dense"], -p["dense"]], axis=1)).reshape(
        *x.shape[:2], 3, 2, 2
    )
    query, key, value = (qkv[:, :, i] for i in range(3))
    scores = jax.nn.softmax(jnp.einsum("nqhd,nkhd->nhqk", query, key), axis=-1)
    mixed = jnp.einsum("nhqk,nkhd->nqhd", scores, value).reshape(*x.shape[:2], 4)
    x += mixed @ p["dense"].T
    x += jax.nn.relu(layer_norm(p, x) @ p["dense"]) @ p["dense"].T
    return x[:, 1:] * jnp.tanh(x[:, :1]), x[:, 0]


def more_and_more(p, x):
    x = with_class(p, x)
    four = jnp.broadcast_to(p["place"][:, :4], (x.shape[0], 4, C))
    x = jnp.concatenate([x[:, :1], four, x[:, 1:]], axis=1)
    x = jnp.concatenate([x, jnp.tanh(x[:, :5])], axis=1)
    return jnp.exp(x[:, :-5]), x[:, :5]


def registers(p, x):  # behind the pixels' tokens, and dropped after one layer
    four = jnp.broadcast_to(p["place"][:, :4], (x.shape[0], 4, C))
    x = jnp.concatenate([x, four], axis=1)
    x += jax.nn.softmax(x @ x.swapaxes(1, 2)) @ x
    return x[:, :-4]


def turned_by_place(p, x):  # as DINOv3, whose class token and registers are not turned
    four = jnp.broadcast_to(p["place"][:, :4], (x.shape[0], 4, C))
    x = jnp.concatenate([with_class(p, x)[:, :1], four, x], axis=1)
    others, own = jnp.split(x, [5], axis=1)
    turned = jnp.concatenate([others, own * p["place"]], axis=1)
    x += jax.nn.softmax(turned @ turned.swapaxes(1, 2)) @ x
    return x[:, 5:], x[:, 0], x[:, 1:5], jnp.exp(x)[:, 3:]


def windows(p, x):  # attention within windows of 2 x 2
    x = x.reshape(-1, H // 2, 2, W // 2, 2, C).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(-1, H // 2, W // 2, 4, C)
    scores = jax.nn.softmax(jnp.einsum("nhwqc,nhwkc->nhwqk", x, x), axis=-1)
    return jnp.einsum("nhwqk,nhwkc->nhwqc", scores, x)


def windows_as_a_batch(p, x):
    n, side = x.shape[0], (H // 2, 2, W // 2, 2)
    x = x.reshape(n, *side, C).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 4, C)
    query, key = jax.nn.relu(x).reshape(-1, 4, 2, C // 2), jnp.tanh(x).reshape(-1, 4, 2, C // 2)
    bias = p["place"].reshape(-1)[:32].reshape(2, 4, 4)
    scores = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", query, key) + bias[None], axis=-1)
    x += jnp.einsum("bhqk,bkhd->bqhd", scores, key).reshape(x.shape)
    x = x.reshape(n, H // 2, W // 2, 2, 2, C).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, H, W, C).reshape(n, H * W, C) @ p["dense"]


def each_way(p, x):  # the same scores normalised over keys and over queries, as matching has them
    other = jnp.tanh(x[..., ::-1])
    scores = jnp.einsum("nqc,nkc->nqk", x, other)
    forth = jax.nn.softmax(scores, axis=1).swapaxes(1, 2) @ x
    return forth + jax.nn.softmax(scores, axis=2) @ other


def both_in_one(p, x):
    scores = jnp.exp(jnp.einsum("nqc,nkc->nqk", x, x).reshape(len(x), -1) / 9)
    return x / scores.sum(axis=1)[:, None, None]


def weighted(p, x):  # tokens' own products, pixel by pixel
    pairs = jnp.einsum("ntc,ntd->ntcd", x, jnp.tanh(x))
    return jnp.einsum("ntcd,ntd->ntc", pairs, x)


ON_BLOCKS = {
    "dense": lambda p, x: jax.nn.gelu(x @ p["dense"]) @ p["dense"].T,
    "place": lambda p, x: x + p["place"],
    "norm": layer_norm,
    "gate": gate,
    "heads": lambda p, x: x.reshape(-1, H * W, 2, C // 2).transpose(0, 2, 1, 3),
    "channels_first": lambda p, x: x.transpose(0, 2, 1),
    "parts": lambda p, x: jnp.concatenate([*jnp.split(x, 2, axis=-1), 0 * x, x[..., 1:3]], axis=-1),
    "choice": lambda p, x: jnp.where(x > x.mean(axis=-1, keepdims=True), x, p["place"]),
    "sorted": lambda p, x: jnp.sort(x[..., ::-1], axis=-1),
    "picked": lambda p, x: x[..., jnp.array([2, 0, 2])],
    "padded": lambda p, x: jnp.pad(x, ((0, 0), (0, 0), (1, 2))),
    "apart": lambda p, x: x.reshape(-1, H, W, C),
    "one": lambda p, x: x[..., :1].squeeze(-1) + x.sum(axis=-1),
    "attend": attend,
    "attend_to_few": attend_to_few,
    "attend_pixels": attend_pixels,
    "a_convolution_of_one": lambda p, x: lax.conv_general_dilated(
        x, p["dense"][None], (1,), "VALID", dimension_numbers=("NWC", "WIO", "NCW")
    ),
    "heads_as_a_batch": heads_as_a_batch,
    "tokens_first": tokens_first,
    "class_and_heads_as_a_batch": class_and_heads_as_a_batch,
    "heads_of_few_keys": heads_of_few_keys,
    "relative_places": relative_places,
    "windows": windows,
    "windows_as_a_batch": windows_as_a_batch,
    "weighted": weighted,
    "by_covariance": by_covariance,
    "flat": lambda p, x: (jnp.tanh(x.reshape(-1, C)) @ p["dense"]).reshape(*x.shape[:2], 4),
    "all_flat": lambda p, x: x.reshape(-1, C) + p["place"][0, :1],
    "class_token": lambda p, x: with_class(p, x)[:, 1:],
    "vision_transformer": vision_transformer,
    "registers": registers,
    "turned_by_place": turned_by_place,
    "more_and_more": more_and_more,
    "class_and_heads": lambda p, x: jnp.tanh(
        with_class(p, x).reshape(-1, 1 + H * W, 2, C // 2).transpose(0, 2, 1, 3)
    )[:, :, 1:].sum(axis=1),
}
WHOLE = {
    "class_shifted": lambda p, x: with_class(p, x)[:, :-1],
    "class_sorted": lambda p, x: jnp.sort(with_class(p, x), axis=1)[:, 1:],
    "class_reduced": lambda p, x: x - with_class(p, x).mean(axis=1, keepdims=True),
    "class_twice": lambda p, x: jnp.concatenate([x, with_class(p, x)[:, 1:]], axis=1),
    "class_mixed": lambda p, x: with_class(p, x).reshape(x.shape[0], -1),
    "mix": lambda p, x: jnp.einsum("ts,nsc->ntc", p["mix"], x),
    "every_other": lambda p, x: x[:, ::2],
    "shifted": lambda p, x: jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1],
    "turned": lambda p, x: jnp.roll(x[:, ::-1], 5, axis=1),
    "order": lambda p, x: jnp.sort(x, axis=1) + jnp.cumsum(x, axis=1) / 9,
    "shuffled": lambda p, x: x[:, np.random.default_rng(0).permutation(H * W)],
    "sequence": lambda p, x: lax.conv_general_dilated(
        x, p["stem"][0, :3, :1].repeat(C, 1), (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    ),
    "pairs": lambda p, x: x.reshape(-1, H * W // 2, 2 * C),
    "of_all_streams": lambda p, x: jnp.cumsum(x.reshape(-1, C), axis=0).reshape(x.shape),
    "batch_cut": lambda p, x: x.reshape(-1, C)[1:],
    "windows_across_blocks": lambda p, x: x.reshape(-1, H, 3, 4, C).mean(axis=3),
    "columns_first": lambda p, x: x.reshape(-1, H, W, C).swapaxes(1, 2).reshape(x.shape),
    "most": lambda p, x: x * (x.argmax(axis=1, keepdims=True) % 2),
    "by_large_covariance": lambda p, x: by_covariance(p, jnp.tile(x, 3)),
    "both": lambda p, x: jax.nn.softmax(jnp.einsum("nqc,nkc->nqk", x, x), axis=(1, 2)) @ x,
    "each_way": each_way,
    "both_in_one": both_in_one,
    "streams_by_heads": lambda p, x: jnp.cumsum(
        x.reshape(-1, H * W, 2, 3).swapaxes(1, 2).reshape(-1, H * W, 3), axis=0
    ).reshape(-1, 2, H * W, 3)[:, 0],
    "scores": lambda p, x: jnp.einsum("nqc,nkc->nqk", x, x),
}


@pytest.mark.parametrize("streams", [1, STREAMS])
@pytest.mark.parametrize("name", [*ON_BLOCKS, *WHOLE])
def test_an_unchanged_frame_is_the_dense_network_for_any_grid(name, streams):
    apply = network((ON_BLOCKS | WHOLE)[name])
    sparse, frames = bc_jax.blockcopy(apply, BLOCK), frames_of(0, 2, streams)
    state, step = sparse.init(PARAMS, frames[0]), jax.jit(sparse)
    grids = random_grids(3, sparse.grid_shape(frames[0]), seed=1)
    wanted = jax.jit(apply)(PARAMS, frames[0])
    for t, grid in enumerate(grids):
        out, state = step(PARAMS, state, frames[0], grid)
        assert_close(out, wanted, where=f"frame {t}")
    out, state = step(PARAMS, state, frames[1], np.ones_like(grids[0]))
    assert_close(out, jax.jit(apply)(PARAMS, frames[1]), where="another frame, all executed")


@pytest.mark.parametrize("name", [*ON_BLOCKS, *WHOLE])
def test_what_runs_on_blocks(name):
    frames = jax.ShapeDtypeStruct((1, 4 * H, 4 * W, 3), jnp.float32)
    report = bc_jax.blockcopy(network((ON_BLOCKS | WHOLE)[name]), BLOCK).explain(PARAMS, frames)
    reasons = [row.reason for row in report.fallbacks if "cheap" not in row.reason]
    whole = {"attend_to_few"}  # on purpose
    assert bool(reasons) == (name in WHOLE or name in whole), reasons


@pytest.mark.parametrize("name", ["dense", "attend", "attend_pixels", "apart", "channels_first"])
def test_tokens_of_blocks_that_are_not_executed_are_copied(name):
    apply = network(ON_BLOCKS[name])
    sparse, frames = bc_jax.blockcopy(apply, BLOCK), frames_of(3, 2)
    state, step = sparse.init(PARAMS, frames[0]), jax.jit(sparse)
    grids = random_grids(2, sparse.grid_shape(frames[0]), seed=2)
    before, state = step(PARAMS, state, frames[0], grids[0])
    after, _ = step(PARAMS, state, frames[1], grids[1])
    executed = grids[1].repeat(2, axis=1).repeat(2, axis=2).reshape(STREAMS, -1)
    if name == "channels_first":
        before, after = (x.swapaxes(1, 2) for x in (before, after))
    before, after = (np.asarray(x).reshape(STREAMS, H * W, -1) for x in (before, after))
    np.testing.assert_array_equal(after[~executed], before[~executed])
    assert (after[executed] != before[executed]).all(axis=-1).any()


def test_scores_that_are_summed_both_ways_are_this_frames():
    before, after = frames_of(4, 2, streams=1)
    sparse, apply = bc_jax.blockcopy(network(each_way), BLOCK), jax.jit(network(each_way))
    grid = np.zeros(sparse.grid_shape(before), bool)
    grid[0, 1, 2] = True
    mixed = np.where(grid.repeat(BLOCK, 1).repeat(BLOCK, 2)[..., None], after, before)
    _, state = sparse(PARAMS, sparse.init(PARAMS, before), before)
    out, _ = sparse(PARAMS, state, mixed, grid)
    executed = grid.repeat(2, axis=1).repeat(2, axis=2).reshape(1, -1)
    assert_close(np.asarray(out)[executed], np.asarray(apply(PARAMS, mixed))[executed])
