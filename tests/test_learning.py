"""Does it learn: a made-up clip, a stand-in network, outputs copied block by block."""

import functools

import jax
import jax.numpy as jnp
import pytest

from bc_jax.policy import (
    FIRST_GAIN,
    Observation,
    PolicyConfig,
    information_gain,
    init,
    learn,
    logits,
    next_age,
    next_running_gain,
    sample_grid,
    track,
)

GRID, BLOCK = (4, 4), 8
INTERVAL = 3  # the policy learns at every third frame


def _texture(key, frames):
    """Noise of 2-pixel patches: [frames, H, W, 3] in [0, 1]."""
    h, w = (g * BLOCK // 2 for g in GRID)
    patches = jax.random.uniform(key, (frames, h, w, 3))
    return jnp.repeat(jnp.repeat(patches, 2, axis=1), 2, axis=2)


def corner_clip(frames):
    """A still picture in whose upper left 2x2 blocks, a quarter of all, everything moves."""
    still, moving = jax.random.split(jax.random.key(0))
    corner = jnp.zeros(GRID, bool).at[:2, :2].set(True)
    mask = jnp.repeat(jnp.repeat(corner, BLOCK, axis=0), BLOCK, axis=1)[None, :, :, None]
    return jnp.where(mask, _texture(moving, frames), _texture(still, 1)), corner


def busy_clip(frames):
    """Every block changes now and then, the left ones seldom and the right ones at every frame."""
    keys = jax.random.split(jax.random.key(1))
    rate = jnp.linspace(0.05, 1.0, GRID[0] * GRID[1]).reshape(GRID)
    moves = jax.random.uniform(keys[0], (frames, *GRID)) < rate[None]
    pixels = jnp.repeat(jnp.repeat(moves, BLOCK, axis=1), BLOCK, axis=2)[..., None]
    textures = _texture(keys[1], frames)

    def step(held, new):
        held = jnp.where(new[0], new[1], held)
        return held, held

    return jax.lax.scan(step, textures[0], (pixels, textures))[1]


def stand_in(frames):
    """A 'network' whose output is a simple function of the pixels: [N, H, W, 3] logits."""
    return 10 * frames


@functools.partial(jax.jit, static_argnums=1)
def play(key, config, clip):
    """Plays `clip` through the policy; returns its state and, per frame, probabilities and grids.

    Only the blocks that are executed get the stand-in's output and their frame state renewed.
    """

    def renewed(grid, new, old):
        mask = jnp.repeat(jnp.repeat(grid, BLOCK, axis=1), BLOCK, axis=2)[..., None]
        return jnp.where(mask, new, old)

    start = Observation(
        frames=clip[:1],
        frame_state=clip[:1],
        outputs=stand_in(clip[:1]),
        grid=jnp.ones((1, *GRID), bool),
        age=jnp.zeros((1, *GRID), jnp.int32),
        running_gain=jnp.full((1, *GRID), FIRST_GAIN),
    )
    init_key, run_key = jax.random.split(key)

    def step(carry, inputs):
        state, observation = carry
        index, step_key, frame = inputs
        observation = observation.replace(frames=frame[None])
        out = logits(state, observation, config)
        grid = sample_grid(step_key, out)
        new = renewed(grid, stand_in(observation.frames), observation.outputs)
        gain = information_gain(observation.outputs, new, GRID, config)
        state = track(state, grid, config)
        state = jax.lax.cond(
            index % INTERVAL == 0,
            lambda s: learn(s, observation, grid, grid, new, config, gain=gain)[0],
            lambda s: s,
            state,
        )
        observation = observation.replace(
            frame_state=renewed(grid, observation.frames, observation.frame_state),
            outputs=new,
            grid=grid,
            age=next_age(observation.age, grid),
            running_gain=next_running_gain(observation.running_gain, grid, gain),
        )
        return (state, observation), (jax.nn.sigmoid(out[0]), grid[0])

    frames = len(clip) - 1
    inputs = (jnp.arange(frames), jax.random.split(run_key, frames), clip[1:])
    (state, _), (probability, grids) = jax.lax.scan(
        step, (init(init_key, start, config), start), inputs
    )
    return state, probability, grids


SMALL = {"widths": (4, 8, 8), "head_width": 8, "pixels_per_block": 8, "gain_scale": 0.5}


@pytest.mark.parametrize("prior", [True, False], ids=["prior", "network-alone"])
def test_the_corner_that_moves_is_executed_and_the_rest_is_not(prior):
    clip, corner = corner_clip(1000)
    config = PolicyConfig(target=0.25, prior=prior, learning_rate=1e-3, **SMALL)
    # Of one course alone, a block's probability is up to a tenth from the mean of several.
    keys = jax.random.split(jax.random.key(2), 6)
    state, probability, grids = jax.vmap(lambda key: play(key, config, clip))(keys)
    first, final = probability[:, 0].mean(axis=0), probability[:, -100:].mean(axis=(0, 1))
    print(
        f"corner {first[corner].mean():.2f} -> at least {final[corner].min():.2f}, rest "
        f"{first[~corner].mean():.2f} -> at most {final[~corner].max():.2f}, "
        f"executed {grids.mean():.3f}"
    )
    assert final[corner].min() > 0.9
    assert final[~corner].max() < 0.3
    assert not state.skipped_updates.any()


@pytest.mark.parametrize("target", [0.3, 0.5, 0.7])
def test_the_target_is_held(target):
    config = PolicyConfig(target=target, **SMALL)
    _, probability, grids = play(jax.random.key(3), config, busy_clip(400))
    executed = grids[100:].mean()
    print(f"target {target}: executed {executed:.3f}")
    assert abs(executed - target) < 0.02
    # It is not held by executing all blocks alike: those that change more are executed more.
    rate = probability[-100:].mean(axis=0).ravel()
    assert rate[-4:].mean() > rate[:4].mean() + 0.2


def test_the_papers_offset_is_measured():
    """The paper's cost term has a fixed point beside the target; how far depends on the gain."""
    config = PolicyConfig.paper(target=0.3, learning_rate=1e-3, **SMALL)
    _, probability, grids = play(jax.random.key(3), config, busy_clip(900))
    executed = grids[-300:].mean()
    print(f"paper's objective, target 0.3: executed {executed:.3f}")
    assert jnp.isfinite(probability).all()
    assert 0 < executed < 1
