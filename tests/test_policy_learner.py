"""The learner's state, its update, and what it does with bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bc_jax.policy import (
    Observation,
    PolicyConfig,
    information_gain,
    init,
    learn,
    logits,
    look,
    next_age,
    reinforce_loss,
    sample_grid,
    track,
)
from bc_jax.policy import learner as module

SMALL = {"widths": (4, 4), "head_width": 4, "pixels_per_block": 4}
CONSTRAINED = PolicyConfig(**SMALL)
PAPER = PolicyConfig.paper(**SMALL)
BOTH = pytest.mark.parametrize("config", [CONSTRAINED, PAPER], ids=["constrained", "paper"])


def _observation(seed=0, n=2, grid=(2, 3), block=16, classes=4, dtype=np.float32):
    rng = np.random.default_rng(seed)
    shape = (n, grid[0] * block, grid[1] * block)
    frames, state = rng.random((2, *shape, 3)).astype(np.float32)
    if dtype == np.uint8:
        frames, state = ((255 * x).astype(np.uint8) for x in (frames, state))
    return Observation(
        frames=jnp.asarray(frames),
        frame_state=jnp.asarray(state),
        outputs=jnp.asarray(rng.normal(size=(*shape, classes)).astype(np.float32)),
        grid=jnp.asarray(rng.random((n, *grid)) < 0.5),
        age=jnp.asarray(rng.integers(0, 9, (n, *grid)), jnp.int32),
        running_gain=jnp.asarray(rng.random((n, *grid)), jnp.float32),
    )


def _outputs(seed, like):
    return jnp.asarray(np.random.default_rng(seed).normal(size=like.shape).astype(np.float32))


def _all_equal(a, b):
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def _learnt(state):
    return (state.params, state.batch_stats, state.opt_state, state.multiplier)


@pytest.fixture(scope="module")
def jitted():
    return {
        "init": jax.jit(init, static_argnums=2),
        "logits": jax.jit(logits, static_argnums=2, static_argnames="train"),
        "learn": jax.jit(learn, static_argnums=5),
    }


@BOTH
def test_a_frame_from_start_to_end(config, jitted):
    observation = _observation()
    state = jitted["init"](jax.random.key(0), observation, config)
    out = jitted["logits"](state, observation, config)
    assert out.shape == (2, 2, 3)
    assert out.dtype == jnp.float32
    grid = sample_grid(jax.random.key(1), out)
    new = _outputs(1, observation.outputs)
    learnt, metrics = jitted["learn"](state, observation, grid, grid, new, config)
    assert int(learnt.step) == 1
    assert int(learnt.skipped_updates) == 0
    assert not _all_equal(learnt.params, state.params)
    assert all(m.shape == () and np.isfinite(m) for m in metrics.values())
    np.testing.assert_allclose(metrics["sampled"], grid.mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["probability"], jax.nn.sigmoid(out).mean(), rtol=1e-5)


@BOTH
def test_to_learn_from_a_look_is_to_look_and_learn(config, jitted):
    observation = _observation()
    state = jitted["init"](jax.random.key(0), observation, config)
    looked = jax.jit(look, static_argnums=2)(state, observation, config)
    np.testing.assert_allclose(
        looked.logits, jitted["logits"](state, observation, config), atol=1e-5
    )
    grid = sample_grid(jax.random.key(1), looked.logits)
    given = (state, observation, grid, grid, _outputs(1, observation.outputs), config)
    (once, metrics), (again, expected) = (
        jitted["learn"](*given, looked=looked), jitted["learn"](*given)
    )  # fmt: skip
    assert metrics["updated"] == expected["updated"] == 1
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-5)
    # The optimizer's means of squares are the squares of gradients: what the steps are made of.
    for x, y in zip(
        jax.tree.leaves((once.opt_state, once.batch_stats)),
        jax.tree.leaves((again.opt_state, again.batch_stats)),
        strict=True,
    ):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4 * float(jnp.abs(y).max()) + 1e-15)


def test_a_look_keeps_what_convolutions_gave_and_read_in_its_sums(jitted):
    observation, config = _observation(), PolicyConfig.paper()
    state = jitted["init"](jax.random.key(0), observation, config)
    kept = {}

    def find(state, observation):
        leaves = jax.tree.leaves(look(state, observation, config).pullback)
        kept.update({id(leaf): leaf for leaf in leaves})

    jax.eval_shape(find, state, observation)
    pixels = observation.grid.size * np.prod(config.block_pixels((16, 16)))
    sizes = [leaf.size for leaf in kept.values()]
    # Of 32 channels: three results, and what a relu made of the sum, no masks or zeros beside;
    assert sizes.count(32 * pixels) == 4
    # what two of three convolutions read is kept in the six times six sums that they multiplied.
    sums = [leaf for leaf in kept.values() if leaf.ndim == 5 and leaf.shape[-1] == 32]
    assert [leaf.size for leaf in sums] == 2 * 6 * [32 * pixels * 6 // 16]
    assert not any(leaf.dtype == bool for leaf in kept.values())


def test_init_works_on_shapes(jitted):
    observation = _observation()
    shapes = jax.eval_shape(lambda o: init(jax.random.key(0), o, CONSTRAINED), observation)
    state = jitted["init"](jax.random.key(0), observation, CONSTRAINED)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )


def test_uint8_frames_are_the_same_as_floats(jitted):
    as_bytes = _observation(dtype=np.uint8)
    as_floats = as_bytes.replace(
        frames=as_bytes.frames / 255.0, frame_state=as_bytes.frame_state / 255.0
    )
    state = jitted["init"](jax.random.key(0), as_bytes, CONSTRAINED)
    np.testing.assert_allclose(
        jitted["logits"](state, as_bytes, CONSTRAINED),
        jitted["logits"](state, as_floats, CONSTRAINED),
        atol=1e-3,
    )


def test_still_frame_of_equal_blocks_has_no_preference(jitted):
    """Every block gets the target as its probability."""
    observation = _observation()
    observation = observation.replace(
        frame_state=observation.frames,
        outputs=jnp.zeros_like(observation.outputs),
        age=jnp.zeros_like(observation.age),
        running_gain=None,
    )
    state = jitted["init"](jax.random.key(0), observation, CONSTRAINED)
    probability = jax.nn.sigmoid(jitted["logits"](state, observation, CONSTRAINED))
    np.testing.assert_allclose(probability, CONSTRAINED.target, atol=1e-3)


@pytest.mark.parametrize("train", [True, False])
def test_mean_probability_is_the_budget(train, jitted):
    observation = _observation()
    state = jitted["init"](jax.random.key(0), observation, CONSTRAINED)
    for overrun, budget in ((0.0, 0.3), (0.1, 0.2), (-0.3, 0.6)):
        spent = state.replace(overrun=jnp.float32(overrun))
        out = jitted["logits"](spent, observation, CONSTRAINED, train=train)
        mean = jax.nn.sigmoid(out).mean(axis=(1, 2))
        np.testing.assert_allclose(mean, budget, atol=1e-4)  # in every stream


@BOTH
def test_update_is_torch_rmsprop_on_the_reinforce_gradient(config, jitted):
    """Two updates, spelled out in NumPy."""
    observation = _observation()
    state = jitted["init"](jax.random.key(0), observation, config)

    @jax.jit
    @jax.grad
    def gradient_of(params, state, grid, rewards):
        out = logits(state.replace(params=params), observation, config)
        return reinforce_loss(out, grid, rewards)

    square = jax.tree.map(np.zeros_like, state.params)
    price = 0.0
    params = jax.tree.map(np.asarray, state.params)
    for i in range(2):
        out = jitted["logits"](state, observation, config)
        grid = sample_grid(jax.random.key(i), out)
        new = _outputs(i + 1, observation.outputs)
        gain = information_gain(observation.outputs, new, (2, 3), config)
        gain = np.where(grid, gain, 0)
        if config.objective == "paper":
            s = config.target - float(state.executed_fraction)
            execute = gain + 5 * s * abs(s)
        else:
            execute = gain - price
            price += 0.05 * (gain.sum() / grid.sum() - price)
        rewards = np.where(grid, execute, -execute)

        gradient = gradient_of(state.params, state, grid, rewards)
        for part in params:
            network = part == "network"
            rate = config.learning_rate if network else config.prior_learning_rate
            decay = config.weight_decay if network else 0.0
            step = jax.tree.map(
                lambda g, p, d=decay: np.asarray(g) + d * p, gradient[part], params[part]
            )
            square[part] = jax.tree.map(lambda s, g: 0.99 * s + 0.01 * g * g, square[part], step)
            params[part] = jax.tree.map(
                lambda p, g, s, r=rate: p - r * g / (np.sqrt(s) + 1e-8),
                params[part],
                step,
                square[part],
            )
        state, _ = jitted["learn"](state, observation, grid, grid, new, config)
        state = track(state, grid, config)
        np.testing.assert_allclose(state.multiplier, price, rtol=1e-5)
        if config.objective == "constrained":
            # The budget takes away what raises all logits alike: this gradient is rounding, and
            # RMSprop divides it by its own size.
            bias = gradient["network"]["logit"]["bias"]
            np.testing.assert_allclose(bias, 0, atol=1e-6)
            params["network"]["logit"]["bias"] = state.params["network"]["logit"]["bias"]
        for ours, expected in zip(
            jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True
        ):
            np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=2e-5)


def test_track_by_hand(jitted):
    # Target 0.5; of four blocks, three executed: sigma 0.9*0.5 + 0.1*0.75 = 0.525; overrun
    # 0 + 0.1 * (0.75 - 0.5) = 0.025.
    config = PolicyConfig(**SMALL, target=0.5)
    observation = _observation(n=2, grid=(2, 2))
    state = jitted["init"](jax.random.key(0), observation, config)
    assert state.executed_fraction == 0.5
    grid = jnp.array([[[True, True], [True, False]], [[True, True], [True, True]]])
    one = track(state, grid, config, weight=jnp.array([True, False]))
    np.testing.assert_allclose(one.executed_fraction, 0.525, rtol=1e-6)
    np.testing.assert_allclose(one.overrun, 0.025, rtol=1e-6)
    both = track(state, grid, config)
    np.testing.assert_allclose(both.executed_fraction, 0.45 + 0.0875, rtol=1e-6)
    none = track(state, grid, config, weight=jnp.zeros(2, bool))
    assert _all_equal(none, state)
    for _ in range(50):  # what cannot be taken off is not remembered for ever
        both = track(both, grid | True, config)
    np.testing.assert_allclose(both.overrun, 0.45)


def test_next_age_by_hand():
    age = jnp.array([[[0, 3, 7]]], jnp.int32)
    grid = jnp.array([[[False, True, False]]])
    after = next_age(age, grid)
    np.testing.assert_array_equal(after, [[[1, 0, 8]]])
    assert after.dtype == jnp.int32


def test_blocks_that_were_not_executed_gain_nothing(jitted):
    """Not even where outputs differ; executed spare blocks do gain, scored as not sampled."""
    observation = _observation(n=1)
    state = jitted["init"](jax.random.key(0), observation, CONSTRAINED)
    new = _outputs(1, observation.outputs)
    none = jnp.zeros((1, 2, 3), bool)
    spare = none.at[0, 1, 1].set(True)
    _, metrics = jitted["learn"](state, observation, none, none, new, CONSTRAINED)
    assert metrics["information_gain"] == 0
    _, metrics = jitted["learn"](state, observation, none, spare, new, CONSTRAINED)
    gain = information_gain(observation.outputs, new, (2, 3), CONSTRAINED)[0, 1, 1]
    np.testing.assert_allclose(metrics["information_gain"], gain / 6, rtol=1e-5)
    np.testing.assert_allclose(metrics["reward"], -gain / 6, rtol=1e-5)  # R(0) = -R(1)


def test_a_gain_from_outside_takes_the_outputs_place(jitted):
    observation = _observation(n=1)
    state = jitted["init"](jax.random.key(0), observation, CONSTRAINED)
    grid = jnp.ones((1, 2, 3), bool)
    gain = jnp.arange(6.0).reshape(1, 2, 3)
    _, metrics = jitted["learn"](
        state, observation, grid, grid, observation.outputs, CONSTRAINED, gain=gain
    )
    np.testing.assert_allclose(metrics["information_gain"], 2.5)


def test_streams_that_do_not_count_teach_nothing(jitted):
    """Their rewards do not matter, and alone they change nothing at all."""
    observation = _observation()
    state = jitted["init"](jax.random.key(0), observation, CONSTRAINED)
    grid = sample_grid(jax.random.key(1), jitted["logits"](state, observation, CONSTRAINED))
    new = _outputs(1, observation.outputs)
    first = jnp.array([True, False])
    a, _ = jitted["learn"](state, observation, grid, grid, new, CONSTRAINED, weight=first)
    other = new.at[1].set(_outputs(2, new[1]))
    b, _ = jitted["learn"](state, observation, grid, grid, other, CONSTRAINED, weight=first)
    assert _all_equal(a, b)
    c, _ = jitted["learn"](
        state, observation, grid, grid, new, CONSTRAINED, weight=jnp.zeros(2, bool)
    )
    assert _all_equal(c, state)


def _broken(what, observation, new, gain):
    nan = jnp.nan
    if what == "frames":
        observation = observation.replace(frames=jnp.full_like(observation.frames, nan))
    if what == "frame_state":
        observation = observation.replace(frame_state=jnp.full_like(observation.frames, jnp.inf))
    if what == "outputs":
        observation = observation.replace(outputs=observation.outputs.at[0, 0, 0].set(nan))
    if what == "new_outputs":
        new = new.at[0, 0, 0].set(nan)
    if what == "gain":
        gain = gain.at[0, 0, 0].set(jnp.inf)
    return observation, new, gain


@BOTH
@pytest.mark.parametrize("what", ["frames", "frame_state", "outputs", "new_outputs", "gain"])
def test_what_is_not_finite_is_skipped_and_counted(what, config, jitted):
    good, grid = _observation(), jnp.ones((2, 2, 3), bool)
    state = jitted["init"](jax.random.key(0), good, config)
    new = _outputs(1, good.outputs)
    gain = jnp.zeros((2, 2, 3)) if what == "gain" else None
    observation, broken, gain = _broken(what, good, new, gain)
    assert np.isfinite(jitted["logits"](state, observation, config)).all()
    assert np.isfinite(jitted["logits"](state, observation, config, train=False)).all()
    after, metrics = jitted["learn"](state, observation, grid, grid, broken, config, gain=gain)
    assert int(after.skipped_updates) == 1
    assert int(after.step) == 0
    assert metrics["updated"] == 0
    assert _all_equal(_learnt(after), _learnt(state))
    # And it learns on from the next good frame.
    later, metrics = jitted["learn"](after, good, grid, grid, new, config)
    assert int(later.step) == 1
    assert metrics["updated"] == 1
    # A stream that does not count may be as broken as it likes.
    weight = jnp.array([False, True])
    if what not in ("frames", "frame_state"):
        fine, _ = jitted["learn"](
            state, observation, grid, grid, broken, config, weight=weight, gain=gain
        )
        assert int(fine.step) == 1
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(fine))


def test_a_network_gone_wrong_still_gives_finite_logits(jitted):
    observation = _observation()
    state = jitted["init"](jax.random.key(0), observation, CONSTRAINED)
    broken = state.replace(params=jax.tree.map(lambda x: x * jnp.nan, state.params))
    assert np.isfinite(jitted["logits"](broken, observation, CONSTRAINED)).all()


def test_running_statistics_give_the_same_for_any_company(jitted):
    """Without `train`, a stream's logits do not depend on the other streams."""
    observation = _observation(n=2)
    state = jitted["init"](jax.random.key(0), observation, PAPER)
    both = jitted["logits"](state, observation, PAPER, train=False)
    alone = jax.tree.map(lambda x: x[1:], observation)
    np.testing.assert_allclose(
        both[1:], jitted["logits"](state, alone, PAPER, train=False), rtol=1e-4, atol=1e-5
    )


def test_vmap_over_seeds(jitted):
    observation = _observation()
    keys = jax.random.split(jax.random.key(0), 3)
    states = jax.jit(jax.vmap(lambda k: init(k, observation, PAPER)))(keys)
    out = jax.jit(jax.vmap(lambda s: logits(s, observation, PAPER)))(states)
    for i in range(3):
        one = jitted["init"](keys[i], observation, PAPER)
        np.testing.assert_allclose(
            out[i], jitted["logits"](one, observation, PAPER), rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("objective", "best", "paper, constrained"),
        ("gain", "l2", "kl, change, tv"),
        ("target", 0.0, "above 0"),
        ("target", 1.5, "at most 1"),
        ("gain_scale", 0.3, "1 / a whole number"),
        ("momentum", 1.0, r"\[0, 1\)"),
        ("gamma", -1.0, "at least 0"),
        ("learning_rate", 0.0, "above 0"),
        ("prior_learning_rate", -1.0, "at least 0"),
        ("budget_rate", 0.0, "above 0"),
        ("multiplier_rate", 1.0, r"\[0, 1\)"),
        ("widths", (8, 0, 8), "at least 1"),
        ("pixels_per_block", 11, "11 policy pixels"),
    ],
)
def test_impossible_settings_are_named(field, value, match):
    with pytest.raises(ValueError, match=match):
        PolicyConfig(**{field: value})


def test_frames_that_do_not_divide_are_named():
    observation = _observation().replace(grid=jnp.zeros((2, 3, 5), bool))
    with pytest.raises(ValueError, match="32x48 does not divide into 3x5"):
        init(jax.random.key(0), observation, CONSTRAINED)


def test_what_the_module_presents_is_there():
    assert all(hasattr(module, name) for name in module.__all__)
