"""Many arrays as one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bc_jax import PolicyConfig, blockcopy
from bc_jax.compiled_steps import CompiledSteps, PackedPolicy
from bc_jax.packing import pack, unpack
from bc_jax.steps import Steps

BLOCK = 32


def test_what_is_packed_comes_back():
    tree = {
        "a": jnp.arange(6.0).reshape(2, 3),
        "b": [jnp.int32(7), jnp.float32(3)],
        "c": jnp.zeros((0, 4)),
        "d": jnp.arange(4, dtype=jnp.int32),
    }
    packed = pack(tree)
    # Each begins at a multiple of 32 elements, but for one without any.
    found = [(x.shape, x.dtype.name) for x in packed.arrays]
    assert found == [((64,), "float32"), ((64,), "int32")]
    back = jax.jit(unpack)(packed)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    for found, expected in zip(jax.tree.leaves(back), jax.tree.leaves(tree), strict=True):
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_array_equal(found, expected)


def network(params, frames):
    x = frames.astype(jnp.float32) / 255
    return jax.lax.conv_general_dilated(
        x, params, (4, 4), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.fixture(scope="module")
def steps():
    policy = PolicyConfig.light(target=0.5)
    return Steps(blockcopy(network, BLOCK), policy, train_interval=2)


PARAMS = jax.random.normal(jax.random.key(1), (3, 3, 3, 5))


def frames_of(seed):
    shape = (1, 2 * BLOCK, 4 * BLOCK, 3)
    return jnp.asarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def assert_same(found, expected):
    for (path, x), y in zip(
        jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_allclose(
            np.float32(x), np.float32(y), rtol=1e-5, atol=1e-6, err_msg=jax.tree_util.keystr(path)
        )


def in_parts(pieces, state, frames, *, learns):
    after, decision = pieces.decide(state, frames, np.zeros(1, bool), learns=learns)
    grid, frames = pieces.choose(decision, frames, capacity=8)
    memory = jax.jit(pieces.steps.sparse.advance, static_argnames="capacity")(
        PARAMS, state.frame_state, frames, grid, capacity=8
    )
    state, outcome = pieces.settle(after, decision, memory, capacity=8)
    if learns:
        learnt, _ = pieces.learn(state.policy, decision, outcome)
        state = state.replace(policy=learnt)
    return state


def at_once(pieces, state, frames, *, learns):
    return pieces.frame(PARAMS, state, frames, np.zeros(1, bool), capacity=8, learns=learns)[0]


@pytest.mark.parametrize("way", [in_parts, at_once])
def test_packed_states_are_the_others_and_are_left_alone_where_nothing_is_learnt(steps, way):
    plain, packed = (CompiledSteps(steps, packed=value) for value in (False, True))
    states = [pieces.init(jax.random.key(0), PARAMS, frames_of(0)) for pieces in (plain, packed)]
    assert isinstance(states[1].policy, PackedPolicy)
    assert len(jax.tree.leaves(states[1])) < len(jax.tree.leaves(states[0])) / 2
    learnt = []
    for frame in range(1, 5):
        learns = frame % steps.train_interval == 0
        pointers = [x.unsafe_buffer_pointer() for x in states[1].policy.learnt.arrays]
        states = [
            way(pieces, state, frames_of(frame), learns=learns)
            for pieces, state in zip((plain, packed), states, strict=True)
        ]
        assert_same(packed.unpacked(states[1]), states[0])
        same = pointers == [x.unsafe_buffer_pointer() for x in states[1].policy.learnt.arrays]
        assert learns or same
        learnt.append(int(states[1].policy.rest.step))
    assert learnt == [0, 1, 1, 2]
    again = packed.packed(packed.unpacked(states[1]))
    assert jax.tree.structure(again) == jax.tree.structure(states[1])
    assert_same(again, states[1])


def test_a_policy_that_learns_nothing_is_not_packed():
    pieces = CompiledSteps(Steps(blockcopy(network, BLOCK), "random"), packed=True)
    state = pieces.init(jax.random.key(0), PARAMS, frames_of(0))
    assert pieces.unpacked(state).policy is pieces.packed(state).policy is None
