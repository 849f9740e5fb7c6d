"""A GPU's programs, as far as they are known without one: they lower, and are right.

Triton's kernels are lowered to its own code, which XLA compiles where the GPU is: `test_gpu.py`.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from zoo import assert_close

import bc_jax
from bc_jax.compiled_steps import CompiledSteps
from bc_jax.lowering import backend, halo_lines, level
from bc_jax.policy import PolicyConfig
from bc_jax.steps import Steps

BLOCK, SIZE, CLASSES = 32, (64, 96), 5
TRITON = "__gpu$xla.gpu.triton"
SHAPES = {
    "stem": (5, 5, 3, 8), "a": (1, 1, 8, 16), "b": (3, 3, 16, 16), "short": (1, 1, 8, 16),
    "depthwise": (3, 3, 1, 16), "dilated": (3, 3, 16, 8), "head": (1, 1, 8, CLASSES),
    "scale": (1, 1, 1, 16),
}  # fmt: skip


@pytest.fixture
def gpu(monkeypatch):
    """A GPU's ways are chosen, whose programs cannot be compiled here."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(backend, "_has", lambda name, value: False)


def network(p, frames):
    """What a GPU has ways of its own for, and what many networks are made of."""
    dtype = p["stem"].dtype
    x = frames.astype(dtype) / jnp.asarray(255, dtype)
    x = jax.nn.relu(zoo.conv(x, p["stem"], 2))
    x = jax.lax.reduce_window(
        x, jnp.asarray(-jnp.inf, dtype), jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME"
    )
    y = jax.nn.relu(zoo.conv(x, p["a"]))
    y = zoo.conv(y, p["b"], 2) * p["scale"] + zoo.conv(x, p["short"], 2)
    y = jax.nn.relu(zoo.conv(jax.nn.relu(y), p["depthwise"], feature_group_count=16))
    y = zoo.conv(y, p["dilated"], rhs_dilation=(2, 2))
    y = y * jax.nn.sigmoid(y.mean(axis=(1, 2), keepdims=True))
    y = jax.image.resize(y, (*x.shape[:3], 8), "bilinear")
    return zoo.conv(y, p["head"])


def arrays(dtype: str, streams: int = 1):
    shapes = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in SHAPES.items()}
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, streams, *SIZE, 3), dtype=np.uint8)
    return zoo.random_like(shapes, dtype=dtype), jnp.asarray(frames)


def lowered(jitted, *args, **static) -> str:
    """StableHLO for CUDA, without the code of Triton's kernels."""
    device = jax.sharding.AbstractDevice(device_kind="NVIDIA H100", num_cores=132, platform="cuda")
    mesh = jax.sharding.AbstractMesh((), (), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        text = jitted.trace(*args, **static).lower(lowering_platforms=("cuda",)).as_text()
    return re.sub(r'ir = "[^"]*"', "", text)


def operations(text: str, name: str) -> list[str]:
    return [line for line in text.splitlines() if f"stablehlo.{name}" in line]


def check(text: str, dtype: str, *, kernels: bool) -> None:
    """Kernels of Triton and no other calls, no loop and no sorting; halves stay halves."""
    targets = set(re.findall(r"custom_call @([\w.$]+)", text))
    assert targets == ({TRITON} if kernels else set())
    for name in ("while", "sort", "rng", "case"):
        assert not operations(text, name), name
    assert "f64" not in text
    if dtype != "float32":
        products = operations(text, "convolution") + operations(text, "dot_general")
        short = {"bfloat16": "bf16", "float16": "f16"}[dtype]
        assert products and all(line.rstrip().split("->")[1].count(short) for line in products)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("streams, capacity", [(1, 1), (4, 7), (1, None)])
def test_networks_lower(dtype, streams, capacity, gpu):
    params, (frames, _) = arrays(dtype, streams)
    sparse = bc_jax.blockcopy(network, BLOCK)
    prepared = jax.eval_shape(sparse.prepare, params, frames)
    state = jax.eval_shape(sparse.init, params, frames)
    grid = None if capacity is None else jnp.ones(sparse.grid_shape(frames), bool)
    run = jax.jit(sparse.advance, static_argnames="capacity", donate_argnums=1)
    text = lowered(run, prepared, state, frames, grid, capacity=capacity)
    check(text, dtype, kernels=capacity is not None)


@pytest.mark.parametrize("policy", [PolicyConfig.light, PolicyConfig.paper])
@pytest.mark.parametrize("capacity, learns", [(None, False), (2, False), (2, True)])
def test_frames_of_one_program_lower(policy, capacity, learns, gpu):
    params, (frames, _) = arrays("bfloat16", streams=2)
    steps = Steps(bc_jax.blockcopy(network, BLOCK), policy(target=0.5))
    pieces = CompiledSteps(steps)
    state = jax.eval_shape(pieces.init, jax.random.key(0), params, frames)
    prepared = jax.eval_shape(steps.sparse.prepare, params, frames)
    reset = jnp.zeros(2, bool)
    text = lowered(
        jax.jit(pieces.frame.__wrapped__, static_argnames=("capacity", "learns")),
        prepared, state, frames, reset, capacity=capacity, learns=learns,
    )  # fmt: skip
    # The light policy's price is found by one, whatever is executed.
    check(text, "float32", kernels=capacity is not None or policy == PolicyConfig.light)


@pytest.fixture
def interpreted(gpu, monkeypatch):
    """A GPU's ways, of which kernels of Triton are interpreted."""
    launch = halo_lines.launch
    monkeypatch.setattr(halo_lines, "launch", lambda *a, **k: launch(*a, **k | {"interpret": True}))
    interpreted = functools.partial(level.level_at_once, interpret=True)
    monkeypatch.setattr(level, "level_at_once", interpreted)


def played(params, frames):
    """What three frames leave: the first is whole, the others two blocks each; the last teaches."""
    steps = Steps(bc_jax.blockcopy(network, BLOCK), PolicyConfig.light(target=0.5))
    pieces = CompiledSteps(steps)
    prepared = jax.jit(steps.sparse.prepare)(params, frames[0])
    state = pieces.init(jax.random.key(0), params, frames[0])
    reset, grids = jnp.zeros(frames.shape[1], bool), []
    for i, frame in enumerate((frames[0], frames[1], frames[0])):
        state, _, outcome, metrics = pieces.frame(
            prepared, state, frame, reset, capacity=2 if i else None, learns=i == 2
        )
        grids.append(np.asarray(outcome.grid))
    return pieces.unpacked(state), grids, metrics


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_frames_are_those_of_a_cpu(dtype, request):
    given = arrays(dtype)
    expected, grids, learnt = played(*given)
    request.getfixturevalue("interpreted")
    state, others, metrics = played(*given)
    np.testing.assert_array_equal(others, grids)
    assert [grid.sum() for grid in grids] == [6, 2, 2]
    tolerance = 1e-3 if dtype == "float32" else 0.05
    for name in ("frame_state", "seen", "running_gain"):
        assert_close(getattr(state, name), getattr(expected, name), tolerance=tolerance, where=name)
    assert_close(state.policy.batch_stats, expected.policy.batch_stats, tolerance=tolerance)
    assert metrics["updated"] == 1
    assert_close(metrics, learnt, tolerance=tolerance)
