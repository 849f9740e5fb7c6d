"""The networks in PyTorch's own operations, and what they give: `python tests/torch_networks.py`.

That command writes `tests/data/networks_reference.npz`, by which the networks are tested where
PyTorch is not installed. Each runs straight from a state dict, with its authors' names; inference
only.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bc_jax.convert import deeplabv3plus, swiftnet
from bc_jax.models.variables import flatten

# Narrow, so that they are fast.
NARROW = {"base_width": 8, "num_classes": 5}
ARCHITECTURES = {
    "swiftnet_rn18": functools.partial(swiftnet, "resnet18", decoder_width=12, **NARROW),
    "swiftnet_rn50": functools.partial(swiftnet, "resnet50", decoder_width=12, **NARROW),
} | {
    f"deeplabv3plus_{name}_os{stride}": functools.partial(
        deeplabv3plus,
        backbone,
        output_stride=stride,
        pyramid_width=12,
        low_level_width=6,
        **NARROW,
    )
    for name, backbone, stride in (
        ("rn50", "resnet50", 16),
        ("rn50", "resnet50", 8),
        ("rn101", "resnet101", 16),
    )
}
# Halved again and again, the sides are even (70, 18; 84) and odd (35, 9; 333, 167, 21). The width
# is more than the widest dilation, of 18 at stride 16 and 36 at stride 8.
SIZE = (70, 333)
REFERENCE = Path(__file__).parent / "data/networks_reference.npz"


def state_dict_of(architecture) -> dict[str, np.ndarray]:
    """Random numbers under the PyTorch names of an architecture, batch statistics included."""
    module = architecture.module
    template = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    shapes = {}
    for name, leaf in flatten(template).items():
        shape = leaf.shape if leaf.ndim < 4 else tuple(leaf.shape[i] for i in (3, 2, 0, 1))
        shapes[architecture.torch_name(name)] = shape
    return random_numbers(shapes)


def random_numbers(shapes) -> dict[str, np.ndarray]:
    """Numbers that keep the activations' scale, for a state dict's names and shapes."""
    rng = np.random.RandomState(0)  # its stream never changes
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


def frames_of(size: tuple[int, int]) -> np.ndarray:
    """Random pixels, float32 [1, H, W, 3]."""
    return np.random.RandomState(1).normal(size=(1, *size, 3)).astype(np.float32)


def torch_logits(architecture, state, x: np.ndarray) -> np.ndarray:
    """Logits [N, h, w, classes] of the architecture in PyTorch, for x [N, H, W, 3]."""
    import torch

    with torch.no_grad():
        frames = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
        logits = torch_network(architecture, state)(frames)
    return logits.numpy().transpose(0, 2, 3, 1)


def torch_network(architecture, state) -> "TorchNetwork":
    """The architecture in PyTorch: a call from normalised frames [N, 3, H, W] to logits."""
    if "classifier.project.0.weight" in state:
        return TorchDeepLab(state, architecture.module.output_stride)
    return TorchSwiftNet(state)


class TorchNetwork:
    """PyTorch's operations on the entries of a state dict."""

    def __init__(self, state):
        import torch

        self.state = {name: torch.from_numpy(array) for name, array in state.items()}

    def conv(self, x, name, stride=1, dilation=1):
        from torch.nn import functional

        weight = self.state[f"{name}.weight"]
        bias = self.state.get(f"{name}.bias")
        padding = dilation * (weight.shape[-1] // 2)
        return functional.conv2d(x, weight, bias, stride, padding, dilation)

    def norm(self, x, name):
        from torch.nn import functional

        entries = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(x, *(self.state[f"{name}.{entry}"] for entry in entries))

    def resize(self, x, size):
        from torch.nn import functional

        return functional.interpolate(x, size, mode="bilinear", align_corners=False)

    def block(self, x, name, stride, dilation):
        bottleneck = f"{name}.conv3.weight" in self.state
        strided = 2 if bottleneck else 1
        last = 3 if bottleneck else 2
        y = x
        for i in range(1, last + 1):
            wide = self.state[f"{name}.conv{i}.weight"].shape[-1] > 1
            steps = (stride if i == strided else 1, dilation if wide else 1)
            y = self.norm(self.conv(y, f"{name}.conv{i}", *steps), f"{name}.bn{i}")
            y = y.relu() if i < last else y
        if f"{name}.downsample.0.weight" in self.state:
            x = self.norm(self.conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        return y + x

    def backbone(self, x, dilated=(False, False, False)):
        """Each stage's features before their last ReLU; `dilated` as torchvision has it."""
        from torch.nn import functional

        x = self.norm(self.conv(x, "backbone.conv1", 2), "backbone.bn1").relu()
        x = functional.max_pool2d(x, 3, 2, 1)
        stages, dilation = [], 1
        for layer in range(1, 5):
            stride, before = (1 if layer == 1 else 2), dilation
            if layer > 1 and dilated[layer - 2]:
                stride, dilation = 1, 2 * dilation
            i = 0
            while f"backbone.layer{layer}.{i}.conv1.weight" in self.state:
                steps = (stride, before) if i == 0 else (1, dilation)
                stage = self.block(x, f"backbone.layer{layer}.{i}", *steps)
                x, i = stage.relu(), i + 1
            stages.append(stage)
        return stages


class TorchSwiftNet(TorchNetwork):
    """SwiftNet, single scale."""

    def norm_relu_conv(self, x, name):
        return self.conv(self.norm(x, f"{name}.norm").relu(), f"{name}.conv")

    def __call__(self, x):
        import torch
        from torch.nn import functional

        skips = self.backbone(x)
        x = self.norm_relu_conv(skips.pop(), "spp.spp.spp_bn")
        levels, size = [x], x.shape[2:]
        for i, rows in enumerate((8, 4, 2)):
            grid = (rows, max(1, round(size[1] / size[0] * rows)))
            pooled = functional.adaptive_avg_pool2d(x, grid)
            levels.append(self.resize(self.norm_relu_conv(pooled, f"spp.spp.spp{i}"), size))
        x = self.norm_relu_conv(torch.cat(levels, 1), "spp.spp.spp_fuse")
        for i, skip in enumerate(reversed(skips)):
            skip = self.norm_relu_conv(skip, f"upsample.{i}.bottleneck")
            x = self.resize(x, skip.shape[2:]) + skip
            x = self.norm_relu_conv(x, f"upsample.{i}.blend_conv")
        return self.norm_relu_conv(x, "logits")


class TorchDeepLab(TorchNetwork):
    """DeepLabV3+, without the last resizing to the frame's size."""

    def __init__(self, state, output_stride):
        super().__init__(state)
        fine = output_stride == 8
        self.dilated = (False, fine, True)
        self.rates = (12, 24, 36) if fine else (6, 12, 18)

    def conv_norm_relu(self, x, name, first=0, dilation=1):
        x = self.conv(x, f"{name}.{first}", dilation=dilation)
        return self.norm(x, f"{name}.{first + 1}").relu()

    def __call__(self, x):
        import torch
        from torch.nn import functional

        low_level, _, _, x = (stage.relu() for stage in self.backbone(x, self.dilated))
        convs = "classifier.aspp.convs"
        levels = [self.conv_norm_relu(x, f"{convs}.0")]
        for i, rate in enumerate(self.rates, start=1):
            levels.append(self.conv_norm_relu(x, f"{convs}.{i}", dilation=rate))
        image = functional.adaptive_avg_pool2d(x, 1)
        image = self.conv_norm_relu(image, f"{convs}.4", first=1)
        levels.append(self.resize(image, x.shape[2:]))
        x = self.conv_norm_relu(torch.cat(levels, 1), "classifier.aspp.project")
        low_level = self.conv_norm_relu(low_level, "classifier.project")
        x = torch.cat([low_level, self.resize(x, low_level.shape[2:])], 1)
        x = self.conv_norm_relu(x, "classifier.classifier")
        return self.conv(x, "classifier.classifier.3")


def main() -> None:
    """Write the reference."""
    logits = {}
    for name, make in ARCHITECTURES.items():
        architecture = make()
        logits[name] = torch_logits(architecture, state_dict_of(architecture), frames_of(SIZE))
    np.savez_compressed(REFERENCE, **logits)
    print(f"{REFERENCE.name}: {REFERENCE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
