"""JAX's settings, and what is put around a network that runs on blocks."""

import copy
import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import assert_close, conv, frames_of, random_grids, random_like

import bc_jax

GRID = (3, 2, 3)
FRAMES = jnp.asarray(frames_of(0)[0])
SHAPES = {"a": (3, 3, 3, 8), "b": (3, 3, 8, 8)}
PARAMS = random_like({k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in SHAPES.items()})


def network(p, x):
    y = conv(jax.nn.relu(conv(x, p["a"])), p["b"])
    return {"logits": y, "classes": jnp.argmax(y, -1), "wide": y + jnp.zeros(y.shape)}


def logits(p, x):
    return network(p, x)["logits"]


def test_a_network_is_traced_again_where_jax_settings_are_others():
    traced = []

    def counted(p, x):
        traced.append(x)
        return network(p, x)

    sparse = bc_jax.blockcopy(counted, 16)
    sparse.init(PARAMS, FRAMES)
    with jax.enable_x64(True):
        expected = jax.eval_shape(network, PARAMS, FRAMES)
        state = sparse.init(PARAMS, FRAMES)
        outputs, _ = sparse(PARAMS, state, FRAMES, np.ones(GRID, bool))
        assert jax.tree.map(lambda x: x.dtype, (outputs, state.outputs)) == (
            jax.tree.map(lambda x: x.dtype, (expected, expected))
        )
    sparse.init(PARAMS, FRAMES)
    assert len(traced) == 2
    with jax.default_matmul_precision("highest"):
        sparse.init(PARAMS, FRAMES)
    assert len(traced) == 3


def test_jit_may_be_switched_off():
    def resized(p, x):
        x = conv(x, p["a"], 2)
        return jax.image.resize(x, (*FRAMES.shape[:3], 8), "bilinear")

    sparse = bc_jax.blockcopy(resized, 16)
    state, (_, grid) = sparse.init(PARAMS, FRAMES), random_grids(2, GRID, seed=0)
    other = bc_jax.blockcopy(resized, 16)
    expected = [sparse(PARAMS, state, FRAMES, now)[0] for now in (None, grid)]
    with jax.disable_jit():
        found = [other(PARAMS, state, FRAMES, now)[0] for now in (None, grid)]
    for one, another in zip(found, expected, strict=True):
        assert_close(one, another)


def test_a_state_may_be_of_numpy_arrays():
    sparse = bc_jax.blockcopy(network, 16)
    _, state = sparse(PARAMS, sparse.init(PARAMS, FRAMES), FRAMES)
    _, grid = random_grids(2, GRID, seed=1)
    expected = sparse(PARAMS, state, FRAMES[:, ::-1], grid)
    kept = jax.device_get(state)
    assert_close(sparse(PARAMS, kept, FRAMES[:, ::-1], grid), expected)
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(kept))


def test_a_network_may_return_a_key():
    def with_key(p, x):
        key, params = p
        return logits(params, x), key

    sparse, params = bc_jax.blockcopy(with_key, 16), (jax.random.key(3), PARAMS)
    state = sparse.init(params, FRAMES)
    for grid in (None, np.ones(GRID, bool)):
        (_, key), state = sparse(params, state, FRAMES, grid)
        assert key == params[0]


def test_what_is_compiled_for_speed_is_part_of_other_programs_too():
    sparse = bc_jax.blockcopy(logits, 16)
    run, state = sparse.jit(donate_argnums=()), sparse.init(PARAMS, FRAMES)
    grid = np.ones(GRID, bool)

    def total(step, p):
        return jnp.sum(step(p, state, FRAMES, grid)[0] ** 2)

    assert_close(*(jax.grad(functools.partial(total, step))(PARAMS) for step in (run, sparse)))

    def turn(state, frames):
        out, state = run(PARAMS, state, frames, grid, capacity=18)
        return state, out

    _, outputs = jax.lax.scan(turn, state, FRAMES[None])
    assert_close(outputs[0], logits(PARAMS, FRAMES))
    assert jax.eval_shape(run, PARAMS, state, FRAMES)[0].shape == outputs[0].shape


@pytest.mark.parametrize("take", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_network_on_blocks_is_copied_as_it_was_made(take):
    sparse = bc_jax.blockcopy(logits, (16, 8))
    state = sparse.init(PARAMS, FRAMES)
    steps = take(bc_jax.Steps(sparse, "random"))
    assert steps.sparse.block_size == (16, 8)
    assert_close(steps.sparse(PARAMS, state, FRAMES)[0], logits(PARAMS, FRAMES))
