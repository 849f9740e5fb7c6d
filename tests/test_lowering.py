"""The ways in which an operation may run on tiles, each held to the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from equations import all_equations

from bc_jax import blockcopy
from bc_jax.lowering import (
    Convolution,
    backend,
    best_ready,
    convolve,
    convolve_taps,
    make_ready,
    winograd,
)
from bc_jax.lowering.convolution import convolve_on_cpu, convolve_on_gpu, convolve_plainly

VALID = ((0, 0), (0, 0))
CLOSE = {"float32": {"rtol": 1e-5, "atol": 1e-5}, "bfloat16": {"rtol": 0.02, "atol": 0.06}}


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch):
    """A CPU's ways are right on every backend."""
    monkeypatch.setattr(backend, "on_cpu", lambda: True)


def random(*shape, dtype="float32", seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32), dtype)


def convolutions(function, *args) -> list[dict]:
    """The parameters of the convolutions that a function makes."""
    closed = jax.make_jaxpr(function)(*args)
    return [e.params for e in closed.eqns if e.primitive.name == "conv_general_dilated"]


def both_ways(monkeypatch, function, *args):
    """What a function returns with a CPU's ways, and with the plain ones."""
    fast = function(*args)
    monkeypatch.setattr(backend, "on_cpu", lambda: False)
    return fast, function(*args)


def close(fast, plain, dtype="float32"):
    assert fast.dtype == plain.dtype == jnp.dtype(dtype)
    np.testing.assert_allclose(np.float32(fast), np.float32(plain), **CLOSE[dtype])


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
    how = Convolution(padding=padding)
    x, k = random(*tiles, dtype=dtype), random(*kernel, dtype=dtype, seed=1)
    (call,) = convolutions(lambda x, k: convolve(x, k, how), x, k)
    assert call["window_strides"] == (1, 2)
    close(*both_ways(monkeypatch, convolve, x, k, how), dtype)
    (call,) = convolutions(lambda x, k: convolve(x, k, how), x, k)
    assert call["window_strides"] == (1, 1)


@pytest.mark.parametrize(
    "how, width, features",
    [
        (Convolution(strides=(1, 2)), 8, 4),
        (Convolution(rhs_dilation=(1, 2)), 8, 4),
        (Convolution(lhs_dilation=(2, 1)), 8, 4),
        (Convolution(), 9, 4),  # an odd number of results
        (Convolution(), 8, 24),
    ],
)
def test_one_pixel_at_a_time_where_two_do_not_fit(monkeypatch, how, width, features):
    x, k = random(2, 6, width, 6), random(3, 3, 6, features, seed=1)
    fast, plain = both_ways(monkeypatch, convolve, x, k, how)
    np.testing.assert_array_equal(fast, plain)


@pytest.mark.parametrize("rows", [2, 4])
def test_minimal_filtering_is_a_correlation(rows):
    of_rows, of_kernel, of_products = map(np.asarray, winograd._FILTERS[rows])
    rng = np.random.default_rng(0)
    signal, kernel = rng.normal(size=rows + 2), rng.normal(size=3)
    found = of_products @ ((of_rows @ signal) * (of_kernel @ kernel))
    np.testing.assert_allclose(found, np.correlate(signal, kernel), rtol=1e-12, atol=1e-13)


SEVERAL = [
    # tiles, kernel, padding, (rows, columns) of results at once
    ((3, 18, 18, 24), (3, 3, 24, 26), VALID, (4, 4)),
    ((4, 18, 12, 24), (3, 3, 24, 24), VALID, (4, 2)),
    ((5, 12, 16, 30), (3, 3, 30, 24), ((0, 0), (2, 0)), (2, 4)),
    ((5, 12, 16, 30), (3, 4, 30, 24), VALID, (2, 1)),
    ((1, 15, 40, 24), (3, 2, 24, 24), ((2, 1), (0, 1)), (4, 1)),
    ((3, 18, 17, 24), (3, 3, 24, 24), VALID, (4, 1)),  # an odd number of columns
    ((40, 3, 16, 25), (3, 3, 25, 24), ((1, 2), (1, 1)), (4, 4)),
    ((4, 10, 10, 512), (3, 3, 512, 512), VALID, (4, 2)),
    ((1, 258, 262, 24), (3, 3, 24, 24), VALID, (4, 1)),  # more sums than a cache holds
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tiles, kernel, padding, at_once", SEVERAL)
def test_several_results_at_once_are_the_convolution(
    monkeypatch, tiles, kernel, padding, at_once, dtype
):
    # Nor does a CPU multiply patches, where it has units for that.
    monkeypatch.setattr(backend, "multiplies_bfloat16", lambda: False)
    how = Convolution(padding=padding)
    x = random(*tiles, dtype=dtype)
    # Results of about one: rounding is a few times that of the plain way.
    k = (random(*kernel, seed=1) / np.sqrt(np.prod(kernel[:3]))).astype(dtype)
    found = all_equations(jax.make_jaxpr(lambda x, k: convolve(x, k, how))(x, k).jaxpr)
    rows, columns = at_once
    name = "conv_general_dilated" if columns == 1 else "dot_general"
    calls = [e for e in found if e.primitive.name in ("conv_general_dilated", "dot_general")]
    products = [1 if columns == 1 else columns + 2] * (rows + 2)
    assert [call.invars[1].aval.shape[0] for call in calls] == products
    assert {call.primitive.name for call in calls} == {name}
    fast, plain = both_ways(monkeypatch, convolve, x, k, how)
    assert fast.dtype == plain.dtype == x.dtype
    atol = {"float32": 1e-4 if at_once == (4, 4) else 3e-5, "bfloat16": 0.03}[dtype]
    np.testing.assert_allclose(np.float32(fast), np.float32(plain), rtol=0, atol=atol)


@pytest.mark.parametrize(
    "results, channels, at_once",
    [
        ((16, 16), (48, 64), (4, 4)),
        ((16, 16), (40, 64), (4, 1)),  # how many tiles there will be is not known
        ((16, 16), (512, 512), (4, 2)),
        ((2, 6), (256, 256), (2, 2)),
        ((15, 16), (64, 64), (1, 1)),
        ((16, 16), (64, 12), (1, 1)),
    ],
)
def test_kernels_are_made_ready_by_their_size(results, channels, at_once):
    assert winograd.best_ahead(results, (3, 3, *channels)) == at_once
    kernel = random(3, 3, *channels)
    if at_once != (1, 1):
        ready = winograd.SummedKernel.of(kernel, at_once)
        assert ready.at_once == at_once and ready.shape == kernel.shape


@pytest.mark.parametrize("tiles, name", [(1, "conv_general_dilated"), (2, "dot_general")])
def test_a_ready_kernel_is_itself_for_few_results(tiles, name):
    x, kernel, how = random(tiles, 10, 10, 48), random(3, 3, 48, 48, seed=1) / 20, Convolution()
    ready = make_ready(kernel, best_ready(kernel, (8, 8), how))
    made = jax.make_jaxpr(lambda x, ready: convolve_on_cpu(x, ready, how))(x, ready)
    assert {e.primitive.name for e in all_equations(made.jaxpr)} & {
        "conv_general_dilated",
        "dot_general",
    } == {name}
    plain = convolve_plainly(x, kernel, how)
    np.testing.assert_allclose(convolve_on_cpu(x, ready, how), plain, rtol=0, atol=1e-4)


def test_several_results_at_once_are_differentiated_and_batched(monkeypatch):
    x, k = random(2, 3, 18, 18, 24), random(3, 3, 24, 24, seed=1) / 9

    def loss(x, k):
        return jnp.sum(jnp.sin(jax.vmap(lambda x: convolve(x, k, Convolution()))(x)))

    fast, plain = both_ways(monkeypatch, lambda: jax.jit(jax.grad(loss, (0, 1)))(x, k))
    for found, expected in zip(fast, plain, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize(
    "how, height, channels, features, count",
    [
        (Convolution(precision=jax.lax.Precision.HIGHEST), 16, 24, 24, 3),
        (Convolution(strides=(2, 1)), 18, 24, 24, 9),
        (Convolution(rhs_dilation=(2, 1)), 18, 24, 24, 3),
        (Convolution(), 15, 24, 24, 3),  # an odd number of rows
        (Convolution(), 16, 23, 24, 3),
        (Convolution(), 12, 24, 24, 1),  # few results
    ],
)
def test_one_result_at_a_time_where_several_do_not_fit(
    monkeypatch, how, height, channels, features, count
):
    x = random(count, height + 2, 18, channels)
    fast, plain = both_ways(monkeypatch, convolve, x, random(3, 3, channels, features), how)
    np.testing.assert_array_equal(fast, plain)


STEMS = [
    # Kernel, strides, padding, sides of the tiles.
    ((7, 7, 3, 8), (2, 2), ((0, 0), (0, 0)), (21, 37)),
    ((3, 3, 3, 8), (2, 2), ((1, 1), (1, 1)), (16, 24)),
    ((3, 5, 1, 4), (2, 3), ((0, 2), (1, 0)), (17, 23)),
    ((8, 8, 1, 4), (4, 4), ((0, 0), (0, 0)), (16, 27)),
    ((4, 2, 4, 4), (2, 1), ((0, 0), (0, 0)), (9, 8)),
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernel, strides, padding, sides", STEMS)
def test_few_channels_in_depth_are_the_strided_convolution(kernel, strides, padding, sides, dtype):
    tiles, weights = random(2, *sides, kernel[2], dtype=dtype), random(*kernel, dtype=dtype)
    how = Convolution(strides=strides, padding=padding)
    close(convolve_on_gpu(tiles, weights, how), convolve_plainly(tiles, weights, how), dtype)
    (made,) = convolutions(lambda t, k: convolve_on_gpu(t, k, how), tiles, weights)
    assert set(made["window_strides"]) == {1}


@pytest.mark.parametrize(
    "kernel, how",
    [
        ((3, 3, 3, 8), Convolution()),
        ((3, 3, 8, 8), Convolution(strides=(2, 2))),
        ((2, 2, 3, 8), Convolution(strides=(2, 2))),
        ((1, 1, 3, 8), Convolution(strides=(1, 1))),
        ((3, 3, 1, 9), Convolution(strides=(2, 2), groups=3)),
        ((3, 3, 3, 8), Convolution(strides=(2, 2), rhs_dilation=(2, 2))),
    ],
)
def test_other_convolutions_of_a_gpu_are_left_as_they_are(kernel, how):
    tiles, weights = random(2, 16, 16, kernel[2] * how.groups), random(*kernel)
    made, plain = (
        convolutions(lambda t, k, way=way: way(t, k, how), tiles, weights)
        for way in (convolve_on_gpu, convolve_plainly)
    )
    assert made == plain


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "how", [Convolution(padding=((1, 1), (0, 2))), Convolution(strides=(2, 3)), Convolution()]
)
def test_a_gpus_single_feature_is_one_product(how, dtype):
    tiles, weights = random(2, 9, 12, 8, dtype=dtype), random(4, 5, 8, 1, dtype=dtype)
    assert not convolutions(lambda t, k: convolve_on_gpu(t, k, how), tiles, weights)
    close(convolve_on_gpu(tiles, weights, how), convolve_plainly(tiles, weights, how), dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("strides, sides", [((2, 2), (8, 6)), ((2, 3), (9, 7))])
def test_a_gpus_strided_pixel_of_halves_is_a_product(strides, sides, dtype):
    tiles, weights = random(2, *sides, 8, dtype=dtype), random(1, 1, 8, 4, dtype=dtype)
    how = Convolution(strides=strides)
    results = []
    for way in (convolve_on_gpu, convolve_plainly):
        total = lambda t, k, way=way: (way(t, k, how).astype(jnp.float32) ** 2).sum()  # noqa: E731
        results.append((way(tiles, weights, how), *jax.grad(total, (0, 1))(tiles, weights)))
    for made, plain in zip(*results, strict=True):
        close(made, plain, dtype)
    closed = jax.make_jaxpr(lambda t, k: convolve_on_gpu(t, k, how))(tiles, weights)
    names = [e.primitive.name for e in closed.eqns]
    assert ("optimization_barrier" in names) == (dtype == "bfloat16")
    assert ("conv_general_dilated" in names) == (dtype == "float32")


@pytest.mark.parametrize("channels, dtype, read", [(26, "float32", 28), (26, "bfloat16", 26)])
def test_a_gpus_channels_fill_words_of_float32(channels, dtype, read):
    tiles, weights = random(2, 6, 7, channels, dtype=dtype), random(3, 3, channels, 8, dtype=dtype)
    how = Convolution(padding=((1, 1), (1, 1)))
    closed = jax.make_jaxpr(lambda t, k: convolve_on_gpu(t, k, how))(tiles, weights)
    (made,) = (e for e in closed.eqns if e.primitive.name == "conv_general_dilated")
    assert [v.aval.shape[i] for v, i in zip(made.invars, (3, 2), strict=True)] == [read, read]
    close(convolve_on_gpu(tiles, weights, how), convolve_plainly(tiles, weights, how), dtype)


@pytest.mark.parametrize("size", [(2, 2), (3, 2), (1, 4)])
def test_a_patch_for_each_pixel_is_the_transposed_convolution(monkeypatch, size):
    how = Convolution(lhs_dilation=size, padding=tuple((side - 1, side - 1) for side in size))
    x, k = random(2, 3, 5, 6), random(*size, 6, 4, seed=1)
    assert not convolutions(lambda x, k: convolve(x, k, how), x, k)
    fast, plain = both_ways(monkeypatch, convolve, x, k, how)
    assert fast.shape == (2, 3 * size[0], 5 * size[1], 4)
    close(fast, plain)


TRANSPOSED = [
    # kernel, dilation of the tiles, padding, the convolutions that it becomes, products aside
    ((3, 3), (2, 2), ((1, 2), (1, 2)), 3),
    ((4, 4), (2, 2), ((2, 2), (0, 0)), 4),
    ((4, 3), (2, 1), ((1, 3), (1, 1)), 1),  # both phases of rows see the same pixels
    ((5, 4), (3, 2), ((1, 2), (2, 2)), 4),
    ((2, 6), (2, 3), ((1, 1), (-1, 5)), 1),
    ((3, 3), (3, 3), ((1, 3), (1, 3)), 3),
    ((5, 5), (4, 4), ((2, 5), (2, 5)), 8),
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("size, dilation, padding, calls", TRANSPOSED)
def test_the_phases_of_a_transposed_convolution(monkeypatch, size, dilation, padding, calls, dtype):
    how = Convolution(lhs_dilation=dilation, padding=padding)
    x, k = random(2, 4, 5, 3, dtype=dtype), random(*size, 3, 5, dtype=dtype, seed=1)
    found = convolutions(lambda x, k: convolve(x, k, how), x, k)
    assert [call["lhs_dilation"] for call in found] == [(1, 1)] * calls
    close(*both_ways(monkeypatch, convolve, x, k, how), dtype)


@pytest.mark.parametrize("sides", [(-1, 1), (-2, 2), (2, -1)])
@pytest.mark.parametrize("kernel, stride", [(1, 1), (3, 1), (3, 2)])
def test_a_convolution_that_cuts_at_one_side_and_pads_at_the_other(sides, kernel, stride):
    x, k = random(2, 8, 8, 3), random(kernel, kernel, 3, 5, seed=1)
    made = jax.jit(lambda x, k: convolve(x, k, Convolution((stride,) * 2, (sides, (0, 0)))))(x, k)
    moved = jax.lax.pad(x, 0.0, ((0, 0, 0), (*sides, 0), (0, 0, 0), (0, 0, 0)))
    close(made, convolve_plainly(jnp.asarray(np.array(moved)), k, Convolution((stride,) * 2)))


@pytest.mark.parametrize(
    "how",
    [
        Convolution(lhs_dilation=(2, 4), padding=((1, 2), (1, 2))),  # a kernel narrower than a gap
        Convolution(lhs_dilation=(2, 2), padding=((1, 1), (1, 2))),  # an odd number of results
        Convolution(lhs_dilation=(2, 2), padding=((1, 2), (1, 2)), strides=(1, 3)),
    ],
)
def test_other_transposed_convolutions_are_left_as_they_are(monkeypatch, how):
    x, k = random(2, 4, 4, 3), random(3, 3, 3, 5, seed=1)
    fast, plain = both_ways(monkeypatch, convolve, x, k, how)
    np.testing.assert_array_equal(fast, plain)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "how",
    [
        Convolution(groups=6),
        Convolution(groups=6, strides=(2, 1), padding=((1, 0), (2, 1))),
        Convolution(groups=6, rhs_dilation=(2, 3)),
    ],
)
@pytest.mark.parametrize("times", [1, 3])
def test_a_depthwise_convolution_is_a_sum_of_shifted_tiles(monkeypatch, how, times, dtype):
    x = random(2, 9, 11, 6, dtype=dtype)
    k = random(3, 2, 1, 6 * times, dtype=dtype, seed=1)
    assert not convolutions(lambda x, k: convolve(x, k, how), x, k)
    close(*both_ways(monkeypatch, convolve, x, k, how), dtype)


@pytest.mark.parametrize(
    "groups, channels, features, calls",
    [(2, 40, 6, 2), (8, 32, 16, 2), (3, 6, 12, 1), (6, 18, 12, 1), (4, 64, 64, 4)],
)
def test_a_grouped_convolution_is_one_for_a_few_groups_together(
    monkeypatch, groups, channels, features, calls
):
    how = Convolution(groups=groups, strides=(1, 2), rhs_dilation=(2, 1))
    x, k = random(2, 8, 8, channels), random(3, 3, channels // groups, features, seed=1)
    found = convolutions(lambda x, k: convolve(x, k, how), x, k)
    assert [call["feature_group_count"] for call in found] == [1] * calls
    close(*both_ways(monkeypatch, convolve, x, k, how))


def test_integers_are_convolved_plainly(monkeypatch):
    how = Convolution(preferred=jnp.dtype("int32"))
    x, k = jnp.arange(2 * 6 * 6 * 3, dtype=jnp.int8).reshape(2, 6, 6, 3), jnp.ones((3, 3, 3, 4))
    fast, plain = both_ways(monkeypatch, convolve, x, k.astype(jnp.int8), how)
    assert fast.dtype == jnp.int32
    np.testing.assert_array_equal(fast, plain)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("channels, features", [(3, 5), (5, 3)])
def test_a_convolution_of_taps_is_the_dilated_one(channels, features, dtype):
    x = random(2, 12, 14, channels, dtype=dtype)
    kernel = random(3, 2, channels, features, dtype=dtype, seed=1)
    h, w = 12 - 2 * 4, 14 - 5
    taps = [x[:, 4 * i : 4 * i + h, 5 * j : 5 * j + w] for i in range(3) for j in range(2)]
    plain = convolve(x, kernel, Convolution(rhs_dilation=(4, 5)))
    close(convolve_taps(taps, kernel), plain, dtype)


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
