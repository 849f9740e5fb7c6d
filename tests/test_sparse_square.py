"""Frames as high as they are wide, in which sizes do not tell rows from columns.

What runs on whole frames and is turned on its side, or not: a block that is executed has this
frame's results, at its own place.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from test_sparse_places import whole
from zoo import assert_close, conv

import bc_jax

SIDE, BLOCK, C = 16, 4, 4
MATRIX = np.random.default_rng(0).normal(size=(C, C)).astype(np.float32)


def dense(x):
    return (whole(x).swapaxes(1, 2) @ MATRIX).swapaxes(1, 2)


def reshaped_in_another_order(x):
    return (lax.reshape(whole(x), x.shape, (0, 2, 1, 3)) @ MATRIX).swapaxes(1, 2)


def heads(x):
    x = whole(x.swapaxes(1, 2)).reshape(-1, SIDE, SIDE, 2, C // 2)
    x = jnp.einsum("nhwgc,cd->nhwgd", x, MATRIX[:2, :2]).reshape(-1, SIDE, SIDE, C)
    return (x @ MATRIX).swapaxes(1, 2)


def convolved(x):
    return conv(whole(x).swapaxes(1, 2), MATRIX[None, None]).swapaxes(1, 2)


def channels_first(x):
    x = conv(whole(x).transpose(0, 3, 2, 1), MATRIX[None, None], layout="NCHW")
    return x.transpose(0, 3, 2, 1)


def pooled(x):
    x = jnp.tanh(whole(x)).swapaxes(1, 2) + MATRIX[None, None, :1]
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def along_one_axis(x):
    """Attention along columns, as PyTorch's has it: axes are exchanged before and after."""
    x = x.swapaxes(1, 2)
    scores = jnp.einsum("nhqc,nhkc->nhqk", x, x) - 1e9 * (1 - jnp.eye(SIDE))[None, None]
    mixed = jnp.einsum("nhqk,nhkc->nhqc", jax.nn.softmax(scores), x) @ MATRIX
    return (x + mixed).swapaxes(1, 2)


def rows_of_pixels(x):
    x = whole(x).mean(axis=3).swapaxes(1, 2)
    return jnp.stack([x, -x], axis=-1) @ MATRIX[:2]


def turned_and_convolved(function):
    """What a function makes of columns as rows, convolved, and turned back."""

    return lambda x: conv(function(x.swapaxes(1, 2)), MATRIX[None, None]).swapaxes(1, 2)


@turned_and_convolved
def looped(x):
    return lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, jnp.tanh(c[1])), (0, x))[1]


@turned_and_convolved
def chosen(x):
    return lax.cond(x.sum() > 0, jnp.tanh, jnp.sin, x)


@turned_and_convolved
def along_columns(x):
    def step(before, line):
        return (jnp.tanh(before @ MATRIX + line),) * 2

    lines = x.swapaxes(0, 1)
    return lax.scan(step, lines[0], lines)[1].swapaxes(0, 1)


@turned_and_convolved
def stacked(x):
    return jnp.stack([jnp.tanh(frame) for frame in x])


@turned_and_convolved
def of_means(x):
    return x.mean(1)[:, :, None] * x.mean(2)[:, None]


@pytest.mark.filterwarnings("ignore::bc_jax.sparse.BlockSparsityWarning")
@pytest.mark.parametrize(
    "network",
    [
        dense, reshaped_in_another_order, heads, convolved, channels_first, pooled, along_one_axis,
        rows_of_pixels, looped, chosen, along_columns, stacked, of_means,
    ],
)  # fmt: skip
def test_an_executed_block_is_this_frames(network):
    rng = np.random.default_rng(1)
    before = rng.random((2, SIDE, SIDE, C), np.float32)
    place = (slice(1, 2), slice(0, BLOCK), slice(2 * BLOCK, 3 * BLOCK))
    frames, grid = before.copy(), np.zeros((2, 4, 4), bool)
    frames[place], grid[1, 0, 2] = rng.random((1, BLOCK, BLOCK, C)), True
    sparse = bc_jax.blockcopy(lambda _, x: network(x), BLOCK)
    run = jax.jit(sparse.advance)
    state = run(None, sparse.init(None, before), before)
    state = run(None, state, frames, grid)
    assert_close(state.outputs, network(frames))


def kernel_of(weights, x):
    """3 x 3 numbers for the frame, which are no image."""
    return (x.mean((1, 2)) @ weights).reshape(-1, 3, 3, 4)


def by_its_own_kernel(weights, x):
    kernel, (h, w) = kernel_of(weights, x) @ np.ones((4, 1), np.float32), x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(
        x[:, i : i + h, j : j + w] * kernel[:, i, j][:, None, None]
        for i in range(3)
        for j in range(3)
    )


@pytest.mark.parametrize("network", [kernel_of, by_its_own_kernel])
def test_what_is_made_of_the_whole_frame_is_no_image_whatever_its_shape(network):
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(3, 36)).astype(np.float32)
    old, new = rng.random((2, 1, 48, 48, 3), dtype=np.float32)
    sparse, grid = bc_jax.blockcopy(network, 16), np.zeros((1, 3, 3), bool)
    grid[0, 0, 0] = True
    held = old.copy()
    held[:, :16, :16] = 3 * new[:, :16, :16]
    _, state = sparse(weights, sparse.init(weights, old), old)
    out, _ = sparse(weights, state, 3 * new, grid)
    expected = network(weights, jnp.asarray(held))
    shown = slice(None) if network is kernel_of else slice(16)
    assert_close(out[:, shown, shown], expected[:, shown, shown])
