"""What is done once: constants are taken out of each frame's work, and batch norm with them."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bc_jax import Runner, blockcopy, lowering, models
from bc_jax.lowering import backend
from bc_jax.sparse.prepare import prepare
from bc_jax.sparse.program import trace

FRAMES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 48, 3)).astype(np.float32))
NUMBERS = ("NHWC", "HWIO", "NHWC")


def vector(seed: int, size: int = 5) -> jax.Array:
    values = np.random.default_rng(seed).uniform(0.5, 2, (1, 1, 1, size))
    return jnp.asarray(values.astype(np.float32))


def kernel(seed: int = 0, channels: int = 3) -> jax.Array:
    values = np.random.default_rng(seed).normal(size=(3, 3, channels, 5))
    return jnp.asarray(values.astype(np.float32))


def convolve(x, weights, numbers=NUMBERS, **options):
    return jax.lax.conv_general_dilated(
        x, weights, (1, 1), "SAME", dimension_numbers=numbers, **options
    )


def batch_norm(x, p):
    return (x - p["mean"]) * (jax.lax.rsqrt(p["var"] + 1e-5) * p["scale"]) + p["bias"]


def names(program) -> list[str]:
    return [op.name for op in program.ops]


def check(network, params, frames=FRAMES):
    """The divided program gives what the network gives; returns it."""
    divided = prepare(trace(network, params, frames))
    arrays = divided.once.run(jax.tree.leaves(params))
    made = divided.each_frame.run([*arrays, frames])
    expected = jax.tree.leaves(network(params, frames))
    for one, other in zip(made, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)
    return divided


NORM = {name: vector(i) for i, name in enumerate(("mean", "var", "scale", "bias"))}
ALONG_CHANNELS = {
    "batch norm": lambda x, p: batch_norm(x, p),
    "in float64's place": lambda x, p: batch_norm(x.astype(jnp.float32), p).astype(x.dtype),
    "divided": lambda x, p: x / p["scale"] + 1.5,
    "taken from": lambda x, p: p["bias"] - 2 * x,
    "added to, then scaled": lambda x, p: (p["bias"] + x) * p["scale"] * 0.5,
}


@pytest.mark.parametrize("name", ALONG_CHANNELS)
def test_what_scales_channels_becomes_part_of_the_kernel(name):
    def network(params, frames):
        x = ALONG_CHANNELS[name](convolve(frames, params["kernel"]), params)
        return jax.nn.relu(x)

    divided = check(network, NORM | {"kernel": kernel()})
    assert names(divided.each_frame) == ["conv_general_dilated", "add", "custom_jvp_call"]


def test_channels_first_and_groups_fold_too():
    def network(params, frames):
        x = jnp.transpose(frames, (0, 3, 1, 2))
        x = convolve(x, params["kernel"], ("NCHW", "HWIO", "NCHW"), feature_group_count=3)
        return x * params["scale"].reshape(1, 6, 1, 1) + params["bias"].reshape(1, 6, 1, 1)

    sizes = {"scale": vector(0, 6), "bias": vector(1, 6)}
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 1, 6)).astype(np.float32))
    divided = check(network, sizes | {"kernel": weights})
    assert "mul" not in names(divided.each_frame)


KEPT = {
    # What is read twice, or returned, is needed as it is.
    "read twice": lambda y, p: y * p["scale"] + jnp.tanh(y),
    "returned": lambda y, p: (y * p["scale"], y),
    # These differ from pixel to pixel, from frame to frame, or are not affine.
    "along space": lambda y, p: y * jnp.arange(48.0)[None, None, :, None],
    "of the frame": lambda y, p: y * y.mean(),
    "with itself": lambda y, p: y * y,
    "below": lambda y, p: p["scale"] / y,
    # Adding alone leaves nothing to gain.
    "added": lambda y, p: y + p["bias"],
}


@pytest.mark.parametrize("name", KEPT)
def test_what_does_not_scale_channels_stays(name):
    def network(params, frames):
        return KEPT[name](convolve(frames, params["kernel"]), params)

    divided = check(network, NORM | {"kernel": kernel()})
    plain = trace(network, NORM | {"kernel": kernel()}, FRAMES)
    varying = {"mul", "div", "add", "tanh", "reduce_sum"}
    assert [n for n in names(divided.each_frame) if n in varying] == [
        n for n in names(plain) if n in varying
    ]


def test_a_kernel_of_the_frame_is_left_alone():
    def network(params, frames):
        weights = jnp.tile(frames[:1, :3, :3, :, None].reshape(3, 3, 3, 1), (1, 1, 1, 5))
        return convolve(frames, weights) * params["scale"]

    check(network, {"scale": vector(0)})


def test_what_is_spread_over_space_is_not_kept():
    def network(params, frames):
        return frames * jnp.broadcast_to(params["scale"], (200, *frames.shape)).sum(0)

    divided = check(network, {"scale": vector(0, 3)})
    assert all(divided.once.avals[x].size <= 4096 for x in divided.once.outputs)


def test_a_frame_of_one_pixel_is_no_parameter():
    pixel = FRAMES[:1, :1, :1]

    def network(params, frames):
        return convolve(frames, params["kernel"][..., :3]) * frames

    check(network, {"kernel": kernel()}, pixel)


def test_what_is_printed_is_printed(capfd):
    def network(params, frames):
        jax.debug.print("the mean is {mean}", mean=frames.mean())
        jax.debug.print("the scale is {scale}", scale=params["scale"].sum())
        return frames * params["scale"]

    run = blockcopy(network, 16)
    params = {"scale": vector(0, 3)}
    grid = jnp.ones(run.grid_shape(FRAMES), bool)
    jax.jit(run)(params, run.init(params, FRAMES), FRAMES, grid)
    jax.effects_barrier()
    printed = capfd.readouterr().out
    assert "the mean is" in printed and "the scale is" in printed


def test_results_that_need_no_frame_are_returned():
    check(lambda p, f: (f + 1, p["scale"] * 2, jnp.float32(3)), {"scale": vector(0)})


def test_kernels_lie_as_the_backend_has_them(monkeypatch):
    monkeypatch.setattr(lowering, "kernel_order", lambda axes: (axes[0], *axes[2:], axes[1]))

    def network(params, frames):
        x = batch_norm(convolve(frames, params["kernel"]), params)
        return convolve(x, params["more"])

    params = NORM | {"kernel": kernel(), "more": kernel(1, channels=5)}
    divided = check(network, params)
    shapes = [divided.once.avals[x].shape for x in divided.once.outputs]
    assert (5, 3, 3, 3) in shapes and (5, 3, 3, 5) in shapes
    run = blockcopy(network, 16)
    grid = jnp.ones(run.grid_shape(FRAMES), bool)
    outputs, _ = run(params, run.init(params, FRAMES), FRAMES, grid)
    np.testing.assert_allclose(outputs, network(params, FRAMES), rtol=1e-4, atol=1e-4)


WIDE = {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 24, 24)) / 15, "float32")}
ROWS = {
    # From a kernel, tiles of 16x16 and tiles of 8x8 to results; whether the kernel is made ready.
    "read once": (lambda k, x, half: convolve(x, k), True),
    "shared alike": (lambda k, x, half: convolve(jnp.tanh(convolve(x, k)), k), True),
    "of more or fewer rows": (lambda k, x, half: (convolve(x, k), convolve(half, k)), True),
    "of another number of rows at once": (
        lambda k, x, half: (convolve(x, k), convolve(half[:, ::4], k)),
        False,
    ),
    "read by another operation": (lambda k, x, half: convolve(x, k) + (k * x.mean()).sum(), False),
    "returned": (lambda k, x, half: (convolve(x, k), k), False),
    "where nothing is on blocks": (lambda k, x, half: convolve(half[:, :7], k), False),
    "with steps": (
        lambda k, x, half: jax.lax.conv_general_dilated(
            x, k, (2, 2), "SAME", dimension_numbers=NUMBERS
        ),
        False,
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_kernels_are_made_ready_for_several_rows_at_once(name):
    network, ready = ROWS[name]

    def apply_fn(params, frames):
        x = jnp.concatenate(8 * [frames], -1)
        return network(params["kernel"], x, x[:, ::2, ::2])

    run = blockcopy(apply_fn, 16)
    prepared = run.prepare(WIDE, FRAMES)
    found = any(isinstance(array, lowering.SummedKernel) for array in prepared.arrays)
    assert found == (ready and backend.on_cpu())
    grid = jnp.ones(run.grid_shape(FRAMES), bool)
    made, _ = run(prepared, run.init(WIDE, FRAMES), FRAMES, grid)
    for one, other in zip(
        jax.tree.leaves(made), jax.tree.leaves(apply_fn(WIDE, FRAMES)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_half_precision_is_scaled_in_float32():
    def network(params, frames):
        x = convolve(frames.astype(jnp.bfloat16), params["kernel"].astype(jnp.bfloat16))
        return batch_norm(x.astype(jnp.float32), params).astype(jnp.bfloat16)

    params = NORM | {"kernel": kernel()}
    divided = prepare(trace(network, params, FRAMES))
    (made,) = divided.each_frame.run([*divided.once.run(jax.tree.leaves(params)), FRAMES])
    expected = network(params, FRAMES)
    assert made.dtype == expected.dtype == jnp.bfloat16
    scale = float(jnp.abs(expected).max())
    np.testing.assert_allclose(
        made.astype(jnp.float32), expected.astype(jnp.float32), rtol=0, atol=0.02 * scale
    )


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x):
        for width in (4, 6):
            x = nn.Conv(width, (3, 3), use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        return x


def test_flax_batch_norm_is_gone_from_each_frame():
    module = Normed()
    params = module.init(jax.random.key(0), FRAMES)
    divided = check(module.apply, params)
    assert names(divided.each_frame) == ["conv_general_dilated", "add", "custom_jvp_call"] * 2


def test_prepared_stands_for_the_parameters():
    network = models.load("espnet_cityscapes")
    frames = jnp.asarray(np.random.default_rng(0).integers(0, 256, (1, 64, 128, 3), np.uint8))
    run = blockcopy(network.apply_fn, 32)
    prepared = jax.jit(run.prepare)(network.params, frames)
    assert run.prepare(prepared, frames) is prepared
    state = run.init(prepared, frames)
    grid = jnp.ones(run.grid_shape(frames), bool)
    outputs, _ = jax.jit(run)(prepared, state, frames, grid)
    expected, _ = jax.jit(run)(network.params, state, frames, grid)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"made for uint8\[1, 64, 128, 3\]; prepare for these"):
        run.init(prepared, frames[:, :32])
    another = blockcopy(lambda params, x: -network.apply_fn(params, x), 32)
    with pytest.raises(ValueError, match="prepared for another network; prepare for this"):
        another.init(prepared, frames)
    other = run.init(network.params, frames[:, :32])
    with pytest.raises(ValueError, match=r"made for uint8\[1, 64, 128, 3\]; prepare for these"):
        run(prepared, other, frames[:, :32], grid[:, :1])


def test_a_gradient_goes_through_what_is_done_once():
    def network(params, frames):
        return batch_norm(convolve(frames, params["kernel"]), params)

    params = NORM | {"kernel": kernel()}
    run = blockcopy(network, 16)
    state = run.init(params, FRAMES)
    grid = jnp.ones(run.grid_shape(FRAMES), bool)
    made = jax.grad(lambda p: jnp.sum(run(p, state, FRAMES, grid)[0] ** 2))(params)
    plain = jax.grad(lambda p: jnp.sum(network(p, FRAMES) ** 2))(params)
    for name in params:
        np.testing.assert_allclose(made[name], plain[name], rtol=2e-3, err_msg=name)


def test_a_runner_prepares_once():
    network = models.load("espnet_cityscapes")
    runner = Runner(network.apply_fn, network.params, block_size=32, policy="all")
    frames = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    runner(frames)
    kept = runner._prepared
    runner(frames)
    assert runner._prepared is kept and dataclasses.is_dataclass(kept)
