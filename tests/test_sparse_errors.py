"""Wrong use of the engine: each error names what was given and what is possible."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import bc_jax

FRAMES = np.zeros((2, 32, 48, 3), np.float32)
GRID = np.ones((2, 4, 6), bool)


def network(p, x):
    return zoo.conv(jax.nn.relu(zoo.conv(x, p["a"], 2)), p["b"])


def params(width: int = 4):
    return {
        "a": jnp.ones((3, 3, 3, width), jnp.float32),
        "b": jnp.ones((3, 3, width, 2), jnp.float32),
    }


@pytest.fixture(scope="module")
def sparse():
    return bc_jax.blockcopy(network, block_size=8)


@pytest.fixture(scope="module")
def state(sparse):
    return sparse.init(params(), FRAMES)


def says(error: pytest.ExceptionInfo, *words) -> None:
    """Each word is in the error's text; a shape with any brackets."""
    for word in words:
        text = str(word).strip("(,)") if isinstance(word, tuple) else str(word)
        assert text in str(error.value), f"{str(error.value)!r} does not say {text!r}"


def test_frame_height_that_is_no_multiple_of_the_block():
    sparse = bc_jax.blockcopy(network, block_size=128)
    frames = jax.ShapeDtypeStruct((1, 1080, 1920, 3), jnp.float32)
    with pytest.raises(ValueError) as error:
        jax.eval_shape(sparse.init, params(), frames)
    says(error, "frame height 1080 is not a multiple of the block height 128")
    says(error, "pad to 1152x1920", "block_size=(120, 128)")


def test_the_block_that_is_offered_fits_both_sides():
    with pytest.raises(ValueError) as error:
        bc_jax.blockcopy(network, block_size=60).grid_shape(np.zeros((1, 256, 384, 3)))
    says(error, "pad to 300x420 (bc_jax.data.pad_to_blocks)", "block_size=(64, 64)")


def test_frame_width_that_is_no_multiple_of_the_block():
    sparse = bc_jax.blockcopy(network, block_size=(8, 16))
    with pytest.raises(ValueError) as error:
        sparse.init(params(), np.zeros((1, 32, 40, 3), np.float32))
    says(
        error,
        "frame width 40 is not a multiple of the block width 16",
        "pad to 32x48",
        "block_size=",
    )


@pytest.mark.parametrize("shape", [(1, 3, 32, 48), (1, 1, 32, 48), (2, 4, 32, 32)])
def test_channels_that_come_first_are_told(sparse, shape):
    with pytest.raises(ValueError) as error:
        sparse.grid_shape(np.zeros(shape))
    says(error, "frames must be [N, H, W, C], with the channels last", shape)


@pytest.mark.parametrize("shape", [(0, 32, 48, 3), (1, 0, 48, 3), (1, 32, 0, 3), (1, 32, 48, 0)])
def test_frames_without_pixels_are_told(sparse, shape):
    with pytest.raises(ValueError) as error:
        sparse.grid_shape(np.zeros(shape))
    says(error, "frames must be [N, H, W, C], each at least 1", shape)


def test_explain_checks_the_block_size_too():
    sparse = bc_jax.blockcopy(network, block_size=32)
    with pytest.raises(ValueError, match="frame width 48 is not a multiple of the block width 32"):
        sparse.explain(params(), FRAMES)


@pytest.mark.parametrize("block", [0, -8, 8.0, (8,), (8, 8, 8), "8", (8, 0)])
def test_block_size_that_is_none(block):
    with pytest.raises((ValueError, TypeError), match="block_size") as error:
        bc_jax.blockcopy(network, block_size=block)
    says(error, repr(block))


@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 6, 4), (1, 4, 6), (4, 6), (2, 4, 6, 1)])
def test_grid_of_the_wrong_shape(sparse, state, shape):
    with pytest.raises(ValueError, match="grid") as error:
        sparse(params(), state, FRAMES, np.ones(shape, bool))
    says(error, shape, (2, 4, 6))


@pytest.mark.parametrize("dtype", ["float32", "int32", "uint8"])
def test_grid_of_the_wrong_type(sparse, state, dtype):
    with pytest.raises((ValueError, TypeError), match="grid") as error:
        sparse(params(), state, FRAMES, GRID.astype(dtype))
    says(error, dtype, "bool")


@pytest.mark.parametrize("shape", [(2, 40, 48, 3), (2, 32, 40, 3), (1, 32, 48, 3), (2, 32, 48, 4)])
def test_frames_of_another_size_than_the_states(sparse, state, shape):
    with pytest.raises(ValueError, match="frames") as error:
        sparse(params(), state, np.zeros(shape, np.float32), GRID)
    says(error, shape, (2, 32, 48, 3))


def test_frames_of_another_type_than_the_states(sparse, state):
    with pytest.raises((ValueError, TypeError), match="frames") as error:
        sparse(params(), state, FRAMES.astype(np.uint8), GRID)
    says(error, "uint8", "float32")


@pytest.mark.parametrize("shape", [(32, 48, 3), (32, 48), (1, 2, 32, 48, 3), (0, 32, 48, 3)])
def test_frames_that_are_not_nhwc(sparse, state, shape):
    for call in (
        lambda x: sparse.init(params(), x),
        lambda x: sparse(params(), state, x, GRID),
        lambda x: sparse.explain(params(), x),
    ):
        with pytest.raises(ValueError, match="frames") as error:
            call(np.zeros(shape, np.float32))
        says(error, shape)


@pytest.mark.parametrize("frames", [{"image": FRAMES}, (FRAMES, FRAMES), (2, 32, 48, 3)])
def test_frames_that_are_no_array(sparse, state, frames):
    for call in (
        lambda x: sparse.init(params(), x),
        lambda x: sparse(params(), state, x, GRID),
        lambda x: sparse.explain(params(), x),
    ):
        with pytest.raises(TypeError, match="frames are a ") as error:
            call(frames)
        says(error, type(frames).__name__, "joined along the channels", "ShapeDtypeStruct")


def test_an_output_that_is_no_array():
    sparse = bc_jax.blockcopy(lambda p, x: {"seg": network(p, x), "name": "net"}, block_size=8)
    with pytest.raises(TypeError) as error:
        sparse.init(params(), FRAMES)
    says(error, "'net'", "['name']", "no array")


@pytest.mark.parametrize("capacity", [0, -1, 49, 1000])
def test_capacity_out_of_range(sparse, state, capacity):
    with pytest.raises(ValueError, match="capacity") as error:
        sparse(params(), state, FRAMES, GRID, capacity=capacity)
    says(error, capacity, 1, 48)


@pytest.mark.parametrize("capacity", [3.0, "3", True, (3,)])
def test_capacity_that_is_no_integer(sparse, state, capacity):
    with pytest.raises((ValueError, TypeError), match="capacity") as error:
        sparse(params(), state, FRAMES, GRID, capacity=capacity)
    says(error, repr(capacity))


def test_capacity_that_is_traced(sparse, state):
    with pytest.raises((ValueError, TypeError), match="capacity"):
        jax.jit(lambda k: sparse(params(), state, FRAMES, GRID, capacity=k))(3)


def test_numpy_integers_are_capacities_and_block_sizes(state):
    sparse = bc_jax.blockcopy(network, block_size=np.int64(8))
    out, _ = sparse(params(), state, FRAMES, GRID, capacity=np.int32(5))
    assert out.shape == (2, 16, 24, 2)


def test_params_of_another_network_than_the_states(sparse, state):
    with pytest.raises(ValueError, match="state"):
        sparse(params(width=6), state, FRAMES, GRID)


def test_state_of_another_block_size(state):
    sparse = bc_jax.blockcopy(network, block_size=16)
    with pytest.raises(ValueError, match="state"):
        sparse(params(), state, FRAMES, np.ones((2, 2, 3), bool))


def test_a_state_survives_a_refused_frame(sparse, state):
    out, after = sparse(params(), state, FRAMES + 1, GRID)
    with pytest.raises(ValueError):
        sparse(params(), after, FRAMES[:, :-8], GRID)
    again, _ = sparse(params(), after, FRAMES, np.zeros_like(GRID))
    np.testing.assert_array_equal(out, again)


def test_errors_of_the_network_itself_are_its_own(sparse):
    with pytest.raises(KeyError, match="b"):
        sparse.init({"a": params()["a"]}, FRAMES)
