"""The policy network: its shape, its cost, its strides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bc_jax.policy import Observation, PolicyConfig, PolicyNet, count_macs, init, policy_macs
from bc_jax.policy.network import plan_strides


def _observation(height, width, block, classes, stride):
    shape = jax.ShapeDtypeStruct
    grid = (1, height // block, width // block)
    return Observation(
        frames=shape((1, height, width, 3), jnp.uint8),
        frame_state=shape((1, height, width, 3), jnp.uint8),
        outputs=shape((1, height // stride, width // stride, classes), jnp.float32),
        grid=shape(grid, jnp.bool_),
        age=shape(grid, jnp.int32),
    )


def initialised(network, x):
    """The network's variables, drawn by one program."""
    return jax.jit(lambda key: network.init(key, x, False))(jax.random.key(1))


def test_count_macs_by_hand():
    def network(x, w, m):
        # 6x8 outputs of 5 channels from 3x3x4 inputs, twice; then 5 -> 7 at every pixel.
        y = jax.lax.scan(
            lambda c, _: (
                c,
                jax.lax.conv_general_dilated(
                    x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                ),
            ),
            0,
            length=2,
        )[1][0]
        return jax.jit(lambda y: y @ m)(y)

    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1, 6, 8, 4), (3, 3, 4, 5), (5, 7))]
    assert count_macs(network, *shapes) == 2 * 48 * 5 * 36 + 48 * 5 * 7


def test_papers_policy_costs_what_its_layers_sum_up_to():
    # 1024x2048 with blocks of 128 pixels is 256x512 policy pixels, 26 channels. In MMACs:
    #   stem 26->32                131072 px * 9*26*32                          =  981.5
    #   stage 1                    131072 px * 9*(32*32 + 32*32)                = 2415.9
    #   stage 2, stride 2           32768 px * (9*(32*64 + 64*64) + 32*64)      = 1879.0
    #   stage 3, stride 2            8192 px * (9*(64*128 + 128*128) + 64*128)  = 1879.0
    #   head 128, 128, 1        2048, 512, 128 px * 9*128*(128, 128, 1)         =  377.6
    macs = policy_macs(_observation(1024, 2048, 128, 19, 4), PolicyConfig.paper())
    assert macs == pytest.approx(7533e6, rel=1e-3)
    # 6.5 GMACs are reported. No layer of the release is missing here; without the stem it is that.
    assert macs - 131072 * 9 * 26 * 32 == pytest.approx(6.5e9, rel=0.01)


# The release's policy network, read off its definition: (kernel [h, w, in, out], stride).
RELEASE = {
    "stem": ((3, 3, 26, 32), 1),
    "stage0_block0_conv0": ((3, 3, 32, 32), 1),
    "stage0_block0_conv1": ((3, 3, 32, 32), 1),
    "stage1_block0_conv0": ((3, 3, 32, 64), 2),
    "stage1_block0_conv1": ((3, 3, 64, 64), 1),
    "stage1_block0_skip": ((1, 1, 32, 64), 2),
    "stage2_block0_conv0": ((3, 3, 64, 128), 2),
    "stage2_block0_conv1": ((3, 3, 128, 128), 1),
    "stage2_block0_skip": ((1, 1, 64, 128), 2),
    "head0": ((3, 3, 128, 128), 2),
    "head1": ((3, 3, 128, 128), 2),
    "logit": ((3, 3, 128, 1), 2),
}


def test_papers_policy_has_the_releases_layers():
    observation = _observation(1024, 2048, 128, 19, 4)
    state = jax.eval_shape(lambda o: init(jax.random.key(0), o, PolicyConfig.paper()), observation)
    layers = {k: v for k, v in state.params["network"].items() if "kernel" in v}
    assert {name: layer["kernel"].shape for name, layer in layers.items()} == {
        name: kernel for name, (kernel, _) in RELEASE.items()
    }
    # The logit alone has a bias; every other convolution has its batch norm.
    assert [name for name, layer in layers.items() if "bias" in layer] == ["logit"]
    assert len(state.params["network"]) == 2 * len(RELEASE) - 1
    # Where the strides stand decides the cost, so they are the release's if each layer's is.
    network = PolicyNet(convolve=jax.lax.conv_general_dilated)
    x = jax.ShapeDtypeStruct((1, 256, 512, 26), jnp.float32)
    variables = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, False), x)
    jaxpr = jax.make_jaxpr(lambda v, x: network.apply(v, x, False))(variables, x).jaxpr

    def convolutions(jaxpr):
        for e in jaxpr.eqns:
            if e.primitive.name == "conv_general_dilated":
                yield e.invars[1].aval.shape, e.params["window_strides"][0]
            for inner in jax.tree.leaves(e.params, is_leaf=lambda p: hasattr(p, "eqns")):
                yield from convolutions(inner) if hasattr(inner, "eqns") else ()

    found = convolutions(jaxpr)
    assert sorted(found) == sorted(RELEASE.values())


def test_light_policy_is_light():
    # ESPNet at 576x768 costs above 1 GMAC.
    observation = _observation(576, 768, 64, 20, 1)
    assert policy_macs(observation, PolicyConfig.light()) < 40e6


def test_logits_have_the_shape_of_the_grid_and_are_float32():
    network = PolicyNet()

    def shapes():
        frames = jnp.ones((2, 64, 96, 10), jnp.bfloat16)
        variables = network.init(jax.random.key(0), frames, False)
        return variables, network.apply(variables, frames, True, mutable=["batch_stats"])

    variables, (logits, updated) = jax.eval_shape(shapes)
    assert logits.shape == (2, 2, 3)
    assert logits.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    assert jax.tree.structure(updated["batch_stats"]) == jax.tree.structure(
        variables["batch_stats"]
    )


def test_batch_norm_keeps_98_percent():
    network = PolicyNet((8, 8), widths=(4, 4, 4))
    x = jax.random.normal(jax.random.key(1), (1, 16, 16, 3))
    variables = initialised(network, x)
    _, updated = jax.jit(lambda v: network.apply(v, x, True, mutable=["batch_stats"]))(variables)
    stem, x_stem = updated["batch_stats"]["stem_norm"], variables["params"]["stem"]["kernel"]
    y = jax.lax.conv_general_dilated(
        x, x_stem, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(stem["mean"], 0.02 * y.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stem["var"], 0.98 + 0.02 * y.var(axis=(0, 1, 2)), rtol=1e-4)


@pytest.mark.parametrize("pixels", [(4, 4), (8, 8), (16, 16), (32, 16), (30, 32), (1, 2), (12, 14)])
def test_any_block_becomes_one_logit(pixels):
    network = PolicyNet(pixels, widths=(4, 6, 8), head_width=5)
    x = jax.ShapeDtypeStruct((1, 2 * pixels[0], 3 * pixels[1], 4), jnp.float32)
    logits, _ = jax.eval_shape(lambda x: network.init_with_output(jax.random.key(1), x, False), x)
    assert logits.shape == (1, 2, 3)
    strides = plan_strides(pixels, 3)
    assert tuple(np.prod(strides, axis=0)) == pixels
    assert len(strides) >= 3


def test_logit_looks_at_its_own_block_first():
    # Influence of each block's pixels on the middle logit: its own block's is largest.
    network = PolicyNet((8, 8), widths=(8, 8, 8))
    x = jax.random.normal(jax.random.key(0), (1, 40, 40, 4))
    variables = initialised(network, x)
    gradient = jax.jit(jax.grad(lambda x: network.apply(variables, x, False)[0, 2, 2]))(x)
    influence = jnp.abs(gradient).reshape(5, 8, 5, 8, 4).sum(axis=(1, 3, 4))
    assert jnp.unravel_index(influence.argmax(), (5, 5)) == (2, 2)


def test_zero_init_starts_at_zero():
    network = PolicyNet((8, 8), widths=(4, 4, 4), zero_init=True)
    x = jax.random.normal(jax.random.key(0), (1, 16, 16, 4))
    variables = initialised(network, x)
    assert not jax.jit(lambda v: network.apply(v, x, False))(variables).any()


def test_impossible_sizes_are_named():
    with pytest.raises(ValueError, match="11 policy pixels"):
        plan_strides((8, 11), 3)
    network = PolicyNet((8, 8), widths=(4, 4, 4))
    with pytest.raises(ValueError, match="12x16 is not a whole number of 8x8"):
        network.init(jax.random.key(0), jnp.zeros((1, 12, 16, 4)), False)
