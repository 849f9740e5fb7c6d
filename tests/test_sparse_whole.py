"""Without a grid all blocks run, on whole frames: the same state, made by other programs.

Tolerance: 1e-4 of a leaf's largest value, in float32.
"""

import re

import jax
import jax.numpy as jnp
import pytest
import zoo
from test_sparse_tokens import BLOCK, PARAMS, WHOLE, network
from zoo import assert_close

import bc_jax
from bc_jax.sparse import whole

STREAMS = 2


@pytest.fixture
def remembered(monkeypatch):
    """What each run on whole frames had to remember; None where it had to run in blocks."""
    found, remember = [], whole.WholeFrames.remember
    monkeypatch.setattr(
        whole.WholeFrames, "remember", lambda self: found.append(remember(self)) or found[-1]
    )
    return found


def both(sparse, params, frames) -> tuple:
    """The states after all blocks of frames [T, N, H, W, 3] but the last, and this one's states.

    By a grid of all blocks, and without one.
    """
    run = jax.jit(sparse.advance)
    grid = jnp.ones(sparse.grid_shape(frames[0]), bool)
    state = run(params, sparse.init(params, frames[0]), frames[0], grid)
    return run(params, state, frames[1], grid), run(params, state, frames[1])


@pytest.mark.parametrize("name", zoo.NAMES)
def test_the_state_is_that_of_all_blocks(name, remembered):
    net = zoo.build(name)
    sparse = bc_jax.blockcopy(net.apply, net.block)
    by_grid, without = both(sparse, net.params, zoo.frames_of(1, 2, dtype=net.dtype))
    assert remembered[-1] is not None
    assert_close(without, by_grid)


def test_half_floats():
    net = zoo.build("unet_bilinear", dtype="bfloat16")
    sparse = bc_jax.blockcopy(net.apply, net.block)
    frames = jnp.asarray(zoo.frames_of(1, 2), jnp.bfloat16)
    by_grid, without = both(sparse, net.params, frames)
    assert_close(without, by_grid, tolerance=0.03)


def test_what_is_widened_before_a_window_across_blocks(remembered):
    def apply(params, frames):
        x = zoo.conv(frames, params["a"]).astype(jnp.float32)
        window = (1, 32, 24, 1)
        sums = jax.lax.reduce_window(x, 0.0, jax.lax.add, window, window, "VALID")
        return frames * sums.mean(axis=(1, 2, 3), keepdims=True).astype(frames.dtype)

    sparse = bc_jax.blockcopy(apply, 16)
    params = {"a": jnp.full((3, 3, 3, 4), 0.1, jnp.bfloat16)}
    by_grid, without = both(sparse, params, jnp.asarray(zoo.frames_of(1, 2), jnp.bfloat16))
    assert [kept.dtype for kept in without.memory["dense"].values()] == [jnp.bfloat16]
    assert remembered[-1] is not None
    assert_close(without, by_grid, tolerance=0.03)


def test_a_grid_of_all_where_blocks_remember_what_whole_frames_do_not_read(remembered):
    apply = network(WHOLE["windows_across_blocks"])
    sparse, frames = bc_jax.blockcopy(apply, BLOCK), zoo.frames_of(1, 2, STREAMS)
    by_grid, without = both(sparse, PARAMS, frames)
    assert remembered[-1] is None
    assert_close(without, by_grid)


def test_no_tile_is_cut_or_written():
    net = zoo.build("strided")
    sparse, frames = bc_jax.blockcopy(net.apply, net.block), zoo.frames_of(1)[0]
    state = jax.eval_shape(sparse.init, net.params, frames)
    program = jax.jit(sparse.advance).lower(net.params, state, frames).compile().as_text()
    assert "convolution" in program
    assert not re.search(r" (gather|scatter|dynamic-slice|dynamic-update-slice)\(", program)


def test_a_capacity_for_fewer_blocks_is_refused():
    net = zoo.build("plain_cnn")
    sparse, frames = bc_jax.blockcopy(net.apply, net.block), zoo.frames_of(1)[0]
    state = sparse.init(net.params, frames)
    with pytest.raises(ValueError, match="all 72 blocks run, and capacity is 5; give a grid"):
        sparse(net.params, state, frames, capacity=5)
    with pytest.raises(ValueError, match="from 1 to 72"):
        sparse(net.params, state, frames, capacity=73)
    outputs, _ = jax.jit(sparse, static_argnames="capacity")(net.params, state, frames, capacity=72)
    assert_close(outputs, net.apply(net.params, frames))


def test_the_donated_state_is_written_in_place(recwarn):
    net = zoo.build("strided")
    sparse, frames = bc_jax.blockcopy(net.apply, net.block), zoo.frames_of(1)[0]
    state = jax.jit(sparse.init)(net.params, frames)
    _, after = sparse.jit()(net.params, state, frames)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state) if leaf.dtype != bool)
    assert not any("donated" in str(warning.message) for warning in recwarn)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(after))


def test_vmap_over_clips():
    net = zoo.build("strided")
    sparse, frames = bc_jax.blockcopy(net.apply, net.block), jnp.asarray(zoo.frames_of(1, 2))
    state = sparse.init(net.params, frames[0])
    run = jax.jit(jax.vmap(lambda f: sparse.advance(net.params, state, f)))(frames)
    for t in range(2):
        wanted = jax.jit(sparse.advance)(net.params, state, frames[t])
        assert_close(jax.tree.map(lambda x, t=t: x[t], run), wanted)
