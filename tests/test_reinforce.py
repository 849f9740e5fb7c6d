"""REINFORCE against the exact gradient of Eq. 6, by enumeration, by sampling and by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bc_jax.policy import (
    block_rewards,
    chosen_rewards,
    cost_reward,
    exact_policy_gradient_loss,
    reinforce_loss,
    sample_grid,
)


def _case(shape, seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    logits = jax.random.normal(keys[0], shape)
    execute = jax.random.normal(keys[1], shape)
    skip = jax.random.normal(keys[2], shape)
    return logits, execute, skip


def _sampled_gradient(logits, grid, execute, skip):
    rewards = chosen_rewards(grid, execute, skip)
    return jax.grad(reinforce_loss)(logits, grid, rewards)


@pytest.mark.parametrize("shape", [(1, 2, 2), (2, 1, 3), (1, 3, 3)])
def test_expectation_over_all_grids_is_the_exact_gradient(shape):
    logits, execute, skip = _case(shape)
    size = int(np.prod(shape))
    grids = jnp.array(list(itertools.product([False, True], repeat=size))).reshape(-1, *shape)
    p = jax.nn.sigmoid(logits)[None]
    weights = jnp.where(grids, p, 1 - p).reshape(len(grids), -1).prod(axis=1)
    gradients = jax.vmap(_sampled_gradient, (None, 0, None, None))(logits, grids, execute, skip)
    expected = jnp.tensordot(weights, gradients, axes=1)
    exact = jax.grad(exact_policy_gradient_loss)(logits, execute, skip)
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(expected, exact, rtol=1e-5, atol=1e-7)
    assert float(jnp.abs(exact).min()) > 1e-4  # the comparison is not of zeros


def test_exact_gradient_is_equation_6():
    # dJ/dz_b = pi_b (1 - pi_b) (R_b(1) - R_b(0)); the loss is -J / B.
    logits, execute, skip = _case((1, 2, 3))
    p = jax.nn.sigmoid(logits)
    gradient = jax.grad(exact_policy_gradient_loss)(logits, execute, skip)
    np.testing.assert_allclose(gradient, -p * (1 - p) * (execute - skip) / 6, rtol=1e-5)


def test_monte_carlo_converges():
    logits, execute, skip = _case((1, 2, 2))
    exact = jax.grad(exact_policy_gradient_loss)(logits, execute, skip)

    @jax.jit
    def estimates(key):
        def one(k):
            return _sampled_gradient(logits, sample_grid(k, logits), execute, skip)

        return jax.vmap(one)(jax.random.split(key, 40_000))

    samples = estimates(jax.random.key(1))
    error = np.abs(samples.mean(axis=0) - exact)
    standard_error = samples.std(axis=0) / np.sqrt(len(samples))
    assert (error < 4 * standard_error).all()
    assert (standard_error < 0.01).all()


def test_quantities_by_hand():
    # 2x2 blocks, target 0.5, sigma 0.7, gamma 5: s = -0.2, s|s| = -0.04, gamma s|s| = -0.2.
    #   IG   = [[0.5, 0.1], [0.0, 0.2]]
    #   R(1) = [[0.3, -0.1], [-0.2, 0.0]], R(0) = -R(1)
    # Grid [[1, 0], [0, 1]]: R(a) = [[0.3, 0.1], [0.2, 0.0]].
    # Logits 0: log pi = log 0.5 = -0.6931 everywhere; L = 0.6931 * (0.3+0.1+0.2+0.0)/4 = 0.10397.
    # dL/dz = -R(a) (a - pi) / 4: [[-0.3*0.5, 0.1*0.5], [0.2*0.5, 0]] / 4.
    gain = jnp.array([[[0.5, 0.1], [0.0, 0.2]]])
    execute, skip = block_rewards(gain, cost_reward(0.7, 0.5), gamma=5.0)
    np.testing.assert_allclose(execute, [[[0.3, -0.1], [-0.2, 0.0]]], atol=1e-6)
    np.testing.assert_allclose(skip, -execute)
    grid = jnp.array([[[True, False], [False, True]]])
    rewards = chosen_rewards(grid, execute, skip)
    np.testing.assert_allclose(rewards, [[[0.3, 0.1], [0.2, 0.0]]], atol=1e-6)
    loss, gradient = jax.value_and_grad(reinforce_loss)(jnp.zeros((1, 2, 2)), grid, rewards)
    np.testing.assert_allclose(loss, 0.10397, atol=1e-5)
    np.testing.assert_allclose(gradient, [[[-0.0375, 0.0125], [0.025, 0.0]]], atol=1e-6)


def test_signs():
    logits, grid = jnp.zeros((1, 1, 2)), jnp.array([[[True, False]]])
    gradient = jax.grad(reinforce_loss)(logits, grid, jnp.ones((1, 1, 2)))
    # A rewarded action becomes more probable under descent: executing up, skipping down.
    assert gradient[0, 0, 0] < 0 < gradient[0, 0, 1]
    punished = jax.grad(reinforce_loss)(logits, grid, -jnp.ones((1, 1, 2)))
    np.testing.assert_allclose(punished, -gradient)


def test_rewards_pass_no_gradient():
    logits, execute, skip = _case((1, 2, 2))
    grid = jnp.array([[[True, False], [False, True]]])
    by_rewards = jax.grad(reinforce_loss, argnums=2)(logits, grid, execute)
    assert not by_rewards.any()
    for argument in (1, 2):
        gradient = jax.grad(exact_policy_gradient_loss, argnums=argument)(logits, execute, skip)
        assert not gradient.any()


def test_weight_leaves_streams_out():
    logits, execute, skip = _case((3, 2, 2))
    grid = sample_grid(jax.random.key(5), logits)
    rewards = chosen_rewards(grid, execute, skip)
    weight = jnp.array([True, False, True])
    kept = jnp.array([0, 2])
    loss, gradient = jax.value_and_grad(reinforce_loss)(logits, grid, rewards, weight=weight)
    np.testing.assert_allclose(
        loss, reinforce_loss(logits[kept], grid[kept], rewards[kept]), rtol=1e-6
    )
    assert not gradient[1].any()
    exact = exact_policy_gradient_loss(logits, execute, skip, weight=weight)
    alone = exact_policy_gradient_loss(logits[kept], execute[kept], skip[kept])
    np.testing.assert_allclose(exact, alone, rtol=1e-6)
    nothing = reinforce_loss(logits, grid, rewards, weight=jnp.zeros(3, bool))
    assert float(nothing) == 0


def test_extreme_logits_stay_finite():
    logits = jnp.array([[[-1e4, 1e4], [-1e4, 1e4]]])
    grid = jnp.array([[[True, True], [False, False]]])
    loss, gradient = jax.value_and_grad(reinforce_loss)(logits, grid, jnp.ones((1, 2, 2)))
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()


def test_jit_and_vmap_agree_with_plain():
    cases = [_case((1, 2, 2), seed) for seed in range(3)]
    logits, execute, skip = (jnp.stack(x) for x in zip(*cases, strict=True))
    grid = sample_grid(jax.random.key(2), logits)
    rewards = chosen_rewards(grid, execute, skip)
    plain = jnp.stack([reinforce_loss(*x) for x in zip(logits, grid, rewards, strict=True)])
    np.testing.assert_allclose(jax.vmap(reinforce_loss)(logits, grid, rewards), plain, rtol=1e-6)
    mapped = jax.jit(jax.vmap(reinforce_loss))(logits, grid, rewards)
    np.testing.assert_allclose(mapped, plain, rtol=1e-6)
    exact = exact_policy_gradient_loss
    plain = jnp.stack([exact(*x) for x in zip(logits, execute, skip, strict=True)])
    np.testing.assert_allclose(jax.jit(jax.vmap(exact))(logits, execute, skip), plain, rtol=1e-6)


def test_shapes_that_differ_are_named():
    with pytest.raises(ValueError, match=r"grid \(1, 2, 3\)"):
        reinforce_loss(jnp.zeros((1, 2, 2)), jnp.zeros((1, 2, 3), bool), jnp.zeros((1, 2, 2)))
