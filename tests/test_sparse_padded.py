"""Images that networks pad, cut and put together themselves, and work on before a window reads.

Some blocks change and are executed with those around them: the result is the dense network's.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from zoo import assert_close

import bc_jax

BLOCK, C = 8, 4
FRAMES, GRID = (2, 32, 48, C), (2, 4, 6)
KERNEL = np.random.default_rng(0).normal(size=(3, 3, 8, C)).astype(np.float32) / 8
MEAN = np.array([[[[0.1, 0.2, 0.3, 0.4]]]], np.float32)
STILL = (0, 0, 0)
ROWS = np.repeat(np.eye(32, dtype=np.float32), 2, axis=0) * 3
PARAMS = {"mean": jnp.asarray(MEAN), "scale": jnp.array([[[[1.0, 2.0, -1.0, 0.5]]]])}


def conv(x, strides=(1, 1), padding="VALID", **how):
    kernel = jnp.asarray(KERNEL[:, :, : x.shape[-1]], x.dtype)
    how |= {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    return lax.conv_general_dilated(x, kernel, strides, padding, **how)


def pool(x, size=2):
    return lax.reduce_window(x, -np.inf, lax.max, (1, size, size, 1), (1, 2, 2, 1), "VALID")


def pad(x, rows=(1, 1), columns=(1, 1), **how):
    return jnp.pad(x, ((0, 0), rows, columns, (0, 0)), **how)


def normalised(p, x):
    return (x - p["mean"]) * p["scale"]


def worked_on_between_padding_and_window(p, x):
    return {
        "converted": conv(pad(x).astype(jnp.bfloat16).astype(jnp.float32)),
        "of integers": conv(pad((x * 255).astype(jnp.uint8)) / 255.0 - 0.5),
        "activation": conv(jax.nn.softplus(pad(x, constant_values=0.5))),
        "choice": conv(jnp.where(pad(x > 0.5), pad(x), -1.0)),
        "two": conv(pad(x, constant_values=2.0) ** 2 / (pad(x, constant_values=1.0) + 1)),
        "beside": conv(jnp.concatenate([pad(x), pad(x**2, constant_values=1)], -1)),
        "beside ones": conv(jnp.concatenate([pad(x), jnp.ones((2, 34, 50, 1))], -1)),
        "in two": sum(map(conv, jnp.split(pad(x) + 1, 2, -1))),
        "largest channel": conv(pad(x - 1).max(-1, keepdims=True)),
        "which channel": conv(jax.nn.one_hot(jnp.argmax(pad(x) - 0.1, -1), C)),
    }


def numbers_of_channels_around_it(p, x):
    around = normalised(p, pad(x))
    return {
        "window": conv(around),
        "more": conv(normalised(p, around) + pad(x**2)),
        "some channels": conv(around[..., 1:3]),
        "sorted": conv(jnp.sort(around, -1)),
        "channels first": conv(jnp.moveaxis(jnp.tanh(jnp.moveaxis(around, -1, 1)), 1, -1)),
        "pooled": lax.reduce_window(around, -np.inf, lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "VALID"),
        "moved": around[:, :-2, 2:],
        "all of it": around,
        "known": conv((pad(x) - MEAN) / 2),
    }


def its_own_pixels_around_it(p, x):
    around = jnp.sqrt(pad(x, mode="reflect") + 0.1)
    rows, columns = around[:, 2:] - around[:, :-2], around[:, :, 2:] - around[:, :, :-2]
    edges = [normalised(p, pad(y, mode="edge")) for y in (x, x**2)]
    return {
        "sobel": jnp.abs(rows[:, :, 1:-1]) + jnp.abs(columns[:, 1:-1]),
        "window": conv(jnp.concatenate(edges, -1)),
    }


def differences(p, x):
    small = jnp.diff(jnp.diff(x, axis=1), axis=2)
    return {
        "behind": pad(jnp.diff(x, axis=2), (0, 0), (0, 1)),
        "before": pad(jnp.abs(x[:, 1:, 1:] - x[:, :-1, :-1]), (0, 1), (1, 0)),
        "both": pad(small, (0, 1), (1, 0), constant_values=0.5),
        "second": pad(jnp.diff(x, 2, axis=1), (1, 1), (0, 0)),
        "of one frame": jax.vmap(lambda v: jnp.pad(v[1:] - v[:-1], ((0, 1), (0, 0), (0, 0))))(x),
        "gradient": sum(jnp.gradient(x, axis=(1, 2))),
    }


def cut_and_padded_anew(p, x):
    return {
        "more": pad(x[:, 3:, :-5], (1, 2), (2, 3), constant_values=0.7),
        "over": pad(x[:, 3:-2, 5:-5], (4, 1), (2, 8), constant_values=0.7),
        "twice": pad(pad(x[:, :-4], (0, 2), (0, 0)), (0, 2), (0, 0), constant_values=0.9),
        "constants behind": jnp.concatenate([x[:, :, 1:], jnp.zeros((2, 32, 1, C))], 2),
        "constants ahead": jnp.concatenate([jnp.ones((2, 1, 48, C)), x[:, :-1]], 1),
        "channels too": conv(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (1, 2)), constant_values=0.3)),
        "moved": conv(pad(x, (1, 0), (2, 0), constant_values=1)[:, :-1, :-2], padding="SAME"),
        "moved and pooled": lax.reduce_window(
            pad(x - 1, (2, 0), (0, 0))[:, :-2], -np.inf, lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "SAME"
        ),
        "gaps": conv(lax.pad(x, 0.0, (STILL, (1, 2, 1), (2, 1, 1), STILL))),
        "gaps alone": lax.pad(x, 0.5, (STILL, (0, 0, 1), (1, 0, 2), STILL)),
        "last pixel again": jnp.concatenate([x[:, :, 1:], x[:, :, -1:]], 2),
    }


def written_into(p, x):
    sides = x.at[:, 0].set(0.0).at[:, -1].set(0.0).at[:, :, 0].set(1.0).at[:, :, -1].set(2.0)
    inner = x[:, 2:, 1:-1] + x[:, :-2, 1:-1] + x[:, 1:-1, 2:] + x[:, 1:-1, :-2]
    ramp = jnp.arange(48.0)[None, None, :, None]
    return {
        "sides": sides,
        "inner": jnp.zeros_like(x).at[:, 1:-1, 1:-1].set(inner),
        "inner channels": x.at[:, 1:-1, 2:, 1:3].add(x[:, 2:, :-2, :2]),
        "largest": x.at[:, 2:].max(x[:, :-2]),
        "update": lax.dynamic_update_slice(x, x[:, :-1, :-2] * 2, (0, 1, 2, 0)),
        "of places": x.at[:, 3:9].multiply(ramp),
    }


def without_padding(p, x):
    y = jnp.tanh(conv(jnp.tanh(conv(x))))
    smaller = pool(y)
    larger = conv(smaller, padding=((1, 2), (1, 2)), lhs_dilation=(2, 2))  # transposed
    half = conv(x, strides=(2, 2))
    return {
        "windows": y,
        "same behind it": conv(conv(x), padding="SAME"),
        "strides": conv(half, padding="SAME"),
        "pooled": pool(half, 3) + conv(half, strides=(2, 2)),
        "crop": y + x[:, 2:-2, 2:-2],
        "u-net": conv(jnp.concatenate([y, larger], -1)),
        "put back": pad(conv(x), constant_values=0.5),
        "resized": jax.image.resize(jnp.tanh(conv(x)), x.shape, "bilinear"),
        "one axis resized": jax.image.resize(conv(x), (2, 64, 46, C), "linear"),
        "enlarged": jnp.repeat(jax.image.resize(half, (2, 32, 48, C), "nearest"), 2, axis=3),
        "repeated": jnp.repeat(jnp.repeat(conv(x), 2, 1), 3, 2),
        "in pairs": y.reshape(2, 14, 2, 44, C).max(2),
        "shuffled": pool(y).reshape(2, 14, 22, 2, 2, 1).swapaxes(2, 3).reshape(2, 28, 44, 1),
        "dilated": conv(x, rhs_dilation=(2, 2)),
    }


NETWORKS = [
    worked_on_between_padding_and_window, numbers_of_channels_around_it, its_own_pixels_around_it,
    differences, cut_and_padded_anew, written_into, without_padding,
]  # fmt: skip


def and_around(grid):
    wide = np.pad(grid, ((0, 0), (1, 1), (1, 1)))
    around = [wide[:, i : i + GRID[1], j : j + GRID[2]] for i in range(3) for j in range(3)]
    return np.any(around, axis=0)


@pytest.mark.parametrize("network", NETWORKS)
def test_all_runs_on_blocks_and_is_right(network):
    rng = np.random.default_rng(1)
    sparse = bc_jax.blockcopy(network, BLOCK)
    frames = rng.uniform(size=FRAMES).astype(np.float32)
    assert not sparse.explain(PARAMS, frames).fallbacks

    step, dense = jax.jit(sparse, static_argnames="capacity"), jax.jit(network)
    grid, state = np.ones(GRID, bool), sparse.init(PARAMS, frames)
    for number, share in enumerate((1, 0.12, 0.12, 0)):
        changed = rng.uniform(size=GRID) < share
        pixels = np.repeat(np.repeat(changed, BLOCK, 1), BLOCK, 2)[..., None]
        frames = np.where(pixels, rng.uniform(size=FRAMES), frames).astype(np.float32)
        # The last frame is as the one before.
        grid = and_around(changed) if share else rng.uniform(size=GRID) < 0.3
        capacity = 48 if number else None
        outputs, state = step(PARAMS, state, frames, grid, capacity=capacity)
        assert_close(outputs, dense(PARAMS, frames), where=f"frame {number}")


def mean_of_those_there_are(x, padding):
    def total(x):
        return lax.reduce_window(x, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), padding)

    return total(x) / total(jnp.ones_like(x))


GRADIENTS = {
    "activation": lambda x: jax.nn.relu(conv(x)),
    "mean without padding": lambda x: mean_of_those_there_are(conv(x), "VALID"),
    "mean with padding": lambda x: mean_of_those_there_are(conv(x), "SAME"),
    "places": lambda x: conv(x) / jnp.linspace(1, 2, 30)[None, :, None, None],
    "ratios": lambda x: pad(x[:, 1:] / (x[:, :-1] - 0.1), (0, 1), (0, 0)),
    "units": lambda x: jnp.linalg.norm(conv(x), axis=-1),
    "resized": lambda x: jax.image.resize(jnp.log(conv(x) + 3), x.shape, "linear"),
    "gaps": lambda x: conv(lax.pad(x[:, 1:], 0.0, (STILL, (0, 0, 1), (0, 1, 1), STILL))),
    "gaps of what is whole": lambda x: conv(
        lax.pad(x[:, ::-1][:, 1:], 0.0, (STILL, (0, 0, 1), (0, 1, 1), STILL)), strides=(2, 2)
    ),
}


@pytest.mark.filterwarnings("ignore::bc_jax.sparse.BlockSparsityWarning")
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_pass_through_what_is_cut_and_padded(name):
    def network(factor, x):
        return GRADIENTS[name](jnp.asarray(x) * factor)

    frames = np.random.default_rng(3).uniform(0.5, 1, size=FRAMES).astype(np.float32)
    sparse, factor = bc_jax.blockcopy(network, BLOCK), jnp.array([[[[1.0, 1.1, 0.9, 0.8]]]])
    state, grid = sparse.init(factor, frames), np.ones(GRID, bool)

    def loss(run):
        return jax.jit(jax.value_and_grad(lambda factor: jnp.sum(run(factor) ** 2)))(factor)

    wanted = loss(lambda factor: network(factor, frames))
    assert_close(loss(lambda f: sparse(f, state, frames, grid, capacity=48)[0]), wanted)
    assert_close(loss(lambda f: sparse(f, state, frames)[0]), wanted)


def far(x):
    return jnp.concatenate([x[:, 12:], x[:, :12]], 1)


def padded_differently(x):
    return conv(pad(x, (0, 2)) * pad(x, (2, 0)))


def many_parts(x):
    return jnp.concatenate([x[:, i : i + 1] * i for i in range(32)], 1)


def two_values_around_it(x):
    return pad(pad(x[:, 1:-1], (0, 0), (1, 1), constant_values=-2.0), (1, 1), (0, 0)) + 1


def not_constant_around_it(x):
    return conv(pad(x) * jnp.arange(50.0)[None, None, :, None])


def resized_beside_padding(x):
    return jnp.einsum("nhwc,oh->nowc", pad(x, (0, 0), (2, 2), constant_values=1.0), ROWS)


@pytest.mark.filterwarnings("ignore::bc_jax.sparse.BlockSparsityWarning")
@pytest.mark.parametrize(
    "network",
    [
        far,
        padded_differently,
        many_parts,
        not_constant_around_it,
        resized_beside_padding,
        two_values_around_it,
    ],
)
def test_the_rest_is_whole_and_right(network):
    frames = np.random.default_rng(2).uniform(size=FRAMES).astype(np.float32)
    sparse = bc_jax.blockcopy(lambda _, x: network(jnp.asarray(x)), BLOCK)
    assert sparse.explain(None, frames).fallbacks
    state = sparse.init(None, frames)
    outputs, _ = sparse(None, state, frames, np.ones(GRID, bool))
    assert_close(outputs, network(frames))
