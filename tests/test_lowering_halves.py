"""Floats of 16 bits on a CPU: moved as whole numbers, and multiplied by units for them."""

import re

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest
from equations import all_equations

import bc_jax
from bc_jax import blockcopy, lowering
from bc_jax.lowering import Convolution, backend, best_ready, convolve, make_ready
from bc_jax.sparse import Halo, block_index, combine, exchange_halo, split
from bc_jax.sparse.blocks import Blocks
from bc_jax.sparse.halo import memory_shape, read_shifted, store, window_halo

GRID = (2, 3, 4)
SIDE, CHANNELS = 8, 3
HALVES = ["bfloat16", "float16"]


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch):
    """A CPU's ways are right on every backend."""
    monkeypatch.setattr(backend, "on_cpu", lambda: True)


def random(*shape, dtype="float32", seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32), dtype)


def blocks() -> Blocks:
    grid = jnp.asarray(np.random.default_rng(1).random(GRID) < 0.5)
    return Blocks(block_index(grid, capacity=GRID[0] * GRID[1] * GRID[2]), GRID)


def exchanged(halo, pad_value):
    def move(tiles, memory):
        return exchange_halo(tiles, memory, blocks(), halo=halo, pad_value=pad_value)

    return move


def shifted(tiles, memory):
    return read_shifted(store(memory, tiles, blocks()), tiles, blocks(), [(-3, 2), (5, -8)])


def windows(tiles, memory):
    dense = random(GRID[0], GRID[1] * SIDE, GRID[2] * SIDE, CHANNELS).astype(tiles.dtype)
    dense = combine(dense, tiles, blocks())
    return split(dense, blocks()), window_halo(dense, blocks(), halo=NEAR, pad_value=-jnp.inf)


NEAR, FAR = Halo(1, 2, 2, 1), Halo(8, 8, 8, 8)
MOVES = {
    "strips": (NEAR, exchanged(NEAR, 0)),
    "strips of a pool": (NEAR, exchanged(NEAR, -jnp.inf)),
    "frames": (FAR, exchanged(FAR, 0)),
    "frames of a pool": (FAR, exchanged(FAR, -jnp.inf)),
    "shifted": (FAR, shifted),
    "windows": (NEAR, windows),
}


def arguments(halo, dtype):
    """Tiles, and a memory that has seen something."""
    k = GRID[0] * GRID[1] * GRID[2]
    shape = memory_shape(halo, GRID, (SIDE, SIDE, CHANNELS), jnp.dtype(dtype))
    memory = jax.tree.map(lambda s: random(*s.shape, dtype=s.dtype, seed=2), shape)
    return random(k, SIDE, SIDE, CHANNELS, dtype=dtype, seed=3), memory


def bits(tree):
    return [np.asarray(x).view(np.uint8) for x in jax.tree.leaves(tree)]


@pytest.mark.parametrize("dtype", [*HALVES, "float32"])
@pytest.mark.parametrize("name", MOVES)
def test_moves_are_those_of_wide_floats(monkeypatch, name, dtype):
    halo, move = MOVES[name]
    tiles, memory = arguments(halo, dtype)
    tiles = tiles.at[0, 0, 0].set(jnp.nan).at[1, 1].set(-0.0).at[2].set(jnp.inf)
    moved = jax.jit(move)(tiles, memory)
    alone = jax.vmap(move)(*jax.tree.map(lambda x: x[None], (tiles, memory)))
    monkeypatch.setattr(backend, "on_cpu", lambda: False)
    expected = move(tiles, memory)
    assert jax.tree.structure(moved) == jax.tree.structure(expected)
    for a, b in ((moved, expected), (jax.tree.map(lambda x: x[0], alone), expected)):
        assert [x.dtype for x in jax.tree.leaves(a)] == [x.dtype for x in jax.tree.leaves(b)]
        np.testing.assert_equal(bits(a), bits(b))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", MOVES)
def test_moves_are_differentiated(monkeypatch, name, dtype):
    halo, move = MOVES[name]
    given = arguments(halo, dtype)

    def pulled():
        moved, pull = jax.vjp(move, *given)
        cotangents = jax.tree.map(lambda x: random(*x.shape, dtype=x.dtype, seed=4), moved)
        return pull(cotangents), jax.jvp(move, given, given)[1]

    fast = pulled()
    monkeypatch.setattr(backend, "on_cpu", lambda: False)
    plain = pulled()
    assert any(np.any(x) for x in jax.tree.leaves(plain[0]))
    for a, b in zip(jax.tree.leaves(fast), jax.tree.leaves(plain), strict=True):
        assert a.dtype == b.dtype == jnp.dtype(dtype)
        # Of sums in another order.
        np.testing.assert_allclose(np.float32(a), np.float32(b), rtol=0.02, atol=0.02)


def network(params, frames):
    x = jax.lax.conv_general_dilated(
        frames, params["near"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = jax.lax.conv_general_dilated(
        jax.nn.relu(x),
        params["far"],
        (1, 1),
        ((6, 6), (6, 6)),
        rhs_dilation=(6, 6),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return jax.nn.relu(x) @ params["dense"]


def call(dtype="bfloat16"):
    """A block-sparse network, and the arguments of a frame."""
    params = {
        "near": 0.2 * random(3, 3, 3, 5, dtype=dtype),
        "far": 0.2 * random(3, 3, 5, 7, dtype=dtype),
        "dense": random(7, 4, dtype=dtype),
    }
    frames = random(1, 32, 48, 3, dtype=dtype)
    sparse = blockcopy(network, 8)
    grid = jnp.asarray(np.random.default_rng(1).random((1, 4, 6)) < 0.4)
    return sparse, (params, sparse.init(params, frames), frames, grid)


def wide_states(sparse, args) -> set[str]:
    """The arrays of float32 in a frame's program that are as large as one of its state."""
    text = sparse.jit(sparse.advance).lower(*args).compile().as_text()
    shapes = {",".join(map(str, x.shape)) for x in jax.tree.leaves((args[1].memory, args[2]))}
    return {shape for shape in re.findall(r"f32\[([\d,]+)\]", text) if shape in shapes}


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="what XLA's CPU backend makes of it")
def test_no_wide_copy_is_made_of_a_state(monkeypatch):
    assert not wide_states(*call())
    monkeypatch.setattr(backend, "on_cpu", lambda: False)
    if jaxlib.__version__.startswith("0.10."):  # that of 0.12 makes none by itself
        assert wide_states(*call())  # as it would be without


LAST, MIDDLE = (((2,), (0,)), ((), ())), (((1,), (1,)), ((0,), (0,)))


@pytest.mark.parametrize("preferred", [None, "bfloat16", "float32"])
@pytest.mark.parametrize(
    "lhs, rhs, numbers", [((2, 5, 24), (24, 7), LAST), ((3, 5, 8), (3, 5, 6), MIDDLE)]
)
def test_products_of_bfloat16_are_rounded_once(monkeypatch, lhs, rhs, numbers, preferred):
    given = random(*lhs, dtype="bfloat16"), random(*rhs, dtype="bfloat16", seed=1)

    def product(a, b):
        return lowering.dot_general(a, b, numbers, None, preferred)

    def both():
        made, pull = jax.vjp(product, *given)
        return made, *pull(made)

    assert "preferred_element_type=float32" in str(jax.make_jaxpr(product)(*given))
    fast = both()
    exact = jax.lax.dot_general(*(x.astype(jnp.float32) for x in given), numbers)
    np.testing.assert_allclose(np.float32(fast[0]), exact, rtol=2**-8, atol=2**-9)
    monkeypatch.setattr(backend, "on_cpu", lambda: False)
    for a, b in zip(fast, both(), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(np.float32(a), np.float32(b), rtol=0.02, atol=0.02)


def test_products_of_bfloat16_whose_results_are_turned():
    """Upsampling by a kernel of each pixel: XLA had no product of bfloat16 that is laid out so."""

    def upsample(_, x):
        n, h, w, _ = x.shape
        kernels, pixels = x[..., :36].reshape(n, h, w, 2, 2, 9), x.reshape(n, h, w, 9, 8)
        return jnp.einsum("nhwabk,nhwkc->nhawbc", kernels, pixels).reshape(n, 2 * h, 2 * w, 8)

    frames = random(1, 64, 128, 72, dtype="bfloat16")
    sparse = bc_jax.blockcopy(upsample, 16)
    grid = jnp.ones(sparse.grid_shape(frames), bool)
    out, _ = jax.jit(sparse)(None, sparse.init(None, frames), frames, grid)
    wanted = upsample(None, frames.astype(jnp.float32))
    np.testing.assert_allclose(np.float32(out), wanted, rtol=0.02, atol=0.02)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="compiler options of a CPU")
def test_compiling_asks_what_arrays_there_are(monkeypatch):
    asked = []

    def options(*, in_order=False, half=None):
        asked.append(half)
        return {}

    monkeypatch.setattr(backend, "compiler_options", options)
    expected = {}
    for dtype, half in (("float32", None), ("bfloat16", "bfloat16"), ("float16", "float16")):
        sparse, args = call(dtype)
        expected[dtype] = np.asarray(sparse(*args)[0])
        out, _ = sparse.jit(donate_argnums=())(*args)
        np.testing.assert_allclose(np.float32(out), np.float32(expected[dtype]), 0.02, 0.02)
        assert asked == [half], dtype
        asked.clear()
        sparse.jit().lower(*args).compile()
        assert asked == [half], dtype
        asked.clear()
    # What a network computes in is seen of its state where its parameters are wide.
    params = jax.tree.map(lambda x: x.astype(jnp.float32), args[0])
    narrow = blockcopy(
        lambda p, f: network(jax.tree.map(lambda x: x.astype(jnp.bfloat16), p), f), 8
    )
    frames = args[2].astype(jnp.bfloat16)
    narrow.jit()(params, narrow.init(params, frames), frames, args[3])
    assert asked == ["bfloat16"]
    # Options that are given stay.
    asked.clear()
    blockcopy(network, 8).jit(compiler_options={}).lower(*call()[1])
    assert asked == []


def test_a_gpus_products_are_chosen_by_halves_where_parameters_are_prepared(monkeypatch):
    asked = []
    monkeypatch.setattr(backend, "on_cpu", lambda: False)
    monkeypatch.setattr(backend, "compiler_options", lambda *, half, **_: asked.append(half))
    for dtype in ("float32", "bfloat16", "float16"):
        sparse, (params, state, frames, grid) = call(dtype)
        sparse.jit().lower(params, state, frames, grid)
        prepared = sparse.prepare(params, frames)
        sparse.jit(sparse.advance).lower(prepared, state, frames, grid)
    assert asked == [None, None, None, "bfloat16", None, "float16"]


def test_a_frame_does_not_look_through_all_arrays(monkeypatch):
    sparse, (params, state, frames, grid) = call("bfloat16")
    prepared = sparse.prepare(params, frames)
    everything = (prepared.arrays, state, frames, grid)
    assert prepared.half == lowering.half_of(everything) == "bfloat16"
    monkeypatch.setattr(backend, "half_of", lambda tree: pytest.fail("it takes long"))
    sparse.jit(sparse.advance)(prepared, state, frames, grid)


@pytest.mark.parametrize("faster", [True, False])
def test_units_are_used_where_they_are_faster(monkeypatch, faster):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    monkeypatch.setattr(backend, "_has", lambda name, value: True)
    monkeypatch.setattr(backend, "multiplies_bfloat16", lambda: faster)
    plain = bc_jax.sparse.compiler_options()
    assert plain == bc_jax.sparse.compiler_options(half="float16")
    assert (bc_jax.sparse.compiler_options(half="bfloat16") != plain) == faster


@pytest.mark.parametrize("anew", [True, False])
def test_a_gpus_products_of_halves_are_another_librarys_where_they_are_compiled_anew(
    monkeypatch, anew
):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(backend, "_has", lambda name, value: True)
    # A test of graphs of convolutions asks for what this depends on.
    monkeypatch.setattr(backend, "_convolves_while_compiling", lambda: anew)
    single, *halves = (
        bc_jax.sparse.compiler_options(half=half) for half in (None, "bfloat16", "float16")
    )
    other = {"xla_gpu_enable_triton_gemm": False} if anew else {}
    assert halves == [single | other] * 2


def test_units_are_looked_for_while_tracing():
    backend.multiplies_bfloat16.cache_clear()
    found = []

    def traced(x):
        found.append(backend.multiplies_bfloat16())
        return x + 1

    assert jax.jit(traced)(1) == 2
    assert found == [backend.multiplies_bfloat16()]
    assert isinstance(found[0], bool)


def test_units_are_not_looked_for_where_xla_has_no_way_to_use_them(monkeypatch):
    monkeypatch.setattr(backend, "_has", lambda name, value: False)
    assert backend.multiplies_bfloat16.__wrapped__() is False


SAME, VALID = ((1, 1), (1, 1)), ((0, 0), (0, 0))
PATCHES = [
    # kernel [kh, kw, C, D], and how
    ((3, 3, 64, 24), {"strides": (2, 2)}),
    ((3, 2, 70, 5), {"strides": (2, 1), "padding": ((0, 1), (2, 0))}),
    ((3, 3, 64, 1), {"rhs_dilation": (2, 3), "padding": SAME}),
    ((3, 3, 512, 32), {}),
    ((2, 3, 512, 40), {"padding": SAME, "preferred": jnp.float32}),
]


def made(tiles, kernel, how):
    """What a convolution gives, its kernel made ready where it is to be, and its operations."""
    ready = best_ready(kernel, (tiles.shape[1] - 2, tiles.shape[2] - 2), how)

    def run(tiles, kernel):
        return convolve(tiles, make_ready(kernel, ready), how)

    operations = all_equations(jax.make_jaxpr(run)(tiles, kernel).jaxpr)
    names = {e.primitive.name for e in operations}
    return run(tiles, kernel), jax.grad(lambda k: run(tiles, k).sum())(kernel), names


@pytest.mark.parametrize("kernel, how", PATCHES)
def test_convolutions_of_many_channels_are_products_of_patches(monkeypatch, kernel, how):
    monkeypatch.setattr(backend, "multiplies_bfloat16", lambda: True)
    tiles = random(3, 10, 12, kernel[2], dtype="bfloat16")
    kernel = random(*kernel, dtype="bfloat16", seed=1) / kernel[2]
    how = Convolution(**how)
    *fast, names = made(tiles, kernel, how)
    assert "dot_general" in names and "conv_general_dilated" not in names
    monkeypatch.setattr(backend, "on_cpu", lambda: False)
    *plain, names = made(tiles, kernel, how)
    assert "conv_general_dilated" in names
    for a, b in zip(fast, plain, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(np.float32(a), np.float32(b), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    "units, dtype, kernel, how",
    [
        (False, "bfloat16", (3, 3, 64, 24), {"strides": (2, 2)}),
        (True, "float32", (3, 3, 64, 24), {"strides": (2, 2)}),
        (True, "float16", (3, 3, 512, 32), {}),
        (True, "bfloat16", (3, 3, 63, 24), {"strides": (2, 2)}),
        (True, "bfloat16", (3, 3, 256, 32), {}),
        (True, "bfloat16", (3, 3, 32, 64), {"strides": (2, 2), "groups": 2}),
    ],
)
def test_other_convolutions_are_as_those_of_wide_floats(monkeypatch, units, dtype, kernel, how):
    monkeypatch.setattr(backend, "multiplies_bfloat16", lambda: units)
    how = Convolution(**how)
    tiles = random(1, 10, 12, kernel[2] * how.groups, dtype=dtype)
    assert "conv_general_dilated" in made(tiles, random(*kernel, dtype=dtype), how)[-1]
