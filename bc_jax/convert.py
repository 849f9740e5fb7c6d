"""PyTorch checkpoints to Flax variables: `python -m bc_jax.convert --help`.

Every Flax leaf names the PyTorch entry that it comes from, so nothing is guessed: an entry that is
missing, left over or of another shape is reported by name.
"""

import argparse
import dataclasses
import functools
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from bc_jax.models import ESPNet, SwiftNet
from bc_jax.models.variables import Variables, flatten, report_differences, write_variables

StateDict = Mapping[str, np.ndarray]

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "alpha": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """How one Flax module's names relate to those of its PyTorch original.

    Attributes:
      module: the Flax module.
      renames: (pattern, replacement) pairs, applied in turn to a Flax module's path, in which the
        parts are joined by dots, to make the PyTorch path.
      transposed: Flax paths of the transposed convolutions, whose weights lie differently.
    """

    module: nn.Module
    renames: tuple[tuple[str, str], ...]
    transposed: frozenset[str] = frozenset()

    def torch_name(self, flax_name: str) -> str:
        """The PyTorch entry for a flat Flax name such as `params/encoder/b1/bn/scale`."""
        _, *parents, leaf = flax_name.split("/")
        path = ".".join(parents)
        for pattern, replacement in self.renames:
            path = re.sub(pattern, replacement, path)
        return f"{path}.{_LEAVES[leaf]}"

    def is_transposed(self, flax_name: str) -> bool:
        """Whether the leaf is the kernel of a transposed convolution."""
        return "/".join(flax_name.split("/")[1:-1]) in self.transposed


_ESPNET_RENAMES = (
    (r"\.(c1|d\d+)$", r".\1.conv"),
    (r"^encoder\.level([23])_(\d+)\.(?=[a-z])", r"encoder.level\1.\2."),
    (r"^(encoder\.level[23]\.\d+)\.br", r"\1.bn"),
    (r"^encoder\.level([23])_down(\.br)?", r"encoder.level\1_0"),
    (r"^encoder\.classifier", r"encoder.classifier.conv"),
    (r"^scores_bn", r"br"),
    (r"^scores_up", r"up_l3.0"),
    (r"^quarter_project", r"level3_C.conv"),
    (r"^quarter_br", r"combine_l2_l3.0"),
    (r"^quarter_esp", r"combine_l2_l3.1"),
    (r"^(combine_l2_l3\.1)\.br", r"\1.bn"),
    (r"^quarter_up_br", r"up_l2.1"),
    (r"^quarter_up", r"up_l2.0"),
    (r"^half_fuse", r"conv"),
    (r"^half_up", r"classifier"),
)
_SWIFTNET_RENAMES = (
    (r"\.(layer\d)_(\d+)\.", r".\1.\2."),
    (r"\.downsample_conv$", ".downsample.0"),
    (r"\.downsample_bn$", ".downsample.1"),
    (r"^spp\.", "spp.spp."),
    (r"^upsample_(\d)", r"upsample.\1"),
)


def espnet(**options: Any) -> Architecture:
    """ESPNet as its authors name it; `options` are fields of the module."""
    transposed = frozenset({"scores_up", "quarter_up", "half_up"})
    return Architecture(ESPNet(**options), _ESPNET_RENAMES, transposed)


def swiftnet(backbone: str = "resnet18", **options: Any) -> Architecture:
    """SwiftNet as the authors of BlockCopy name it; `options` are fields of the module."""
    return Architecture(SwiftNet(backbone, **options), _SWIFTNET_RENAMES)


ARCHITECTURES = {
    "espnet": espnet,
    "swiftnet_rn18": functools.partial(swiftnet, "resnet18"),
    "swiftnet_rn34": functools.partial(swiftnet, "resnet34"),
    "swiftnet_rn50": functools.partial(swiftnet, "resnet50"),
}


def convert(state_dict: StateDict, architecture: Architecture) -> Variables:
    """A PyTorch state dict as Flax variables of the architecture's module.

    Convolutions go from [out, in, kh, kw] to [kh, kw, in, out]; transposed ones from [in, out, kh,
    kw], whose taps also run the other way. `num_batches_tracked` has no counterpart.

    Args:
      state_dict: PyTorch names to NumPy arrays.
      architecture: one of this module's, such as `espnet()`.

    Returns:
      {'params': ..., 'batch_stats': ...}, float32.

    Raises:
      ValueError: names every entry that is missing, surplus or misshapen.
    """
    module = architecture.module
    template = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    leaves = flatten(template)
    names = {name: architecture.torch_name(name) for name in leaves}
    expected = {
        names[name]: _torch_shape(leaf.shape, architecture.is_transposed(name))
        for name, leaf in leaves.items()
    }
    given = {
        name: tuple(array.shape)
        for name, array in state_dict.items()
        if not name.endswith("num_batches_tracked")
    }
    report_differences(given, expected, f"state dict for {type(module).__name__}")
    flat = {
        name: _flax_array(state_dict[names[name]], architecture.is_transposed(name))
        for name in leaves
    }
    return traverse_util.unflatten_dict(flat, sep="/")


def _torch_shape(shape: tuple[int, ...], transposed: bool) -> tuple[int, ...]:
    if len(shape) != 4:
        return tuple(shape)
    height, width, inputs, outputs = shape
    return (inputs, outputs, height, width) if transposed else (outputs, inputs, height, width)


def _flax_array(array: np.ndarray, transposed: bool) -> np.ndarray:
    array = np.asarray(array, np.float32)
    if array.ndim != 4:
        return array
    if transposed:
        # PyTorch scatters tap k to output 2i + k; Flax gathers, which meets the taps in reverse.
        return np.ascontiguousarray(array.transpose(2, 3, 0, 1)[::-1, ::-1])
    return np.ascontiguousarray(array.transpose(2, 3, 1, 0))


def load_state_dict(path: str) -> dict[str, np.ndarray]:
    """Read a PyTorch checkpoint as NumPy arrays; needs PyTorch, runs no code from the file.

    The state dict may be the whole file or stand under `state_dict`, `model_state` or `model`; the
    prefix `module.`, which data-parallel training leaves, is taken off.

    Raises:
      ImportError: where PyTorch is not installed.
      ValueError: if there is no state dict in the file.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "reading a PyTorch checkpoint needs PyTorch: pip install torch"
        ) from error
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    for entry in ("state_dict", "model_state", "model"):
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(entry), Mapping):
            checkpoint = checkpoint[entry]
            break
    if not isinstance(checkpoint, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in checkpoint.values()
    ):
        holds = ", ".join(map(str, checkpoint)) if isinstance(checkpoint, Mapping) else "none"
        raise ValueError(
            f"{path}: no state dict at the top, nor under state_dict, model_state or model; "
            f"entries: {holds}"
        )
    return {
        name.removeprefix("module."): tensor.float().numpy() for name, tensor in checkpoint.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert a PyTorch checkpoint to the variables of a Flax module."""
    parser = argparse.ArgumentParser(prog="python -m bc_jax.convert", description=main.__doc__)
    parser.add_argument("--model", required=True, choices=ARCHITECTURES)
    parser.add_argument("--num-classes", type=int, help="if not the model's usual number")
    parser.add_argument("--checkpoint", required=True, help="PyTorch file, .pth or .pt")
    parser.add_argument("--output", required=True, help="file to write, .npz")
    given = parser.parse_args(arguments)
    fields = {} if given.num_classes is None else {"num_classes": given.num_classes}
    try:
        architecture = ARCHITECTURES[given.model](**fields)
        variables = convert(load_state_dict(given.checkpoint), architecture)
        write_variables(given.output, variables)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"bc_jax.convert: {error}")
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    print(f"{given.output}: {count:,} parameters")


if __name__ == "__main__":
    main()
