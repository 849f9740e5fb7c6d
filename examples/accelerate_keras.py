"""A Keras network, block-sparse in time: a MobileNetV2 as far as an eighth of the resolution.

    pip install keras
    KERAS_BACKEND=jax python examples/accelerate_keras.py

`stateless_call` is a Keras model as a function of its variables: the ones that are trained, the
others, and frames. `weights="imagenet"` in place of None downloads trained ones.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # before Keras is imported

import jax
import keras
import numpy as np

import bc_jax
from bc_jax.data import open_source


def make_network(size: tuple[int, int], weights: str | None = None) -> keras.Model:
    """Logits of five classes [N, H / 8, W / 8, 5] of frames [N, H, W, 3], uint8."""
    backbone = keras.applications.MobileNetV2(
        (*size, 3), alpha=0.35, include_top=False, weights=weights
    )
    features = backbone.get_layer("block_6_expand_relu").output
    logits = keras.layers.Conv2D(5, 1)(features)
    frames = keras.Input((*size, 3), dtype="uint8")
    scaled = keras.layers.Rescaling(1 / 127.5, offset=-1)(frames)
    return keras.Model(frames, keras.Model(backbone.input, logits)(scaled))


def main(size: tuple[int, int] = (256, 384), block: int = 64, frames: int = 10) -> float:
    """Run a clip with 30 % of the blocks; returns the share of pixels that differ from dense."""
    network = make_network(size)
    kinds = network.trainable_variables, network.non_trainable_variables
    params = [[variable.value for variable in kind] for kind in kinds]

    def apply(params, pictures):
        logits, _ = network.stateless_call(*params, pictures, training=False)
        return logits

    video = [frame[None] for frame in open_source("pedestrians", size=size, frames=frames)]
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
    main()
