"""The prior's statistics, its scores, and the budget that they are held to."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bc_jax.lowering import backend, level
from bc_jax.policy import FIRST_GAIN, block_price, next_running_gain, spend_budget
from bc_jax.policy.prior import (
    AGE_WEIGHT,
    SHARED,
    WEIGHTS,
    class_borders,
    prior_features,
    prior_scores,
    share_score,
    standardise,
)


def _scores(seed=0, shape=(2, 3, 4)):
    return 5 * jax.random.normal(jax.random.key(seed), shape)


@pytest.fixture(params=["plainly", "in one kernel"])
def ways(request, monkeypatch):
    """How the price is found; a GPU's kernel is interpreted."""
    if request.param == "in one kernel":
        interpreted = functools.partial(level.level_at_once, interpret=True)
        monkeypatch.setattr(level, "level_plainly", interpreted)


@pytest.mark.parametrize("budget", [0.05, 0.3, 0.9])
def test_budget_is_spent_in_every_stream(budget, ways):
    scores = _scores() + jnp.array([0.0, 100.0])[:, None, None]
    logits = jax.jit(spend_budget)(scores, budget)
    np.testing.assert_allclose(jax.nn.sigmoid(logits).mean(axis=(1, 2)), budget, atol=1e-4)
    # Only the level changes.
    price = np.asarray(scores - logits)
    np.testing.assert_allclose(price, np.broadcast_to(price[:, :1, :1], price.shape), atol=1e-4)


@pytest.mark.parametrize("blocks", [1, 3, 128, 500])
@pytest.mark.parametrize("gpu_runs", [False, True])
def test_a_kernel_finds_the_price_that_is_found_plainly(gpu_runs, blocks, monkeypatch):
    monkeypatch.setattr(backend, "on_gpu", lambda: gpu_runs)
    scores = _scores(shape=(3, blocks))
    found = level.level_at_once(scores, jnp.float32(0.3), interpret=True)
    np.testing.assert_allclose(found, level.level_plainly(scores, 0.3), atol=1e-5)


def test_budget_by_hand(ways):
    # Scores 1 and -1: by symmetry half is spent at a price of 0.
    np.testing.assert_allclose(block_price(jnp.array([[[1.0, -1.0]]]), 0.5), 0, atol=1e-5)
    # Equal scores 2 at a budget of 0.2: 2 - log(0.2 / 0.8).
    np.testing.assert_allclose(block_price(jnp.full((1, 1, 3), 2.0), 0.2), 2 + np.log(4), rtol=1e-5)


def test_budget_is_spent_without_a_loop():
    # A GPU starts a loop's kernels over and over, and keeps it out of its graphs of kernels.
    text = str(jax.make_jaxpr(spend_budget)(_scores(), 0.3))
    assert "while" not in text and "scan" not in text and "reduce_sum" in text


@pytest.mark.parametrize("budget", [0.0, 1.0])
def test_a_budget_of_none_or_all(budget, ways):
    probability = jax.nn.sigmoid(spend_budget(_scores(), budget))
    np.testing.assert_allclose(probability, budget, atol=1e-4)


def test_gradient_knows_that_the_price_moves():
    """Against differences, in one direction after another."""
    scores, budget = _scores(shape=(1, 2, 3)) / 5, 0.4
    wanted = jax.random.normal(jax.random.key(1), scores.shape)

    @jax.jit
    def total(s):
        return (jax.nn.sigmoid(spend_budget(s, budget)) * wanted).sum()

    gradient = jax.grad(total)(scores)
    for block in np.ndindex(1, 2, 3):
        step = jnp.zeros_like(scores).at[block].set(0.05)
        slope = (total(scores + step) - total(scores - step)) / 0.1
        np.testing.assert_allclose(gradient[block], slope, atol=2e-3)
    np.testing.assert_allclose(gradient.sum(), 0, atol=1e-5)  # raising every block does nothing


def test_borders_by_hand():
    # Two blocks of 4x4: in the first, class 1 fills the right half; in the second all is one class.
    classes = np.zeros((1, 4, 8), int)
    classes[0, :, 2:4] = 1
    classes[0, :, 4:] = 1
    outputs = np.eye(2, dtype=np.float32)[classes]
    # Column 1 has a border on its right: 4 of 16 pixels.
    np.testing.assert_allclose(class_borders(outputs, (1, 2)), [[[0.25, 0]]])
    finer = outputs.repeat(16, axis=1).repeat(16, axis=2)  # looked at 16 pixels a side
    np.testing.assert_allclose(class_borders(finer, (1, 2)), [[[1 / 16, 0]]])


def test_running_gain_by_hand():
    running = jnp.array([[[0.5, 0.5, 0.5]]])
    grid = jnp.array([[[True, False, True]]])
    gain = jnp.array([[[1.0, 1.0, jnp.nan]]])
    np.testing.assert_allclose(next_running_gain(running, grid, gain), [[[0.6, 0.5, 0.5]]])
    np.testing.assert_allclose(
        next_running_gain(running, grid, gain, momentum=0.5), [[[0.75, 0.5, 0.5]]]
    )


def test_standardised_is_standard():
    x = _scores()
    z = standardise(x)
    np.testing.assert_allclose(z.mean(axis=(1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(z.std(axis=(1, 2)), 1, rtol=0.02)
    np.testing.assert_allclose(standardise(jnp.full((1, 2, 2), 7.0)), 0)


def _case():
    rng = np.random.default_rng(0)
    frames = rng.random((1, 16, 32, 3)).astype(np.float32)
    return frames, frames.copy(), rng.normal(size=(1, 16, 32, 4)).astype(np.float32)


def test_each_statistic_raises_its_block():
    frames, state, outputs = _case()
    held = np.zeros_like(outputs)
    flat = {"running_gain": jnp.full((1, 2, 4), FIRST_GAIN), "grid_shape": (2, 4)}
    weights = {name: jnp.float32(w) for name, w in WEIGHTS.items()}
    young = jnp.zeros((1, 2, 4), jnp.int32)

    def scores(frames=frames, outputs=held, age=young, **changes):
        features = prior_features(frames, state, outputs, **{**flat, **changes})
        return prior_scores(weights, features, age)

    np.testing.assert_allclose(scores(), 0, atol=1e-4)
    moved = frames.copy()
    moved[0, :8, 8:16] = 1 - moved[0, :8, 8:16]
    bordered = held.copy()
    bordered[0, :8, 8:16] = outputs[0, :8, 8:16]
    gained = flat["running_gain"].at[0, 0, 1].set(0.5)
    for one in (
        scores(frames=moved),
        scores(outputs=bordered),
        scores(running_gain=gained),
        scores(age=young.at[0, 0, 1].set(3)),
    ):
        assert one.argmax() == 1
        assert (jnp.delete(one.ravel(), 1) < one[0, 0, 1] - 0.5).all()
    # One block of eight stands out: standardised it is sqrt(7), the others -1/sqrt(7). It is
    # counted twice in the 3x3 around it, where the edge is repeated: 2 of 9.
    top, rest = np.sqrt(7), -1 / np.sqrt(7)
    expected = (1 - SHARED) * top + SHARED * (2 * top + 7 * rest) / 9
    np.testing.assert_allclose(
        scores(running_gain=gained)[0, 0, 1], WEIGHTS["gain"] * expected, rtol=0.02
    )
    np.testing.assert_allclose(scores(age=young + 3) - scores(), AGE_WEIGHT * np.log(4), rtol=1e-4)


def test_scores_are_shared_by_hand():
    # Of 9 in the middle of 3x3 blocks, 0.7 goes round: a ninth of it to each.
    middle = jnp.zeros((1, 3, 3)).at[0, 1, 1].set(9.0)
    shared = share_score(middle, 0.7)
    np.testing.assert_allclose(shared[0, 1], [0.7, 3.4, 0.7], rtol=1e-5)
    np.testing.assert_allclose(shared[0, 0], [0.7, 0.7, 0.7], rtol=1e-5)
    # At the edge the block's own score stands for what lies beyond.
    corner = share_score(jnp.zeros((1, 3, 3)).at[0, 0, 0].set(9.0), 0.7)
    np.testing.assert_allclose(corner[0, 0, 0], 0.3 * 9 + 0.7 * 4, rtol=1e-5)
    np.testing.assert_allclose(share_score(jnp.full((1, 2, 3), 5.0), 0.7), 5, rtol=1e-6)


def test_broken_input_leaves_finite_features():
    frames, state, outputs = _case()
    nan = np.full_like
    features = prior_features(
        nan(frames, np.nan), state, nan(outputs, np.nan), jnp.full((1, 2, 4), jnp.nan), (2, 4)
    )
    assert all(np.isfinite(x).all() for x in features.values())
    assert prior_features(frames, state, outputs, None, (2, 4))["gain"].max() == 0
