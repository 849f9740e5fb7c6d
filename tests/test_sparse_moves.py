"""Networks that move pixels at random, between layers of each pixel by itself.

One block changes and is executed. Wherever its pixels are moved to, the result is the dense
network's: what runs on blocks has them in their own, and all else is computed for whole frames.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from test_sparse_places import C, layer, one_block
from zoo import assert_close

FRAMES = [(2, 16, 32, C), (2, 16, 16, C)]  # the second as high as it is wide
LARGEST = 40_000


def places(axis, chosen):
    return (slice(None),) * axis + (chosen,)


def roll(rng, size, axis):
    by = int(rng.integers(-size, size))
    return lambda x: jnp.roll(x, by, axis)


def flip(rng, size, axis):
    return lambda x: jnp.flip(x, axis)


def cut(rng, size, axis):
    kept = int(rng.integers(size // 2, size))
    first = int(rng.integers(0, size - kept + 1))
    return lambda x: x[places(axis, slice(first, first + kept))]


def half(rng, size, axis):
    first = int(rng.integers(0, size // 2 + 1))
    return lambda x: lax.slice_in_dim(x, first, first + size // 2, axis=axis)


def half_computed(rng, size, axis):
    def network(x):
        first = jnp.abs(100 * x.min()).astype(int) % (size // 2)
        return lax.dynamic_slice_in_dim(x, first, size // 2, axis=axis)

    return network


def pad(rng, size, axis):
    mode, pads = ("constant", "edge", "reflect", "wrap")[rng.integers(4)], [(0, 0)] * 4
    pads[axis] = tuple(rng.integers(0, 9, 2).tolist())
    return lambda x: jnp.pad(x, pads, mode)


def double(rng, size, axis):
    return lambda x: jnp.concatenate([x, jnp.tanh(x)], axis)


def exchange(rng, size, axis):
    at = int(rng.integers(1, size))
    parts = places(axis, slice(at, None)), places(axis, slice(0, at))
    return lambda x: jnp.concatenate([x[part] for part in parts], axis)


def exchange_halves(rng, size, axis):
    return lambda x: jnp.concatenate(jnp.split(x, 2, axis)[::-1], axis)


def weave(rng, size, axis):
    even, odd = places(axis, slice(0, None, 2)), places(axis, slice(1, None, 2))

    def network(x):
        made = jnp.zeros(x.shape, x.dtype)
        return made.at[even].set(layer(x[even])).at[odd].set(layer(x[odd]))

    return network


def tile(rng, size, axis):
    return lambda x: jnp.tile(x, [2 if a == axis else 1 for a in range(4)])


def repeat(rng, size, axis):
    return lambda x: jnp.repeat(x, 2, axis)


def every_other(rng, size, axis):
    first = int(rng.integers(2))
    return lambda x: x[places(axis, slice(first, None, 2))]


def turn(rng, size, axis):
    return lambda x: x.swapaxes(1, 2)


def in_windows(rng, size, axis):
    def network(x):
        n, h, w, c = x.shape
        y = x.reshape(n, h // 4, 4, w // 4, 4, c).transpose(0, 1, 3, 2, 4, 5)
        y = layer(y.reshape(-1, 16, c)).reshape(n, h // 4, w // 4, 4, 4, c)
        return y.transpose(0, 1, 3, 2, 4, 5).reshape(x.shape)

    return network


def as_tokens(rng, size, axis):
    step = (1, -1)[rng.integers(2)]

    def network(x):
        return layer(x.reshape(x.shape[0], -1, x.shape[3]))[:, ::step].reshape(x.shape)

    return network


def shuffle(rng, size, axis):
    order = rng.permutation(size)
    return lambda x: jnp.take(x, order, axis=axis)


def write_on_canvas(rng, size, axis):
    first, update = int(rng.integers(0, size)), rng.random() < 0.5

    def network(x):
        canvas = jnp.zeros([2 * s if a == axis else s for a, s in enumerate(x.shape)], x.dtype)
        if update:
            return lax.dynamic_update_slice_in_dim(canvas, x, first, axis)
        return canvas.at[places(axis, slice(first, first + size))].set(x)

    return network


def resize(rng, size, axis):
    made = size * 2 if rng.random() < 0.5 else size // 2

    def network(x):
        shape = [made if a == axis else s for a, s in enumerate(x.shape)]
        return jax.image.resize(x, shape, "nearest")

    return network


MOVES = (
    *(roll, flip, cut, half, half_computed, pad, double, exchange, exchange_halves, weave, tile),
    *(repeat, every_other, turn, in_windows, as_tokens, shuffle, write_on_canvas, resize),
)


def random_network(seed: int, shape: tuple[int, ...]):
    """A function of frames, of two to seven moves with layers between them; and what it is."""
    rng, functions, names = np.random.default_rng(seed), [], []
    while len(names) < 2 + seed % 6:
        move, axis = MOVES[rng.integers(len(MOVES))], int(rng.integers(1, 3))
        try:
            function = move(rng, shape[axis], axis)
            after = jax.eval_shape(function, jax.ShapeDtypeStruct(shape, np.float32)).shape
        except (TypeError, ValueError):  # not of this shape
            continue
        if min(after) > 1 and np.prod(after) < LARGEST:
            between = [layer] if rng.random() < 0.5 else []
            functions, names, shape = [*functions, function, *between], [*names, move], after

    def network(x):
        x = jnp.asarray(x)
        for function in functions:
            x = function(x)
        return x

    return network, " ".join(move.__name__ for move in names)


@pytest.mark.filterwarnings("ignore::bc_jax.sparse.BlockSparsityWarning")
@pytest.mark.parametrize("seed", range(48))
def test_what_is_moved_at_random_is_this_frames(seed):
    shape = FRAMES[seed % 2]
    network, names = random_network(seed, shape)
    place = np.random.default_rng(seed).integers(0, (shape[1] // 4, shape[2] // 4)).tolist()
    state, frames = one_block(network, shape, place)
    assert_close(state.outputs, network(frames), where=names)
