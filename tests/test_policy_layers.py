"""The policy's fast layers against the plain ones."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equations import all_equations

from bc_jax import lowering
from bc_jax.lowering import Convolution, backend
from bc_jax.lowering.places import overlap_add, places
from bc_jax.lowering.winograd import best_at_once, best_to_learn
from bc_jax.policy import layers

PRODUCTS = ("dot_general", "conv_general_dilated")


def _normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.fixture(params=["cpu", "gpu"])
def platform(request, monkeypatch):
    """The backend whose ways are taken; they are right on every one."""
    for name in ("cpu", "gpu"):
        monkeypatch.setattr(backend, f"on_{name}", lambda name=name: request.param == name)
    return request.param


@pytest.mark.parametrize(
    ("streams", "size", "strides", "padding", "channels", "at_once"),
    [
        *(
            (streams, *case, 5, (1, 1))
            for streams in (1, 3)
            for case in (
                ((3, 3), (1, 1), ((1, 1), (1, 1))),
                ((3, 3), (2, 2), ((1, 1), (1, 1))),
                ((1, 1), (2, 2), ((0, 0), (0, 0))),
                ((5, 3), (3, 1), ((2, 2), (1, 1))),
                ((3, 3), (5, 2), ((1, 1), (0, 2))),
            )
        ),
        (3, (3, 3), (1, 1), ((1, 1), (1, 1)), 24, (4, 2)),
        (2, (3, 3), (1, 1), ((0, 2), (2, 0)), 25, (4, 2)),
        (1, (3, 3), (1, 1), ((1, 1), (1, 1)), 24, (1, 1)),
        (3, (3, 2), (1, 1), ((0, 4), (1, 0)), 25, (1, 1)),
        (3, (3, 3), (2, 2), ((1, 1), (1, 1)), 24, (1, 1)),
    ],
)
def test_gradients_are_those_of_the_plain_convolution(
    streams, size, strides, padding, channels, at_once, platform
):
    x = _normal(0, streams, 12, 18, channels)
    kernel = _normal(1, *size, channels, channels + 2) / np.sqrt(channels)

    def plain(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def fast(x, kernel):
        return lowering.convolve_to_learn(x, kernel, Convolution(strides, padding))

    cotangent = _normal(2, *jax.eval_shape(plain, x, kernel).shape)
    assert strides != (1, 1) or best_to_learn(cotangent.shape[:3], kernel.shape) == at_once

    @jax.jit
    def both(x, kernel, cotangent):
        pairs = (jax.vjp(function, x, kernel) for function in (fast, plain))
        return [(out, *pull(cotangent)) for out, pull in pairs]

    (out, *gradients), (plain_out, *plain_gradients) = both(x, kernel, cotangent)
    # Several rows at once, and a GPU's zeros as channels, sum in another order.
    several = strides == (1, 1) and best_at_once(cotangent.shape[:3], kernel.shape) != (1, 1)
    tolerance = 1e-5 if platform == "gpu" else 1e-4 if several else 1e-6
    np.testing.assert_allclose(out, plain_out, rtol=1e-6, atol=tolerance)
    for found, expected in zip(gradients, plain_gradients, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("channels", "features", "read"), [(26, 32, 32), (32, 32, 32), (26, 8, 26)]
)
def test_channels_fill_a_cpus_vectors_where_several_results_are_made(channels, features, read):
    x, kernel = jnp.zeros((1, 16, 32, channels)), jnp.zeros((3, 3, channels, features))
    how = Convolution((1, 1), ((1, 1), (1, 1)))
    program = jax.make_jaxpr(lambda *args: lowering.convolve_to_learn(*args, how))(x, kernel)
    products = [e for e in all_equations(program.jaxpr) if e.primitive.name in PRODUCTS]
    assert {e.invars[0].aval.shape[-1] for e in products} == {read}


@pytest.mark.parametrize(
    ("size", "stride", "before", "after"),
    [(3, 2, 1, 1), (6, 4, 1, 1), (6, 4, 0, 2), (4, 2, 2, 0), (1, 2, 0, 0), (3, 5, 2, 0)],
)
@pytest.mark.parametrize("axis", [0, 1])
def test_adding_what_overlaps_is_the_transpose_of_reading_places(size, stride, before, after, axis):
    pixels = 3 * stride
    padding = [(before, after) if a == axis else (0, 0) for a in range(3)]
    shape = [pixels if a == axis else 2 for a in range(3)]

    def read(x):
        return places(jnp.pad(x, padding), axis, size, stride, 1)

    seen, pullback = jax.vjp(read, _normal(0, *shape))
    parts = [_normal(1 + i, *part.shape) for i, part in enumerate(seen)]
    found = overlap_add(parts, axis, pixels, stride, before)
    np.testing.assert_allclose(found, pullback(parts)[0], rtol=1e-6, atol=1e-6)


def test_relu_is_flaxs_and_keeps_its_result_alone():
    x = jnp.concatenate([_normal(0, 3, 5), jnp.zeros((3, 1))], axis=1)
    cotangent = _normal(1, 3, 6)
    (y, pullback), (expected, plain) = (jax.vjp(f, x) for f in (layers.relu, nn.relu))
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(pullback(cotangent)[0], plain(cotangent)[0])

    def kept(function):
        return sum(leaf.nbytes for leaf in jax.tree.leaves(jax.vjp(function, x)[1]))

    assert kept(layers.relu) == y.nbytes < kept(nn.relu)


def test_a_dilated_convolution_is_refused():
    with pytest.raises(ValueError, match="neither dilation nor groups"):
        nn.Conv(4, (3, 3), kernel_dilation=2, conv_general_dilated=layers.convolve).init(
            jax.random.key(0), jnp.zeros((1, 8, 8, 4))
        )


@pytest.mark.parametrize("shape", [(2, 6, 8, 5), (1, 16, 24, 6), (1, 3, 5, 4), (1, 1, 1, 3)])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("rectify", [True, False])
def test_batch_norm_is_flaxs(shape, train, rectify, platform):
    x = 3 * _normal(0, *shape) + 1
    ours = layers.BatchNorm(not train, 0.9, rectify=rectify)
    theirs = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5)
    variables = {
        "params": {"scale": 1 + _normal(1, shape[-1]) / 3, "bias": _normal(2, shape[-1])},
        "batch_stats": {"mean": _normal(3, shape[-1]), "var": 0.5 + _normal(4, shape[-1]) ** 2},
    }
    shapes = [
        jax.tree.map(jnp.shape, jax.eval_shape(module.init, jax.random.key(0), x))
        for module in (ours, theirs)
    ]
    assert shapes[0] == shapes[1]
    cotangent = _normal(5, *shape)

    def run(module):
        def loss(params, x):
            out, updated = module.apply(
                {**variables, "params": params}, x, mutable=["batch_stats"]
            )  # fmt: skip
            out = nn.relu(out) if rectify and module is theirs else out
            return jnp.sum(out * cotangent), (out, updated)

        gradient = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
        grads, (out, updated) = gradient(variables["params"], x)
        return out, updated, grads

    for found, expected in zip(
        jax.tree.leaves(run(ours)), jax.tree.leaves(run(theirs)), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


def test_batch_norm_with_relu_keeps_its_input_alone():
    x = _normal(0, 2, 16, 16, 8)
    norm = layers.BatchNorm(False, 0.9, rectify=True)
    variables = norm.init(jax.random.key(1), x)

    def out(x):
        return norm.apply(variables, x, mutable=["batch_stats"])[0]

    kept = [leaf for leaf in jax.tree.leaves(jax.vjp(out, x)[1]) if leaf.size == x.size]
    assert len(kept) <= 2
    for leaf in kept:
        np.testing.assert_array_equal(leaf.reshape(x.shape), x)
