"""`Steps` in programs of one's own: many settings at once, wide numbers, what cannot be."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bc_jax import PolicyConfig, Steps, blockcopy

SMALL = PolicyConfig(widths=(4, 4), head_width=4, pixels_per_block=4, learning_rate=1e-3)
PARAMS = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
CLIP = np.random.default_rng(1).integers(0, 256, (7, 1, 32, 48, 3)).astype(np.uint8)


def _network(params, frames):
    return frames[:, ::4, ::4].astype(jnp.float32) / 255 @ params


SPARSE = blockcopy(_network, 16)


def _play(policy, target=0.3, sparse=SPARSE):
    """Plays the clip in one program; returns the grids [T, N, Gh, Gw] and the policy learnt."""
    steps = Steps(sparse, policy, target)
    state = steps.init(jax.random.key(0), PARAMS, CLIP[0])
    state, _ = steps.step(PARAMS, state, CLIP[0], capacity=None)

    def frame(state, pixels):
        state, outcome = steps.step(PARAMS, state, pixels, capacity=5)
        return state, outcome.grid

    state, grids = jax.lax.scan(frame, state, CLIP[1:])
    return grids, state.policy


@pytest.mark.parametrize("policy", [SMALL, dataclasses.replace(SMALL, objective="paper")])
def test_a_program_serves_many_settings(policy):
    def learnt(target, rate):
        changed = dataclasses.replace(policy, target=target, learning_rate=rate, gamma=10 * target)
        state = _play(changed)[1]
        return state.executed_fraction, state.multiplier, state.overrun, state.step

    settings = [(0.2, 1e-3), (0.9, 1e-2)]
    together = jax.jit(jax.vmap(learnt))(*map(jnp.array, zip(*settings, strict=True)))
    alone = jax.jit(learnt)  # traced too, but one by one
    for i, setting in enumerate(settings):
        found = [x[i] for x in together]
        np.testing.assert_allclose(found, alone(*setting), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(found, learnt(*setting), rtol=1e-3, atol=1e-5)
    assert int(together[3][0]) == 2


def test_a_baseline_s_target_may_be_traced():
    grids = jax.jit(jax.vmap(lambda target: _play("random", target)[0]))(jnp.array([0.0, 0.5]))
    np.testing.assert_allclose(grids.mean(axis=(1, 2, 3, 4)), [0, 0.5])


def test_without_filling_the_blocks_drawn_are_executed_and_targets_run_side_by_side():
    clips = np.stack([CLIP, 255 - CLIP])

    def executed(target):
        policy = dataclasses.replace(SMALL, target=target)
        steps = Steps(SPARSE, policy, fill=False)

        def frame(state, pixels):
            state, decision = steps.decide(state, pixels)
            state, outcome = steps.execute(PARAMS, state, decision, pixels, capacity=6)
            return state, (outcome.grid, decision.sampled)

        def clip(state, frames):
            reset = jnp.ones(1, bool)
            state, outcome = steps.step(PARAMS, state, frames[0], reset, capacity=None)
            state, grids = jax.lax.scan(frame, state, frames[1:])
            return state, (outcome.grid, *grids)

        return jax.lax.scan(clip, steps.init(jax.random.key(0), PARAMS, CLIP[0]), clips)[1]

    first, grids, sampled = jax.jit(jax.vmap(executed))(jnp.array([0.2, 0.5, 0.9]))
    assert first.all()
    np.testing.assert_array_equal(grids, sampled)
    np.testing.assert_allclose(grids.mean(axis=(1, 2, 3, 4, 5)), [0.2, 0.5, 0.9], atol=0.12)


def test_what_is_known_is_checked_beside_what_is_traced():
    def wrong(target):
        return dataclasses.replace(SMALL, target=target, momentum=1.0).target

    with pytest.raises(ValueError, match=r"policy.momentum is 1.0; it must be in \[0, 1\)"):
        jax.eval_shape(wrong, jnp.float32(0.3))


@pytest.mark.parametrize("policy", [SMALL, PolicyConfig.paper(widths=(4,), head_width=4)])
def test_floats_of_64_bits_change_nothing(policy):
    grids, _ = _play(policy)
    jax.config.update("jax_enable_x64", True)
    try:
        wide, state = _play(policy)
    finally:
        jax.config.update("jax_enable_x64", False)
    np.testing.assert_array_equal(wide, grids)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(state)} == {"float32", "int32"}


@pytest.mark.parametrize(
    "policy",
    [SMALL, PolicyConfig.paper(widths=(4,), head_width=4), "random", "static", "difference"],
)
def test_no_dtype_is_promoted(policy):
    def network(params, frames):  # `_network`, without a promotion of its own
        return frames[:, ::4, ::4].astype(params.dtype) / np.float32(255) @ params

    expected, _ = _play(policy)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        grids, state = _play(policy, sparse=blockcopy(network, 16))
    np.testing.assert_array_equal(grids, expected)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(state)} <= {"float32", "int32"}


@pytest.mark.parametrize("interval", [0, 1.5, True, "3"])
def test_an_interval_is_a_whole_number_of_frames(interval):
    with pytest.raises(ValueError, match=r"train_interval is .*; it is 1 frame or more, whole"):
        Steps(SPARSE, SMALL, train_interval=interval)
