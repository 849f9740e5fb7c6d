"""A Hugging Face backbone with a dense head of one's own, block-sparse in time.

    pip install 'transformers>=4.57,<5'
    python examples/accelerate_hugging_face.py --checkpoint microsoft/resnet-18

Transformers has Flax models up to its version 4. Without --checkpoint the backbone is a small one
of random weights, and nothing is fetched. The head's weights are random: train them for your task.
"""

import argparse

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import bc_jax
from bc_jax.data import open_source

try:
    from transformers import FlaxResNetModel, ResNetConfig
except ImportError as error:
    raise SystemExit(f"{error}: pip install 'transformers>=4.57,<5'") from error

# Of a picture's channels [1, 1, 1, 3].
MEAN, STD = np.float32([[[[0.485, 0.456, 0.406]]]]), np.float32([[[[0.229, 0.224, 0.225]]]])


class Head(nn.Module):
    """From a backbone's features at several strides to logits at the finest of them."""

    classes: int = 5
    features: int = 32

    @nn.compact
    def __call__(self, levels):
        """From features [N, h, w, C], the finest first, to logits [N, h, w, classes]."""
        x = 0.0
        for number, level in enumerate(reversed(levels)):
            level = nn.Conv(self.features, (1, 1), name=f"lateral{number}")(level)
            x = level + (jax.image.resize(x, level.shape, "nearest") if number else 0)
        return nn.Conv(self.classes, (3, 3), name="logits")(nn.relu(x))


def load_backbone(checkpoint: str | None) -> FlaxResNetModel:
    """A checkpoint of the Hugging Face Hub, or a small ResNet of random weights."""
    if checkpoint:
        return FlaxResNetModel.from_pretrained(checkpoint)
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_type="basic"
    )
    return FlaxResNetModel(config, input_shape=(1, 64, 64, 3))


def main(
    size: tuple[int, int] = (256, 384),
    block: int = 64,
    frames: int = 10,
    checkpoint: str | None = None,
) -> float:
    """Run a clip with 30 % of the blocks; returns the share of pixels that differ from dense."""
    backbone, head = load_backbone(checkpoint), Head()

    def features(params, pictures):
        pictures = (pictures.astype(jnp.float32) / 255 - MEAN) / STD
        found = backbone.module.apply(params, pictures, output_hidden_states=True)
        # The stages' results, at strides 4 to 32; Transformers gives them channels-first.
        return [level.transpose(0, 2, 3, 1) for level in found.hidden_states[1:]]

    def apply(params, pictures):
        return head.apply(params["head"], features(params["backbone"], pictures))

    video = [frame[None] for frame in open_source("pedestrians", size=size, frames=frames)]
    levels = jax.eval_shape(features, backbone.params, video[0])
    zeros = [jnp.zeros(level.shape, level.dtype) for level in levels]
    params = {"backbone": backbone.params, "head": head.init(jax.random.key(0), zeros)}

    sparse = bc_jax.blockcopy(apply, block_size=block)
    state = sparse.init(params, video[0])
    step = sparse.jit()

    print(sparse.explain(params, video[0]))
    rng = np.random.default_rng(0)
    shape = sparse.grid_shape(video[0])
    for t, frame in enumerate(video):
        grid = None if t == 0 else rng.random(shape) < 0.3
        logits, state = step(params, state, frame, grid)
    different = logits.argmax(-1) != jax.jit(apply)(params, frame).argmax(-1)
    print(f"pixels of another class than the dense network's: {different.mean():.1%}")
    return float(different.mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", help="a ResNet of the Hugging Face Hub, or its folder")
    main(checkpoint=parser.parse_args().checkpoint)
