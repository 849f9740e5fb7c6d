"""Pooling tiles apart from what is around them, against pooling them with it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equations import all_equations

import bc_jax
from bc_jax import lowering
from bc_jax.lowering import backend
from bc_jax.lowering.pool import pool_together

# A tile's pixels, those around it (top, bottom, left, right), the window's size and strides.
WINDOWS = [
    ((16, 24), (1, 0, 1, 0), (3, 3), (2, 2)),
    ((16, 24), (1, 1, 1, 1), (3, 3), (1, 1)),
    ((15, 16), (0, 1, 2, 0), (3, 4), (3, 2)),
    ((16, 16), (2, 2, 0, 0), (5, 1), (1, 1)),
    ((16, 16), (0, 3, 3, 3), (4, 7), (1, 1)),
    ((12, 12), (3, 0, 0, 1), (4, 2), (3, 1)),
]


@pytest.fixture(autouse=True)
def _cpu(monkeypatch):
    monkeypatch.setattr(backend, "on_cpu", lambda: True)
    monkeypatch.setattr(backend, "on_gpu", lambda: False)


def _pieces(tile, halo, dtype):
    """Tiles [2, h, w, 3], and what is around them."""
    (h, w), (top, bottom, left, right) = tile, halo
    rows, columns = {-1: top, 0: h, 1: bottom}, {-1: left, 0: w, 1: right}
    key = jax.random.key(0)
    pieces = {
        (dy, dx): jax.random.normal(jax.random.fold_in(key, 3 * dy + dx + 4), (2, r, c, 3), dtype)
        for dy, r in rows.items()
        for dx, c in columns.items()
        if r and c
    }
    return pieces.pop((0, 0)), pieces


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["reduce_window_max", "reduce_window_min", "reduce_window_sum"])
@pytest.mark.parametrize(("tile", "halo", "size", "strides"), WINDOWS)
def test_results_are_those_of_tiles_with_what_is_around_them(
    tile, halo, size, strides, name, dtype
):
    tiles, around = _pieces(tile, halo, dtype)
    window = (name, size, strides)
    assert lowering.pools_apart(tile, halo, window)
    expected = pool_together(tiles, around, window)
    found = jax.jit(lambda tiles, around: lowering.pool_apart(tiles, around, window))(tiles, around)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("tile", "halo", "size"),
    [
        ((4, 32), (1, 1, 0, 0), (3, 1)),
        ((32, 16), (0, 0, 4, 4), (1, 9)),
        ((3, 9), (2, 2, 1, 1), 2 * (5,)),
    ],
)
def test_where_most_results_read_what_is_around_tiles_stay_whole(tile, halo, size):
    assert not lowering.pools_apart(tile, halo, ("reduce_window_max", size, (1, 1)))


def _pool(window, strides, padding):
    def network(params, frames):
        x = jnp.maximum(frames * params, 0.1)
        axes = ((1, *window, 1), (1, *strides, 1), ((0, 0), *padding, (0, 0)))
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, *axes)

    return network


@pytest.mark.parametrize("block", [16, (32, 64)])
@pytest.mark.parametrize(
    ("window", "strides", "padding"),
    [
        ((3, 3), (2, 2), ((1, 1), (1, 1))),
        ((3, 3), (2, 2), ((0, 1), (0, 1))),
        ((3, 3), (1, 1), ((1, 1), (1, 1))),
        ((1, 1), (2, 2), ((1, -1), (1, -1))),  # results read what is before, and never the last
        ((2, 2), (4, 4), ((1, 0), (0, 1))),
    ],
)
def test_pools_of_blocks_and_of_a_whole_frame_are_the_networks(window, strides, padding, block):
    network = _pool(window, strides, padding)
    sparse = bc_jax.blockcopy(network, block_size=block)
    frames = jax.random.normal(jax.random.key(0), (4, 1, 32, 64, 3))
    grid_shape = sparse.grid_shape(frames[0])
    rng = np.random.default_rng(0)
    state, held = sparse.init(2.0, frames[0]), frames[0]
    for number, frame in enumerate(frames):
        grid = rng.random(grid_shape) < (0.5 if number else 1.1)
        rows, columns = (side // g for side, g in zip((32, 64), grid_shape[1:], strict=True))
        where = np.repeat(np.repeat(grid, rows, 1), columns, 2)[..., None]
        held = jnp.where(where, frame, held)
        out, state = jax.jit(sparse)(2.0, state, frame, grid)
        expected = network(2.0, held)
        shown = where[:, :: strides[0], :: strides[1]]
        np.testing.assert_array_equal(jnp.where(shown, out, 0), jnp.where(shown, expected, 0))


def test_no_tile_is_copied_to_have_a_halo():
    network = _pool((3, 3), (2, 2), ((1, 1), (1, 1)))
    sparse = bc_jax.blockcopy(network, block_size=16)
    frames = jnp.zeros((1, 32, 64, 3))
    state, grid = sparse.init(2.0, frames), np.ones(sparse.grid_shape(frames), bool)
    call = functools.partial(sparse, capacity=3)
    program = jax.make_jaxpr(call)(2.0, state, frames, grid)
    shapes = {v.aval.shape for e in all_equations(program.jaxpr) for v in e.outvars}
    assert (3, 8, 8, 3) in shapes and (3, 17, 17, 3) not in shapes


@pytest.mark.parametrize("pools_first", [True, False])
def test_a_tensor_that_is_pooled_and_convolved_is_remembered_once(pools_first):
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 4))

    def network(params, frames):
        x = jnp.maximum(frames * params, 0.1)
        axes = ((1, 3, 3, 1), (1, 1, 1, 1), "SAME")
        branches = [
            lambda: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, *axes),
            lambda: jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            ),
        ]
        made = [branch() for branch in (branches if pools_first else branches[::-1])]
        return tuple(made)

    sparse = bc_jax.blockcopy(network, block_size=16)
    frames = jax.random.normal(jax.random.key(0), (2, 1, 32, 64, 3))
    state, grid = sparse.init(2.0, frames[0]), np.ones(sparse.grid_shape(frames[0]), bool)
    _, state = sparse(2.0, state, frames[0], grid)
    grid[0, 0, 1:] = False
    call = functools.partial(sparse, capacity=5)
    program = jax.make_jaxpr(call)(2.0, state, frames[1], grid)
    memories = {x.shape for x in jax.tree.leaves(state) if x.ndim == 3 and x.shape[0] == 8}
    stores = [
        e
        for e in all_equations(program.jaxpr)
        if e.primitive.name.startswith("scatter") and e.outvars[0].aval.shape in memories
    ]
    assert len(memories) == len(stores) == 1
    where = np.kron(grid[0], np.ones((16, 16), bool))[..., None]
    expected = network(2.0, jnp.where(where, frames[1], frames[0]))
    for found, wanted in zip(jax.jit(call)(2.0, state, frames[1], grid)[0], expected, strict=True):
        np.testing.assert_allclose(np.where(where, found, 0), np.where(where, wanted, 0), atol=1e-5)
