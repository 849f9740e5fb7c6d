"""PyTorch checkpoints to Flax: names and shapes, and the same numbers where PyTorch is at hand."""

import importlib.util
import json
import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bc_jax.convert import convert, espnet, swiftnet
from bc_jax.models import SwiftNet, read_variables
from bc_jax.models.variables import flatten

HAS_TORCH = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(
    not HAS_TORCH, reason="compares with PyTorch, which is not installed: pip install torch"
)
ARCHITECTURES = {
    "espnet": espnet,
    "swiftnet_resnet18": lambda: swiftnet("resnet18"),
    "swiftnet_resnet50": lambda: swiftnet("resnet50"),
}


def random_state_dict(root, name):
    """The authors' names and shapes, filled with numbers that keep the activations' scale."""
    shapes = json.loads((root / f"tests/data/{name}_state_dict.json").read_text())
    rng = np.random.default_rng(0)
    state = {}
    for entry, shape in shapes.items():
        if entry.endswith("num_batches_tracked"):
            state[entry] = np.array(7)
        elif len(shape) == 4:
            deviation = np.sqrt(1.5 / np.prod(shape[1:]))
            state[entry] = rng.normal(0, deviation, shape).astype(np.float32)
        elif entry.endswith(("weight", "running_var")):
            state[entry] = rng.uniform(0.5, 1.2, shape).astype(np.float32)
        else:
            state[entry] = rng.normal(0, 0.1, shape).astype(np.float32)
    return state


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_entry_of_the_authors_finds_its_place(root, name):
    state, architecture = random_state_dict(root, name), ARCHITECTURES[name]()
    variables = convert(state, architecture)
    template = jax.eval_shape(
        architecture.module.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3))
    )
    shapes = {leaf: array.shape for leaf, array in flatten(variables).items()}
    assert shapes == {leaf: array.shape for leaf, array in flatten(template).items()}
    # The numbers of every entry stand in one leaf, and in one only.
    entries = sorted(
        np.sort(array, axis=None).tobytes()
        for entry, array in state.items()
        if not entry.endswith("num_batches_tracked")
    )
    leaves = sorted(np.sort(leaf, axis=None).tobytes() for leaf in flatten(variables).values())
    assert entries == leaves


def test_names_and_layouts(root):
    state = random_state_dict(root, "swiftnet_resnet18")
    variables = convert(state, swiftnet("resnet18"))
    block = variables["params"]["backbone"]["layer2_0"]
    weight = state["backbone.layer2.0.conv1.weight"]
    assert block["conv1"]["kernel"][2, 1, 5, 9] == weight[9, 5, 2, 1]
    statistics = variables["batch_stats"]["backbone"]["layer2_0"]["downsample_bn"]
    for leaf, entry in (("mean", "running_mean"), ("var", "running_var")):
        expected = state[f"backbone.layer2.0.downsample.1.{entry}"]
        np.testing.assert_array_equal(statistics[leaf], expected)
    parameters = block["downsample_bn"]
    for leaf, entry in (("scale", "weight"), ("bias", "bias")):
        expected = state[f"backbone.layer2.0.downsample.1.{entry}"]
        np.testing.assert_array_equal(parameters[leaf], expected)


def test_transposed_convolution_scatters_as_in_pytorch(root):
    state = random_state_dict(root, "espnet")
    weight = state["classifier.weight"]  # [in, out, 2, 2]
    x = np.random.default_rng(1).normal(size=(1, 3, 4, 20)).astype(np.float32)
    expected = np.zeros((1, 6, 8, 20), np.float32)
    for i, j, a, b in np.ndindex(3, 4, 2, 2):
        expected[0, 2 * i + a, 2 * j + b] = x[0, i, j] @ weight[:, :, a, b]
    parameters = convert(state, espnet())["params"]["half_up"]
    module = nn.ConvTranspose(20, (2, 2), strides=(2, 2), padding="VALID", use_bias=False)
    actual = module.apply({"params": parameters}, jnp.asarray(x))
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_every_fault_is_named_at_once(root):
    state = random_state_dict(root, "swiftnet_resnet18")
    del state["spp.spp.spp1.norm.running_var"]
    del state["backbone.layer3.1.conv2.weight"]
    state["fc.weight"] = np.zeros((1000, 512), np.float32)
    state["logits.conv.weight"] = np.zeros((11, 128, 1, 1), np.float32)
    with pytest.raises(ValueError, match="SwiftNet: 4 entries do not fit") as error:
        convert(state, swiftnet("resnet18"))
    for fault in (
        "missing spp.spp.spp1.norm.running_var",
        "missing backbone.layer3.1.conv2.weight",
        "surplus fc.weight",
        "misshapen logits.conv.weight: (11, 128, 1, 1), not (19, 128, 1, 1)",
    ):
        assert fault in str(error.value)


def test_options_of_the_module_are_followed(root):
    state = random_state_dict(root, "swiftnet_resnet18")
    state["logits.conv.weight"] = np.ones((11, 128, 1, 1), np.float32)
    state["logits.conv.bias"] = np.ones(11, np.float32)
    variables = convert(state, swiftnet("resnet18", num_classes=11))
    assert variables["params"]["logits"]["conv"]["kernel"].shape == (1, 1, 128, 11)


def run_module(root, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "bc_jax.convert", *map(str, arguments)],
        cwd=root,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )


@pytest.mark.skipif(HAS_TORCH, reason="PyTorch is installed")
def test_the_command_says_that_it_needs_pytorch(root, tmp_path):
    arguments = ("--model", "espnet", "--checkpoint", "x.pth", "--output", tmp_path / "x.npz")
    result = run_module(root, *arguments)
    assert result.returncode != 0
    assert "needs PyTorch: pip install torch" in result.stderr
    assert "Traceback" not in result.stderr


@needs_torch
def test_the_command_converts_a_checkpoint(root, tmp_path):
    import torch

    state = random_state_dict(root, "espnet")
    wrapped = {f"module.{name}": torch.from_numpy(array) for name, array in state.items()}
    torch.save({"epoch": 3, "state_dict": wrapped}, tmp_path / "x.pth")
    arguments = ("--model", "espnet", "--checkpoint", tmp_path / "x.pth")
    result = run_module(root, *arguments, "--output", tmp_path / "x.npz")
    assert result.returncode == 0, result.stderr
    assert "364,569 parameters" in result.stdout
    expected = convert(state, espnet())
    jax.tree.map(np.testing.assert_array_equal, read_variables(tmp_path / "x.npz"), expected)

    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    for checkpoint, message in (("empty.pth", "no state dict"), ("none.pth", "No such file")):
        arguments = ("--model", "espnet", "--checkpoint", tmp_path / checkpoint)
        result = run_module(root, *arguments, "--output", tmp_path / "y.npz")
        assert result.returncode != 0 and message in result.stderr
        assert "Traceback" not in result.stderr


# --- the same numbers as PyTorch's own operations ---


class TorchSwiftNet:
    """SwiftNet in PyTorch's functional operations, straight from a state dict; inference only."""

    def __init__(self, state):
        import torch

        self.state = {name: torch.from_numpy(array) for name, array in state.items()}

    def conv(self, x, name, stride=1):
        from torch.nn import functional

        weight = self.state[f"{name}.weight"]
        bias = self.state.get(f"{name}.bias")
        return functional.conv2d(x, weight, bias, stride=stride, padding=weight.shape[-1] // 2)

    def norm(self, x, name):
        from torch.nn import functional

        s = self.state
        return functional.batch_norm(
            x,
            s[f"{name}.running_mean"],
            s[f"{name}.running_var"],
            s[f"{name}.weight"],
            s[f"{name}.bias"],
        )

    def norm_relu_conv(self, x, name):
        return self.conv(self.norm(x, f"{name}.norm").relu(), f"{name}.conv")

    def block(self, x, name, stride):
        bottleneck = f"{name}.conv3.weight" in self.state
        strided = 2 if bottleneck else 1
        last = 3 if bottleneck else 2
        y = x
        for i in range(1, last + 1):
            y = self.conv(y, f"{name}.conv{i}", stride if i == strided else 1)
            y = self.norm(y, f"{name}.bn{i}")
            y = y.relu() if i < last else y
        if f"{name}.downsample.0.weight" in self.state:
            x = self.norm(self.conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        return y + x

    def __call__(self, x):
        import torch
        from torch.nn import functional

        def resize(x, size):
            return functional.interpolate(x, size, mode="bilinear", align_corners=False)

        x = self.norm(self.conv(x, "backbone.conv1", 2), "backbone.bn1").relu()
        x = functional.max_pool2d(x, 3, 2, 1)
        skips = []
        for layer in range(1, 5):
            i = 0
            while f"backbone.layer{layer}.{i}.conv1.weight" in self.state:
                stride = 2 if layer > 1 and i == 0 else 1
                skip = self.block(x, f"backbone.layer{layer}.{i}", stride)
                x, i = skip.relu(), i + 1
            skips.append(skip)

        x = self.norm_relu_conv(skips.pop(), "spp.spp.spp_bn")
        levels, size = [x], x.shape[2:]
        for i, rows in enumerate((8, 4, 2)):
            grid = (rows, max(1, round(size[1] / size[0] * rows)))
            pooled = functional.adaptive_avg_pool2d(x, grid)
            levels.append(resize(self.norm_relu_conv(pooled, f"spp.spp.spp{i}"), size))
        x = self.norm_relu_conv(torch.cat(levels, 1), "spp.spp.spp_fuse")
        for i, skip in enumerate(reversed(skips)):
            skip = self.norm_relu_conv(skip, f"upsample.{i}.bottleneck")
            x = resize(x, skip.shape[2:]) + skip
            x = self.norm_relu_conv(x, f"upsample.{i}.blend_conv")
        return self.norm_relu_conv(x, "logits")


@needs_torch
@pytest.mark.parametrize("size", [(256, 512), (128, 192), (203, 333)])
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_swiftnet_computes_what_pytorch_does(root, backbone, size):
    import torch

    state = random_state_dict(root, f"swiftnet_{backbone}")
    variables = convert(state, swiftnet(backbone))
    x = np.random.default_rng(2).normal(size=(1, *size, 3)).astype(np.float32)
    with torch.no_grad():
        expected = TorchSwiftNet(state)(torch.from_numpy(x.transpose(0, 3, 1, 2)))
    expected = expected.numpy().transpose(0, 2, 3, 1)
    actual = jax.jit(SwiftNet(backbone).apply)(variables, x)
    assert actual.shape == expected.shape
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual / scale, expected / scale, atol=1e-4)
