"""Sampling, log-probabilities, and fitting grids to capacities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bc_jax.policy import fill_capacity, log_prob, sample_grid, sampling, topk_grid
from bc_jax.policy.sampling import rank


def test_samples_follow_the_probabilities():
    logits = jnp.array([[[-2.0, 0.0], [1.0, 3.0]]])
    grids = jax.vmap(sample_grid, (0, None))(jax.random.split(jax.random.key(0), 20_000), logits)
    assert grids.dtype == jnp.bool_
    np.testing.assert_allclose(grids.mean(axis=0), jax.nn.sigmoid(logits), atol=0.015)


def test_log_prob_is_the_logarithm_of_the_probability():
    logits = jnp.array([[[-2.0, 0.5], [1.0, 3.0]]])
    grid = jnp.array([[[True, False], [False, True]]])
    p = 1 / (1 + np.exp(-np.asarray(logits)))
    np.testing.assert_allclose(log_prob(logits, grid), np.log(np.where(grid, p, 1 - p)), rtol=1e-5)
    np.testing.assert_allclose(
        jnp.exp(log_prob(logits, grid)) + jnp.exp(log_prob(logits, ~grid)), 1, rtol=1e-5
    )
    far = log_prob(jnp.array([[[-500.0]]]), jnp.array([[[True]]]))
    np.testing.assert_allclose(far, -500)


def _filled(grid, scores, capacity, required=None):
    """The rule, spelled out: required, then sampled, then the rest, each by score."""
    required = np.zeros_like(grid) if required is None else required
    tier = np.where(required, 2, grid)
    order = sorted(range(grid.size), key=lambda b: (-tier.flat[b], -scores.flat[b], b))
    result = np.zeros(grid.size, bool)
    result[order[:capacity]] = True
    return result.reshape(grid.shape)


fill = jax.jit(fill_capacity, static_argnames="capacity")


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), capacity=st.integers(0, 12))
def test_fill_capacity_follows_the_rule(seed, capacity):
    rng = np.random.default_rng(seed)
    grid = rng.random((2, 2, 3)) < rng.random()
    required = rng.random((2, 2, 3)) < 0.2
    scores = rng.integers(0, 4, (2, 2, 3)).astype(np.float32)  # with ties
    filled = fill(grid, scores, capacity=capacity)
    assert filled.dtype == jnp.bool_
    assert int(filled.sum()) == capacity
    np.testing.assert_array_equal(filled, _filled(grid, scores, capacity))
    forced = fill(grid, scores, capacity=capacity, required=required)
    np.testing.assert_array_equal(forced, _filled(grid, scores, capacity, required))


@pytest.mark.parametrize("seed", range(3))
def test_many_blocks_are_ranked_as_few_are(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    tier = jnp.asarray(rng.integers(0, 3, 60))
    scores = jnp.asarray(rng.integers(-4, 4, 60), jnp.float32).at[7].set(-jnp.inf)  # with ties
    few = rank(tier, scores)
    monkeypatch.setattr(sampling, "_FEW", 0)
    np.testing.assert_array_equal(rank(tier, scores), few)
    assert sorted(few.tolist()) == list(range(60))


def test_fill_capacity_by_hand():
    # Sampled: blocks 0 and 3. Scores rank the rest 2 > 1.
    grid = jnp.array([[[True, False], [False, True]]])
    scores = jnp.array([[[0.1, 0.2], [0.9, 0.4]]])
    three = fill_capacity(grid, scores, capacity=3)
    np.testing.assert_array_equal(three, [[[True, False], [True, True]]])
    one = fill_capacity(grid, scores, capacity=1)  # the more probable of the sampled
    np.testing.assert_array_equal(one, [[[False, False], [False, True]]])
    required = jnp.array([[[False, True], [False, False]]])
    two = fill_capacity(grid, scores, capacity=2, required=required)
    np.testing.assert_array_equal(two, [[[False, True], [False, True]]])


def test_fill_capacity_compiles_once_for_all_grids():
    traces = []

    def fill(grid, scores):
        traces.append(1)
        return fill_capacity(grid, scores, capacity=3)

    jitted = jax.jit(fill)
    for seed in range(3):
        scores = jax.random.normal(jax.random.key(seed), (1, 3, 3))
        np.testing.assert_array_equal(jitted(scores > 0, scores), fill(scores > 0, scores))
    assert len(traces) == 1 + 3


def test_scores_that_are_not_numbers_come_last():
    scores = jnp.array([[[jnp.nan, 1.0], [2.0, jnp.nan]]])
    grid = fill_capacity(jnp.zeros((1, 2, 2), bool), scores, capacity=2)
    np.testing.assert_array_equal(grid, [[[False, True], [True, False]]])
    np.testing.assert_array_equal(topk_grid(scores, 1), [[[False, False], [True, False]]])


@pytest.mark.parametrize("capacity", [-1, 5])
def test_impossible_capacity(capacity):
    with pytest.raises(ValueError, match=f"capacity {capacity} .* 4 blocks"):
        fill_capacity(jnp.zeros((1, 2, 2), bool), jnp.zeros((1, 2, 2)), capacity=capacity)


def test_topk_counts_per_stream():
    scores = jax.random.normal(jax.random.key(0), (3, 2, 4))
    grid = jax.jit(topk_grid)(scores, jnp.array([0, 3, 8]))
    np.testing.assert_array_equal(grid.sum(axis=(1, 2)), [0, 3, 8])
    chosen, left = scores[1][grid[1]], scores[1][~grid[1]]
    assert chosen.min() > left.max()
    tied = topk_grid(jnp.zeros((1, 2, 2)), 2)
    np.testing.assert_array_equal(tied, [[[True, True], [False, False]]])
