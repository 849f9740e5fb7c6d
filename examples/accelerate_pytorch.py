"""A PyTorch network, as it is, block-sparse in time: torchax makes a JAX function of it.

    pip install torchax 'torch<2.13' torchvision
    python examples/accelerate_pytorch.py --model deeplabv3_resnet50

Without --model the network is a small one, defined below; with it, one of torchvision's for
segmentation. Weights are random: load those of your task as PyTorch does, before `extract_jax`.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

import bc_jax
from bc_jax.data import open_source

try:
    import torch
    import torchax
except (ImportError, AttributeError) as error:  # torchax 0.0.13 fails so with PyTorch 2.13
    raise SystemExit(f"{error}: pip install torchax 'torch<2.13'") from error

# Of a picture's channels [1, 1, 1, 3].
MEAN, STD = np.float32([[[[0.485, 0.456, 0.406]]]]), np.float32([[[[0.229, 0.224, 0.225]]]])


class Small(torch.nn.Module):
    """Logits of five classes at the frame's resolution, from features at a quarter of it."""

    def __init__(self):
        """Random weights."""
        super().__init__()
        self.features = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False),
            torch.nn.BatchNorm2d(16),
            torch.nn.ReLU(),
            torch.nn.Conv2d(16, 32, 3, stride=2, padding=1),
            torch.nn.SiLU(),
        )
        self.logits = torch.nn.Conv2d(32, 5, 3, padding=1)

    def forward(self, pictures):
        """[N, 3, H, W] to [N, 5, H, W]."""
        logits = self.logits(self.features(pictures))
        return torch.nn.functional.interpolate(logits, scale_factor=4, mode="bilinear")


def build(model: str | None) -> torch.nn.Module:
    """The small network, or one of torchvision's, which returns a dict."""
    torch.manual_seed(0)
    if model is None:
        return Small()
    from torchvision.models import segmentation

    return getattr(segmentation, model)(weights=None, weights_backbone=None)


def main(
    size: tuple[int, int] = (256, 384), block: int = 64, frames: int = 10, model: str | None = None
) -> float:
    """Run a clip with 30 % of the blocks; returns the share of pixels that differ from dense."""
    params, network = torchax.extract_jax(build(model).eval())  # eval: batch norm as learnt

    def apply(params, pictures):
        pictures = (pictures.astype(jnp.float32) / 255 - MEAN) / STD
        logits = network(params, (pictures.transpose(0, 3, 1, 2),))  # PyTorch: channels first
        logits = logits["out"] if isinstance(logits, dict) else logits
        return logits.transpose(0, 2, 3, 1)

    video = [frame[None] for frame in open_source("pedestrians", size=size, frames=frames)]
    sparse = bc_jax.blockcopy(apply, block_size=block)
    print(sparse.explain(params, video[0]))
    state, step, dense = sparse.init(params, video[0]), sparse.jit(), jax.jit(apply)
    rng = np.random.default_rng(0)
    shape = sparse.grid_shape(video[0])
    for t, frame in enumerate(video):
        grid = None if t == 0 else rng.random(shape) < 0.3
        logits, state = step(params, state, frame, grid)
    different = logits.argmax(-1) != dense(params, frame).argmax(-1)
    print(f"pixels of another class than the dense network's: {different.mean():.1%}")
    return float(different.mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="of torchvision.models.segmentation, such as fcn_resnet50")
    main(model=parser.parse_args().model)
