"""The ways in which an operation may run on tiles, each held to the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bc_jax import blockcopy
from bc_jax.sparse import lowering
from tests import zoo

PLAIN = {"strides": (1, 1), "lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "groups": 1}
VALID = ((0, 0), (0, 0))


def random(*shape, dtype="float32", seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32), dtype)


def convolutions(function, *args) -> list[dict]:
    """The parameters of the convolutions that a function makes."""
    closed = jax.make_jaxpr(function)(*args)
    return [e.params for e in closed.eqns if e.primitive.name == "conv_general_dilated"]


def both_ways(monkeypatch, function, *args):
    """What a function returns on a CPU, and with the plain lowering."""
    fast = function(*args)
    monkeypatch.setattr(lowering, "_on_cpu", lambda: False)
    return fast, function(*args)


FEW = [
    # tiles [K, h, w, C], kernel [kh, kw, C, D], padding
    ((2, 6, 8, 5), (3, 3, 5, 4), VALID),
    ((2, 7, 9, 5), (2, 4, 5, 1), VALID),
    ((1, 6, 7, 40), (3, 2, 40, 23), VALID),
    ((2, 6, 8, 3), (3, 3, 3, 7), ((1, 1), (1, 1))),
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tiles, kernel, padding", FEW)
def test_two_pixels_at_once_are_the_convolution(monkeypatch, tiles, kernel, padding, dtype):
    def convolve(x, k):
        return lowering.convolve(x, k, padding=padding, **PLAIN)

    x, k = random(*tiles, dtype=dtype), random(*kernel, dtype=dtype, seed=1)
    (call,) = convolutions(convolve, x, k)
    assert call["window_strides"] == (1, 2)
    fast, plain = both_ways(monkeypatch, convolve, x, k)
    (call,) = convolutions(lambda x, k: convolve(x, k), x, k)
    assert call["window_strides"] == (1, 1)
    assert fast.dtype == plain.dtype == x.dtype
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == "float32" else {"rtol": 0.02, "atol": 0.05}
    np.testing.assert_allclose(np.float32(fast), np.float32(plain), **close)


@pytest.mark.parametrize(
    "change",
    [
        {"strides": (1, 2)},
        {"rhs_dilation": (1, 2)},
        {"lhs_dilation": (2, 1)},
        {"groups": 2},
        {"width": 9},  # an odd number of results
        {"features": 24},
    ],
)
def test_one_pixel_at_a_time_where_two_do_not_fit(monkeypatch, change):
    width, features = change.get("width", 8), change.get("features", 4)
    how = {name: change.get(name, plain) for name, plain in PLAIN.items()}

    def convolve(x, k):
        return lowering.convolve(x, k, padding=VALID, **how)

    x = random(2, 6, width, 6)
    k = random(3, 3, 6 // how["groups"], features, seed=1)
    fast, plain = both_ways(monkeypatch, convolve, x, k)
    np.testing.assert_array_equal(fast, plain)


@pytest.mark.parametrize("size", [(2, 2), (3, 2), (1, 4)])
def test_a_patch_for_each_pixel_is_the_transposed_convolution(monkeypatch, size):
    how = PLAIN | {"lhs_dilation": size}

    def convolve(x, k):
        return lowering.convolve(x, k, padding=tuple((g - 1, g - 1) for g in size), **how)

    x, k = random(2, 3, 5, 6), random(*size, 6, 4, seed=1)
    assert not convolutions(convolve, x, k)
    fast, plain = both_ways(monkeypatch, convolve, x, k)
    assert fast.shape == (2, 3 * size[0], 5 * size[1], 4)
    np.testing.assert_allclose(fast, plain, rtol=1e-5, atol=1e-5)


def test_overlapping_patches_are_left_to_the_convolution(monkeypatch):
    how = PLAIN | {"lhs_dilation": (2, 2)}

    def convolve(x, k):
        return lowering.convolve(x, k, padding=((1, 2), (1, 2)), **how)

    fast, plain = both_ways(monkeypatch, convolve, random(2, 4, 4, 3), random(3, 3, 3, 5, seed=1))
    np.testing.assert_array_equal(fast, plain)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("channels, features", [(3, 5), (5, 3)])
def test_a_convolution_of_taps_is_the_dilated_one(channels, features, dtype):
    x = random(2, 12, 14, channels, dtype=dtype)
    kernel = random(3, 2, channels, features, dtype=dtype, seed=1)
    h, w = 12 - 2 * 4, 14 - 5
    taps = [x[:, 4 * i : 4 * i + h, 5 * j : 5 * j + w] for i in range(3) for j in range(2)]
    result = lowering.convolve_taps(taps, kernel)
    plain = lowering.convolve(x, kernel, padding=VALID, **PLAIN | {"rhs_dilation": (4, 5)})
    assert result.dtype == plain.dtype == x.dtype
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == "float32" else {"rtol": 0.02, "atol": 0.05}
    np.testing.assert_allclose(np.float32(result), np.float32(plain), **close)


def video(sparse, params):
    """Outputs of three frames, of which some blocks are executed, with a program of its own."""
    frames = zoo.frames_of(3, count=3)
    grids = zoo.random_grids(3, sparse.grid_shape(frames[0]), seed=4)
    step = jax.jit(lambda *args: sparse(*args))
    state, outputs = sparse.init(params, frames[0]), []
    for frame, grid in zip(frames, grids, strict=True):
        output, state = step(params, state, frame, grid)
        outputs.append(output)
    return np.stack(outputs)


DILATED = [
    # channels, dilation, whether moved tiles are read
    (4, 8, True),
    (4, (1, 6), True),
    (40, 16, True),  # the moved tiles are fewer pixels than tiles with their halo
    (40, 12, False),
    (4, 1, False),
]


@pytest.mark.parametrize("channels, dilation, moved", DILATED)
def test_dilated_convolutions_of_moved_tiles_are_those_of_halos(
    monkeypatch, channels, dilation, moved
):
    rates = (dilation, dilation) if isinstance(dilation, int) else dilation
    params = {"a": random(1, 1, 3, channels), "b": random(3, 3, channels, 6, seed=1) / 9}

    def apply(p, x):
        return zoo.conv(jnp.tanh(zoo.conv(x, p["a"])), p["b"], rhs_dilation=rates)

    sparse = blockcopy(apply, 16)
    frames = zoo.frames_of(0)[0]
    state = sparse.init(params, frames)
    grid = jnp.ones(sparse.grid_shape(frames), bool)
    found = convolutions(lambda p, s, f, g: sparse(p, s, f, g), params, state, frames, grid)
    assert [call["rhs_dilation"] for call in found] == ([] if moved else [rates])
    fast, plain = both_ways(monkeypatch, lambda: video(sparse, params))
    np.testing.assert_allclose(fast, plain, rtol=1e-4, atol=1e-5)


def test_an_image_of_one_block_keeps_nothing_of_its_layers():
    params = {"a": random(3, 3, 3, 4), "b": random(3, 3, 4, 5, seed=1)}

    def apply(p, x):
        x = jnp.tanh(zoo.conv(x, p["a"], rhs_dilation=(3, 3)))
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
        return zoo.conv(x, p["b"])

    frames = zoo.frames_of(0)[0]
    sparse = blockcopy(apply, frames.shape[1:3])
    state = sparse.init(params, frames)
    assert not jax.tree.leaves(state.memory)
    output, _ = sparse(params, state, frames, jnp.ones((len(frames), 1, 1), bool))
    np.testing.assert_allclose(output, apply(params, frames), rtol=1e-4, atol=1e-5)
