"""What must hold for any network, grid and block: the zoo through the engine.

Tolerance in float32: 1e-4 of the output's largest value. In bfloat16, whose steps are 2^-8 of a
value, and which tiles may sum in another order: 5e-2 of it. In float16, with
steps of 2^-11: 1e-2.
"""

import functools
import itertools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import assert_close, assert_equal, executed_pixels, frames_of, random_grids

import bc_jax

BFLOAT16, FLOAT16 = 5e-2, 1e-2
FEW = ("strided", "unet_bilinear", "aspp", "squeeze_excite", "pyramid_pooling", "channels")


def pair(block) -> tuple[int, int]:
    return block if isinstance(block, tuple) else (block, block)


class Program:
    """A network of the zoo, dense and block-sparse, each compiled once."""

    def __init__(self, name: str, *, block=None, dtype: str = "float32"):
        if name == "equinox":
            pytest.importorskip("equinox")
        self.network = zoo.build(name, dtype)
        block = pair(block or self.network.block)
        self.params, self.dtype = self.network.params, self.network.dtype
        self.tiles = (zoo.H // block[0], zoo.W // block[1])
        self.sparse = bc_jax.blockcopy(self.network.apply, block_size=block)
        self.step = jax.jit(self.sparse, static_argnames="capacity")
        self.dense = functools.partial(jax.jit(self.network.apply), self.params)
        self.start = functools.cache(
            lambda streams=zoo.N: self.sparse.init(self.params, self.frames(0, 1, streams)[0])
        )

    def frames(self, seed: int, count: int, streams: int = zoo.N):
        return frames_of(seed, count, streams, self.dtype)

    def grids(self, seed: int, count: int, streams: int = zoo.N):
        return random_grids(count, (streams, *self.tiles), seed)

    def play(self, frames, grids, state=None, capacity: int | None = None):
        """Outputs and the last state after each frame with its grid."""
        state, outputs = self.start(frames.shape[1]) if state is None else state, []
        for frame, grid in zip(frames, grids, strict=True):
            out, state = self.step(self.params, state, frame, grid, capacity=capacity)
            outputs.append(out)
        return outputs, state


program = functools.cache(Program)
every_network = pytest.mark.parametrize("name", zoo.NAMES)


@every_network
def test_all_blocks_executed_is_the_dense_network(name):
    p = program(name)
    frames, grids = p.frames(0, 3), p.grids(0, 3)
    grids[2] = True
    outputs, state = p.play(frames, grids)
    assert_close(outputs[0], p.dense(frames[0]), where="first frame")
    assert_close(outputs[2], p.dense(frames[2]), where="after a random grid")
    assert_equal(state.frames, frames[2])


@every_network
def test_no_block_executed_is_the_previous_output(name):
    p = program(name)
    frames, grids = p.frames(1, 3), p.grids(1, 3)
    grids[2] = False
    outputs, before = p.play(frames[:2], grids[:2])
    outputs, after = p.play(frames[2:], grids[2:], before)
    assert_equal(outputs[0], before.outputs, where="output")
    assert not after.grid.any()
    assert_equal(after.replace(grid=before.grid), before, where="state")


@every_network
def test_an_unchanged_frame_is_the_dense_network_for_any_grid(name):
    p = program(name)
    frames, grids = np.repeat(p.frames(2, 1), 4, axis=0), p.grids(2, 4)
    wanted = p.dense(frames[0])
    for t, out in enumerate(p.play(frames, grids)[0]):
        assert_close(out, wanted, where=f"frame {t}")


@every_network
def test_blocks_that_are_not_executed_are_copied_and_the_state_says_what_was(name):
    p = program(name)
    frames, grids = p.frames(3, 4), p.grids(3, 4)
    state, previous, pixels = p.start(), None, None
    for frame, grid in zip(frames, grids, strict=True):
        (out,), state = p.play(frame[None], grid[None], state)
        assert_equal(state.grid, grid, where="grid")
        assert_equal(state.outputs, out, where="outputs")
        mask = executed_pixels(grid, frame)
        pixels = frame if pixels is None else np.where(mask, frame, pixels)
        assert_equal(state.frames, pixels, where="frames")
        if previous is not None:
            leaves = zip(jax.tree.leaves(out), jax.tree.leaves(previous), strict=True)
            for number, (new, old) in enumerate(leaves):
                mask = executed_pixels(grid, new)
                if mask is not None and zoo.MOVED.get(name) != number:
                    assert_equal(np.where(mask, 0, new), np.where(mask, 0, old), where="copies")
        previous = out


@every_network
def test_a_reset_stream_starts_clean_and_does_not_disturb_the_others(name):
    p = program(name)
    frames, grids = p.frames(4, 5), p.grids(4, 5)
    others = np.array([0, 2])
    undisturbed, _ = p.play(frames, grids)
    # Stream 1 turns to another clip at frame 2, and executes all of its first frame.
    clip = p.frames(5, 5)
    turned, anew = frames.copy(), grids.copy()
    turned[2:, 1], anew[2, 1] = clip[2:, 1], True
    reset, _ = p.play(turned, anew)
    everything = np.concatenate([np.ones_like(grids[:1]), anew[3:]])
    fresh, _ = p.play(clip[2:], everything)

    def of(streams, outputs):
        return jax.tree.map(lambda leaf: leaf[streams], outputs)

    for t in range(5):
        assert_close(of(others, reset[t]), of(others, undisturbed[t]), where=f"frame {t}, others")
    for t in range(2, 5):
        assert_close(
            of(slice(1, 2), reset[t]), of(slice(1, 2), fresh[t - 2]), where=f"frame {t}, reset"
        )


@every_network
def test_explain_names_every_fallback(name):
    p = program(name)
    report = p.sparse.explain(p.params, p.frames(0, 1)[0])
    named = " ".join(str(fallback) for fallback in report.fallbacks)
    expected = p.network.falls_back
    if expected == ():
        assert len(report.fallbacks) == 0, f"{name} needs no fallback, and reports {named}"
    elif expected is not None:
        assert any(word in named for word in expected), f"{named!r} names none of {expected}"
        assert any(word in str(report) for word in expected)
    state = jax.eval_shape(p.sparse.init, p.params, p.frames(0, 1)[0])
    leaves = jax.tree.leaves(state)
    assert report.state_bytes == sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


@pytest.mark.parametrize("name", FEW)
def test_streams_packed_together_are_streams_alone(name):
    p = program(name)
    frames, grids = p.frames(6, 4), p.grids(6, 4)
    together, _ = p.play(frames, grids)
    for n in range(zoo.N):
        alone, _ = p.play(frames[:, n : n + 1], grids[:, n : n + 1])
        for t, out in enumerate(alone):
            mine = jax.tree.map(lambda leaf, n=n: leaf[n : n + 1], together[t])
            assert_close(out, mine, where=f"stream {n}, frame {t}")


# As XLA compiles where nothing is said: conftest.py has the other programs compiled in less time.
OPTIMIZED = {"xla_backend_optimization_level": 3}
if "xla_cpu_use_fusion_emitters" in os.environ.get("XLA_FLAGS", ""):  # conftest.py's
    OPTIMIZED["xla_cpu_use_fusion_emitters"] = True


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a GPU's programs are always optimized")
@pytest.mark.parametrize("name", ["strided", "unet_bilinear", "squeeze_excite"])
def test_optimized_programs_give_the_same(name):
    p = program(name)
    frames, grids = p.frames(14, 4), p.grids(14, 4)
    grids[3] = True
    plain, _ = p.play(frames, grids)
    step = p.sparse.jit(compiler_options=bc_jax.sparse.compiler_options() | OPTIMIZED)
    dense = jax.jit(p.network.apply, compiler_options=OPTIMIZED)
    state = p.sparse.init(p.params, frames[0])
    for t, (frame, grid) in enumerate(zip(frames, grids, strict=True)):
        out, state = step(p.params, state, frame, grid)
        assert_close(out, plain[t], where=f"frame {t}")
        if grid.all():
            assert_close(out, dense(p.params, frame), where=f"frame {t}")


def some(grids) -> int:
    """A capacity that the random grids here leave spare and a full grid exceeds."""
    return grids[0].size * 3 // 4


@pytest.mark.parametrize("name", FEW)
def test_capacity_beyond_the_count_changes_nothing(name):
    p = program(name)
    frames, grids = p.frames(7, 3), p.grids(7, 3)
    assert 0 < grids[1:].sum(axis=(1, 2, 3)).max() < some(grids)
    (_, *full), _ = p.play(frames, grids)
    _, state = p.play(frames[:1], grids[:1])
    less, _ = p.play(frames[1:], grids[1:], state, some(grids))
    for t, (a, b) in enumerate(zip(less, full, strict=True)):
        assert_close(a, b, where=f"frame {t + 1}")


@pytest.mark.parametrize("name", FEW)
def test_more_blocks_than_the_capacity_execute_the_first_in_row_major_order(name):
    p = program(name)
    frames, grids = p.frames(8, 2), p.grids(8, 2)
    grids[1] = True
    _, state = p.play(frames[:1], grids[:1])
    kept = np.arange(grids[1].size).reshape(grids[1:].shape) < some(grids)
    (wanted,), _ = p.play(frames[1:], kept, state)
    (out,), state = p.play(frames[1:], grids[1:], state, some(grids))
    assert_equal(state.grid, kept[0], where="grid")
    assert_close(out, wanted)


def test_any_capacity():
    p = program("dilated")
    frames, grids = p.frames(7, 2), p.grids(7, 2)
    _, state = p.play(frames[:1], grids[:1])
    count, total = int(grids[1].sum()), grids[1].size
    (wanted,), _ = p.play(frames[1:], grids[1:], state, total)
    for capacity in (count, count + 1):
        (out,), _ = p.play(frames[1:], grids[1:], state, capacity)
        assert_close(out, wanted, where=f"capacity {capacity}")
    (out,), state = p.play(frames[1:], grids[1:], state, 1)
    assert state.grid.sum() == 1
    assert np.flatnonzero(state.grid)[0] == np.flatnonzero(grids[1])[0]


@pytest.mark.parametrize(
    ("name", "block"), [("strided", (8, 16)), ("strided", (32, 48)), ("transposed", (32, 16))]
)
def test_rectangular_blocks(name, block):
    p = program(name, block=block)
    frames, grids = p.frames(9, 4), p.grids(9, 4)
    grids[3] = True
    outputs, _ = p.play(frames, grids)
    for t in (0, 3):
        assert_close(outputs[t], p.dense(frames[t]), where=f"frame {t}")
    still = np.repeat(frames[:1], 2, axis=0)
    for out in p.play(still, grids[:2])[0]:
        assert_close(out, p.dense(frames[0]), where="unchanged frame")


@pytest.mark.parametrize(
    "name", ["plain_cnn", "strided", "unet_bilinear", "pooling", "whole_norms"]
)
def test_bfloat16(name):
    p = program(name, dtype="bfloat16")
    frames, grids = p.frames(10, 4), p.grids(10, 4)
    frames[2:] = frames[1]
    grids[1] = True
    outputs, state = p.play(frames, grids)
    assert state.frames.dtype == jnp.bfloat16
    for t, out in enumerate(outputs):
        wanted = p.dense(frames[t])
        for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(wanted), strict=True):
            assert a.dtype == b.dtype
            if a.dtype == jnp.bfloat16:
                assert_close(a, b, tolerance=BFLOAT16, where=f"frame {t}")
    (copied,), _ = p.play(p.frames(11, 1), np.zeros_like(grids[:1]), state)
    assert_equal(copied, outputs[-1])


def test_float16_takes_half_the_memory():
    half, single = program("plain_cnn", dtype="float16"), program("plain_cnn")

    def size(p):
        leaves = jax.tree.leaves(jax.eval_shape(p.sparse.init, p.params, p.frames(0, 1)[0]))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves if leaf.dtype != bool)

    assert size(half) == size(single) / 2
    frames = half.frames(0, 1)
    (out,), _ = half.play(frames, half.grids(0, 1))
    assert_close(out, half.dense(frames[0]), tolerance=FLOAT16)


def test_outputs_have_the_dense_shapes_and_types():
    for name in ("multi_output", "integer_frames", "odd_outputs"):
        p = program(name)
        frames = p.frames(0, 1)
        (out,), state = p.play(frames, p.grids(0, 1))
        wanted = jax.eval_shape(p.network.apply, p.params, frames[0])
        for tree in (out, state.outputs):
            assert jax.tree.map(lambda a: (a.shape, a.dtype), tree) == jax.tree.map(
                lambda a: (a.shape, a.dtype), wanted
            )


def test_what_is_not_executed_is_not_read():
    # A camera's broken block: NaN where nothing is executed must stay out of all that is.
    p = program("plain_cnn")
    frames, grids = p.frames(12, 3), p.grids(12, 3)
    wanted, _ = p.play(frames, grids)
    broken = frames.copy()
    for t in (1, 2):
        broken[t] = np.where(executed_pixels(grids[t], frames[t]), frames[t], np.nan)
    outputs, _ = p.play(broken, grids)
    for t in range(3):
        assert_equal(outputs[t], wanted[t], where=f"frame {t}")


def test_an_empty_grid_copies_at_any_capacity():
    p = program("strided")
    frames, grids = p.frames(13, 2), p.grids(13, 2)
    grids[1] = False
    outputs, state = p.play(frames[:1], grids[:1])
    for capacity in (None, some(grids)):
        (copied,), _ = p.play(frames[1:], grids[1:], state, capacity)
        assert_equal(copied, outputs[0])


block_index = jax.jit(bc_jax.sparse.block_index, static_argnames="capacity")


@given(st.integers(0, 2**18 - 1), st.sampled_from([1, 2, 7, 17, 18]))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_block_index_lists_executed_blocks_in_row_major_order(bits, capacity):
    grid = (bits >> np.arange(18) & 1).astype(bool)
    index = block_index(grid.reshape(3, 2, 3), capacity=capacity)
    wanted = [*np.flatnonzero(grid), *[18] * 18][:capacity]
    assert index.dtype == jnp.int32
    assert index.tolist() == wanted


@given(
    block=st.tuples(st.sampled_from([2, 4, 8]), st.sampled_from([2, 4, 8])),
    tiles=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    bits=st.integers(0, 2**18 - 1),
)
@settings(max_examples=6, deadline=None, derandomize=True)
def test_any_block_size_and_grid_give_the_dense_network_on_an_unchanged_frame(block, tiles, bits):
    grid = (bits >> np.arange(2 * tiles[0] * tiles[1]) & 1).astype(bool).reshape(2, *tiles)
    shape = (2, block[0] * tiles[0], block[1] * tiles[1], 3)
    rng = np.random.default_rng(bits)
    frames = rng.normal(size=shape).astype(np.float32)
    kernels = rng.normal(size=(3, 3, 3, 3, 3)).astype(np.float32) / 5

    def network(p, x):
        x = jnp.tanh(zoo.conv(x, p[0], 2))
        return zoo.conv(jnp.tanh(zoo.conv(x, p[1], rhs_dilation=(2, 3))), p[2])

    sparse = bc_jax.blockcopy(network, block_size=block)
    step, state = jax.jit(sparse), sparse.init(kernels, frames)
    for executed in (np.ones_like(grid), grid, ~grid):
        out, state = step(kernels, state, frames, executed)
        assert_close(out, network(kernels, frames))


@pytest.mark.parametrize(
    ("streams", "size", "block"), [(8, 8, 8), (8, 8, 2), (1, 16, (16, 4)), (2, 12, (4, 12))]
)
def test_axes_of_one_length_are_told_apart(streams, size, block):
    # N = H = W = C, tiles of one pixel, one block a frame, one block a row.
    rng = np.random.default_rng(size)
    kernels = rng.normal(size=(3, 3, 3, 8, 8)).astype(np.float32) / 6
    frames = rng.normal(size=(2, streams, size, size, 8)).astype(np.float32)
    block = pair(block)
    grids = random_grids(2, (streams, size // block[0], size // block[1]), seed=size)

    def network(p, x):
        fine = jnp.tanh(zoo.conv(x, p[0], 2))
        coarse = zoo.conv(jnp.tanh(fine), p[1], rhs_dilation=(3, 2))
        coarse = jnp.repeat(jnp.repeat(coarse, 2, axis=1), 2, axis=2)
        return zoo.conv(coarse + x, p[2]), jax.nn.softmax(fine, axis=-1)

    sparse = bc_jax.blockcopy(network, block_size=block)
    step, state = jax.jit(sparse), sparse.init(kernels, frames[0])
    for t, grid in ((0, grids[0]), (0, grids[1]), (1, grids[1]), (0, grids[0])):
        out, state = step(kernels, state, frames[t], grid)
        if t == 0:
            assert_close(out, network(kernels, frames[0]))


def test_the_zoo_is_a_zoo():
    assert len(zoo.NAMES) == len(set(zoo.NAMES)) >= 14
    for a, b in itertools.pairwise(zoo.NAMES):
        assert zoo.build(a).apply is not zoo.build(b).apply
