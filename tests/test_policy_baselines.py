"""The policies to compare with."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bc_jax.policy import (
    baseline_grid,
    block_difference,
    diffuse_rounding,
    next_age,
    static_grid,
)

GRID = (3, 4)


def _case(seed=0, n=2):
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (n, 24, 32, 3), np.uint8)
    state = frames.copy()
    outputs = rng.normal(size=(n, 12, 16, 5)).astype(np.float32)
    age = rng.integers(0, 5, (n, *GRID), np.int32)
    return {
        "frames": frames, "frame_state": state, "outputs": outputs, "age": age, "grid_shape": GRID
    }  # fmt: skip


@pytest.mark.parametrize("target", [0.3, 0.07, 0.5, 1.0])
@pytest.mark.parametrize("name", ["random", "static", "difference", "oracle"])
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


def _schedule(grid_shape, target, frames, n=1):
    """The static grids [T, N, Gh, Gw] after a first frame, and the ages that they met."""

    def step(state, _):
        age, carry = state
        k, carry = diffuse_rounding(target * age[0].size, carry)
        grid = static_grid(age, k)
        return (next_age(age, grid), carry), (grid, age)

    start = jnp.zeros((n, *grid_shape), jnp.int32), jnp.float32(0)
    return map(np.asarray, jax.lax.scan(step, start, length=frames)[1])


@pytest.mark.parametrize("grid_shape", [(4, 8), (8, 16), (9, 12), (3, 5), (1, 7)])
@pytest.mark.parametrize("target", [0.07, 0.25, 0.3, 0.5, 0.7, 1.0])
def test_every_block_has_its_turn_in_the_static_schedule(grid_shape, target):
    frames = 6 * math.ceil(1 / target)
    grids, ages = _schedule(grid_shape, target, frames)
    # An age counts the frames in between: 0 is refreshed in each.
    assert ages.max() == math.ceil(1 / target) - 1
    times = grids.sum(axis=0)
    assert times.max() - times.min() <= 1
    np.testing.assert_allclose(times.mean(), frames * target, atol=0.5 / grids[0].size + 1e-6)


@pytest.mark.parametrize("target", [0.25, 0.3, 0.5])
def test_the_static_schedule_is_spread_over_every_frame(target):
    (height, width), share = (8, 16), target * 16
    grids, _ = _schedule((height, width), target, 12)
    for grid in grids[:, 0]:
        quarters = grid.reshape(2, 4, 4, 4).sum(axis=(1, 3))
        assert np.abs(quarters - share).max() <= 2
        together = (grid[1:] & grid[:-1]).sum() + (grid[:, 1:] & grid[:, :-1]).sum()
        # Of the pairs of neighbours, target^2 are where the blocks are drawn at random.
        assert together < 0.75 * target**2 * (2 * height * width - height - width)


def test_the_static_schedule_looks_at_nothing_and_is_alike_in_all_streams():
    case = _case()
    case["age"] = np.stack([case["age"][0]] * 2)
    other = _case(seed=1) | {"age": case["age"]}
    a, _ = baseline_grid("static", jax.random.key(0), 0.0, **case, target=0.5)
    b, _ = baseline_grid("static", jax.random.key(1), 0.0, **other, target=0.5)
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(a[0], a[1])
    waited = case["age"][0]
    assert waited[a[0]].min() >= waited[~a[0]].max()


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
