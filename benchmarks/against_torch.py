"""The network beside PyTorch's, eager and by torch.compile. Needs PyTorch, and a C++ compiler.

python -m benchmarks.against_torch --model swiftnet_rn18 --size 512 1024 --fractions 0.3 0.5 1.0

PyTorch runs the networks of `tests/torch_networks.py`, of the same shapes and with weights of its
own, on the same frames, each version in turn with ours. Its compiler takes weights as arguments,
and so does not fold batch norm into them.
"""

import functools
import importlib.util
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from bc_jax.convert import deeplabv3plus, swiftnet
from benchmarks import cases
from benchmarks.cases import DEFAULT, Case, load

TESTS = Path(__file__).resolve().parent.parent / "tests"
ARCHITECTURES = {
    "swiftnet_rn18": functools.partial(swiftnet, "resnet18"),
    "swiftnet_rn34": functools.partial(swiftnet, "resnet34"),
    "swiftnet_rn50": functools.partial(swiftnet, "resnet50"),
    "deeplabv3plus_rn50": functools.partial(deeplabv3plus, "resnet50"),
    "deeplabv3plus_rn101": functools.partial(deeplabv3plus, "resnet101"),
}
COLUMNS = {
    **cases.NETWORK,
    "executed": "{executed}/{blocks}",
    "torch ms": "{torch_ms:.1f}",
    "torch version": "{torch_version}",
    "dense ms": "{dense_ms:.1f}",
    "sparse ms": "{sparse_ms:.1f}",
    "dense over torch": "{dense_over_torch:.2f}",
    "sparse over torch": "{sparse_over_torch:.2f}",
}


def measure(
    case: Case = DEFAULT,
    *,
    fractions: tuple[float, ...] = (0.3, 0.5, 1.0),
    repeats: int = 9,
    warm_up: int = 2,
) -> list[dict]:
    """One row per fraction; "over torch" is how many times as fast as its fastest version.

    Args:
        case: the network; one that `tests/torch_networks.py` has.
        fractions: of the blocks that are executed.
        repeats: rounds that count.
        warm_up: rounds before them; PyTorch compiles in the first one.

    Raises:
        ValueError: PyTorch is not installed, or has no such network here.
    """
    if importlib.util.find_spec("torch") is None:
        raise ValueError("PyTorch is not installed: pip install torch")
    if case.model not in ARCHITECTURES:
        raise ValueError(f"model is {case.model!r}; possible are {', '.join(ARCHITECTURES)}")
    loaded = load(case)
    beside = torch_calls(case, ARCHITECTURES[case.model](), loaded.frames)
    rounds = {"repeats": repeats, "warm_up": max(1, warm_up)}
    rows = loaded.compare("against_torch", fractions=fractions, beside=beside, **rounds)
    return [row | _compared(row) for row in rows]


def _compared(row: dict) -> dict:
    import torch

    version = min(row["beside_ms"], key=row["beside_ms"].get)
    took = row["beside_ms"][version]
    return {
        "torch": torch.__version__,
        "torch_version": version,
        "torch_ms": took,
        "dense_over_torch": took / row["dense_ms"],
        "sparse_over_torch": took / row["sparse_ms"],
    }


def torch_calls(case: Case, architecture, frames) -> dict[str, Callable[[], object]]:
    """Calls of PyTorch's network, eager and compiled, in both orders of the axes.

    Args:
        case: says the type.
        architecture: of `bc_jax.convert`.
        frames: arrays uint8 [N, H, W, 3].
    """
    import torch

    if str(TESTS) not in sys.path:
        sys.path.append(str(TESTS))
    import torch_networks

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    dtype = getattr(torch, case.dtype)
    state = torch_networks.state_dict_of(architecture)
    inputs = [torch.from_numpy(np.array(x)).to(device).permute(0, 3, 1, 2) for x in frames]
    mean, deviation = (
        torch.tensor(numbers, device=device).view(1, 3, 1, 1)
        for numbers in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    calls = {}
    for order in (torch.contiguous_format, torch.channels_last):
        network = torch_networks.torch_network(architecture, state)
        for name, entry in network.state.items():
            entry = entry.to(device, dtype if entry.is_floating_point() else None)
            network.state[name] = entry.contiguous(memory_format=order) if entry.ndim == 4 else entry  # fmt: skip  # noqa: E501

        def run(x, network=network, order=order):
            x = (x.float() / 255 - mean) / deviation
            return network(x.to(dtype, memory_format=order))

        for kind, function in (("eager", run), ("compile", torch.compile(run))):
            calls[f"{kind}, {str(order).removeprefix('torch.')}"] = _call(function, inputs, device)
    return calls


def _call(function: Callable, inputs: list, device: str) -> Callable[[], object]:
    import torch

    following = itertools.cycle(inputs)

    def call():
        with torch.inference_mode():
            function(next(following))
        if device == "cuda":
            torch.cuda.synchronize()

    return call


if __name__ == "__main__":
    cases.command(measure, COLUMNS, __doc__)
