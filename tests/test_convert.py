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
import torch_networks
from torch_networks import frames_of, random_numbers, state_dict_of, torch_logits

from bc_jax.convert import (
    convert,
    convert_backbone,
    deeplabv3plus,
    espnet,
    load_state_dict,
    main,
    swiftnet,
)
from bc_jax.models import load, read_variables
from bc_jax.models.variables import flatten

HAS_TORCH = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(
    not HAS_TORCH, reason="compares with PyTorch, which is not installed: pip install torch"
)
ARCHITECTURES = {
    "espnet": espnet,
    "swiftnet_resnet18": lambda: swiftnet("resnet18"),
    "swiftnet_resnet50": lambda: swiftnet("resnet50"),
    "deeplabv3plus_resnet101": lambda: deeplabv3plus("resnet101"),
}


def random_state_dict(root, name):
    """The authors' names and shapes, filled with random numbers."""
    shapes = json.loads((root / f"tests/data/{name}_state_dict.json").read_text())
    return random_numbers(shapes)


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


# --- a backbone alone ---


def torchvision_state_dict(root, name="swiftnet_resnet18"):
    """torchvision's ResNet for ImageNet, random."""
    state = random_state_dict(root, name)
    prefix = "backbone."
    state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    features = state["layer4.1.bn1.weight"].size
    state["fc.weight"] = np.zeros((1000, features), np.float32)
    return state | {"fc.bias": np.zeros(1000, np.float32)}


@pytest.mark.parametrize(
    ("names", "architecture", "model"),
    [
        ("swiftnet_resnet18", swiftnet("resnet18", num_classes=3), "swiftnet_rn18"),
        ("deeplabv3plus_resnet101", deeplabv3plus("resnet101", num_classes=3), None),
    ],
)
def test_a_backbone_is_taken_and_the_rest_drawn(root, names, architecture, model):
    state = torchvision_state_dict(root, names)
    first = convert_backbone(state, architecture, jax.random.key(0))
    weight = state["layer3.0.downsample.0.weight"]
    kernel = first["params"]["backbone"]["layer3_0"]["downsample_conv"]["kernel"]
    np.testing.assert_array_equal(kernel, weight.transpose(2, 3, 1, 0))
    mean = first["batch_stats"]["backbone"]["bn1"]["mean"]
    np.testing.assert_array_equal(mean, state["bn1.running_mean"])
    if model:
        load(model, params=first, num_classes=3)
        second = flatten(convert_backbone(state, architecture, jax.random.key(1)))
        kernels = [k for k in flatten(first) if k.endswith("kernel")]
        for name in kernels:
            same = np.array_equal(flatten(first)[name], second[name])
            assert same == ("/backbone/" in name), name


def test_a_backbones_faults_are_named(root):
    state = torchvision_state_dict(root)
    del state["layer2.1.bn2.running_var"]
    state["layer5.0.conv1.weight"] = np.zeros((1, 1, 1, 1), np.float32)
    state["conv1.weight"] = np.zeros((64, 1, 7, 7), np.float32)
    with pytest.raises(ValueError, match="resnet18 for SwiftNet: 3 entries do not fit") as error:
        convert_backbone(state, swiftnet("resnet18"), jax.random.key(0))
    for fault in (
        "missing layer2.1.bn2.running_var",
        "surplus layer5.0.conv1.weight",
        "misshapen conv1.weight: (64, 1, 7, 7), not (64, 3, 7, 7)",
    ):
        assert fault in str(error.value)
    with pytest.raises(ValueError, match="ESPNet has no ResNet"):
        convert_backbone(state, espnet(), jax.random.key(0))


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
    (tmp_path / "x.pth").write_bytes(b"weights")
    arguments = ("--model", "espnet", "--checkpoint", tmp_path / "x.pth")
    result = run_module(root, *arguments, "--output", tmp_path / "x.npz")
    assert result.returncode != 0
    assert "needs PyTorch: pip install torch" in result.stderr
    assert "Traceback" not in result.stderr


@needs_torch
def test_the_command_takes_a_backbone_and_a_folder(root, tmp_path):
    import torch

    state = torchvision_state_dict(root)
    torch.save({name: torch.from_numpy(array) for name, array in state.items()}, tmp_path / "x.pth")
    arguments = ("--model", "swiftnet_rn18", "--backbone", tmp_path / "x.pth", "--seed", 3)
    result = run_module(root, *arguments, "--output", tmp_path / "new/folder")
    assert result.returncode == 0, result.stderr
    expected = convert_backbone(state, swiftnet("resnet18"), jax.random.key(3))
    written = read_variables(tmp_path / "new/folder/swiftnet_rn18.npz")
    jax.tree.map(np.testing.assert_array_equal, written, expected)
    load("swiftnet_rn18", params=written)


@pytest.mark.parametrize("sources", [(), ("--checkpoint", "a.pth", "--backbone", "b.pth")])
def test_the_command_wants_one_source(sources, capsys):
    with pytest.raises(SystemExit):
        main(["--model", "swiftnet_rn18", *sources, "--output", "x.npz"])
    assert "--backbone" in capsys.readouterr().err


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

    best = {"best_score": np.float64(0.5), "model_state": wrapped}
    torch.save(best, tmp_path / "best.pth")
    assert load_state_dict(tmp_path / "best.pth").keys() == state.keys()

    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "x.pth").read_bytes()[:5000])
    (tmp_path / "text.pth").write_text("hello world")
    (tmp_path / "nothing.pth").write_text("")
    foreign = "is damaged, or no PyTorch checkpoint"
    for checkpoint, message in (
        ("empty.pth", "no state dict"),
        ("none.pth", "No such file"),
        *((f"{name}.pth", foreign) for name in ("module", "cut", "text", "nothing")),
    ):
        arguments = ("--model", "espnet", "--checkpoint", tmp_path / checkpoint)
        result = run_module(root, *arguments, "--output", tmp_path / "y.npz")
        assert result.returncode != 0 and message in result.stderr
        assert "Traceback" not in result.stderr
        assert "weights_only" not in result.stderr  # which is no option of the command


# --- the same numbers as PyTorch's own operations ---


def assert_same_logits(name, size, expected):
    architecture = torch_networks.ARCHITECTURES[name]()
    variables = convert(state_dict_of(architecture), architecture)
    actual = jax.jit(architecture.module.apply)(variables, frames_of(size))
    assert actual.shape == expected.shape
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual / scale, expected / scale, atol=1e-4)
    # Logits that hardly vary over space would agree by accident.
    assert expected.std(axis=(1, 2)).mean() > 0.05 * scale


every_network = pytest.mark.parametrize("name", torch_networks.ARCHITECTURES)


@every_network
def test_networks_compute_what_pytorch_did(name):
    with np.load(torch_networks.REFERENCE, allow_pickle=False) as file:
        assert_same_logits(name, torch_networks.SIZE, file[name])


@needs_torch
@every_network
def test_networks_compute_what_pytorch_does(name):
    architecture = torch_networks.ARCHITECTURES[name]()
    size = (64, 320)
    expected = torch_logits(architecture, state_dict_of(architecture), frames_of(size))
    assert_same_logits(name, size, expected)
