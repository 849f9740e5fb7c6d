"""Pixels that are moved to the places of other blocks, worked on there, and moved back.

The blocks that are executed are those that pixels came from, so that what is at their new places
cannot be told by the grid. One block changes and is executed: the result is the dense network's.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from zoo import assert_close, conv

import bc_jax

H, W, BLOCK, C = 16, 32, 4, 4
MATRIX = np.random.default_rng(0).normal(size=(C, C)).astype(np.float32)
MIRROR = np.arange(W)[::-1]


def layer(x):
    return jnp.tanh(x @ MATRIX)


def whole(x):
    """The values themselves, as whole frames."""
    return x[:, ::-1][:, ::-1]


def rolled(x):
    return x + jnp.roll(layer(jnp.roll(x, (-2, -2), (1, 2))), (2, 2), (1, 2))


def rolled_far(x):
    return x + jnp.roll(conv(jnp.roll(x, 12, 2), MATRIX[None, None]), -12, 2)


def shifted_windows(x):
    # As Swin's, whose layers here follow the windows' two axes of their own.
    y = jnp.roll(x, (-2, -2), (1, 2)).reshape(-1, H // 4, 4, W // 4, 4, C)
    y = layer(y.transpose(0, 1, 3, 2, 4, 5).reshape(-1, H // 4, W // 4, 16, C))
    y = y.reshape(-1, H // 4, W // 4, 4, 4, C).transpose(0, 1, 3, 2, 4, 5).reshape(x.shape)
    return x + jnp.roll(y, (2, 2), (1, 2))


def parts_as_a_batch(x):
    y = x.reshape(*x.shape[:3], 2, C // 2).transpose(0, 3, 1, 2, 4).reshape(-1, H, W, C // 2)
    y = jax.nn.relu(y @ MATRIX[: C // 2])[:, :, :, ::-1]
    return x + y.reshape(-1, 2, H, W, C).sum(axis=1)


def mirrored_by_index(x):
    return x + jnp.take(layer(jnp.take(x, MIRROR, axis=2)), MIRROR, axis=2)


def halves_exchanged(x):
    # The index leads from each block to the next, at most.
    index = np.arange(W).reshape(-1, 2, BLOCK)[:, ::-1].ravel()
    return x + layer(x[:, :, index])[:, :, index]


def windows_across_blocks(x):
    # As many windows, of as many pixels, as the frame has rows and columns.
    y = x.reshape(-1, 4, 4, 4, 8, C).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 16, 32, C)
    y = layer(y).reshape(-1, 4, 4, 4, 8, C).transpose(0, 1, 3, 2, 4, 5)
    return x + y.reshape(x.shape)


def grid_attention(x):
    # As MaxViT's: what lies in the same place of each quarter comes together.
    y = x.reshape(-1, 2, H // 2, 2, W // 2, C).transpose(0, 2, 4, 1, 3, 5)
    y = layer(y.reshape(-1, H // 2, W // 2, 4, C)).reshape(-1, H // 2, W // 2, 2, 2, C)
    return x + y.transpose(0, 3, 1, 4, 2, 5).reshape(x.shape)


def frequencies(x):
    y = jnp.fft.fft2(x, axes=(1, 2))
    y = conv(y.real, MATRIX[None, None]) + 1j * conv(y.imag, MATRIX[None, None])
    return x + jnp.fft.ifft2(y, axes=(1, 2)).real


def sorted_rows(x):
    order = jnp.argsort(x[..., :1], axis=2)
    y = layer(jnp.sort(x[..., :1], axis=2) * jnp.ones((1, 1, 1, C)))
    back = jnp.argsort(order, axis=2)
    return x + jnp.take_along_axis(y, jnp.broadcast_to(back, x.shape), axis=2)


def a_quarter(x):
    """In the middle, as large as the frame is: its rows are not the frame's."""
    return layer(x[:, H // 4 : 3 * H // 4, W // 4 : 3 * W // 4])


def quarters(x):
    rows = [x[:, i * H // 2 :][:, : H // 2] for i in (0, 1)]
    parts = [[row[:, :, i * W // 2 :][:, :, : W // 2] for i in (0, 1)] for row in rows]
    parts = [[layer(layer(x)) for x in row] for row in parts]
    back = jnp.concatenate([jnp.concatenate(row, 2) for row in parts], 1)
    return x + conv(back, MATRIX[None, None])


def halves_split(x):
    left, right = jnp.split(x, 2, axis=2)
    return x + jnp.concatenate([layer(layer(left)), layer(layer(right))], axis=2)


def halves_in_turn(x):
    halves = [layer(layer(x[:, :, W // 2 :])), layer(layer(x[:, :, : W // 2]))]
    return conv(jnp.concatenate(halves, axis=2), MATRIX[None, None])


def on_a_canvas(x):
    x = jnp.pad(x, ((0, 0), (H // 2, H // 2), (W // 2, W // 2), (0, 0)))
    return conv(layer(x), MATRIX[None, None])


def canvas_and_back(x):
    return x + on_a_canvas(x)[:, H // 2 : -H // 2, W // 2 : -W // 2]


def written_on_a_canvas(x):
    canvas = jnp.zeros((2, 2 * H, 2 * W, C), x.dtype)
    return conv(layer(canvas.at[:, H // 2 : -H // 2, W // 2 : -W // 2].set(x)), MATRIX[None, None])


def updated_on_a_canvas(x):
    canvas = lax.dynamic_update_slice(jnp.zeros((2, 2 * H, 2 * W, C)), x, (0, H // 2, W // 2, 0))
    return conv(layer(canvas), MATRIX[None, None])


def on_a_canvas_where_it_is_computed(x):
    at = (100 * x.min()).astype(int) + 4
    canvas = lax.dynamic_update_slice(jnp.zeros((2, 2 * H, 2 * W, C)), x, (0, at, at, 0))
    return conv(layer(canvas), MATRIX[None, None])


def tiled(x):
    return conv(layer(jnp.tile(x, (1, 2, 2, 1))), MATRIX[None, None])


def cut_by_a_convolution(x):
    by = [(-H // 4, -H // 4), (-W // 4, -W // 4)]
    x = conv(whole(x), np.eye(C, dtype=np.float32)[None, None], padding=by)
    return conv(layer(x), MATRIX[None, None])


def enlarged_and_cut(x):
    x = jnp.repeat(jnp.repeat(whole(x), 2, axis=1), 2, axis=2)
    return conv(layer(x[:, H // 2 : -H // 2, W // 2 : -W // 2]), MATRIX[None, None])


def half_of_it_copied(x):
    x = jnp.asarray(x).at[:, H // 2 :].add(layer(x)[:, : H // 2])
    return conv(layer(x), MATRIX[None, None])


def beside_what_was_rolled(x):
    x = whole(x)
    return conv(layer(x + jnp.roll(x, W // 2, 2)), MATRIX[None, None])


def rolled_and_back(x):
    return jnp.roll(layer(jnp.roll(x, 8, 2)), -8, 2)


def enlarged_and_made_smaller(x):
    return layer(jnp.repeat(whole(x), 2, axis=1))[:, ::2]


def rolled_both_ways(x):
    return layer(jnp.roll(whole(x), 8, 2) + jnp.roll(whole(x), -8, 2))


def woven(x):
    even, odd = layer(whole(x)[:, ::2]), layer(whole(x)[:, 1::2])
    return jnp.zeros(x.shape).at[:, ::2].set(even).at[:, 1::2].set(odd)


def enlarged_with_gaps(x):
    x = layer(whole(x))[:, ::2, ::2]
    return jnp.zeros((2, H, W, C)).at[:, ::2, ::2].set(x)


def streams_exchanged(x):
    """As of a pair of cameras, each of which looks at the other."""
    return layer(layer(x[::-1])[::-1] + layer(whole(x)[::-1])[::-1])


def streams_exchanged_at_last(x):
    return layer(jnp.roll(x, 1, axis=0))


def beside_its_mirror_image(x):
    n = len(x)
    both = layer(jnp.concatenate([x, jnp.flip(x, axis=2)]))
    return layer(both[:n] + jnp.flip(both[n:], axis=2))


def resized_and_shuffled(x):
    x = layer(x)[:, ::2]
    x = jax.image.resize(x, (*x.shape[:2], W // 2, C), "nearest")
    return x[:, np.array([0, 4, 1, 2, 3, 7, 5, 6])]


def rolled_at_last(x):
    return layer(jnp.roll(x, (4, 8), (1, 2)))


def scanned(x):
    """Sums of a row so far, made of every other pixel's in turn."""
    return lax.associative_scan(jnp.add, x, axis=2)


def zoomed_by_index(x):
    x = x[:, np.arange(H // 4, 3 * H // 4)][:, :, np.arange(W // 4, 3 * W // 4)]
    return conv(layer(x), MATRIX[None, None])


def zoomed(x):
    two, from_place = jnp.full(2, 2.0), -jnp.array([H / 2, W / 2])
    x = jax.image.scale_and_translate(x, x.shape, (1, 2), two, from_place, "linear")
    return conv(layer(x), MATRIX[None, None])


def where_it_is_brightest(x):
    row, column = jnp.unravel_index(x.sum((0, 3)).argmax(), (H, W))
    x = lax.dynamic_slice(x, (0, row - 4, column - 8, 0), (2, H // 2, W // 2, C))
    return conv(layer(x), MATRIX[None, None])


def where_each_is_brightest(x):
    row, column = jnp.unravel_index(x.sum(3).reshape(2, -1).argmax(axis=1), (H, W))
    cut = jax.vmap(lambda x, r, c: lax.dynamic_slice(x, (r, c, 0), (H // 2, W // 2, C)))
    return conv(layer(cut(x, row, column)), MATRIX[None, None])


def rolled_by_what_is_computed(x):
    by = (100 * x.min()).astype(int) + 12
    return conv(layer(jnp.roll(x, by, axis=2)), MATRIX[None, None])


def one_block(network, frame_shape=(2, H, W, C), place=(0, 2)):
    """The state after one block of a frame changed, and was executed; and the frame."""
    top, left = (BLOCK * at for at in place)
    rng = np.random.default_rng(1)
    before = rng.random(frame_shape, np.float32)
    frames = before.copy()
    frames[1, top : top + BLOCK, left : left + BLOCK] = rng.random((BLOCK, BLOCK, C))
    sparse = bc_jax.blockcopy(lambda _, x: network(x), BLOCK)
    run = jax.jit(sparse.advance)
    state = run(None, sparse.init(None, before), before)
    grid = np.zeros(sparse.grid_shape(frames), bool)
    grid[1, *place] = True
    return run(None, state, frames, grid), frames


@pytest.mark.filterwarnings("ignore::bc_jax.sparse.BlockSparsityWarning")
@pytest.mark.parametrize(
    "network",
    [
        rolled, rolled_far, shifted_windows, parts_as_a_batch, mirrored_by_index, halves_exchanged,
        windows_across_blocks, grid_attention, frequencies, sorted_rows,
    ],
)  # fmt: skip
def test_what_is_moved_away_and_back_is_this_frames(network):
    state, frames = one_block(network)
    assert_close(state.outputs, network(frames))


@pytest.mark.filterwarnings("ignore::bc_jax.sparse.BlockSparsityWarning")
@pytest.mark.parametrize("place", [(0, 2), (1, 3), (2, 5)])
@pytest.mark.parametrize(
    "network",
    [
        a_quarter, quarters, halves_split, halves_in_turn, on_a_canvas, canvas_and_back,
        zoomed_by_index, zoomed, where_it_is_brightest, where_each_is_brightest,
        rolled_by_what_is_computed, written_on_a_canvas, updated_on_a_canvas,
        on_a_canvas_where_it_is_computed, tiled, cut_by_a_convolution, enlarged_and_cut,
        half_of_it_copied, beside_what_was_rolled, rolled_both_ways, rolled_at_last,
        resized_and_shuffled, streams_exchanged, streams_exchanged_at_last,
        beside_its_mirror_image,
    ],
)  # fmt: skip
def test_parts_of_a_frame_are_this_frames(network, place):
    state, frames = one_block(network, place=place)
    assert_close(state.outputs, network(frames))


@pytest.mark.filterwarnings("ignore::bc_jax.sparse.BlockSparsityWarning")
@pytest.mark.parametrize(
    "network",
    [
        quarters, halves_split, rolled_and_back, canvas_and_back, enlarged_and_made_smaller,
        scanned, woven, enlarged_with_gaps,
    ],
)  # fmt: skip
def test_parts_that_are_a_frame_again_are_cut_into_its_blocks(network):
    def apply(_, x):
        return jnp.tanh(conv(network(x), MATRIX[None, None]))

    frames = jax.ShapeDtypeStruct((2, H, W, C), jnp.float32)
    *_, last = bc_jax.blockcopy(apply, BLOCK).explain(None, frames).rows
    assert last.where == "blocks"


def of_channels_by_channels(x):
    y = x @ np.tile(MATRIX, 4)  # as many as rows
    return conv(jnp.einsum("nhwc,nhwd->ncd", y, y)[..., None], MATRIX[None, None, :1])


def of_channels_pooled(x):
    y = x @ np.tile(MATRIX, 4)
    matrices = jnp.einsum("nhwc,nhwd->ncd", y, y)
    return lax.reduce_window(matrices, -np.inf, lax.max, (1, 2, 2), (1, 2, 2), "VALID")


def decoded(x):
    code = jnp.tanh(x.mean((1, 2)) @ np.tile(MATRIX, 16))
    return conv(code.reshape(-1, 4, 4, 4), MATRIX[None, None])


def of_rows_by_rows(x):
    rows = x.mean(2)
    return conv(jnp.einsum("nic,njc->nij", rows, rows)[..., None], MATRIX[None, None, :1])


def inverted(x):
    matrices = jnp.linalg.inv(x.transpose(0, 3, 1, 2) + 30 * jnp.eye(H)[None, None])
    return conv(matrices.transpose(0, 2, 3, 1), MATRIX[None, None])


@pytest.mark.filterwarnings("ignore::bc_jax.sparse.BlockSparsityWarning")
@pytest.mark.parametrize(
    "network",
    [of_channels_by_channels, of_channels_pooled, decoded, of_rows_by_rows, inverted],
)
def test_what_the_whole_frame_gave_is_no_image_of_it(network):
    state, frames = one_block(network, (2, H, H, C))
    assert_close(state.outputs, network(frames))


def test_channels_as_many_as_rows_are_none():
    """Where nothing tells which axes are rows and columns, and several could be."""

    def network(x):
        kernel = np.tile(MATRIX, 4)[None, None]  # [1, 1, C, H]
        x = conv(x.transpose(0, 3, 1, 2), kernel, layout="NCHW")
        return lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, jnp.tanh(c[1])), (0, x))[1]

    state, frames = one_block(network, (2, H, H, C))
    assert_close(state.outputs, network(frames))


@pytest.mark.filterwarnings("ignore::bc_jax.sparse.BlockSparsityWarning")
@pytest.mark.parametrize(
    ("output", "axes"),
    [
        (lambda y: jnp.argmax(y, axis=-1), (0, 1, 2)),
        (lambda y: y[..., 0], (0, 1, 2)),
        (lambda y: y.transpose(0, 3, 1, 2), (0, 2, 3)),
    ],
    ids=["classes", "depth", "channels first"],
)
def test_a_map_that_the_whole_frame_gave_is_copied_where_nothing_is_executed(output, axes):
    def network(x):
        return output(jnp.cumsum(x, axis=1))

    state, frames = one_block(network)
    before = network(np.random.default_rng(1).random((2, H, W, C), np.float32))
    after = np.array(state.outputs)
    at = {axes[0]: 1, axes[1]: slice(0, BLOCK), axes[2]: slice(2 * BLOCK, 3 * BLOCK)}
    place = tuple(at.get(axis, slice(None)) for axis in range(after.ndim))
    np.testing.assert_array_equal(after[place], np.asarray(network(frames))[place])
    after[place] = np.asarray(before)[place]
    np.testing.assert_array_equal(after, before)


def test_what_is_picked_is_picked_alone():
    """What is not finite, as a mask of scores, stays where it is."""

    def network(x):  # each two rows are exchanged: no resizing by a factor
        x = jnp.where(x > 0.5, -jnp.inf, x)
        return jnp.take(x, np.arange(H) ^ 1, axis=1)

    state, frames = one_block(network)
    np.testing.assert_array_equal(state.outputs, network(frames))
