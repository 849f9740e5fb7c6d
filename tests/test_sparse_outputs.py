"""Outputs that are no images, and values that are not of their own block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from zoo import assert_close

import bc_jax

BEFORE, AFTER = np.zeros((1, 64, 64, 3), np.float32), np.ones((1, 64, 64, 3), np.float32)
ALL, LEFT = np.ones((1, 2, 2), bool), np.array([[[1, 0], [1, 0]]], bool)


def after_the_left(apply, params=None):
    """The outputs where the left half of a frame has changed, and the right half has too."""
    sparse, run = bc_jax.blockcopy(apply, 32), jax.jit(bc_jax.blockcopy(apply, 32))
    _, state = run(params, sparse.init(params, BEFORE), BEFORE, ALL)
    return run(params, state, AFTER, LEFT)[0]


def test_boxes_and_matrices_are_of_one_frame():
    kernel = np.ones((3, 16), np.float32)

    def apply(_, x):
        seen = jnp.mean(x, (1, 2)) @ kernel
        boxes = seen.reshape(-1, 4, 4)
        return {"boxes": boxes, "pose": boxes + jnp.eye(4)[None], "scores": seen[:, :4]}

    out = after_the_left(apply)
    for leaf in jax.tree.leaves(out | {"pose": np.asarray(out["pose"]) - np.eye(4)}):
        np.testing.assert_allclose(leaf, 1.5)  # half of the frame is new: boxes, as scores, say so


def test_channels_first_after_a_fallback_are_of_one_frame():
    out = after_the_left(
        lambda _, x: jnp.cumsum(x @ jnp.ones((3, 4)), axis=2).transpose(0, 3, 1, 2)
    )
    assert (np.asarray(out) == np.asarray(out)[:, :1]).all()


def test_an_executed_block_is_right_where_its_mirror_is_not_executed():
    relu = jax.nn.relu

    def apply(_, x):
        return (relu(x) + relu(x[:, :, ::-1])[:, :, ::-1]) / 2

    out = np.asarray(after_the_left(apply))
    np.testing.assert_array_equal(out[:, :, :32], 1)
    np.testing.assert_array_equal(out[:, :, 32:], 0)


def test_a_padded_output_is_of_all_of_the_frame():
    def apply(_, x):
        return jnp.pad(2 * x, ((0, 0), (1, 1), (0, 2), (0, 0)))

    out = np.asarray(after_the_left(apply))
    wanted = np.array(apply(None, AFTER))
    wanted[:, :, 32:] = 0
    np.testing.assert_array_equal(out, wanted)


@pytest.mark.parametrize("size", [(2160, 3840, 0.5), (1024, 2048, 2)])
def test_resizing_of_large_frames_runs_on_blocks(size):
    height, width, factor = size

    def apply(kernel, x):
        x = zoo.conv(x, kernel)
        shape = (1, int(factor * height), int(factor * width), 3)
        return jax.image.resize(x, shape, "bilinear")

    frames = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, 3, 3), jnp.float32)
    block = (height // 8, width // 8)
    assert not bc_jax.blockcopy(apply, block).explain(kernel, frames).fallbacks


def test_statistics_of_all_streams_are_of_one_value_per_block():
    def apply(_, x):
        return x - x.mean((0, 1, 2), keepdims=True)

    frames = zoo.frames_of(0)[0]
    sparse = bc_jax.blockcopy(apply, 16)
    report = sparse.explain(None, frames)
    assert [row.reason for row in report.fallbacks] == [
        "reduces over all of space; cheap, from one value per block"
    ]
    assert "forces  of" not in str(report)
    out, state = sparse(None, sparse.init(None, frames), frames)
    assert_close(out, apply(None, jnp.asarray(frames)))
    grid = zoo.random_grids(2, sparse.grid_shape(frames), 0)[1]
    assert_close(sparse(None, state, frames, grid)[0], out)


def test_what_is_reduced_behind_a_window_that_does_not_fit_the_blocks():
    def apply(kernel, x):
        x = zoo.conv(x, kernel, padding="VALID")
        return x - x.mean((1, 2), keepdims=True)

    kernel, frames = (
        zoo.random_like({"k": jax.ShapeDtypeStruct((3, 3, 3, 4), "float32")}),
        zoo.frames_of(0)[0],
    )
    sparse = bc_jax.blockcopy(lambda p, x: apply(p["k"], x), 16)
    out, _ = sparse(kernel, sparse.init(kernel, frames), frames)
    assert_close(out, apply(kernel["k"], frames))


@pytest.mark.parametrize(
    "one_image", [lambda x: jnp.tanh(x[0])[None], lambda x: jnp.tanh(x.reshape(x.shape[1:]))[None]]
)
def test_one_image_that_is_a_batch_again_stays_in_blocks(one_image):
    kernel = jax.ShapeDtypeStruct((3, 3, 3, 3), jnp.float32)
    sparse = bc_jax.blockcopy(lambda kernel, x: zoo.conv(one_image(x), kernel), 32)
    assert not sparse.explain(kernel, AFTER[:, :32]).fallbacks


@pytest.mark.parametrize(
    ("apply", "words"),
    [
        (lambda x: jnp.concatenate([x, x]), ("runs along streams", "one call for each")),
        (lambda x: jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "wrap"), ("pad with zeros",)),
        (lambda x: jnp.sort(x[0])[None], ("drops the axis of streams", "jax.vmap(network")),
        (lambda x: jnp.sort(x.reshape(x.shape[1:]))[None], ("jax.vmap(network",)),
    ],
    ids=["images in one batch", "padding that wraps around", "one image", "one image, reshaped"],
)
@pytest.mark.filterwarnings("ignore::bc_jax.sparse.BlockSparsityWarning")
def test_advice_on(apply, words):
    def network(kernel, x):
        return zoo.conv(apply(x), kernel)

    kernel = jax.ShapeDtypeStruct((3, 3, 3, 3), jnp.float32)
    advice = " ".join(bc_jax.blockcopy(network, 32).explain(kernel, AFTER[:, :32]).advice())
    for word in words:
        assert word in advice


@pytest.mark.parametrize("mode", ["reflect", "symmetric", "edge"])
@pytest.mark.parametrize(("amount", "stride"), [(1, 1), (2, 1), (3, 2)])
def test_padding_by_a_frames_own_pixels_runs_on_blocks(mode, amount, stride):
    def apply(kernel, x):
        pads = ((0, 0), (amount, amount), (amount, amount), (0, 0))
        x = zoo.conv(jnp.pad(x, pads, mode), kernel["k"], stride, "VALID")
        return jax.nn.relu(x)

    side = 2 * amount + 1
    kernel = zoo.random_like({"k": jax.ShapeDtypeStruct((side, side, 3, 4), "float32")})
    sparse, frames = bc_jax.blockcopy(apply, 8), zoo.frames_of(0, 2)
    assert not sparse.explain(kernel, frames[0]).fallbacks
    run, grids = jax.jit(sparse), zoo.random_grids(2, sparse.grid_shape(frames[0]), 1)
    before, state = run(kernel, sparse.init(kernel, frames[0]), frames[0], grids[0])
    assert_close(before, apply(kernel, jnp.asarray(frames[0])))
    # Of a frame in which only executed blocks have changed, those are right that see no others.
    mixed = np.where(zoo.executed_pixels(grids[1], frames[1]), frames[1], frames[0])
    after, _ = run(kernel, state, mixed, grids[1])
    mask = zoo.executed_pixels(grids[1], np.asarray(after))
    assert_close(np.where(mask, after, 0), np.where(mask, apply(kernel, jnp.asarray(mixed)), 0))


@pytest.mark.parametrize("mode", ["reflect", "symmetric", "edge"])
def test_padding_that_is_wider_than_a_tile(mode):
    def apply(kernel, x):
        x = zoo.conv(x, kernel["stem"], 8, "VALID")  # tiles of a pixel
        x = jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode)
        return zoo.conv(x, kernel["wide"], padding="VALID")

    shapes = {"stem": (8, 8, 3, 4), "wide": (5, 5, 4, 4)}
    kernel = {k: jax.ShapeDtypeStruct(s, "float32") for k, s in shapes.items()}
    kernel, (frames,) = zoo.random_like(kernel), zoo.frames_of(0)
    sparse = bc_jax.blockcopy(apply, 8)
    out, _ = sparse(
        kernel, sparse.init(kernel, frames), frames, jnp.ones(sparse.grid_shape(frames), bool)
    )
    assert_close(out, apply(kernel, frames))


@pytest.mark.parametrize("padding", [(1, -1), (2, -2), (-1, 1)])
def test_a_frame_of_one_block_that_is_moved_by_its_padding(padding):
    def apply(kernel, x):
        return zoo.conv(x, kernel, 2, (padding, padding))

    kernel, (frames,) = jnp.ones((2, 2, 3, 4)), zoo.frames_of(0)
    sparse = bc_jax.blockcopy(apply, (zoo.H, zoo.W))
    out, _ = sparse(kernel, sparse.init(kernel, frames), frames)
    # XLA's own convolution reads beyond a frame that is cut at one side and padded at the other.
    sides = ((0, 0, 0), (*padding, 0), (*padding, 0), (0, 0, 0))
    assert_close(out, zoo.conv(jax.lax.pad(frames, 0.0, sides), kernel, 2, "VALID"))


def test_what_is_widened_for_a_whole_operation_is_remembered_as_it_was():
    def network(p, x):
        x = zoo.conv(x, p["a"])
        sums = jax.lax.cumsum(x.astype(jnp.float32), axis=2)
        return x * sums.mean(axis=(1, 2), keepdims=True).astype(x.dtype)

    params = {"a": jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 3, 6)), jnp.bfloat16)}
    frames = jnp.asarray(zoo.frames_of(0)[0], jnp.bfloat16)
    sparse = bc_jax.blockcopy(network, 16)
    run = jax.jit(sparse, static_argnames="capacity")
    _, state = run(params, sparse.init(params, frames), frames)
    (kept,) = state.memory["dense"].values()
    assert kept.dtype == jnp.bfloat16
    grid = zoo.random_grids(2, sparse.grid_shape(frames), seed=0)[1]
    outputs, state = run(params, state, frames, grid, capacity=int(grid.sum()))
    zoo.assert_close(outputs, jax.jit(network)(params, frames), tolerance=0.02)


def test_a_softmax_over_streams_is_one_of_all_streams():
    def apply(_, x):
        return jax.nn.softmax(3 * x, axis=0)

    before, after = zoo.frames_of(0, 2, 2)
    grid = np.zeros((2, 2, 3), bool)
    grid[0, 1, 1] = True
    mixed = np.where(zoo.executed_pixels(grid, after), 4 * after, before)
    sparse = bc_jax.blockcopy(apply, 16)
    _, state = sparse(None, sparse.init(None, before), before)
    out, _ = sparse(None, state, mixed, grid)
    place = (0, slice(16, 32), slice(16, 32))
    assert_close(np.asarray(out)[place], np.asarray(apply(None, jnp.asarray(mixed)))[place])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tokens", [False, True])
def test_a_softmax_over_pixels_is_one_of_all_scores(tokens, seed):
    def weights(scores):
        shape, axis = scores.shape, (1, 2)
        if tokens:
            scores, axis = scores.reshape(shape[0], -1, shape[-1]), 1
        made = jax.nn.softmax(scores, axis=axis), jnp.exp(jax.nn.log_softmax(scores, axis=axis))
        return [x.reshape(shape) for x in made], jax.nn.logsumexp(scores, axis=axis)

    def apply(kernel, x):
        scores = zoo.conv(x, kernel)
        made, total = weights(scores)
        rows = jnp.linspace(0, 1, x.shape[1])[None, :, None, None]
        return {"scores": scores, "places": [(w * rows).sum((1, 2)) for w in made], "total": total}

    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(3, 3, 3, 4)).astype(np.float32)
    sparse = bc_jax.blockcopy(apply, 16)
    brighter = np.arange(1, 5, dtype=np.float32).reshape(4, 1, 1, 1, 1)
    frames = brighter * rng.uniform(0, 3, (4, 2, 32, 48, 3)).astype(np.float32)
    out, state = sparse(kernel, sparse.init(kernel, frames[0]), frames[0])
    for frame in frames[1:]:
        out, state = sparse(kernel, state, frame, rng.random((2, 2, 3)) < 0.4)
        made, total = weights(out["scores"])
        rows = np.linspace(0, 1, 32, dtype=np.float32)[None, :, None, None]
        expected = {"places": [(w * rows).sum((1, 2)) for w in made], "total": total}
        assert_close({name: out[name] for name in expected}, expected, tolerance=1e-5)
