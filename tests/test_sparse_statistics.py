"""Means and variances over a frame are this frame's, whichever blocks are executed.

Part of a frame changes and is executed: what is computed there, and what is made of the whole
frame, is the dense network's.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from zoo import assert_close

import bc_jax

BLOCK, C = 8, 6
FRAMES = (2, 32, 48, C)


def norm(x, axes):
    mean = x.mean(axes, keepdims=True)
    return (x - mean) / jnp.sqrt(x.var(axes, keepdims=True) + 1e-5)


def of_groups(x):
    groups = x.reshape(2, 32, 48, 2, 3)
    mean = groups.mean((1, 2, 4), keepdims=True)
    difference = groups - mean
    variance = (difference * difference).sum((1, 2, 4), keepdims=True) / (32 * 48 * 3)
    return (difference / jnp.sqrt(variance + 1e-5)).reshape(x.shape)


NETWORKS = {
    "instances": lambda x: norm(x, (1, 2)),
    "layers": lambda x: norm(x, (1, 2, 3)),
    "groups": of_groups,
    "rows": lambda x: norm(x, (1,)),
    "channels first": lambda x: norm(x.transpose(0, 3, 1, 2), (2, 3)).transpose(0, 2, 3, 1),
    "tokens": lambda x: norm(x.reshape(2, -1, C), (1,)).reshape(x.shape),
    "a gate": lambda x: x * jnp.std(x, (1, 2), keepdims=True),
    "powers": lambda x: x * ((x - x.max((1, 2), keepdims=True)) ** 2).sum((1, 2), keepdims=True),
    "the other way round": lambda x: (
        x * ((x.mean((1, 2), keepdims=True) - x) ** 2).sum((1, 2))[:, None, None]
    ),
    "far from zero": lambda x: norm(x + 1000, (1, 2)),
}


@pytest.mark.parametrize("dtype", ["int32", "uint8"])
def test_squares_of_integers_stay_integers(dtype):
    def network(_, x):
        return jnp.square(x - x.min((1, 2), keepdims=True)).sum((1, 2))

    frames = jnp.asarray(np.random.default_rng(0).integers(0, 200, FRAMES), dtype)
    sparse = bc_jax.blockcopy(network, BLOCK)
    outputs, _ = sparse.jit()(None, sparse.init(None, frames), frames)
    wanted = network(None, frames)
    assert outputs.dtype == wanted.dtype
    np.testing.assert_array_equal(outputs, wanted)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("whole", [True, False])
def test_executed_blocks_see_this_frames_variance(name, whole):
    network = NETWORKS[name]

    def apply(_, x):
        return {"image": network(x), "number": x.var((1, 2))}

    rng = np.random.default_rng(0)
    before = rng.random(FRAMES, np.float32)
    after = before.copy()
    after[:, :16] += 3
    grid = np.zeros((2, 4, 6), bool)
    grid[:, :2] = True

    sparse = bc_jax.blockcopy(apply, BLOCK)
    run = sparse.jit()
    first = None if whole else np.ones_like(grid)
    _, state = run(None, sparse.init(None, before), before, first)
    outputs, _ = run(None, state, after, grid)
    wanted = apply(None, jnp.asarray(after))
    tolerance = 1e-3 if name == "far from zero" else 1e-4
    assert_close(outputs["image"][:, :16], wanted["image"][:, :16], tolerance=tolerance)
    assert_close(outputs["number"], wanted["number"])
