"""The engine under JAX's transformations, what it traces, and what `explain` tells."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from zoo import assert_close, assert_equal, frames_of, random_grids

import bc_jax

GRID = (zoo.N, zoo.H // 8, zoo.W // 8)


def network(p, x):
    """Strided, normalised over channels, with a gate from the whole frame."""
    x = jax.nn.relu(zoo.conv(x, p["a"], 2))
    x = x / jnp.linalg.norm(x + 0.1, axis=-1, keepdims=True)
    gate = jax.nn.sigmoid(jnp.log(x.mean(axis=(1, 2), keepdims=True) + 0.5))
    return zoo.conv(jnp.sqrt(jax.nn.softplus(zoo.conv(x, p["b"]))) * gate, p["head"])


SHAPES = {"a": (3, 3, 3, 6), "b": (3, 3, 6, 6), "head": (3, 3, 6, 4)}


def params(seed: int = 0):
    shapes = {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in SHAPES.items()}
    return zoo.random_like(shapes, seed)


@pytest.fixture(scope="module")
def sparse():
    return bc_jax.blockcopy(network, block_size=8)


@pytest.fixture(scope="module")
def clip():
    """Frames [T, N, H, W, 3] and grids [T, N, Gh, Gw]."""
    return frames_of(0, 4), random_grids(4, GRID, seed=0)


@pytest.fixture(scope="module")
def played(sparse, clip):
    """Outputs [T, N, h, w, C] of the clip, frame by frame, and the last state."""
    step, state, outputs = jax.jit(sparse), sparse.init(params(), clip[0][0]), []
    for frame, grid in zip(*clip, strict=True):
        out, state = step(params(), state, frame, grid)
        outputs.append(out)
    return np.stack(outputs), state


@pytest.mark.parametrize("promotion", ["standard", "strict"])
def test_indices_are_of_32_bits_where_others_are_of_64(promotion):
    def dilated(p, x):
        for kernel, dilation in ((p["a"], 1), (p["b"], 8), (p["head"], 1)):
            x = zoo.conv(x, kernel, rhs_dilation=(dilation, dilation))
        return x

    frames, grids = frames_of(0, 2), random_grids(2, GRID, seed=1)
    grids[0] = True

    def last(dtype):
        given = jax.tree.map(lambda x: x.astype(dtype), params())
        step = bc_jax.blockcopy(dilated, block_size=8)
        state = step.init(given, frames[0].astype(dtype))
        for frame, grid in zip(frames, grids, strict=True):
            out, state = jax.jit(step)(given, state, frame.astype(dtype), grid)
        return out

    expected = last(jnp.float32)
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_numpy_dtype_promotion", promotion)
    try:
        for dtype in (jnp.float32, jnp.float64):
            out = last(dtype)
            assert out.dtype == dtype
            np.testing.assert_allclose(out, expected, atol=1e-4)
    finally:
        jax.config.update("jax_enable_x64", False)
        jax.config.update("jax_numpy_dtype_promotion", "standard")


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_no_dtype_is_promoted_for_a_network_that_promotes_none(dtype):
    def several(p, x):
        """A folded scale, a dilated, a depthwise and a wide convolution, and resizing."""
        x = zoo.conv(x, p["a"], rhs_dilation=(2, 2)) * p["scale"]
        x = zoo.conv(x, p["each"], feature_group_count=6)
        x = jax.image.resize(x, (*x.shape[:1], zoo.H * 2, zoo.W * 2, 6), "bilinear")
        return zoo.conv(zoo.conv(x, p["wide"]), p["head"])

    shapes = {"a": (3, 3, 3, 6), "scale": (1, 1, 1, 6), "each": (3, 3, 1, 6), "wide": (3, 3, 6, 48)}
    shapes["head"] = (3, 3, 48, 48)
    shapes = {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in shapes.items()}
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    try:
        given = zoo.random_like(shapes, dtype=dtype)
        frames = jnp.asarray(frames_of(0)[0], dtype)
        outputs, _ = jax.jit(_all_blocks(several, given, frames))(given)
        assert outputs.dtype == dtype
        tolerance = 0.05 if dtype == "bfloat16" else 1e-6
        expected = np.asarray(several(given, frames), np.float64)
        assert_close(np.asarray(outputs, np.float64), expected, tolerance=tolerance)
    finally:
        jax.config.update("jax_enable_x64", False)
        jax.config.update("jax_numpy_dtype_promotion", "standard")


def _all_blocks(network, given, frames):
    step = bc_jax.blockcopy(network, block_size=16)
    grid = jnp.ones(step.grid_shape(frames), bool)
    return lambda p: step(p, step.init(given, frames), frames, grid)


def test_one_trace_per_capacity_whatever_the_grid(clip):
    networks, steps = [], []

    def counted(p, x):
        networks.append(x.shape)
        return network(p, x)

    sparse = bc_jax.blockcopy(counted, block_size=8)

    @functools.partial(jax.jit, static_argnames="capacity")
    def step(p, state, frames, grid, capacity):
        steps.append(capacity)
        return sparse(p, state, frames, grid, capacity=capacity)

    state, frames = sparse.init(params(), clip[0][0]), clip[0]
    _, state = step(params(), state, frames[0], clip[1][0], capacity=72)
    once = len(networks)
    for grid in (clip[1][1], clip[1][2], ~clip[1][3], np.zeros(GRID, bool)):
        _, state = step(params(), state, frames[1], grid, capacity=72)
    assert (steps, len(networks)) == ([72], once)
    for capacity in (30, 40, 30, 72):
        _, state = step(params(), state, frames[2], clip[1][1], capacity=capacity)
    assert steps == [72, 30, 40]
    assert len(networks) <= 3 * once


class Nameless:
    """A leaf that cannot be told from others."""

    __hash__ = None

    def __init__(self, factor):
        self.factor = factor


@pytest.mark.parametrize(
    ("kinds", "traces"),
    [((jax.nn.relu, jnp.tanh), 2), (("relu", "tanh"), 2), ((Nameless(2), Nameless(3)), 5)],
    ids=["functions", "names", "unhashable"],
)
def test_other_leaves_than_arrays_have_traces_of_their_own(clip, kinds, traces):
    frames, _ = clip
    calls = []

    def network(p, x):
        calls.append(p["kind"])
        y, kind = zoo.conv(x, p["a"], 2), p["kind"]
        if isinstance(kind, Nameless):
            return y * kind.factor
        return getattr(jax.nn, kind)(y) if isinstance(kind, str) else kind(y)

    sparse = bc_jax.blockcopy(network, block_size=8)
    state = sparse.init({"a": params()["a"], "kind": kinds[0]}, frames[0])
    for _ in range(2):
        for kind in kinds:
            p = {"a": params()["a"], "kind": kind}
            outputs, _ = sparse(p, state, frames[0], jnp.ones(GRID, bool))
            traced = len(calls)
            assert_close(outputs, network(p, frames[0]))
            del calls[traced:]
    assert len(calls) == traces


def test_the_step_runs_without_jit(sparse, clip, played):
    frames, grids = clip
    state = sparse.init(params(), frames[0])
    for t in range(2):
        out, state = sparse(params(), state, frames[t], grids[t])
        assert_close(out, played[0][t], where=f"frame {t}")


def test_jit_with_donated_state(sparse, clip, played):
    step = jax.jit(sparse, donate_argnums=1)
    state, outputs = sparse.init(params(), clip[0][0]), []
    for frame, grid in zip(*clip, strict=True):
        out, state = step(params(), state, frame, grid)
        outputs.append(np.asarray(out))
    assert_close(np.stack(outputs), played[0])


def test_scan_is_the_loop(sparse, clip, played):
    @jax.jit
    def play(p, state, frames, grids):
        def step(state, now):
            out, state = sparse(p, state, *now)
            return state, out

        return jax.lax.scan(step, state, (frames, grids))

    state, outputs = play(params(), sparse.init(params(), clip[0][0]), *clip)
    assert_close(outputs, played[0])
    assert_close(state, played[1], where="state")


def test_vmap_over_params_and_grids_is_the_loop(sparse, clip):
    seeds = (1, 2)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[params(seed) for seed in seeds])
    frames, grids = clip[0][:2], np.stack([clip[1][:2], random_grids(2, GRID, seed=5)])

    def play(p, grids):
        state = sparse.init(p, frames[0])
        for t in range(2):
            out, state = sparse(p, state, frames[t], grids[t], capacity=[72, 50][t])
        return out, state

    outputs = jax.jit(jax.vmap(play))(stacked, grids)
    single = jax.jit(play)
    for i, seed in enumerate(seeds):
        wanted = single(params(seed), grids[i])
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], outputs), wanted)


def test_eval_shape_of_init_and_step(sparse, clip):
    frames = jax.ShapeDtypeStruct(clip[0][0].shape, jnp.float32)
    shapes = jax.eval_shape(params)
    state = jax.eval_shape(sparse.init, shapes, frames)
    real = sparse.init(params(), clip[0][0])
    assert jax.tree.map(lambda a: (a.shape, a.dtype), state) == jax.tree.map(
        lambda a: (a.shape, a.dtype), real
    )
    assert all(not leaf.any() for leaf in jax.tree.leaves(real))
    grid = jax.ShapeDtypeStruct(GRID, bool)
    out, after = jax.eval_shape(functools.partial(sparse, capacity=9), shapes, state, frames, grid)
    assert out.shape == (zoo.N, zoo.H // 2, zoo.W // 2, 4)
    assert after == state


def test_to_begin_takes_one_program_for_each_constant_and_one_for_the_state(caplog):
    def resized(p, x):
        x = zoo.resize(zoo.conv(x, p), 1 / 2, "bilinear")
        return zoo.resize(x, 2, "bilinear")

    kernel, frames = np.ones((3, 3, 3, 5), np.float32), np.zeros((2, 80, 112, 3), np.float32)
    with jax.log_compiles():
        bc_jax.blockcopy(resized, block_size=16).init(kernel, frames)
    compiled = [said for said in caplog.messages if said.startswith("Finished XLA compilation")]
    assert 0 < len(compiled) <= 4 + 1, compiled  # a matrix for rows and columns, down and up


def test_the_gradient_is_the_dense_one_when_all_is_executed(sparse, clip):
    frames, grids = clip
    weights = np.random.default_rng(0).normal(size=(zoo.N, zoo.H // 2, zoo.W // 2, 4))
    weights = weights.astype(np.float32)

    def loss(p, out):
        return (out * weights).sum() + sum((leaf**2).sum() for leaf in jax.tree.leaves(p))

    @jax.jit
    @jax.grad
    def dense(p):
        return loss(p, network(p, frames[1]))

    @jax.jit
    def gradient(p, state, grid):
        return jax.grad(lambda p: loss(p, sparse(p, state, frames[1], grid)[0]))(p)

    _, state = jax.jit(sparse)(params(), sparse.init(params(), frames[0]), frames[0], grids[0])
    assert_close(gradient(params(), state, grids[0]), dense(params()), tolerance=1e-3)
    # Room for all 72 blocks and few of them executed: what fills the room must not be felt. Its
    # logarithms, roots and norms of zero have infinite derivatives.
    for grid in (grids[1], np.zeros_like(grids[1])):
        for leaf in jax.tree.leaves(gradient(params(), state, grid)):
            assert np.isfinite(leaf).all()


def test_the_gradient_of_unexecuted_blocks_is_zero(sparse, clip):
    frames, grids = clip
    _, state = jax.jit(sparse)(params(), sparse.init(params(), frames[0]), frames[0], grids[0])
    nothing = np.zeros_like(grids[0])
    gradient = jax.jit(jax.grad(lambda p: sparse(p, state, frames[1], nothing)[0].sum()))(params())
    assert_equal(gradient, jax.tree.map(jnp.zeros_like, params()))


@jax.custom_vjp
def rounded(x):
    return jnp.round(3 * x)


rounded.defvjp(lambda x: (rounded(x), x), lambda x, g: (g * jnp.exp(-x * x),))
spike = jax.custom_jvp(lambda x, at: jnp.where(x > at, 1.0, 0.0).astype(x.dtype))
spike.defjvp(lambda p, t: (spike(*p), (t[0] - t[1]) / (1 + abs(p[0] - p[1])) ** 2))


@pytest.mark.parametrize(
    "function",
    [rounded, jax.jit(rounded), lambda x: spike(x, 0.2), lambda x: spike(x, 0.1 * x), jax.nn.relu],
    ids=["custom_vjp", "within jit", "a number", "two arrays", "relu"],
)
def test_a_derivative_of_its_own_is_kept(function, clip):
    frames, _ = clip

    def network(p, x):
        return zoo.conv(function(zoo.conv(x, p["a"], 2)), p["b"])

    def loss(apply):
        return jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(apply(p)))))

    sparse, p = bc_jax.blockcopy(network, block_size=8), params()
    _, state = sparse(p, sparse.init(p, frames[0]), frames[0])
    wanted = loss(lambda p: network(p, frames[1]))(p)
    for grid in (None, np.ones(GRID, bool)):
        assert_close(loss(lambda p, grid=grid: sparse(p, state, frames[1], grid)[0])(p), wanted)
    # Of some blocks, of an unchanged frame: one program has room for few, the other for all.
    some = np.random.default_rng(0).random(GRID) < 0.4
    gradients = [
        loss(lambda p, k=k: sparse(p, state, frames[0], some, capacity=k)[0])(p)
        for k in (int(some.sum()), None)
    ]
    assert_close(*gradients)
    assert any(leaf.any() for leaf in jax.tree.leaves(gradients[0]))


def test_readers_of_one_tensor_share_one_halo():
    kernels = np.ones((5, 3, 3, 6, 6), np.float32)

    def branches(rates):
        def network(p, x):
            x = zoo.conv(x, jnp.ones((3, 3, 3, 6)))
            return sum(zoo.conv(x, k, rhs_dilation=(r, r)) for k, r in zip(p, rates, strict=True))

        frames = np.zeros((1, 128, 128, 3), np.float32)
        sparse = bc_jax.blockcopy(network, block_size=64)
        return sparse.explain(kernels[: len(rates)], frames).state_bytes

    widest = branches([16])
    assert branches([1]) < widest
    assert branches([1, 2, 4, 8, 16]) <= 1.05 * widest


def test_memory_is_rings_and_not_whole_features():
    def network(p, x):
        for kernel in p:
            x = zoo.conv(x, kernel)
        return x[..., :1]

    kernels = [np.ones((3, 3, 3, 32), np.float32)] + [np.ones((3, 3, 32, 32), np.float32)] * 4
    frames = np.zeros((1, 256, 256, 3), np.float32)
    report = bc_jax.blockcopy(network, block_size=64).explain(kernels, frames)
    features, pixels = 4 * 256 * 256 * 32 * 4, 256 * 256 * (3 + 1) * 4
    assert report.state_bytes < pixels + features / 4


def test_macs_are_the_dense_networks():
    def network(p, x):
        x = zoo.conv(x, p["stem"], 2)
        x = zoo.conv(x, p["depthwise"], feature_group_count=8)
        x = zoo.conv(x, p["dilated"], rhs_dilation=(2, 2))
        return x @ p["dense"]

    shapes = {
        "stem": (7, 7, 3, 8),
        "depthwise": (3, 3, 1, 8),
        "dilated": (3, 3, 8, 4),
        "dense": (4, 5),
    }
    kernels = {k: np.ones(s, np.float32) for k, s in shapes.items()}
    frames = np.zeros((1, 64, 96, 3), np.float32)
    report = bc_jax.blockcopy(network, block_size=16).explain(kernels, frames)
    pixels = 32 * 48
    assert report.macs == pixels * (7 * 7 * 3 * 8 + 3 * 3 * 8 + 3 * 3 * 8 * 4 + 4 * 5)


def test_explain_is_a_table_that_names_the_layers_and_the_fallbacks(sparse, clip):
    text = str(sparse.explain(params(), clip[0][0]))
    assert len(text.splitlines()) > 5
    assert "conv_general_dilated" in text or "conv" in text
    assert "reduce_sum" in text


def test_explain_computes_nothing():
    frames = jax.ShapeDtypeStruct((1, 1024, 2048, 3), jnp.float32)
    report = bc_jax.blockcopy(network, block_size=128).explain(jax.eval_shape(params), frames)
    pixels = 512 * 1024
    assert report.macs == pixels * 9 * (3 * 6 + 6 * 6 + 6 * 4)


@pytest.mark.parametrize("dtype, gain", [("bfloat16", 0.5), ("uint8", 2), ("float32", 2)])
def test_a_number_among_the_parameters_takes_the_type_of_what_it_meets(dtype, gain):
    def scaled(p, x):
        return x * p["gain"]

    x = jnp.full((1, 16, 16, 3), 200).astype(dtype)
    sparse, given = bc_jax.blockcopy(scaled, 8), {"gain": gain}
    out, _ = sparse(given, sparse.init(given, x), x)
    assert out.dtype == x.dtype
    assert_equal(out, scaled(given, x))
    strong = {"gain": jnp.asarray(gain, jnp.float32)}  # is another program
    assert sparse(strong, sparse.init(strong, x), x)[0].dtype == scaled(strong, x).dtype


def row_attention(_, x):
    scores = jnp.einsum("nhwc,nhvc->nhwv", x, jnp.tanh(x))
    return jnp.einsum("nhwv,nhvc->nhwc", jax.nn.softmax(scores, -1), x)


@pytest.mark.parametrize("rows, streams", [(1, 1), (2, 1), (1, 2)])
def test_attention_along_rows_under_plain_jit(rows, streams):
    # XLA computes a softmax of a product with an array repeated for each tile wrongly.
    x = jax.random.uniform(jax.random.key(0), (streams, 8 * rows, 32, 3))
    sparse = bc_jax.blockcopy(row_attention, 8)
    grid = jnp.ones(sparse.grid_shape(x), bool)
    expected = row_attention(None, x)
    for run in (sparse, jax.jit(sparse), sparse.jit()):
        out, _ = run(None, sparse.init(None, x), x, grid)
        assert_close(out, expected)


TABLE, KNOTS = np.arange(20.0).reshape(5, 4).astype(np.float32), np.linspace(0, 1, 9)

OPERATIONS = {
    "apply": lambda x: x.at[..., 0].apply(jnp.tanh),
    "tile": lambda x: jnp.tile(x, (1, 1, 1, 2)),
    "interp": lambda x: jnp.interp(x, KNOTS, KNOTS**2),
    "searchsorted": lambda x: jnp.searchsorted(KNOTS, x).astype(jnp.float32),
    "digitize": lambda x: jnp.digitize(x, KNOTS).astype(jnp.float32),
    "a table by pixels that were flipped": lambda x: jnp.asarray(TABLE)[
        (jnp.flip(x, 1)[..., 0] * 4).astype(int)
    ],
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_that_were_wrong_or_stopped(name):
    def operation(_, x):
        return OPERATIONS[name](jnp.asarray(x))

    old, new = np.random.default_rng(0).random((2, 1, 16, 24, 3), dtype=np.float32)
    sparse, grid = bc_jax.blockcopy(operation, 8), np.zeros((1, 2, 3), bool)
    grid[0, :, 1] = True
    out, state = sparse(None, sparse.init(None, old), old)
    assert_close(out, operation(None, old))
    held = np.where(np.kron(grid[0], np.ones((8, 8), bool))[..., None], new, old)
    assert_close(sparse(None, state, new, grid)[0], operation(None, held))
    whole = any(row.where == "whole" for row in sparse.explain(None, old).rows)
    # Newer versions of JAX search in an operation of their own.
    traced = str(jax.make_jaxpr(functools.partial(operation, None))(old))
    assert whole != (name == "tile" or "lt_to" in traced or "le_to" in traced)
