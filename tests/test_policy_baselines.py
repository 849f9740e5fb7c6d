"""The policies to compare with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bc_jax.policy import baseline_grid, block_difference, diffuse_rounding

GRID = (3, 4)


def _case(seed=0, n=2):
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (n, 24, 32, 3), np.uint8)
    state = frames.copy()
    outputs = rng.normal(size=(n, 12, 16, 5)).astype(np.float32)
    return {"frames": frames, "frame_state": state, "outputs": outputs, "grid_shape": GRID}


@pytest.mark.parametrize("target", [0.3, 0.07, 0.5, 1.0])
@pytest.mark.parametrize("name", ["random", "difference", "oracle"])
def test_mean_fraction_is_the_target(name, target):
    case = _case()
    dense = _case(1)["outputs"]

    @jax.jit
    def step(carry, key):
        grid, carry = baseline_grid(name, key, carry, **case, target=target, dense=dense)
        return carry, grid.sum(axis=(1, 2))

    _, counts = jax.lax.scan(step, jnp.float32(0), jax.random.split(jax.random.key(0), 100))
    assert (counts.max() - counts.min()) <= 1
    np.testing.assert_allclose(counts.mean() / 12, target, atol=1 / 12 / 100)


def test_all_and_none():
    for name, expected in (("all", True), ("none", False)):
        grid, carry = baseline_grid(name, None, jnp.float32(0), **_case(), target=0.3)
        assert grid.shape == (2, 3, 4)
        assert (grid == expected).all()
        assert carry == 0


def test_random_differs_by_frame_and_stream():
    case = _case()
    a, _ = baseline_grid("random", jax.random.key(0), 0.0, **case, target=0.5)
    b, _ = baseline_grid("random", jax.random.key(1), 0.0, **case, target=0.5)
    assert (a != b).any()
    assert (a[0] != a[1]).any()


def test_difference_takes_the_blocks_that_changed_most():
    case = _case()
    state = case["frame_state"].astype(int)
    state[0, 8:16, 8:16] += 40  # block (1, 1)
    state[0, 0:8, 24:32] += 20  # block (0, 3)
    state[1, 16:24, 0:8] += 10  # block (2, 0)
    case["frames"] = np.full_like(case["frames"], 100)
    case["frame_state"] = (state - _case()["frames"] + 100).astype(np.uint8)
    difference = block_difference(case["frames"], case["frame_state"], GRID)
    np.testing.assert_allclose(difference[0, 1, 1], 40 / 255, rtol=1e-5)
    coarse = block_difference(case["frames"], case["frame_state"], GRID, step=2)
    np.testing.assert_allclose(coarse, difference, atol=1e-6)
    grid, _ = baseline_grid("difference", None, 0.0, **case, target=1 / 12)
    expected = np.zeros((2, 3, 4), bool)
    expected[0, 1, 1] = expected[1, 2, 0] = True
    np.testing.assert_array_equal(grid, expected)


def test_oracle_takes_the_blocks_whose_dense_output_changed_most():
    case = _case()
    dense = case["outputs"].copy()
    dense[:, 4:8, 4:8] = -dense[:, 4:8, 4:8]  # block (1, 1)
    grid, _ = baseline_grid("oracle", None, 0.0, **case, target=1 / 12, dense=dense)
    expected = np.zeros((2, 3, 4), bool)
    expected[:, 1, 1] = True
    np.testing.assert_array_equal(grid, expected)
    with pytest.raises(ValueError, match="dense"):
        baseline_grid("oracle", None, 0.0, **case, target=0.3)


def test_unknown_policy_is_named():
    with pytest.raises(ValueError, match="'nobody'; there are all, none, random"):
        baseline_grid("nobody", None, 0.0, **_case(), target=0.3)


def test_diffused_rounding_by_hand():
    # 0.4 wanted each time: 0, then 0.8 -> 1, then 0.2 -> 0, 0.6 -> 1, 0.0 -> 0.
    carry, whole = jnp.float32(0), []
    for _ in range(5):
        k, carry = diffuse_rounding(0.4, carry)
        whole.append(int(k))
    assert whole == [0, 1, 0, 1, 0]
    np.testing.assert_allclose(carry, 0, atol=1e-6)
