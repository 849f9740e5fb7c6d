"""A detector, block-sparse in time, whose policy is rewarded for boxes that change.

    python examples/detect.py

A small SwiftNet, trained for streets' classes, learns centres and sizes of people and vehicles on
generated streets (6 minutes on two CPU cores; --weights keeps what it learnt). Then policies run it
on streets that it has not seen, as many blocks each, and their boxes are held against those of the
dense network: average precision at an overlap of 0.75.
"""

import argparse
import functools
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import bc_jax
from bc_jax import models
from bc_jax.data.street import Box, Clip, Frame, StreetConfig
from bc_jax.metrics import average_precision
from bc_jax.policy import Gain, information_gain_detection

STRIDE = 4  # of the network
KINDS = {11: 0, 12: 0, 13: 1, 14: 1, 15: 1}  # people and riders; cars, trucks and buses
SMALLEST = (12, 6)  # rows and columns, of a thing that is looked for
MOST = 20  # boxes of a frame
LEAST, SURE = 0.2, 0.4  # score of a box that is told, and of one that others are held against


def detector(**parameters) -> models.Network:
    """Two maps of centres and the logarithms of width and height; key= or params= as `load`."""
    return models.load(
        "swiftnet_rn18", num_classes=4, base_width=24, decoder_width=64, **parameters
    )


def untrained() -> models.Network:
    """The detector, trained already but for its last layer."""
    params = jax.tree.map(
        lambda new, old: old if old.shape == new.shape else new,
        detector(key=jax.random.key(0)).params,
        models.load("swiftnet_street").params,
    )
    # At first hardly anything is a centre, and a side has about 20 pixels.
    last = params["params"]["logits"]["conv"]
    last |= {"kernel": 0 * last["kernel"], "bias": jnp.array([-4.0, -4.0, 3.0, 3.0])}
    return detector(params=params)


def things(frame: Frame) -> list[Box]:
    """The boxes that are looked for."""
    return [
        box
        for box in frame.boxes
        if box.label in KINDS
        and box.bottom - box.top >= SMALLEST[0]
        and box.right - box.left >= SMALLEST[1]
    ]


def targets(frame: Frame) -> tuple[np.ndarray, ...]:
    """What the network should say: image, centres [h, w, 2], sizes [h, w, 2], where they count."""
    height, width = (side // STRIDE for side in frame.image.shape[:2])
    centres, sizes = np.zeros((2, height, width, 2), np.float32)
    counts = np.zeros((height, width, 1), np.float32)
    rows, columns = np.mgrid[:height, :width]
    for box in things(frame):
        sides = np.array([box.right - box.left, box.bottom - box.top])
        y = min((box.top + box.bottom) // (2 * STRIDE), height - 1)
        x = min((box.left + box.right) // (2 * STRIDE), width - 1)
        spread = max(1, 0.15 * np.sqrt(sides.prod()) / STRIDE)
        near = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * spread**2))
        kind = KINDS[box.label]
        centres[..., kind] = np.maximum(centres[..., kind], near)
        sizes[y, x], counts[y, x] = np.log(sides), 1
    return frame.image, centres, sizes, counts


def loss(apply_fn, params, images, centres, sizes, counts) -> jax.Array:
    """That of CenterNet (Zhou et al., Objects as Points, 2019, Equation 1), and of the sizes."""
    out = apply_fn(params, images)
    logits, there = out[..., :2], centres == 1
    chance = jax.nn.sigmoid(logits)
    yes = (1 - chance) ** 2 * jax.nn.log_sigmoid(logits)
    no = (1 - centres) ** 4 * chance**2 * jax.nn.log_sigmoid(-logits)
    wrong = -jnp.where(there, yes, no).sum() / jnp.maximum(there.sum(), 1)
    apart = jnp.abs(out[..., 2:] - sizes) * counts
    return wrong + 0.5 * apart.sum() / jnp.maximum(counts.sum(), 1)


def examples(config: StreetConfig, clips: int, batch: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Batches without end, of four frames of each clip, half of them turned left to right."""
    rng = np.random.default_rng(0)
    frames = [
        targets(Clip(config, "train", i).frame(int(t)))
        for i in range(clips)
        for t in rng.integers(0, config.frames, 4)
    ]
    while True:
        chosen = [frames[i] for i in rng.integers(0, len(frames), batch)]
        turned = [[np.flip(a, 1) for a in f] if rng.random() < 0.5 else f for f in chosen]
        yield tuple(np.stack(arrays) for arrays in zip(*turned, strict=True))


def train(network: models.Network, config: StreetConfig, *, steps: int, clips: int, batch: int):
    """The network's parameters after so many steps; batch norm's statistics stay."""
    rates = optax.warmup_cosine_decay_schedule(0, 2e-3, min(40, steps // 2), steps)
    optimizer = optax.adamw(rates)

    @jax.jit
    def step(params, kept, state, *arrays):
        def wrong(params):
            return loss(network.apply_fn, {"params": params, **kept}, *arrays)

        value, gradient = jax.value_and_grad(wrong)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    params, kept = network.params["params"], {"batch_stats": network.params["batch_stats"]}
    state, losses = optimizer.init(params), []
    for number, arrays in enumerate(examples(config, clips, batch), 1):
        params, state, value = step(params, kept, state, *arrays)
        losses.append(float(value))
        if number % 100 == 0 or number == steps:
            print(f"step {number} of {steps}, loss {np.mean(losses[-100:]):.2f}", flush=True)
        if number == steps:
            return {"params": params, **kept}


@jax.jit
def decode(outputs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The likeliest centres' boxes [N, MOST, 4] (x1, y1, x2, y2), scores and kinds [N, MOST]."""
    n, _, width, _ = outputs.shape
    chance = jax.nn.sigmoid(outputs[..., :2])
    near = jax.lax.reduce_window(chance, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
    peaks = jnp.where(chance == near, chance, 0).reshape(n, -1)
    scores, at = jax.lax.top_k(peaks, MOST)
    place, kind = at // 2, at % 2
    sides = jnp.take_along_axis(outputs[..., 2:].reshape(n, -1, 2), place[..., None], axis=1)
    sides = jnp.exp(jnp.clip(sides, 0, 7))
    middle = STRIDE * (jnp.stack([place % width, place // width], axis=-1) + 0.5)
    boxes = jnp.concatenate([middle - sides / 2, middle + sides / 2], axis=-1)
    return boxes, jnp.where(scores > LEAST, scores, 0), kind


def classes(outputs: jax.Array) -> jax.Array:
    """What the policy looks at: nothing, a person or a vehicle, as logits."""
    return jnp.concatenate([jnp.zeros_like(outputs[..., :1]), outputs[..., :2]], axis=-1)


def play(runner: bc_jax.Runner, clips: list[list[Frame]]) -> tuple[list, float]:
    """Each frame's boxes, scores and kinds; the share of blocks executed, first frames aside."""
    found, executed = [], []
    for clip in clips:
        for t, frame in enumerate(clip):
            outputs = runner(frame.image, reset=[t == 0])
            found.append([np.asarray(x[0]) for x in decode(outputs)])
            if t:
                executed.append(np.asarray(runner.outcome.grid).mean())
    return found, float(np.mean(executed))


def chosen(found: list, kind: int, least: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each frame the boxes of a kind with scores above the least, and these scores."""
    frames = [(b, s, (s > least) & (k == kind)) for b, s, k in found]
    return [(boxes[these], scores[these]) for boxes, scores, these in frames]


def precision(found: list, dense: list) -> float:
    """Average precision of boxes, held against those that the dense network is sure of."""
    of_kinds = []
    for kind in (0, 1):
        true = [boxes for boxes, _ in chosen(dense, kind, SURE)]
        if any(map(len, true)):
            of_kinds.append(average_precision(chosen(found, kind, 0), true, iou=0.75))
    return float(np.mean(of_kinds)) if of_kinds else float("nan")


def compare(
    network: models.Network,
    config: StreetConfig,
    *,
    block: int,
    clips: int,
    target: float,
    seed: int,
) -> dict[str, float]:
    """Each policy's average precision; those that learn have seen as many other clips before."""
    grid = tuple(side // block for side in config.size)
    boxes_that_change = Gain(
        keep=lambda outputs: decode(outputs)[:2],
        compare=functools.partial(
            information_gain_detection, image_size=config.size, grid_shape=grid
        ),
    )
    policy = bc_jax.PolicyConfig(target=target)
    ways = {
        "all blocks": {"policy": "all"},
        "random": {"policy": "random"},
        "difference": {"policy": "difference"},
        "learned, by classes": {"policy": policy},
        "learned, by boxes": {"policy": policy, "gain": boxes_that_change},
    }
    sparse = bc_jax.blockcopy(network.apply_fn, block)
    before, unseen = (
        [list(Clip(config, split, first + i)) for i in range(clips)]
        for split, first in (("train", 1000), ("val", 0))
    )
    dense, results = [], {}
    print(f"\n{config.camera} camera: blocks executed, average precision")
    for name, options in ways.items():
        runner = bc_jax.Runner(
            sparse, network.params, target=target, logits=classes, seed=seed, **options
        )
        if runner.learning:
            play(runner, before)
        found, executed = play(runner, unseen)
        dense = dense or found
        results[name] = precision(found, dense)
        print(f"{name:20} {executed:.2f} {results[name]:.3f}", flush=True)
    return results


def main(
    size: tuple[int, int] = (256, 512),
    block: int = 64,
    *,
    steps: int = 900,
    batch: int = 4,
    training_clips: int = 150,
    clips: int = 12,
    frames: int = 20,
    cameras: tuple[str, ...] = ("fixed", "slow", "driving"),
    target: float = 0.3,
    weights: Path | None = None,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Train, or read weights; returns each policy's average precision for each camera."""
    bc_jax.sparse.keep_memory()
    streets = functools.partial(StreetConfig, size=size, frames=frames, traffic=0.5)
    if weights and weights.exists():
        params = models.read_variables(weights)
    else:
        params = train(untrained(), streets(), steps=steps, clips=training_clips, batch=batch)
        if weights:
            models.write_variables(weights, params)
    network = detector(params=params)
    return {
        camera: compare(
            network, streets(camera=camera), block=block, clips=clips, target=target, seed=seed
        )
        for camera in cameras
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, help="file (.npz) to read, or to write if missing")
    parser.add_argument("--steps", type=int, default=900, help="of training")
    parser.add_argument("--target", type=float, default=0.3, help="share of blocks to execute")
    parser.add_argument("--seed", type=int, default=0, help="of the policies")
    main(**vars(parser.parse_args()))
