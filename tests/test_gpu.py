"""On a GPU: block-sparse equals dense, and the runner runs and learns."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bc_jax import PolicyConfig, Runner, blockcopy, lowering, models
from bc_jax.lowering import level
from bc_jax.sparse import compiler_options

pytestmark = pytest.mark.gpu

BLOCK = 64


def small_cnn(params, frames):
    """Strides, a wide window, a grouped and a dilated convolution, a product, and pooling."""
    x = frames.astype(jnp.float32) / 255
    numbers = ("NHWC", "HWIO", "NHWC")
    for kernel, stride, dilation, groups in zip(
        params, (2, 1, 1, 1), (1, 2, 1, 1), (1, 1, 4, 1), strict=True
    ):
        x = jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", rhs_dilation=(dilation, dilation),
            dimension_numbers=numbers, feature_group_count=groups,
        )  # fmt: skip
        x = jax.nn.relu(x)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")


def cnn_network():
    rng = np.random.default_rng(0)
    shapes = ((5, 5, 3, 8), (3, 3, 8, 8), (3, 3, 2, 16), (1, 1, 16, 24))
    return small_cnn, [
        jnp.asarray(rng.normal(size=s) / np.sqrt(np.prod(s[:3])), jnp.float32) for s in shapes
    ]


def model_network(name: str, **options):
    network = models.load(name, **options)
    return network.apply_fn, network.params


NETWORKS = {
    "small CNN": cnn_network,
    "ESPNet": lambda: model_network("espnet_cityscapes"),
    "SwiftNet": lambda: model_network("swiftnet_rn18", key=jax.random.key(0)),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    """(apply_fn, params), with float32 that is not rounded to TF32."""
    with jax.default_matmul_precision("highest"):
        yield NETWORKS[request.param]()


def frames_of(seed: int, streams: int = 2) -> jax.Array:
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(0, 256, (streams, 256, 256, 3), dtype=np.uint8))


def assert_close(actual, desired, tolerance: float = 1e-3):
    """Equal within a share of the largest value: sums are taken in another order."""
    actual, desired = np.asarray(actual), np.asarray(desired)
    np.testing.assert_allclose(actual, desired, rtol=0, atol=tolerance * np.abs(desired).max())


def jitted(apply_fn):
    sparse = blockcopy(apply_fn, BLOCK)
    # Not donated: the tests look at former states.
    return sparse, jax.jit(sparse, static_argnames="capacity", compiler_options=compiler_options())


def test_all_blocks_equal_dense(network):
    apply_fn, params = network
    sparse, run = jitted(apply_fn)
    frames = frames_of(0)
    grid = jnp.ones(sparse.grid_shape(frames), bool)
    outputs, _ = run(params, sparse.init(params, frames), frames, grid, capacity=grid.size)
    assert_close(outputs, jax.jit(apply_fn)(params, frames))


def test_an_unchanged_frame_equals_dense_for_any_grid(network):
    apply_fn, params = network
    sparse, run = jitted(apply_fn)
    frames = frames_of(1)
    dense = jax.jit(apply_fn)(params, frames)
    shape = sparse.grid_shape(frames)
    full = int(np.prod(shape))
    _, state = run(
        params, sparse.init(params, frames), frames, jnp.ones(shape, bool), capacity=full
    )
    for seed in range(3):
        grid = jnp.asarray(np.random.default_rng(seed).uniform(size=shape) < 0.3)
        outputs, state = run(params, state, frames, grid, capacity=16)
        assert int(state.grid.sum()) == int(grid.sum())
        assert_close(outputs, dense)


def test_no_block_keeps_the_outputs(network):
    apply_fn, params = network
    sparse, run = jitted(apply_fn)
    frames = frames_of(2)
    shape = sparse.grid_shape(frames)
    state = sparse.init(params, frames)
    first, state = run(params, state, frames, jnp.ones(shape, bool), capacity=int(np.prod(shape)))
    again, _ = run(params, state, frames_of(3), jnp.zeros(shape, bool), capacity=16)
    np.testing.assert_array_equal(again, first)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_near_dense(dtype):
    apply_fn, params = model_network("espnet_cityscapes", dtype=jnp.dtype(dtype))
    sparse, run = jitted(apply_fn)
    frames = frames_of(4)
    grid = jnp.ones(sparse.grid_shape(frames), bool)
    outputs, _ = run(params, sparse.init(params, frames), frames, grid, capacity=grid.size)
    dense = jax.jit(apply_fn)(params, frames)
    assert outputs.dtype == dense.dtype
    assert_close(outputs.astype(jnp.float32), dense.astype(jnp.float32), tolerance=0.05)


# Rows, what is summed over, and columns.
PRODUCTS = (
    (2048, 8, 16), (512, 16, 32), (16, 512, 32), (38, 128, 42), (1, 7, 3), (5, 1, 9), (33, 31, 29),
    (608, 2048, 128), (8, 2048, 16), (154, 64, 256),
)  # fmt: skip


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_products_of_any_shape_run_within_graphs(dtype):
    rng = np.random.default_rng(0)
    pairs = [
        tuple(jnp.asarray(rng.normal(size=size) / size[0], dtype) for size in ((m, k), (k, n)))
        for m, k, n in PRODUCTS
    ]

    def results(pairs):
        return [jax.nn.relu(a @ b + a[:, :1]) for a, b in pairs]

    def total(pairs):
        return sum((r.astype(jnp.float32) ** 2).sum() for r in results(pairs))

    with jax.default_matmul_precision("highest" if dtype == "float32" else "default"):
        made = lowering.jit(lambda pairs: (results(pairs), jax.grad(total)(pairs)))(pairs)
        wide = jax.tree.map(lambda x: x.astype(jnp.float32), pairs)
        with jax.default_matmul_precision("highest"):
            plain = jax.jit(lambda pairs: (results(pairs), jax.grad(total)(pairs)))(wide)
    for one, other in zip(jax.tree.leaves(made), jax.tree.leaves(plain), strict=True):
        assert one.dtype == dtype
        assert_close(one.astype(jnp.float32), other, 1e-3 if dtype == "float32" else 0.05)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("factors", [(2, 2), (1, 4)])
def test_tiles_are_enlarged_with_their_surroundings(factors, dtype):
    def enlarged(gain, frames):
        x = frames.astype(dtype) * gain
        n, h, w, c = x.shape
        return jax.image.resize(x, (n, h * factors[0], w * factors[1], c), "bilinear")

    sparse, run = jitted(enlarged)
    frames, gain = frames_of(5), jnp.asarray(1 / 255, dtype)
    dense, shape = jax.jit(enlarged)(gain, frames), sparse.grid_shape(frames)
    _, state = run(gain, sparse.init(gain, frames), frames)
    for seed in range(3):
        grid = jnp.asarray(np.random.default_rng(seed).uniform(size=shape) < 0.3)
        outputs, state = run(gain, state, frames, grid, capacity=16)
        assert_close(outputs.astype(jnp.float32), dense.astype(jnp.float32), tolerance=0.01)


@pytest.mark.parametrize("blocks", [1, 12, 128, 500])
def test_the_price_of_a_block_is_found_in_a_kernel(blocks):
    scores = 5 * jax.random.normal(jax.random.key(0), (3, blocks))
    found = jax.jit(level.level_at_once)(scores, 0.3)
    np.testing.assert_allclose(found, level.level_plainly(scores, 0.3), atol=1e-4)
    np.testing.assert_allclose(jax.nn.sigmoid(scores - found[:, None]).mean(1), 0.3, atol=1e-4)


def test_the_donated_state_is_updated_in_place():
    apply_fn, params = cnn_network()
    sparse = blockcopy(apply_fn, BLOCK)
    frames = frames_of(5)
    state = sparse.init(params, frames)
    grid = jnp.ones(sparse.grid_shape(frames), bool)
    run = sparse.jit()
    _, after = run(params, state, frames, grid, capacity=grid.size)
    jax.block_until_ready(after)
    assert state.frames.is_deleted() and not after.frames.is_deleted()


@pytest.mark.parametrize("policy", [PolicyConfig.light, PolicyConfig.paper])
def test_the_runner_runs_five_frames_and_learns(policy):
    apply_fn, params = model_network("espnet_cityscapes")
    runner = Runner(
        apply_fn, params, block_size=BLOCK, policy=policy(target=0.5), train_interval=2,
        capacity_steps=4,
    )  # fmt: skip
    copied = functools.partial(jax.tree.map, np.asarray)
    fractions = []
    for seed in range(5):
        outputs = runner(frames_of(seed))
        if seed == 0:
            before = copied(runner.state.policy.params)
        fractions.append(float(runner.outcome.grid.mean()))
        assert jnp.isfinite(outputs).all()
    assert fractions[0] == 1 and all(0 <= f <= 1 for f in fractions)
    after = copied(runner.state.policy.params)
    moved = [
        np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True)
    ]
    assert max(moved) > 0 and np.isfinite(moved).all()
    assert all(np.isfinite(value).all() for value in runner.metrics.values())


def test_a_runner_of_a_fixed_capacity_runs_a_frame_as_one_program():
    apply_fn, params = model_network("espnet_cityscapes")
    policy = PolicyConfig.light(target=0.5)
    runner = Runner(
        apply_fn, params, block_size=BLOCK, policy=policy, train_interval=2, capacity=8, timed=False
    )
    counts = []
    for seed in range(4):
        assert jnp.isfinite(runner(frames_of(seed))).all()
        counts.append(int(runner.outcome.grid.sum()))
    assert counts == [32, 8, 8, 8]
    assert all(np.isfinite(value).all() for value in runner.metrics.values())


_CACHED = """
import jax.numpy as jnp
from test_gpu import cnn_network, frames_of, jitted

apply_fn, params = cnn_network()
sparse, run = jitted(apply_fn)
frames = frames_of(0)
grid = jnp.ones(sparse.grid_shape(frames), bool)
outputs, _ = run(params, sparse.init(params, frames), frames, grid, capacity=grid.size)
print(float(jnp.abs(outputs).sum()))
"""


def test_programs_from_a_cache_on_disk_run_in_another_process(tmp_path):
    # cuDNN's kernels, which compiling does not load then, are not to be loaded within a graph.
    settings = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-c", _CACHED]
    sums = []
    for _ in range(2):
        run = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=300)
        assert run.returncode == 0, run.stderr
        assert any(tmp_path.iterdir())
        sums.append(float(run.stdout))
    assert sums[1] == pytest.approx(sums[0], rel=1e-3)
