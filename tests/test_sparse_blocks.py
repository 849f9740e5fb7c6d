"""Blocks and halos: indices, round trips, and the padded image as the reference."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equations import all_equations

from bc_jax import blockcopy, lowering, sparse
from bc_jax.lowering import backend, halo_lines
from bc_jax.lowering.surround import surround_in_place, surround_plainly
from bc_jax.sparse import blocks as blocks_module
from bc_jax.sparse.halo import (
    Frames,
    Strips,
    exchange_plainly,
    memory_shape,
    resize,
    window_halo,
    write_tiles,
)

N, GH, GW, C = 2, 3, 4, 5


def grids(seed: int = 0, share: float = 0.5) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=(N, GH, GW)) < share


def blocks_of(grid: np.ndarray, capacity: int | None = None) -> sparse.Blocks:
    index = sparse.block_index(jnp.asarray(grid), capacity=capacity or grid.size)
    return sparse.Blocks(index, grid.shape)


@pytest.fixture(params=["few blocks", "many blocks"])
def count(request, monkeypatch):
    """An index is found by comparing, or by counting and scattering."""
    if request.param == "many blocks":
        monkeypatch.setattr(blocks_module, "_FEW", 0)


def test_index_is_row_major_and_padded_with_no_block(count):
    grid = np.zeros((N, GH, GW), bool)
    grid[0, 1, 2] = grid[1, 0, 3] = True
    index = sparse.block_index(jnp.asarray(grid), capacity=4)
    assert index.dtype == jnp.int32
    # Block (0, 1, 2) is 1 * 4 + 2; block (1, 0, 3) is 12 + 3; 24 stands for no block.
    np.testing.assert_array_equal(index, [6, 15, 24, 24])


def test_index_keeps_the_first_blocks_where_there_are_more(count):
    index = sparse.block_index(jnp.ones((N, GH, GW), bool), capacity=3)
    np.testing.assert_array_equal(index, [0, 1, 2])


@pytest.mark.parametrize("capacity", [1, 7, N * GH * GW])
def test_blocks_of_a_grid_are_those_of_its_index(capacity, count):
    grid = jnp.asarray(grids())
    blocks = sparse.Blocks.of(grid, capacity=capacity)
    same = sparse.Blocks(sparse.block_index(grid, capacity=capacity), grid.shape)
    assert blocks.grid_shape == same.grid_shape
    for found, wanted in zip(jax.tree.leaves(blocks), jax.tree.leaves(same), strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


def test_executed_grid_undoes_the_index(count):
    grid = grids()
    np.testing.assert_array_equal(sparse.executed_grid(blocks_of(grid)), grid)


@pytest.mark.parametrize("tile", [(4, 6), (1, 1)])
def test_split_then_combine_writes_executed_blocks_alone(tile):
    h, w = tile
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=(2, N, GH * h, GW * w, C)).astype(np.float32)
    grid = grids(1)
    blocks = blocks_of(grid)
    result = sparse.combine(jnp.asarray(old), sparse.split(jnp.asarray(new), blocks), blocks)
    mask = grid.repeat(h, 1).repeat(w, 2)[..., None]
    np.testing.assert_array_equal(result, np.where(mask, new, old))


def test_split_has_one_tile_per_place():
    dense = jnp.arange(N * GH * GW, dtype=jnp.float32).reshape(N, GH, GW, 1)
    blocks = sparse.Blocks(jnp.asarray([5, 23, 24], jnp.int32), (N, GH, GW))
    np.testing.assert_array_equal(sparse.split(dense, blocks).ravel()[:2], [5, 23])


def test_blocks_are_a_pytree_of_arrays():
    blocks = blocks_of(grids(2), capacity=5)
    same = jax.jit(lambda blocks: blocks)(blocks)
    assert same.grid_shape == (N, GH, GW) and (same.total, same.capacity) == (24, 5)
    for one, other in zip(jax.tree.leaves(blocks), jax.tree.leaves(same), strict=True):
        np.testing.assert_array_equal(one, other)
    numbers = np.flatnonzero(grids(2))[:5]
    np.testing.assert_array_equal(blocks.coordinates, np.unravel_index(numbers, (N, GH, GW)))
    np.testing.assert_array_equal(np.flatnonzero(blocks.slots >= 0), numbers)


def test_a_neighbour_is_the_block_beside_or_said_to_be_outside():
    index = jnp.asarray([0, 5, 11, 24], jnp.int32)  # corner, middle, last of a stream, none
    blocks = sparse.Blocks(index, (N, GH, GW))
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            number, inside = blocks.neighbour(dy, dx)
            for k, block in enumerate([0, 5, 11, 23]):
                stream, row, column = np.unravel_index(block, (N, GH, GW))
                row, column = row + dy, column + dx
                there = 0 <= row < GH and 0 <= column < GW
                assert bool(inside[k]) == there
                assert 0 <= int(number[k]) < 24
                if there:
                    assert int(number[k]) == np.ravel_multi_index(
                        (stream, row, column), (N, GH, GW)
                    )


@pytest.mark.parametrize("dilation, most", [(1, 200), (16, 100)], ids=["strips", "moved tiles"])
def test_a_layer_adds_few_operations(dilation, most):
    """What follows of the grid alone is computed once: a program's size decides how long it takes
    to compile."""
    kernel = jnp.ones((3, 3, 4, 4)) / 36

    def operations(layers: int) -> int:
        def network(params, frames):
            for _ in range(layers):
                frames = jax.lax.conv_general_dilated(
                    frames,
                    params,
                    (1, 1),
                    "SAME",
                    rhs_dilation=(dilation, dilation),
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                )
            return frames

        frames = jnp.ones((1, 96, 128, 4))
        step = blockcopy(network, 32)
        state = step.init(kernel, frames)
        grid = jnp.ones(step.grid_shape(frames), bool)
        advance = jax.make_jaxpr(lambda *given: step.advance(*given, capacity=4))
        return sum(1 for _ in all_equations(advance(kernel, state, frames, grid).jaxpr))

    assert operations(5) - operations(3) <= 2 * most


@pytest.fixture
def at_once(monkeypatch):
    """Halos are exchanged by a GPU's kernel, which is interpreted."""
    monkeypatch.setattr(halo_lines, "exchanges_at_once", lambda *_: True)
    monkeypatch.setattr(lowering, "exchanges_at_once", lambda *_: True)
    for name in ("exchange", "exchange_and_pool", "exchange_and_resize"):
        interpreted = functools.partial(getattr(lowering, name), interpret=True)
        monkeypatch.setattr(lowering, name, interpreted)


# Strips (narrow, some sides only), and frames: wide, beyond a tile, beyond two.
HALOS = [(1, 1, 1, 1), (2, 0, 0, 1), (0, 1, 1, 2), (5, 2, 1, 3), (13, 2, 1, 11), (25, 25, 21, 21)]


@pytest.mark.parametrize("seed, halo", list(enumerate(HALOS[:5])))
def test_a_kernel_exchanges_what_the_padded_image_shows(seed, halo, at_once):
    check_halo(seed, halo, pad_value=2.5)


@pytest.mark.parametrize("pad_value", [0.0, -np.inf, 2.5])
@pytest.mark.parametrize("seed, halo", list(enumerate(HALOS)))
def test_halo_is_what_the_padded_image_shows(seed, halo, pad_value):
    check_halo(seed, halo, pad_value)


def check_halo(seed, halo, pad_value):
    """Two frames: neighbours that ran are this frame's, the others the last frame's."""
    h, w = 12, 10
    halo = sparse.Halo(*halo)
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(2, N, GH * h, GW * w, C)).astype(np.float32)
    memory = jax.tree.map(
        lambda s: jnp.zeros(s.shape, s.dtype),
        memory_shape(halo, (N, GH, GW), (h, w, C), jnp.float32),
    )
    assert isinstance(memory, Strips if seed < 3 else Frames)
    everything = blocks_of(np.ones((N, GH, GW), bool))
    tiles = sparse.split(jnp.asarray(first), everything)
    _, memory = sparse.exchange_halo(tiles, memory, everything, halo=halo, pad_value=pad_value)

    grid = grids(seed)
    count = max(1, int(grid.sum()))
    blocks = blocks_of(grid, count)
    tiles = sparse.split(jnp.asarray(second), blocks)
    padded, _ = sparse.exchange_halo(tiles, memory, blocks, halo=halo, pad_value=pad_value)

    mask = grid.repeat(h, 1).repeat(w, 2)[..., None]
    shown = np.where(mask, second, first)
    pads = ((0, 0), halo[:2], halo[2:], (0, 0))
    shown = np.pad(shown, pads, constant_values=pad_value)
    for tile, (n, y, x) in zip(padded, np.argwhere(grid), strict=False):
        top, left = y * h, x * w
        height, width = h + halo.top + halo.bottom, w + halo.left + halo.right
        wanted = shown[n, top : top + height, left : left + width]
        np.testing.assert_array_equal(tile, wanted)


@pytest.mark.parametrize("halo", [(1, 0, 0, 1), (0, 1, 0, 0), (5, 2, 1, 0)])
def test_a_kernel_exchanges_narrower_halos_than_are_kept(halo):
    rng, shape, tile = np.random.default_rng(0), (N, GH, GW), (12, 10, 3)
    kept = sparse.Halo(*(side + 1 for side in halo))
    memory = memory_shape(kept, shape, tile, jnp.float32)
    memory = jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape), jnp.float32), memory)
    if isinstance(memory, Frames):
        inner = memory.array[:, kept.top : -kept.bottom, kept.left : -kept.right]
        pads = ((0, 0), kept[:2], kept[2:], (0, 0))
        memory = memory.replace(array=jnp.pad(inner, pads))
    blocks = blocks_of(grids(), N * GH * GW)
    executed = int(grids().sum())
    tiles = jnp.asarray(rng.normal(size=(blocks.capacity, *tile)).astype(np.float32))
    how = lowering.Exchange(shape, tile, halo, tuple(kept), isinstance(memory, Frames), 7.0)
    made, array = lowering.exchange(
        tiles, memory.array, blocks.index, blocks.slots, how, interpret=True
    )
    plain, after = exchange_plainly(tiles, memory, blocks, halo=sparse.Halo(*halo), pad_value=7.0)
    np.testing.assert_array_equal(array, after.array)
    np.testing.assert_array_equal(made[:executed], plain[:executed])


# (size, strides) of a window, and the halo that it reads.
POOLS = [
    ((3, 3), (2, 2), (1, 0, 1, 0)),
    ((3, 3), (1, 1), (1, 1, 1, 1)),
    ((2, 5), (2, 1), (0, 0, 3, 1)),
    ((5, 5), (2, 5), (1, 2, 0, 0)),
    ((29, 3), (2, 1), (14, 13, 2, 0)),
    ((3, 25), (4, 1), (0, 0, 12, 12)),
]


@pytest.mark.parametrize("name", ["reduce_window_max", "reduce_window_min"])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
@pytest.mark.parametrize("size, strides, halo", POOLS)
def test_a_kernel_pools_what_the_exchange_and_then_pooling_show(name, dtype, size, strides, halo):
    rng, shape, tile = np.random.default_rng(0), (N, GH, GW), (12, 10, 3)
    halo = sparse.Halo(*halo)
    memory = memory_shape(halo, shape, tile, dtype)
    memory = jax.tree.map(lambda s: jnp.asarray(rng.integers(-99, 99, s.shape), dtype), memory)
    blocks = blocks_of(grids(), N * GH * GW)
    executed = int(grids().sum())
    tiles = jnp.asarray(rng.integers(-99, 99, (blocks.capacity, *tile)), dtype)
    nothing = 2**31 - 1 if dtype == "int32" else np.inf
    nothing = -nothing if name == "reduce_window_max" else nothing
    frames = isinstance(memory, Frames)
    how = lowering.Exchange(shape, tile, tuple(halo), tuple(halo), frames, nothing)
    made, array = lowering.exchange_and_pool(
        tiles, memory.array, blocks.index, blocks.slots, how, (name, size, strides), interpret=True
    )
    padded, after = exchange_plainly(tiles, memory, blocks, halo=halo, pad_value=nothing)
    plain = lowering.pool(padded, name, size=size, strides=strides, dilation=(1, 1))
    np.testing.assert_array_equal(array, after.array)
    np.testing.assert_array_equal(made[:executed], plain[:executed])


@pytest.mark.parametrize(
    "window, pools",
    [
        (("reduce_window_max", (3, 3), (2, 2)), True),
        (("reduce_window_min", (1, 5), (1, 5)), True),
        (("reduce_window_sum", (3, 3), (2, 2)), False),  # another order rounds otherwise
        (("reduce_window_max", (3, 3), (5, 1)), False),  # results that lie across tiles
        (("reduce_window_max", (9, 9), (1, 1)), False),  # too many reads to write out
    ],
)
def test_which_pools_a_kernel_is_there_for(window, pools, at_once):
    tile, halo = (12, 10, 3), (4, 4, 4, 4)
    how = lowering.Exchange((N, GH, GW), tile, halo, halo, True, -np.inf)
    assert lowering.pools_at_once(jnp.zeros((2, *tile)), jnp.zeros(9), how, window) == pools


def enlarging(method, factor, axis):
    """The map along an axis of tiles of 12 x 10, and the halo that it reads."""
    if factor is None:
        return None, (0, 0)
    blocks, tile = ((GH, 12), (GW, 10))[axis]
    identity = np.eye(blocks * tile)
    shape = (blocks * tile * factor, blocks * tile)
    matrix = np.asarray(jax.image.resize(identity, shape, method))
    axis_map = lowering.axis_map(matrix, blocks, tile)
    assert axis_map.taps is not None
    return axis_map, (axis_map.before, axis_map.after)


@pytest.mark.parametrize("narrower", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "method, factors",
    [
        ("bilinear", (2, 2)),
        ("bilinear", (3, 2)),
        ("bilinear", (4, None)),
        ("bilinear", (None, 3)),
        ("bilinear", (1, 5)),
    ],
)
def test_a_kernel_resizes_what_the_exchange_and_then_resizing_show(
    method, factors, dtype, narrower
):
    rng, shape, tile = np.random.default_rng(0), (N, GH, GW), (12, 10, 3)
    maps, sides = zip(*(enlarging(method, f, axis) for axis, f in enumerate(factors)), strict=True)
    halo = sparse.Halo(*sides[0], *sides[1])
    kept = halo.union(sparse.Halo(2, 1, 1, 2)) if narrower else halo
    memory = memory_shape(kept, shape, tile, dtype)
    memory = jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape), dtype), memory)
    blocks = blocks_of(grids(), N * GH * GW)
    executed = int(grids().sum())
    tiles = jnp.asarray(rng.normal(size=(blocks.capacity, *tile)), dtype)
    tiles = tiles.at[0, 0, 0, 0].set(jnp.inf)  # is multiplied by no weight that is zero
    frames = isinstance(memory, Frames)
    how = lowering.Exchange(shape, tile, tuple(halo), tuple(kept), frames)
    made, array = lowering.exchange_and_resize(
        tiles, memory.array, blocks.index, blocks.slots, how, maps, interpret=True
    )
    padded, after = exchange_plainly(tiles, memory, blocks, halo=halo)
    plain = resize(padded, blocks, maps=maps, dtype=dtype)
    np.testing.assert_array_equal(array, after.array)
    assert made.dtype == plain.dtype and made.shape == plain.shape
    made, plain = (np.asarray(x[:executed], np.float32) for x in (made, plain))
    np.testing.assert_allclose(made, plain, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "method, channels, dtype, resizes",
    [
        ("bilinear", 3, "float32", True),
        ("bilinear", 3, "bfloat16", False),  # results of another type than the tiles
        ("bilinear", 4096, "float32", False),  # too many reads to write out
        ("cubic", 3, "float32", False),  # other weights at the image's sides
    ],
)
def test_which_resizings_a_kernel_is_there_for(method, channels, dtype, resizes, at_once):
    matrix = np.asarray(jax.image.resize(np.eye(GW * 10), (GW * 20, GW * 10), method))
    maps = None, lowering.axis_map(matrix, GW, 10)
    how = lowering.Exchange((N, GH, GW), (12, 10, channels), (0, 0, 3, 3), (0, 0, 3, 3), True)
    tiles = jnp.zeros((2, 12, 10, channels))
    assert lowering.resizes_at_once(tiles, jnp.zeros(9), how, maps, jnp.dtype(dtype)) == resizes


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_a_kernel_writes_tiles_where_they_belong(dtype, at_once):
    rng = np.random.default_rng(0)
    shape = (N, GH * 4, GW * 6, 3)
    dense, new = (jnp.asarray(rng.integers(0, 99, shape), dtype) for _ in range(2))
    blocks = blocks_of(grids(), N * GH * GW)
    tiles = sparse.split(new, blocks).astype(jnp.float32)
    made = jax.jit(write_tiles)(dense, tiles, blocks)
    np.testing.assert_array_equal(made, sparse.combine(dense, tiles, blocks))
    assert made.dtype == dense.dtype


def halo_network(kernels, frames):
    """A convolution whose halo is narrow, one whose halo is wide, and pooling."""
    first, second = kernels
    numbers = ("NHWC", "HWIO", "NHWC")
    x = jax.lax.conv_general_dilated(frames, first, (1, 1), "SAME", dimension_numbers=numbers)
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
    return jax.lax.conv_general_dilated(
        x, second, (1, 1), "SAME", rhs_dilation=(5, 5), dimension_numbers=numbers
    )


def test_a_kernel_exchanges_in_a_network_and_its_derivatives(at_once):
    rng = np.random.default_rng(0)
    kernels = [jnp.asarray(rng.normal(size=(3, 3, 3, 3)).astype(np.float32)) for _ in range(2)]
    frames = jnp.asarray(rng.normal(size=(4, 2, 48, 64, 3)).astype(np.float32))
    run = blockcopy(halo_network, 16)
    state = run.init(kernels, frames[0])
    grid = jnp.ones(run.grid_shape(frames[0]), bool)

    def outputs(kernels, state, frames):
        return run(kernels, state, frames, grid, capacity=grid.size)[0]

    dense = jax.vmap(halo_network, (None, 0))(kernels, frames)
    states = jax.tree.map(lambda x: jnp.stack([x] * 4), state)
    made = jax.vmap(outputs, (None, 0, 0))(kernels, states, frames)
    np.testing.assert_allclose(made, dense, rtol=0, atol=1e-4)

    weights = jnp.asarray(rng.normal(size=dense.shape[1:]).astype(np.float32))
    made = jax.grad(lambda k: (outputs(k, state, frames[0]) * weights).sum())(kernels)
    plain = jax.grad(lambda k: (halo_network(k, frames[0]) * weights).sum())(kernels)
    for one, other in zip(made, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-2)


def test_narrow_halos_are_kept_as_strips_and_wide_ones_as_frames():
    shape = ((N, GH, GW), (16, 16, C), jnp.float32)
    narrow, wide = (memory_shape(sparse.Halo(*[r] * 4), *shape) for r in (1, 17))
    assert isinstance(narrow, Strips) and isinstance(wide, Frames)
    assert sum(x.size for x in jax.tree.leaves(narrow)) == N * GH * GW * 4 * 16 * C


@pytest.mark.parametrize(
    "sides", [((0, 0), (0, 0)), ((1, 2), (3, 1)), ((2, 0), (0, 0)), ((0, 1), (2, 0))]
)
def test_both_ways_to_surround_tiles_agree(sides):
    rng = np.random.default_rng(0)
    rows = dict(zip((-1, 0, 1), (sides[0][0], 4, sides[0][1]), strict=True))
    columns = dict(zip((-1, 0, 1), (sides[1][0], 5, sides[1][1]), strict=True))
    pieces = {
        (dy, dx): jnp.asarray(rng.normal(size=(3, height, width, C)).astype(np.float32))
        for dy, height in rows.items()
        for dx, width in columns.items()
        if height and width
    }
    tiles = pieces.pop((0, 0))
    plain = surround_plainly(tiles, pieces)
    assert plain.shape == (3, sum(rows.values()), sum(columns.values()), C)
    np.testing.assert_array_equal(surround_in_place(tiles, pieces), plain)


def test_window_of_a_whole_frame_is_the_same_as_an_exchange():
    rng = np.random.default_rng(0)
    dense = jnp.asarray(rng.normal(size=(N, GH * 4, GW * 4, C)).astype(np.float32))
    blocks = blocks_of(np.ones((N, GH, GW), bool))
    halo = sparse.Halo(2, 1, 0, 3)
    memory = jax.tree.map(
        lambda s: jnp.zeros(s.shape, s.dtype),
        memory_shape(halo, (N, GH, GW), (4, 4, C), jnp.float32),
    )
    tiles = sparse.split(dense, blocks)
    exchanged, _ = sparse.exchange_halo(tiles, memory, blocks, halo=halo, pad_value=-1.0)
    window = window_halo(dense, blocks, halo=halo, pad_value=-1.0)
    np.testing.assert_array_equal(exchanged, window)


def test_compiler_options_compile_and_are_the_callers_own():
    options = sparse.compiler_options()
    assert jax.jit(lambda x: x + 1, compiler_options=options)(1) == 2
    options["something"] = "else"
    assert "something" not in sparse.compiler_options()


def test_what_runs_once_is_compiled_with_less_pains(monkeypatch):
    once = sparse.compiler_options(once=True)
    assert jax.jit(lambda x: x + 1, compiler_options=once)(1) == 2
    assert once.keys() - sparse.compiler_options() == (
        {"xla_backend_optimization_level"} if backend.on_cpu() else set()
    )
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(backend, "_has", lambda name, value: True)
    assert sparse.compiler_options(once=True) == sparse.compiler_options()


@pytest.mark.parametrize(
    ("flags", "cache", "at_once"),
    [
        ("", None, True),
        ("", "/somewhere", False),
        ("--xla_gpu_per_fusion_autotune_cache_dir=/somewhere", None, False),
        ("--xla_gpu_deterministic_ops=true", None, False),
    ],
)
def test_a_graph_has_convolutions_where_they_have_run_before(monkeypatch, flags, cache, at_once):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(backend, "_has", lambda name, value: True)
    monkeypatch.setenv("XLA_FLAGS", flags)
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", cache)
    try:
        options = sparse.compiler_options()
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    kinds = options["xla_gpu_enable_command_buffer"].split(",")
    assert ("CONVOLUTION" in kinds) == at_once
    assert {"FUSION", "CUBLASLT", "CUDNN"} < set(kinds)
