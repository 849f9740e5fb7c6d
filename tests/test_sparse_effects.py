"""Networks that do more than compute: they call Python, write into arrays, or draw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback
from zoo import assert_close, conv, frames_of, random_grids, random_like

import bc_jax
from bc_jax.sparse import BlockSparsityWarning

GRID = (3, 2, 3)
FRAMES = jnp.asarray(frames_of(0)[0])
SHAPES = {"a": (3, 3, 3, 4), "b": (3, 3, 4, 4)}
PARAMS = random_like({k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in SHAPES.items()})


def features(p, x):
    return conv(jax.nn.relu(conv(x, p["a"])), p["b"])


class Counter:
    """A number of calls, told as a float or as nothing."""

    def __init__(self):
        self.calls = 0

    def told(self, *_):
        self.calls += 1
        return np.float32(self.calls)

    def of(self, *operands, ordered=False):
        return io_callback(self.told, jax.ShapeDtypeStruct((), jnp.float32), *operands,
                           ordered=ordered)  # fmt: skip


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("read", [False, True])
@pytest.mark.parametrize("of", ["nothing", "parameters", "frames"])
def test_python_is_called_in_every_frame(of, read, ordered):
    counter = Counter()

    def network(p, x):
        y = features(p, x)
        operands = {"nothing": (), "parameters": (p["a"].sum(),), "frames": (y.mean(),)}[of]
        told = counter.of(*operands, ordered=ordered)
        return y + told if read else y

    sparse = bc_jax.blockcopy(network, 16)
    prepared, state = sparse.prepare(PARAMS, FRAMES), sparse.init(PARAMS, FRAMES)
    assert counter.calls == 0
    run = jax.jit(sparse)
    for frame, grid in enumerate((None, *random_grids(3, GRID, seed=0)), 1):
        out, state = run(prepared, state, FRAMES, grid)
        jax.block_until_ready(out)
        jax.effects_barrier()
        assert counter.calls == frame


def test_what_python_says_of_no_frame_is_not_known_before():
    counter = Counter()

    def network(p, x):
        return jax.lax.cond(counter.of() > 1.5, lambda y: y + 1, lambda y: y, features(p, x))

    sparse = bc_jax.blockcopy(network, 16)
    state, run = sparse.init(PARAMS, FRAMES), jax.jit(sparse)
    (first, state), (second, _) = (run(PARAMS, state, FRAMES) for _ in range(2))
    assert_close(second, first + 1)


@pytest.mark.parametrize("ordered", [False, True])
def test_python_that_is_called_stream_by_stream(ordered):
    counter = Counter()

    def one(p, x):
        y = features(p, x[None])[0]
        if ordered:
            return y + 0 * counter.of(y.sum(), ordered=True)
        like = jax.ShapeDtypeStruct(y.shape, y.dtype)
        return y + jax.pure_callback(lambda a: 2 * np.asarray(a), like, y)

    def network(p, x):
        return jax.lax.map(lambda image: one(p, image), x)

    sparse, expected = bc_jax.blockcopy(network, 16), jax.jit(network)(PARAMS, FRAMES)
    state, run = sparse.init(PARAMS, FRAMES), jax.jit(sparse)
    for grid in (None, *random_grids(2, GRID, seed=2)):
        out, state = run(PARAMS, state, FRAMES, grid)
        assert_close(out, expected)


def _into_zeros(p, x):
    y = features(p, x)
    sums = jax.new_ref(jnp.zeros_like(y))
    sums[...] = sums[...] + y
    sums[..., 0] = y[..., 1]
    return conv(sums[...], p["b"])


def _into_features(p, x):
    ref = jax.new_ref(features(p, x))
    ref[...] = ref[...] * 2
    return conv(ref[...], p["b"])


def _into_a_parameter(p, x):
    kernel = jax.new_ref(p["b"])
    kernel[...] = kernel[...] * 2
    return conv(features(p, x), kernel[...])


def _in_a_loop(p, x):
    y = features(p, x)
    sums = jax.new_ref(y)

    def turn(_, nothing):
        sums[...] = sums[...] + conv(y, p["b"])
        return nothing

    jax.lax.fori_loop(0, 3, turn, 0)
    return sums[...]


@pytest.mark.parametrize("network", [_into_zeros, _into_features, _into_a_parameter, _in_a_loop])
@pytest.mark.parametrize("called", [False, True])
def test_what_is_written_into_arrays_is_written_in_order(network, called):
    def in_the_midst(p, x):
        return jnp.tanh(jax.jit(network)(p, conv(x, jnp.eye(3)[None, None])))

    apply = in_the_midst if called else network
    sparse, dense = bc_jax.blockcopy(apply, 16), jax.jit(apply)
    state, run = sparse.init(PARAMS, FRAMES), jax.jit(sparse)
    out, state = run(PARAMS, state, FRAMES)
    assert_close(out, dense(PARAMS, FRAMES))
    for grid in random_grids(2, GRID, seed=1):
        assert_close(run(PARAMS, state, FRAMES, grid)[0], out)
    other = FRAMES[:, ::-1]
    assert_close(run(PARAMS, state, other, np.ones(GRID, bool))[0], dense(PARAMS, other))
    with pytest.warns(BlockSparsityWarning):
        report = sparse.explain(PARAMS, FRAMES)
    assert "no rule for jit that writes into arrays" in str(report)
    assert any(row.where == "blocks" for row in report.rows) == called
