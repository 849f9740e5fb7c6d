"""Softmax in rows of many pixels against `jax.nn.softmax`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bc_jax import lowering
from bc_jax.lowering import backend


@pytest.fixture(autouse=True, params=["cpu", "gpu"])
def platform(request, monkeypatch):
    """The backend whose ways are taken; they are right on every one."""
    monkeypatch.setattr(backend, "on_cpu", lambda: request.param == "cpu")
    return request.param


def _compiled(function):
    """A function compiled for this platform: one of its own is not remembered of another."""
    return jax.jit(lambda *args: function(*args))


def _logits(seed, *shape, scale=5.0):
    return scale * jax.random.normal(jax.random.key(seed), shape)


def _plain_entropy(logits, others):
    p, q = (np.asarray(jax.nn.log_softmax(x), np.float64) for x in (logits, others))
    return np.sum(np.exp(p) * (p - q), axis=-1)


@pytest.mark.parametrize("classes", [2, 8, 9, 19, 63, 64])
@pytest.mark.parametrize("pixels", [(1, 8, 16), (3, 5, 7), (1,), ()])
def test_softmax_and_relative_entropy_are_those_of_each_pixel(pixels, classes):
    logits, others = _logits(0, *pixels, classes), _logits(1, *pixels, classes)
    found = _compiled(lowering.softmax)(logits)
    np.testing.assert_allclose(found, jax.nn.softmax(logits), rtol=2e-6, atol=1e-7)
    entropy = _compiled(lowering.relative_entropy)(logits, others)
    np.testing.assert_allclose(entropy, _plain_entropy(logits, others), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(_compiled(lowering.relative_entropy)(logits, logits), 0)


def test_logits_far_apart_neither_overflow_nor_vanish():
    logits = jnp.zeros((2, 3, 19)).at[0, 0, 4].set(3e38).at[1, 2].set(-3e38)
    logits = logits.at[0, 1].set(jnp.linspace(-200, 200, 19))
    np.testing.assert_allclose(lowering.softmax(logits), jax.nn.softmax(logits), rtol=1e-6)
    others = logits[:, :, ::-1] / 2
    found = lowering.relative_entropy(logits[0, 1:], others[0, 1:])
    np.testing.assert_allclose(found, _plain_entropy(logits, others)[0, 1:], rtol=1e-5)


@pytest.mark.parametrize("broken", [jnp.nan, jnp.inf])
def test_what_is_not_finite_stays_in_its_pixel(broken):
    good = _logits(0, 2, 4, 19)
    bad = good.at[1, 2, 17].set(broken)
    for found in (lowering.softmax(bad), lowering.relative_entropy(bad, good)[..., None]):
        there = np.isnan(found).any(axis=-1)
        assert there[1, 2] and there.sum() == 1


def test_no_class_of_no_weight_counts():
    logits = _logits(0, 2, 4, 19).at[:, :, 3].set(-jnp.inf)
    np.testing.assert_allclose(lowering.softmax(logits), jax.nn.softmax(logits), rtol=2e-6)


def test_both_are_differentiated_and_batched():
    logits, others, weights = (_logits(seed, 2, 3, 4, 19) for seed in range(3))

    def plain(logits, others):
        p, q = jax.nn.log_softmax(logits), jax.nn.log_softmax(others)
        return jnp.sum(weights * jnp.exp(p)) + jnp.sum(jnp.exp(p) * (p - q))

    def fast(logits, others):
        probabilities = jax.vmap(lowering.softmax)(logits)
        entropy = jax.vmap(lowering.relative_entropy)(logits, others)
        return jnp.sum(weights * probabilities) + jnp.sum(entropy)

    found, expected = (jax.grad(f, (0, 1))(logits, others) for f in (fast, plain))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_powers_of_few_classes_are_of_many_pixels_at_once(platform):
    text = str(jax.make_jaxpr(_compiled(lowering.softmax))(_logits(0, 1, 8, 16, 19)))
    (powers,) = (line for line in text.splitlines() if "= exp" in line)
    assert ("f32[2,1216]" in powers) == (platform == "cpu")
