"""Several streams, each on a device of its own."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import bc_jax

PROGRAM = """
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from zoo import conv

import bc_jax

mesh = jax.make_mesh((4,), ("streams",), axis_types=(AxisType.Auto,))
apart, alike = (NamedSharding(mesh, spec) for spec in (P("streams"), P()))
rng = np.random.default_rng(0)
plain = [rng.normal(size=(3, 3, c, d)).astype(np.float32) for c, d in ((3, 8), (8, 4))]
video = rng.random((6, 4, 32, 48, 3), np.float32)


def network(params, frames, constrained=False):
    x = conv(frames, params[0], 1)
    x = jax.lax.with_sharding_constraint(x, apart) if constrained else x
    return conv(jax.nn.relu(x), params[1], 1)


def constrained(params, frames):
    return network(params, frames, True)


params, placed = jax.device_put(plain, alike), [jax.device_put(x, apart) for x in video]
sparse = bc_jax.blockcopy(constrained, 16)
state, run = sparse.init(params, placed[0]), sparse.jit()
kept = np.zeros_like(video[0])
for t, frames in enumerate(placed):
    grid = None if t == 0 else rng.random((4, 2, 3)) < 0.3
    out, state = run(params, state, frames, grid)
    assert len(out.sharding.device_set) == 4
    fresh = np.ones((4, 2, 3), bool) if t == 0 else grid
    kept = np.where(fresh.repeat(16, 1).repeat(16, 2)[..., None], video[t], kept)
np.testing.assert_array_equal(state.frames, kept)
out, state = run(params, state, placed[0], np.ones((4, 2, 3), bool))
np.testing.assert_allclose(out, network(plain, video[0]), rtol=1e-4, atol=1e-4)

for options in ({}, {"capacity": 0.5}):
    policy = bc_jax.PolicyConfig(target=0.5, widths=(4,), head_width=4, pixels_per_block=4)
    one, four = (
        bc_jax.Runner(network, p, block_size=16, policy=policy, **options) for p in (plain, params)
    )
    for alone, frames in zip(video, placed, strict=True):
        np.testing.assert_allclose(four(frames), one(alone), rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(four.outcome.grid, one.outcome.grid)
    assert len(four.state.frame_state.frames.sharding.device_set) == 4
print("agreed")
"""


def test_streams_on_four_devices_are_those_of_one():
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    folders = [str(Path(bc_jax.__file__).parent.parent), str(Path(__file__).parent)]
    there = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(folders)}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=os.environ | there, capture_output=True, text=True
    )
    assert run.stdout == "agreed\n", run.stderr[-2000:]


def network(params, frames):
    return frames @ params


@pytest.mark.parametrize("which", ["frames", "parameters"])
def test_a_mesh_of_explicit_axes_is_told_what_it_may_be(which):
    mesh = jax.make_mesh((1,), ("streams",), axis_types=(AxisType.Explicit,))
    params, frames = np.ones((3, 2), np.float32), np.ones((1, 16, 16, 3), np.float32)
    if which == "frames":
        frames = jax.device_put(frames, NamedSharding(mesh, PartitionSpec("streams")))
    else:
        params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    for call in (
        bc_jax.blockcopy(network, 8).init,
        jax.jit(bc_jax.blockcopy(network, 8).init),
        lambda params, frames: bc_jax.Runner(network, params, block_size=8)(frames),
    ):
        with pytest.raises(TypeError, match=r"axes streams are Explicit.*AxisType.Auto"):
            call(params, frames)
