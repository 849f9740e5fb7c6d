"""What the policy network is shown."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bc_jax.policy import PolicyConfig, policy_inputs, policy_pixels
from bc_jax.policy.inputs import resize_nearest


def _case(seed=0, *, n=2, grid=(2, 3), block=(32, 32), classes=4, stride=1):
    rng = np.random.default_rng(seed)
    h, w = grid[0] * block[0], grid[1] * block[1]
    frames = rng.integers(0, 256, (n, h, w, 3), np.uint8)
    state = rng.integers(0, 256, (n, h, w, 3), np.uint8)
    outputs = rng.normal(size=(n, h // stride, w // stride, classes)).astype(np.float32)
    return frames, state, outputs, rng.random((n, *grid)) < 0.5


def _softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("stride", [1, 4, 8])
def test_channels_by_hand(stride):
    # Blocks of 32 pixels at half resolution: 16 policy pixels; outputs finer, equal and coarser.
    frames, state, outputs, grid = _case(stride=stride)
    x = policy_inputs(frames, state, outputs, jnp.array(grid), block_size=(32, 32), scale=0.5)
    assert x.shape == (2, 32, 48, 3 + 3 + 4 + 1)
    assert x.dtype == jnp.float32
    rows, columns = np.arange(32) * 2, np.arange(48) * 2
    np.testing.assert_allclose(x[..., :3], frames[:, rows][:, :, columns] / 255, rtol=1e-6)
    np.testing.assert_allclose(x[..., 3:6], state[:, rows][:, :, columns] / 255, rtol=1e-6)
    p = _softmax(outputs)[:, rows // stride][:, :, columns // stride]
    np.testing.assert_allclose(x[..., 6:10], p - 0.5, rtol=1e-5, atol=1e-6)
    previous = grid.repeat(16, axis=1).repeat(16, axis=2)
    np.testing.assert_allclose(x[..., 10], np.where(previous, 0.5, -0.5))


def test_paper_scale_is_the_default():
    frames, state, outputs, grid = _case(block=(128, 128), grid=(1, 2))
    x = policy_inputs(frames, state, outputs, jnp.array(grid), block_size=(128, 128))
    assert x.shape[1:3] == (32, 64)  # a quarter
    frames, state, outputs, grid = _case(block=(16, 16))
    x = policy_inputs(frames, state, outputs, jnp.array(grid), block_size=(16, 16))
    assert x.shape[1:3] == (64, 96)  # twice
    np.testing.assert_allclose(x[:, ::2, ::2, :3], x[:, 1::2, 1::2, :3])


def test_age_replaces_the_grid():
    frames, state, outputs, _ = _case()
    age = jnp.array([[[0, 1, 4], [8, 100, 2]]] * 2, jnp.int32)
    x = policy_inputs(frames, state, outputs, age, block_size=(32, 32), scale=0.25)
    np.testing.assert_allclose(x[:, ::8, ::8, -1], np.exp(-np.asarray(age) / 4), rtol=1e-6)


def test_uint8_and_float_frames_agree():
    frames, state, outputs, grid = _case()
    grid = jnp.array(grid)
    a = policy_inputs(frames, state, outputs, grid, block_size=(32, 32))
    as_float = [x.astype(np.float32) / 255 for x in (frames, state)]
    b = policy_inputs(*as_float, outputs, grid, block_size=(32, 32))
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_no_gradient_and_no_nan_pass():
    frames, state, outputs, grid = _case()
    grid = jnp.array(grid)
    as_float = [x.astype(np.float32) / 255 for x in (frames, state)]

    def total(frames, state, outputs):
        return policy_inputs(frames, state, outputs, grid, block_size=(32, 32)).sum()

    gradients = jax.grad(total, argnums=(0, 1, 2))(*as_float, outputs)
    assert not any(g.any() for g in gradients)
    for bad in (np.nan, np.inf, -np.inf):
        broken = [np.full_like(x, bad) for x in (*as_float, outputs)]
        x = policy_inputs(*broken, grid, block_size=(32, 32))
        assert np.isfinite(x).all()
        assert np.abs(x).max() <= 1


def test_resize_takes_the_nearest_as_stated():
    x = np.arange(2 * 12 * 9).reshape(2, 12, 9)
    for size in [(12, 9), (4, 3), (24, 18), (6, 27), (8, 6), (5, 7)]:
        rows = np.arange(size[0]) * 12 // size[0]
        columns = np.arange(size[1]) * 9 // size[1]
        np.testing.assert_array_equal(resize_nearest(x, size), x[:, rows][:, :, columns])


def test_rectangular_blocks():
    frames, state, outputs, grid = _case(block=(24, 32))
    x = policy_inputs(frames, state, outputs, jnp.array(grid), block_size=(24, 32), scale=0.25)
    assert x.shape[1:3] == (12, 24)
    assert policy_pixels((120, 128), 0.25) == (30, 32)


def test_errors_name_what_does_not_fit():
    frames, state, outputs, grid = _case()
    with pytest.raises(ValueError, match="frames has shape"):
        policy_inputs(frames, state, outputs, jnp.array(grid), block_size=(32, 48))
    with pytest.raises(ValueError, match="frame_state has shape"):
        policy_inputs(frames, state[:, :-1], outputs, jnp.array(grid), block_size=(32, 32))
    with pytest.raises(ValueError, match="whole numbers"):
        policy_pixels((100, 128), 1 / 8)


def test_blocks_that_are_no_whole_policy_pixels_are_told_the_setting_that_fits():
    with pytest.raises(ValueError, match=r"pixels_per_block is 8; .* 2 to 3 .* multiple of 3"):
        PolicyConfig.light().block_pixels((64, 96))
    assert PolicyConfig.light(pixels_per_block=12).block_pixels((64, 96)) == (8, 12)
