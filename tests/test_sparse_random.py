"""Networks made of random operations, whose axes lie anywhere, against what they are.

All blocks executed is the dense network, by a grid and without one; an unchanged frame stays it,
whatever is executed. Each network is of a seed of its own, so that they are the same every time.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from zoo import assert_close

import bc_jax

BLOCK, GRID, LARGEST = (8, 4), (2, 3), 40_000


def convolution(rng, shape, axis):
    layout = ("NHWC", "NCHW", "NWHC")[rng.integers(3)]
    sides, channels = rng.integers(1, 5, 2), shape[layout.index("C")]
    kernel = rng.normal(size=(*sides, channels, 4)).astype(np.float32) / channels
    padding = "SAME" if rng.random() < 0.6 else rng.integers(-1, 3, (2, 2)).tolist()
    stride, gap = rng.integers(1, 3, 2).tolist()
    return lambda x: lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, rhs_dilation=(gap, gap),
        dimension_numbers=(layout, "HWIO", layout),
    )  # fmt: skip


def pool(rng, shape, axis):
    window, strides = [1] * len(shape), [1] * len(shape)
    for a in rng.choice(np.arange(1, len(shape)), 2, replace=False):
        window[a], strides[a] = rng.integers(2, 4), rng.integers(1, 3)
    padding = ("SAME", "VALID")[rng.integers(2)]
    return lambda x: lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)


def transpose(rng, shape, axis):
    order = (0, *(1 + rng.permutation(len(shape) - 1)).tolist())
    return lambda x: x.transpose(order)


def merge(rng, shape, axis):
    sides = (*shape[: axis - 1], shape[axis - 1] * shape[axis], *shape[axis + 1 :])
    return lambda x: x.reshape(sides)


def divide(rng, shape, axis):
    parts = (2, shape[axis] // 2) if rng.random() < 0.5 else (shape[axis] // 2, 2)
    return lambda x: x.reshape(*shape[:axis], *parts, *shape[axis + 1 :])


def resize(rng, shape, axis):
    method = ("nearest", "bilinear", "cubic")[rng.integers(3)]
    sides = list(shape)
    sides[axis] = max(1, int(sides[axis] * (2, 0.5, 1.5)[rng.integers(3)]))
    return lambda x: jax.image.resize(x, sides, method)


def surround(rng, shape, axis):
    mode = ("constant", "reflect", "edge", "symmetric", "wrap")[rng.integers(5)]
    pads = [(0, 0)] * len(shape)
    pads[axis] = tuple(rng.integers(0, 3, 2).tolist())
    return lambda x: jnp.pad(x, pads, mode)


def cut(rng, shape, axis):
    places = slice(int(rng.integers(2)), None, int(rng.integers(1, 3)))
    return lambda x: x[(slice(None),) * axis + (places,)]


def pick(rng, shape, axis):
    near = np.arange(shape[axis]) + rng.integers(-2, 3)
    any_place = rng.integers(0, shape[axis], shape[axis])
    index = any_place if rng.random() < 0.3 else np.clip(near, 0, shape[axis] - 1)
    return lambda x: jnp.take(x, index, axis=axis)


def write(rng, shape, axis):
    places = (slice(None),) * axis + (slice(0, 1 + int(rng.integers(shape[axis]))),)
    return lambda x: x.at[places].multiply(0.5)


def reduce(rng, shape, axis):
    operation = (jnp.sum, jnp.max, jnp.mean)[rng.integers(3)]
    return lambda x: x - 0.1 * operation(x, axis=axis, keepdims=True)


def along(rng, shape, axis):
    operation = (jnp.sort, jnp.cumsum, jnp.flip, jax.nn.softmax)[rng.integers(4)]
    return lambda x: operation(x, axis=axis)


def join(rng, shape, axis):
    together = (jnp.concatenate, jnp.stack)[rng.integers(2)]
    return lambda x: together([x, jnp.tanh(x)], axis)


def dense(rng, shape, axis):
    matrix = rng.normal(size=(shape[axis], 4)).astype(np.float32) / shape[axis]
    return lambda x: jnp.tensordot(x, matrix, ((axis,), (0,)))


def attend(rng, shape, axis):
    def attention(x):
        t = x.reshape(x.shape[0], -1, x.shape[-1])
        scores = jax.nn.softmax(jnp.einsum("nqc,nkc->nqk", t, jnp.tanh(t)), axis=-1)
        return (t + scores @ t).reshape(x.shape)

    return attention


OPERATIONS = (
    *(convolution, convolution, pool, transpose, merge, divide, resize, resize, surround, surround),
    *(cut, pick, pick, write, reduce, along, join, dense, attend),
)


def random_network(seed: int, shape: tuple[int, ...]):
    """A function of frames of some operations that this shape, and what becomes of it, allows."""
    rng, functions, names = np.random.default_rng(seed), [], []
    usual = int(rng.integers(1, 3))  # the axis of most operations, rows or columns at first
    for _ in range(30):
        operation = OPERATIONS[rng.integers(len(OPERATIONS))]
        axis = usual if rng.random() < 0.6 else int(rng.integers(1, len(shape)))
        try:
            function = operation(rng, shape, axis)
            after = jax.eval_shape(function, jax.ShapeDtypeStruct(shape, np.float32)).shape
        except (TypeError, ValueError, IndexError):  # not of this shape
            continue
        if 0 < np.prod(after) < LARGEST and 3 <= len(after) <= 5:
            functions, names, shape = [*functions, function], [*names, operation.__name__], after
        if len(functions) == 3 + seed % 6:
            break

    def apply(_, x):
        for function in functions:
            x = function(x)
        return x

    return apply, names


@pytest.mark.filterwarnings("ignore::bc_jax.sparse.BlockSparsityWarning")
@pytest.mark.parametrize("seed", range(80))
def test_random_operations_are_what_they_are(seed):
    rng = np.random.default_rng(seed)
    shape = (1 + seed % 2, GRID[0] * BLOCK[0], GRID[1] * BLOCK[1], 4)
    frames = rng.random((2, *shape), np.float32)
    apply, names = random_network(seed, shape)
    where = " ".join(names)
    sparse, wanted = bc_jax.blockcopy(apply, BLOCK), jax.jit(apply)(None, frames[1])
    run = jax.jit(sparse.advance)
    before = run(None, sparse.init(None, frames[0]), frames[0])
    by_grid = run(None, before, frames[1], np.ones((shape[0], *GRID), bool))
    assert_close(by_grid.outputs, wanted, where=where)
    assert_close(run(None, before, frames[1]), by_grid, where=where)
    again = run(None, by_grid, frames[1], rng.random((shape[0], *GRID)) < 0.4)
    assert_close(again.outputs, wanted, where=where)
