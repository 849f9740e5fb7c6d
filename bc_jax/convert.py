"""PyTorch checkpoints to Flax variables: `python -m bc_jax.convert --help`.

    python -m bc_jax.convert --model deeplabv3plus_rn101 --checkpoint FILE.pth --output FOLDER
    python -m bc_jax.convert --model swiftnet_rn18 --backbone resnet18.pth --output FOLDER

The first takes a whole network; the second torchvision's ResNet for ImageNet, as a start for
training: the rest of the network is drawn at random.

Every Flax leaf names the PyTorch entry that it comes from, so nothing is guessed: an entry that is
missing, left over or of another shape is reported by name.
"""

import argparse
import dataclasses
import functools
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from bc_jax.limits import MOST_SEED
from bc_jax.models import DeepLabV3Plus, ESPNet, SwiftNet
from bc_jax.models.variables import (
    Variables,
    flatten,
    random_variables,
    report_differences,
    write_variables,
)

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
_RESNET_RENAMES = (
    (r"\.(layer\d)_(\d+)\.", r".\1.\2."),
    (r"\.downsample_conv$", ".downsample.0"),
    (r"\.downsample_bn$", ".downsample.1"),
)
_SWIFTNET_RENAMES = (
    *_RESNET_RENAMES,
    (r"^spp\.", "spp.spp."),
    (r"^upsample_(\d)", r"upsample.\1"),
)
_DEEPLAB_RENAMES = (
    *_RESNET_RENAMES,
    # A sequence of convolution, batch norm, ReLU; the image's begins with its pooling.
    (r"^aspp\.image\.conv$", "aspp.convs.4.1"),
    (r"^aspp\.image\.norm$", "aspp.convs.4.2"),
    (r"^aspp\.branch(\d)", r"aspp.convs.\1"),
    (r"\.conv$", ".0"),
    (r"\.norm$", ".1"),
    (r"^aspp\.", "classifier.aspp."),
    (r"^low_level\.", "classifier.project."),
    (r"^fuse\.", "classifier.classifier."),
    (r"^logits$", "classifier.classifier.3"),
)
# Of torchvision's ResNet: its ImageNet classes, which no segmentation network has.
_IMAGENET_CLASSIFIER = frozenset({"fc.weight", "fc.bias"})


def espnet(**options: Any) -> Architecture:
    """ESPNet as its authors name it; `options` are fields of the module."""
    transposed = frozenset({"scores_up", "quarter_up", "half_up"})
    return Architecture(ESPNet(**options), _ESPNET_RENAMES, transposed)


def swiftnet(backbone: str = "resnet18", **options: Any) -> Architecture:
    """SwiftNet as the authors of BlockCopy name it; `options` are fields of the module."""
    return Architecture(SwiftNet(backbone, **options), _SWIFTNET_RENAMES)


def deeplabv3plus(backbone: str = "resnet101", **options: Any) -> Architecture:
    """DeepLabV3+ as VainF/DeepLabV3Plus-Pytorch names it; `options` are fields of the module."""
    return Architecture(DeepLabV3Plus(backbone, **options), _DEEPLAB_RENAMES)


ARCHITECTURES = {
    "espnet": espnet,
    "swiftnet_rn18": functools.partial(swiftnet, "resnet18"),
    "swiftnet_rn34": functools.partial(swiftnet, "resnet34"),
    "swiftnet_rn50": functools.partial(swiftnet, "resnet50"),
    "deeplabv3plus_rn50": functools.partial(deeplabv3plus, "resnet50"),
    "deeplabv3plus_rn101": functools.partial(deeplabv3plus, "resnet101"),
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
    leaves = flatten(_template(architecture))
    names = {name: architecture.torch_name(name) for name in leaves}
    what = f"state dict for {type(architecture.module).__name__}"
    return traverse_util.unflatten_dict(
        _converted(state_dict, architecture, leaves, names, what), sep="/"
    )


def convert_backbone(
    state_dict: StateDict, architecture: Architecture, key: jax.Array
) -> Variables:
    """A torchvision ResNet as the network's backbone, and the rest of the network at random.

    `fc.weight`, `fc.bias` and `num_batches_tracked` have no counterpart.

    Args:
      state_dict: torchvision's names to NumPy arrays.
      architecture: one with a ResNet for its backbone, such as `swiftnet("resnet18")`.
      key: a PRNG key for what is drawn.

    Returns:
      {'params': ..., 'batch_stats': ...}, float32.

    Raises:
      ValueError: names every entry that is missing, surplus or misshapen; or the network has no
        ResNet.
    """
    template = _template(architecture)
    leaves = {k: v for k, v in flatten(template).items() if k.split("/")[1] == "backbone"}
    if not leaves:
        raise ValueError(f"{type(architecture.module).__name__} has no ResNet for its backbone")
    names = {k: architecture.torch_name(k).removeprefix("backbone.") for k in leaves}
    given = {k: v for k, v in state_dict.items() if k not in _IMAGENET_CLASSIFIER}
    what = f"{architecture.module.backbone} for {type(architecture.module).__name__}"
    converted = _converted(given, architecture, leaves, names, what)
    drawn = flatten(random_variables(key, template))
    return traverse_util.unflatten_dict(drawn | converted, sep="/")


def _template(architecture: Architecture) -> Variables:
    init = architecture.module.init
    return jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


def _converted(
    state_dict: StateDict,
    architecture: Architecture,
    leaves: Mapping[str, Any],
    names: Mapping[str, str],
    what: str,
) -> dict[str, np.ndarray]:
    """The arrays for flat Flax `leaves` out of the entries `names`, all of which must fit."""
    expected = {
        names[name]: _torch_shape(leaf.shape, architecture.is_transposed(name))
        for name, leaf in leaves.items()
    }
    given = {
        name: tuple(array.shape)
        for name, array in state_dict.items()
        if not name.endswith("num_batches_tracked")
    }
    report_differences(given, expected, what)
    return {
        name: _flax_array(state_dict[names[name]], architecture.is_transposed(name))
        for name in leaves
    }


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
      OSError: where the file cannot be opened.
      ValueError: if it is damaged, holds more than arrays and numbers, or no state dict.
    """
    with open(path, "rb"):  # says which file it is that is missing, or a folder
        pass
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "reading a PyTorch checkpoint needs PyTorch: pip install torch"
        ) from error
    numbers = [np.dtype, *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64"))]
    scalar = np.float64(0).__reduce__()[0]  # as which a best score is saved beside the weights
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    try:
        with torch.serialization.safe_globals([*numbers, *names]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch raises many kinds
        told = str(error)
        for advice in ("trusted source.", "WeightsUnpickler error:"):  # for who calls torch.load
            told = told.partition(advice)[2] or told
        first = (told.strip() or "it says no more").splitlines()[0]
        raise ValueError(
            f"{path} is damaged, or no PyTorch checkpoint of arrays alone, which is read without "
            f"running code from it ({type(error).__name__}: {first}); save the network's "
            "state_dict() with torch.save"
        ) from error
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
    parser = argparse.ArgumentParser(prog="bc-jax convert", description=main.__doc__)
    parser.add_argument("--model", required=True, choices=ARCHITECTURES)
    parser.add_argument("--num-classes", type=int, help="if not the model's usual number")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", help="the whole network: PyTorch file, .pth or .pt")
    source.add_argument(
        "--backbone",
        help="the backbone alone: torchvision's ResNet for ImageNet, .pth or .pt; the rest is "
        "drawn at random",
    )
    parser.add_argument("--seed", type=int, default=0, help="of what --backbone draws")
    parser.add_argument(
        "--output", required=True, help="file to write, .npz; or a folder, for MODEL.npz in it"
    )
    given = parser.parse_args(arguments)
    if not 0 <= given.seed <= MOST_SEED:
        parser.error(f"--seed is {given.seed}; it is 0 to {MOST_SEED}")
    if given.num_classes is not None and given.num_classes < 1:
        parser.error(f"--num-classes is {given.num_classes}; it is 1 or more")
    fields = {} if given.num_classes is None else {"num_classes": given.num_classes}
    output = Path(given.output)
    try:
        architecture = ARCHITECTURES[given.model](**fields)
        if given.backbone is None:
            variables = convert(load_state_dict(given.checkpoint), architecture)
        else:
            state_dict = load_state_dict(given.backbone)
            variables = convert_backbone(state_dict, architecture, jax.random.key(given.seed))
        if output.suffix != ".npz":
            output /= f"{given.model}.npz"
        output.parent.mkdir(parents=True, exist_ok=True)
        write_variables(output, variables)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: error: {error}")
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    print(f"{output}: {count:,} parameters")


if __name__ == "__main__":
    main()
