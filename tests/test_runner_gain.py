"""A runner whose blocks gain by a measure of one's own: detections, depth, a part of the frame."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bc_jax import PolicyConfig, Runner, Steps, blockcopy
from bc_jax.policy import Gain, block_mean, information_gain_detection

BLOCK, GRID = 16, (2, 3)
SIZE = (GRID[0] * BLOCK, GRID[1] * BLOCK)
POLICY = PolicyConfig(target=0.5, widths=(4,), head_width=4, pixels_per_block=4)
SIDE = 6  # of a thing in the pictures


def scaling(by, **options):
    """A runner of a network that multiplies frames by a number."""
    options = {"policy": POLICY} | options
    return Runner(lambda p, x: p * x, jnp.float32(by), block_size=BLOCK, **options)


def squares(frames, things=3, seed=0):
    """Bright squares that jump, on black: float32 [T, 1, H, W, 3]."""
    video = np.zeros((frames, 1, *SIZE, 3), np.float32)
    generator = np.random.default_rng(seed)
    for frame in video:
        for y, x in generator.integers(0, np.array(SIZE) - SIDE, (things, 2)):
            frame[0, y : y + SIDE, x : x + SIDE] = generator.uniform(0.5, 1)
    return video


def detector(params, frames):
    """How bright the square around each pixel is, and how large things are."""
    window = jnp.full((SIDE, SIDE, 3, 1), 1 / (3 * SIDE * SIDE))
    heat = jax.lax.conv_general_dilated(
        frames, window, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return {"heat": params * heat, "size": jnp.zeros_like(heat[..., :2]) + SIDE}


def as_classes(outputs):
    """Nothing or something, as logits."""
    return jnp.concatenate([jnp.zeros_like(outputs["heat"]), outputs["heat"]], -1)


def boxes(outputs):
    """The three brightest places: boxes [N, 3, 4] and scores [N, 3]."""
    heat = outputs["heat"][..., 0]
    scores, index = jax.lax.top_k(heat.reshape(len(heat), -1), 3)
    y, x = index // heat.shape[2], index % heat.shape[2]
    half = SIDE / 2
    return jnp.stack([x - half, y - half, x + half, y + half], -1), scores


DETECTION = Gain(
    keep=boxes,
    compare=functools.partial(information_gain_detection, image_size=SIZE, grid_shape=GRID),
)


@pytest.mark.parametrize("capacity", [None, 3], ids=["in parts", "one program"])
def test_detections_are_what_blocks_gain(capacity):
    run = Runner(
        detector,
        jnp.float32(1),
        block_size=BLOCK,
        policy=POLICY,
        capacity=capacity,
        logits=as_classes,
        gain=DETECTION,
    )
    before, gained = None, []
    for frames in squares(7):
        outputs = jax.tree.map(np.array, run(frames))
        grid, gain = np.asarray(run.outcome.grid), np.asarray(run.outcome.gain)
        after = boxes(jax.tree.map(jnp.asarray, outputs))
        if before is not None:
            wanted = information_gain_detection(before, after, image_size=SIZE, grid_shape=GRID)
            np.testing.assert_allclose(gain, np.where(grid, wanted, 0), atol=1e-5)
            gained.append(gain.max())
        for kept, box in zip(run.state.kept, after, strict=True):
            np.testing.assert_allclose(kept, box, atol=1e-5)
        before = after
    assert max(gained) > 0.1
    assert int(run.state.policy.step) == 2
    assert float(run.metrics["information_gain"]) > 0


def depth(params, frames):
    return params + frames.mean(axis=-1, keepdims=True)


def of_depth(x):
    """Depths are no classes; the policy sees 1 / (1 + depth), as a softmax."""
    return jnp.concatenate([jnp.zeros_like(x), jnp.log(x)], -1)


def test_depth_gains_by_its_relative_change_in_a_scan():
    gain = Gain(keep=lambda d: jnp.log(d[..., 0]), compare=lambda a, b: jnp.abs(a - b))
    steps = Steps(blockcopy(depth, BLOCK), POLICY, logits=of_depth, gain=gain)
    video = np.random.default_rng(0).random((6, 2, *SIZE, 3), np.float32)
    one = jnp.float32(1)
    state = jax.jit(steps.init)(jax.random.key(0), one, video[0])

    def step(state, frames):
        state, outcome = steps.step(one, state, frames, capacity=12)
        return state, (outcome, state.frame_state.outputs)

    state, (outcomes, outputs) = jax.lax.scan(step, state, video)
    logs = np.log(outputs[..., 0])
    for t in range(1, len(video)):
        changed = block_mean(jnp.abs(logs[t] - logs[t - 1]), GRID)
        wanted = np.where(outcomes.grid[t], changed, 0)
        np.testing.assert_allclose(outcomes.gain[t], wanted, atol=1e-6)
        assert wanted.max() > 0.05
    assert int(state.policy.skipped_updates) == 0


def test_outputs_may_be_kept_as_they_are():
    """They lie in memory that the next frame writes into."""
    gain = Gain(keep=lambda z: z, compare=lambda a, b: jnp.abs(a - b).mean(-1))
    run = scaling(2, capacity=3, gain=gain)
    before = None
    for frames in np.random.default_rng(0).random((6, 1, *SIZE, 3), np.float32):
        after = np.array(run(frames))
        if before is not None:
            changed = block_mean(jnp.abs(after - before).mean(-1), GRID)
            wanted = np.where(run.outcome.grid, changed, 0)
            np.testing.assert_allclose(run.outcome.gain, wanted, atol=1e-6)
            assert wanted.max() > 0.1
        before = after


def test_the_policy_goes_where_the_gain_is():
    left = np.zeros(SIZE, np.float32)
    left[:, :BLOCK] = 1  # what changes elsewhere is of no use
    gain = Gain(keep=lambda z: z, compare=lambda a, b: jnp.abs(a - b).mean(-1) * left[None])
    policy = POLICY.constrained(
        target=0.4, widths=(4,), head_width=4, pixels_per_block=4, learning_rate=5e-3
    )
    chances = {}
    video = np.random.default_rng(1).random((240, 1, *SIZE, 3), np.float32)
    for name, measure in {"own": gain, "by logits": None}.items():
        run = scaling(4, policy=policy, train_interval=1, gain=measure, timed=False)
        grids = []
        for frames in video:
            run(frames)
            grids.append(np.asarray(run.outcome.grid[0]))
        executed = np.mean(grids[120:], axis=(0, 1))  # of each column
        chances[name] = executed[0] - executed[1:].mean()
    assert chances["own"] > 0.3 > 2 * abs(chances["by logits"])


def test_a_gain_that_is_no_map_of_blocks_is_refused_before_the_first_frame():
    def run(compare, **options):
        return scaling(1, gain=Gain(keep=lambda z: z, compare=compare), **options)

    frames = squares(1)[0]
    wrong = r"shape \[1, 32, 48, 3\]; it is the gain \[N, h, w\] of blocks or of pixels, N being 1"
    with pytest.raises(ValueError, match=wrong):
        run(lambda a, b: jnp.abs(a - b)).start(frames)
    for compare in (
        lambda a, b: 0.0,
        lambda a, b: jnp.zeros((2, *GRID)),
        lambda a, b: jnp.zeros((1, 5, 3)),
        lambda a, b: jnp.zeros((1, 0, 3)),
    ):
        with pytest.raises(ValueError, match="h a multiple of 2 rows of blocks and w of 3 columns"):
            run(compare).start(frames)
    # A policy that does not learn measures nothing.
    assert run(lambda a, b: 0.0, policy="random")(frames).shape == frames.shape
