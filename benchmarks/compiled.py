"""The kernels that a GPU would run, without one: `python -m benchmarks.compiled --help`.

XLA compiles for a GPU that it only has a description of. It needs `pip install '.[cuda]'`, and no
GPU. How long a kernel takes is not known so; how many there are, how many of them wait for each
other, and what each reads and writes is. What a kernel reads a part of counts whole.
"""

import re
from pathlib import Path
from typing import Literal, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from bc_jax.compiled_steps import CompiledSteps
from bc_jax.lowering import backend
from bc_jax.steps import Steps
from benchmarks import cases
from benchmarks.cases import Case, Loaded, load
from benchmarks.step import POLICIES

DEFAULT = Case("swiftnet_rn50", (1024, 2048), dtype="bfloat16")
TARGETS = Path(__file__).parent / "targets"
COLUMNS = {
    "number": "{number}",
    "kernel": "{kernel}",
    "of": "{of}",
    "reads MB": "{reads_mb:.3f}",
    "writes MB": "{writes_mb:.3f}",
}
ALL = "all kernels"
_WAITS = "one after the other"
# What is no kernel.
_FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant"}
_SCRATCH = "u8", "s8"  # of a library's calls, which kernels of Triton do without
_TRITON = "xla.gpu.triton"
_LETTERS = 48


def measure(
    case: Case = DEFAULT,
    *,
    part: Literal["network", "frame", "learning"] = "frame",
    policy: Literal[*POLICIES] = "light",
    fraction: float = 0.3,
    target: Literal["h200"] = "h200",
    every: bool = False,
) -> list[dict]:
    """Rows for all kernels, for the longest row of those that wait for each other, and for each.

    Args:
        case: the network.
        part: of a step: the network on blocks; a whole frame; or one that is learnt from.
        policy: which one looks and learns.
        fraction: of the blocks that is executed.
        target: the GPU.
        every: whether each kernel is shown, not those of the longest row alone.
    """
    kernels = kernels_of(_compiled(case, part, policy, fraction, (TARGETS / f"{target}.txtpb")))
    waiting = longest(kernels)
    about = case.row("compiled") | {"part": part, "policy": policy, "fraction": fraction}
    rows = [_row(ALL, "", kernels), _row(_WAITS, "", waiting)]
    rows += [_row(k.name, k.of, [k]) for k in (kernels if every else waiting)]
    return [about | {"target": target} | row for row in rows]


class Kernel(NamedTuple):
    """One kernel of a compiled program.

    Attributes:
        name: XLA's.
        of: the operation that it came from.
        needs: the names of those whose results it reads.
        reads: bytes.
        writes: bytes, without a library's scratch.
    """

    name: str
    of: str
    needs: tuple[str, ...]
    reads: int
    writes: int


def kernels_of(text: str) -> list[Kernel]:
    """The kernels of a program as XLA prints it, in its order."""
    written, made, found = {}, {}, []
    for line in text[text.index("\nENTRY") :].splitlines()[1:]:
        parts = re.match(r"\s+(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)", line)
        if parts is None:
            continue
        name, kind, op, rest = parts.groups()
        operands = re.findall(r"%([\w.\-]+)", rest.split("), ")[0])
        needs = {need for operand in operands for need in made.get(operand, ())}
        library = op == "custom-call" and _TRITON not in line
        written[name] = _bytes(kind, without=_SCRATCH if library else ())
        made[name] = needs
        if op not in _FREE:
            of = re.search(r'op_name="([^"]*)"', line)
            reads = sum(written.get(operand, 0) for operand in operands)
            made[name] = {name}
            found.append(Kernel(name, of[1] if of else "", tuple(needs), reads, written[name]))
    return found


def longest(kernels: list[Kernel]) -> list[Kernel]:
    """Of those that wait for each other, the most."""
    before: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        rows = (before[need] for need in kernel.needs)
        before[kernel.name] = [*max(rows, key=len, default=[]), kernel]
    return max(before.values(), key=len, default=[])


def _bytes(kind: str, *, without: tuple[str, ...]) -> int:
    total = 0
    for dtype, sides in re.findall(r"\b(pred|bf16|[sufc]\d+)\[([\d,]*)\]", kind):
        if dtype not in without:
            bits = {"pred": 8}.get(dtype) or int(re.sub(r"\D", "", dtype))
            total += bits // 8 * int(np.prod([int(n) for n in sides.split(",") if n]))
    return total


def _row(kernel: str, of: str, kernels: list[Kernel]) -> dict:
    megabytes = {
        f"{what}_mb": sum(getattr(k, what) for k in kernels) / 1e6 for what in ("reads", "writes")
    }
    return {"kernel": kernel, "of": of[-_LETTERS:], "number": len(kernels)} | megabytes


def _compiled(case: Case, part: str, policy: str, fraction: float, target: Path) -> str:
    """A program as XLA compiles it for a GPU."""
    from jax.experimental import topologies

    if jax.default_backend() != "cpu":
        raise SystemExit("for a GPU that is here, see benchmarks.kernels; this needs jax on a CPU")
    try:
        described = topologies.get_topology_desc(
            "1x1x1", "cuda", target_config=target.read_text(), topology="1x1x1"
        )
    except NotImplementedError:
        raise SystemExit("XLA for CUDA is missing here: pip install '.[cuda]'") from None
    place = jax.sharding.SingleDeviceSharding(described.devices[0])
    loaded = load(case)
    with mock.patch.object(jax, "default_backend", lambda: "gpu"):
        with mock.patch.object(backend, "_has", lambda name, value: True):
            options = backend.compiler_options(half=backend.half_of(loaded.params))
        # Graphs of kernels are computations of their own; the kernels are the same.
        options |= {"xla_gpu_enable_command_buffer": ""}
        with mock.patch.object(backend, "_has", lambda name, value: False):
            function, arguments, static = _program(loaded, case, fraction, part, policy)
            arguments = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), arguments
            )
            jitted = jax.jit(
                function, static_argnames=tuple(static), donate_argnums=1, out_shardings=place
            )
            with jax.sharding.use_abstract_mesh(_abstract(described.devices[0])):
                traced = jitted.trace(*arguments, **static)
                lowered = traced.lower(lowering_platforms=("cuda",))
    return lowered.compile(compiler_options=options).as_text()


def _abstract(device) -> jax.sharding.AbstractMesh:
    """What kernels ask of the GPU that they are lowered for."""
    about = {"device_kind": device.device_kind, "num_cores": device.core_count}
    abstract = jax.sharding.AbstractDevice(platform="cuda", **about)
    return jax.sharding.AbstractMesh((), (), abstract_device=abstract)


def _program(loaded: Loaded, case: Case, fraction: float, part: str, policy: str):
    """A function, the shapes that it takes, and what it takes that is static."""
    sparse, params, executed = loaded.sparse, loaded.params, case.executed(fraction)
    frames = jax.ShapeDtypeStruct(loaded.frames[0].shape, loaded.frames[0].dtype)
    prepared = jax.eval_shape(sparse.prepare, params, frames)
    if part == "network":
        state = jax.eval_shape(sparse.init, params, frames)
        grid = jax.ShapeDtypeStruct(loaded.grid_shape, jnp.bool_)
        return sparse.advance, (prepared, state, frames, grid), {"capacity": executed}
    steps = Steps(sparse, POLICIES[policy](target=fraction), fraction)
    pieces = CompiledSteps(steps)
    state = jax.eval_shape(pieces.init, jax.random.key(0), params, frames)
    reset = jax.ShapeDtypeStruct(frames.shape[:1], jnp.bool_)
    static = {"capacity": executed, "learns": part == "learning"}
    return pieces.frame.__wrapped__, (prepared, state, frames, reset), static


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    cases.command(measure, COLUMNS, __doc__)
