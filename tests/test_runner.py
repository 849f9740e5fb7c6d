"""The runner: what a frame does to the state, with a network small enough to know by heart."""

import copy
import dataclasses
import functools
import itertools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bc_jax import PolicyConfig, Runner, Steps, blockcopy
from bc_jax.policy import information_gain
from bc_jax.sizes import capacities

BLOCK, GRID = 16, (2, 3)
SIZE = (GRID[0] * BLOCK, GRID[1] * BLOCK)
POLICY = PolicyConfig(target=0.5, widths=(4,), head_width=4, pixels_per_block=4)


def network(params, frames):
    """One convolution of frames in [0, 1], or uint8, to three classes."""
    if frames.dtype == jnp.uint8:
        frames = frames.astype(jnp.float32) / 255
    return jax.lax.conv_general_dilated(
        frames, params, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


PARAMS = 3 * jax.random.normal(jax.random.key(1), (3, 3, 3, 3))


@functools.cache
def video(frames=12, streams=1, seed=0):
    """Noise in [0, 1], float32 [T, N, H, W, 3]."""
    generator = np.random.default_rng(seed)
    return generator.random((frames, streams, *SIZE, 3), np.float32)


def runner(policy=POLICY, **options):
    return Runner(network, PARAMS, block_size=BLOCK, policy=policy, target=0.5, **options)


@functools.cache
def compiled_learner():
    return runner(capacity_steps=3)


@pytest.fixture
def learner():
    """A runner that learns, at its beginning; its programs are compiled once for all tests."""
    run = compiled_learner()
    run.state, run.metrics = None, {}
    return run


def dense(frames):
    return np.asarray(network(PARAMS, jnp.asarray(frames)))


def assert_close(a, b, tolerance=1e-5):
    def check(path, x, y):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_allclose(
            x, y, rtol=tolerance, atol=tolerance, err_msg=jax.tree_util.keystr(path)
        )

    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree_util.tree_map_with_path(check, a, b)


def assert_finite(tree):
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            assert np.isfinite(leaf).all()


@pytest.mark.parametrize("policy", [POLICY, "random"], ids=["learned", "random"])
def test_scan_is_the_loop(policy):
    steps = Steps(blockcopy(network, BLOCK), policy, target=0.5)
    state = jax.jit(steps.init)(jax.random.key(0), PARAMS, video()[0])
    step = jax.jit(steps.step, static_argnames="capacity")

    scanned, outcomes = jax.lax.scan(
        lambda state, frames: steps.step(PARAMS, state, frames, capacity=4), state, video()
    )
    for t, frames in enumerate(video()):
        state, outcome = step(PARAMS, state, frames, capacity=4)
        np.testing.assert_array_equal(outcome.grid, outcomes.grid[t])
    assert_close(scanned, state)
    # Four of six blocks fit: what the first frame had no room for comes in the second.
    assert outcomes.grid[0].sum() == 4
    assert (outcomes.grid[0] | outcomes.grid[1]).all()
    if policy is POLICY:
        assert int(scanned.policy.step) > 0


# The constrained objective's gradient by what only raises every logit is exactly 0; rounding makes
# something of it, which differs from program to program, and RMSprop a step. The paper's has none.
PAPER = dataclasses.replace(POLICY, objective="paper", prior=False)


@pytest.mark.parametrize("gain", ["kl", "tv", "change"])
def test_the_gain_of_executed_blocks_is_that_of_the_whole_frame(gain):
    policy = dataclasses.replace(POLICY, gain=gain, gain_scale=1.0)
    steps = Steps(blockcopy(network, BLOCK), policy)
    before, after = jax.random.normal(jax.random.key(0), (2, 2, *SIZE, 5))
    whole = information_gain(before, after, GRID, policy)
    for executed in (0, 1, 5, 12):
        order = jax.random.permutation(jax.random.key(executed), 12)
        grid = (order < executed).reshape(2, *GRID)
        for capacity in (max(1, executed), 12):
            found = steps._gain(before, after, grid, capacity)
            np.testing.assert_allclose(found, jnp.where(grid, whole, 0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("policy", [POLICY, PAPER, dataclasses.replace(PAPER, prior=True)])
def test_the_runner_is_the_steps(policy):
    run = runner(policy, capacity_steps=1, seed=3)
    steps = run.steps
    state = jax.jit(steps.init)(jax.random.key(3), PARAMS, video()[0])
    step = jax.jit(steps.step, static_argnames="capacity")
    for frames in video():
        outputs = run(frames)
        state, _ = step(PARAMS, state, frames, capacity=6)
        np.testing.assert_allclose(outputs, state.frame_state.outputs, atol=1e-5)
    assert int(state.policy.step) > 3
    reached = run.state
    if policy is POLICY:
        reached, state = (
            s.replace(policy=(s.policy.overrun, s.policy.multiplier)) for s in (reached, state)
        )
    assert_close(reached, state)


def test_a_frame_without_a_batch_axis_is_a_batch_of_one():
    run = runner("all")
    np.testing.assert_allclose(run(video()[0, 0]), dense(video()[0]), atol=1e-5)


def test_outputs_are_the_dense_networks_where_blocks_were_executed():
    run = runner("random")
    first = np.array(run(video()[0]))
    np.testing.assert_allclose(first, dense(video()[0]), atol=1e-5)  # the first executes all
    out, grid = np.array(run(video()[1])), np.asarray(run.outcome.grid)
    assert grid.sum() == 3
    pixels = grid.repeat(BLOCK, 1).repeat(BLOCK, 2)
    np.testing.assert_array_equal(out[~pixels], first[~pixels])
    assert not np.allclose(out[pixels], first[pixels], atol=1e-2)


def test_a_frame_with_nan_is_left_out_and_counted():
    frames = video(6, streams=2).copy()
    frames[2, 1] = np.nan
    frames[3, 1, 5, 5, 0] = np.inf
    run = runner()
    for t, now in enumerate(frames):
        before = None if t == 0 else np.array(run.state.frame_state.outputs)
        outputs = np.array(run(now))
        assert_finite(outputs)
        if t in (2, 3):
            assert not run.outcome.grid[1].any()
            np.testing.assert_array_equal(outputs[1], before[1])
            assert run.outcome.grid[0].any()
    np.testing.assert_array_equal(run.state.skipped_frames, [0, 2])
    assert_finite(run.state)


def test_a_stream_that_begins_with_nan_executes_all_in_its_first_good_frame():
    frames = video(3).copy()
    frames[0] = np.nan
    run = runner("none")
    run(frames[0])
    assert not run.outcome.grid.any()
    np.testing.assert_allclose(run(frames[1]), dense(frames[1]), atol=1e-5)
    assert run.outcome.grid.all()


def test_with_a_fixed_capacity_too_and_other_streams_do_not_wait():
    frames = video(6, streams=2).copy()
    frames[0, 1, 0, 0] = np.inf
    frames[1, 1, 3, 4] = np.nan
    frames[4, 0, 0, 0] = np.nan
    resets = [None, None, None, None, [True, False], None]
    run, counts = runner(capacity=3, train_interval=100), []
    for frame, reset in zip(frames, resets, strict=True):
        outputs = run(frame, reset)
        counts.append(run.outcome.grid.sum((1, 2)).tolist())
    whole = GRID[0] * GRID[1]
    assert counts[0] == [whole, 0]
    assert counts[1] == [3, 0]
    assert counts[2] == [whole, whole]  # the second stream begins
    assert sum(counts[3]) == 3
    assert counts[4][0] == 0  # it begins anew with a frame that is left out
    assert counts[5] == [whole, whole]
    np.testing.assert_allclose(outputs, dense(frames[5]), atol=1e-5)


def test_only_nan_teaches_nothing_and_breaks_nothing(learner):
    run = learner
    for _ in range(6):
        run(np.full_like(video()[0], np.nan))
    learnt = run.state.policy
    assert_finite(learnt)
    assert int(learnt.step) == 0
    assert int(run.state.skipped_frames[0]) == 6


def test_the_policy_stays_finite_and_learns(learner):
    run = learner
    for frames in video(12):
        run(frames)
    assert_finite(run.state.policy)
    assert int(run.state.policy.step) == 4  # every third frame
    assert np.isfinite([float(value) for value in run.metrics.values()]).all()


def test_a_runner_that_does_not_wait_does_the_same():
    waiting, ahead = runner(train_interval=2), runner(train_interval=2, timed=False)
    for frame in video(5):
        np.testing.assert_array_equal(np.asarray(waiting(frame)), np.asarray(ahead(frame)))
    for one, other in zip(*map(jax.tree.leaves, (waiting.state, ahead.state)), strict=True):
        if not jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(one, other)


def test_a_state_that_is_put_back_says_when_to_learn():
    run = runner(train_interval=3)
    learnt = []
    for frame in video(4):
        run(frame)
        learnt.append(run.times["learning"] > 0)
    kept = jax.tree.map(jnp.copy, run.state)
    run(video(1)[0])
    run.state = kept
    for frame in video(3):
        run(frame)
        learnt.append(run.times["learning"] > 0)
    assert learnt == [False, False, True, False, False, True, False]


@pytest.mark.parametrize("policy", [POLICY, "random"], ids=["learned", "random"])
def test_a_fixed_capacity_does_what_the_parts_do(policy):
    """Where it has room for all, in each frame: blocks, outputs, gain and what is learnt."""
    options = {"policy": policy, "train_interval": 2}
    parts, at_once = runner(capacity_steps=1, **options), runner(capacity=6, **options)
    for frame in video(5):
        np.testing.assert_allclose(parts(frame), at_once(frame), rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(parts.outcome.grid, at_once.outcome.grid)
    states = map(jax.tree_util.tree_leaves_with_path, (parts.state, at_once.state))
    for (path, one), (_, other) in zip(*states, strict=True):
        name = jax.tree_util.keystr(path)
        if name == ".policy.params['network']['logit']['bias']":
            # The budget takes away what all blocks share: of this, nothing but rounding is learnt,
            # which RMSprop makes steps of. Its mean square, compared below, is next to nothing.
            assert parts.state.policy.opt_state["network"][1].nu["logit"]["bias"] < 1e-15
        elif not jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5, err_msg=name)
    assert parts.metrics.keys() == at_once.metrics.keys()


def test_large_arrays_are_not_copied_needlessly():
    """Whole numbers are always good pixels, and what was seen is in the state."""
    frames = jnp.asarray((255 * video(1)[0]).astype(np.uint8))
    run = runner(capacity=3, capacity_steps=1)
    run(frames)
    assert run.outcome.seen is None
    state = run._pieces.packed(run.state)
    _, decision = run._pieces.decide(state, frames, np.zeros(1, bool), learns=False)
    _, same = run._pieces.choose(decision, frames, capacity=3)
    assert same.unsafe_buffer_pointer() == frames.unsafe_buffer_pointer()


def test_a_fixed_capacity_is_kept_but_where_a_stream_begins():
    run = runner(capacity=2, train_interval=2)
    frames = video(6)
    for number, frame in enumerate(frames):
        run(frame, np.array([number == 3]))
        assert int(run.outcome.grid.sum()) == (6 if number in (0, 3) else 2)
    kept = jax.tree.map(jnp.copy, run.state)
    other = runner(capacity=2, train_interval=2)
    other.state = kept
    expected = np.asarray(run(frames[0]))
    np.testing.assert_array_equal(np.asarray(other(frames[0])), expected)
    assert int(other.outcome.grid.sum()) == 2
    assert set(run.times) == {"policy", "network", "learning"}


@pytest.mark.parametrize("policy", [POLICY, "random"], ids=["learned", "random"])
@pytest.mark.parametrize("capacity", [None, 2], ids=["in parts", "at once"])
def test_where_all_blocks_run_no_grid_is_needed(policy, capacity):
    run = runner(policy, capacity=capacity, capacity_steps=3, train_interval=100)
    told = []
    run._on_compile = told.append
    clip = video(4, streams=2).copy()
    clip[1, 1, 0, 0] = np.nan
    begins = [None, np.array([True, True]), np.array([False, True]), np.array([True, True])]
    run_all = []
    for frame, reset in zip(clip, begins, strict=True):
        told.clear()
        outputs = np.asarray(run(frame, reset))
        run_all.append(any("all blocks" in what for what in told))
        executed = np.asarray(run.outcome.grid)
        for stream in range(2):
            if executed[stream].all():
                np.testing.assert_allclose(outputs[stream], dense(frame)[stream], atol=1e-5)
    # Compiled for the first frame; not for one of which a stream is left out.
    assert run_all == [True, False, False, False]
    assert executed.all()
    total = run.state.missing.size
    assert (f"frame of {total} blocks" in run._known) == (capacity is not None)


def test_a_capacity_may_be_a_share_of_the_blocks():
    for capacity, blocks in ((0.5, 3), (0.01, 1), (1.0, 6), (jnp.float32(0.5), 3)):
        run = runner(capacity=capacity)
        for frame in video(2):
            run(frame)
        assert int(run.outcome.grid.sum()) == blocks


def test_a_capacity_that_cannot_be_is_refused():
    for capacity in (0, 7, 2.5, 0.0, -0.5, float("nan"), True):
        with pytest.raises(ValueError, match="capacity must be"):
            runner(capacity=capacity)(video(1)[0])


def test_learning_can_be_switched_off():
    run = runner(learning=False)
    for frames in video(6):
        run(frames)
    assert int(run.state.policy.step) == 0
    assert not run.metrics


def test_a_frame_of_another_size_or_type_is_a_clear_error():
    run = runner("all")
    run(video()[0])
    with pytest.raises(ValueError, match=r"float32\[1, 32, 32, 3\] and were .*\[1, 32, 48, 3\]"):
        run(video()[0][:, :, :32])
    with pytest.raises(ValueError, match=r"uint8\[1, 32, 48, 3\] and were float32"):
        run(np.zeros((1, *SIZE, 3), np.uint8))
    with pytest.raises(ValueError, match="not a multiple of the block height 16"):
        run(video()[0][:, :30])
    np.testing.assert_allclose(run(video()[1]), dense(video()[1]), atol=1e-5)  # nothing is lost


def test_a_reset_stream_begins_anew_and_leaves_the_other_alone():
    frames = video(3, streams=2)
    run = runner("none")
    run(frames[0])
    before = np.array(run(frames[1]))
    np.testing.assert_allclose(before, dense(frames[0]), atol=1e-5)
    after = np.array(run(frames[2], np.array([False, True])))
    assert not run.outcome.grid[0].any()
    assert run.outcome.grid[1].all()
    np.testing.assert_array_equal(after[0], before[0])
    np.testing.assert_allclose(after[1], dense(frames[2])[1], atol=1e-5)
    np.testing.assert_array_equal(run.state.age[1], 0)
    assert (np.asarray(run.state.age[0]) == 2).all()


@pytest.mark.parametrize(
    ("total", "steps", "expected"),
    [
        (6, 3, (2, 4, 6)),
        (108, 8, (14, 28, 42, 56, 70, 84, 98, 108)),
        (6, 16, (1, 2, 3, 4, 5, 6)),
        (6, 1, (6,)),
    ],
)
def test_capacities(total, steps, expected):
    assert capacities(total, steps) == expected


def test_spare_room_is_filled_and_one_program_serves_a_capacity():
    told, traces = [], []

    def counted(params, frames):
        traces.append(1)
        return network(params, frames)

    run = Runner(
        counted, PARAMS, block_size=BLOCK, policy=POLICY, capacity_steps=3, on_compile=told.append
    )
    sizes = set()
    for frames in video(30):
        run(frames)
        sizes.add(int(run.outcome.grid.sum()))
        sampled = np.asarray(run.decision.sampled)
        assert (np.asarray(run.outcome.grid) >= sampled).all()
    assert sizes <= {2, 4, 6}
    # Compiled when first needed, and never again.
    networks = [what for what in told if what.startswith("network")]
    named = [f"network for {'all' if size == 6 else size} blocks" for size in sizes]
    assert sorted(networks) == sorted(named)
    # The interpreter traces the network for its shape, not for each capacity.
    assert len(traces) <= 2
    assert run.compiled == ()


def test_runners_share_the_programs_of_one_network(caplog):
    sparse = blockcopy(network, BLOCK)
    first, second = (
        Runner(sparse, PARAMS, policy=name, capacity_steps=1) for name in ("all", "none")
    )

    def compiled(run) -> int:
        caplog.clear()
        with jax.log_compiles():
            run(video()[0])
        return sum("XLA compilation" in said and "advance" in said for said in caplog.messages)

    assert [compiled(first), compiled(second)] == [1, 0]


@pytest.mark.parametrize("name", ["random", "static", "difference", "oracle"])
@pytest.mark.parametrize("target", [0.3, 0.75])
def test_baselines_hold_their_target(name, target):
    run = Runner(network, PARAMS, block_size=BLOCK, policy=name, target=target)
    executed = []
    for t, frames in enumerate(video(21)):
        run(frames, dense=jnp.asarray(dense(frames)) if name == "oracle" else None)
        if t:
            executed.append(float(run.outcome.grid.mean()))
    # 20 frames of 6 blocks: rounding leaves at most half a block.
    assert abs(np.mean(executed) - target) < 1 / 120 + 1e-6


def test_all_and_none_do_what_they_are_called():
    for name, expected in (("all", 6), ("none", 0)):
        run = runner(name)
        run(video()[0])
        run(video()[1])
        assert int(run.outcome.grid.sum()) == expected


def test_where_no_block_is_drawn_nothing_runs(monkeypatch):
    run, frames = runner("none"), video()
    kept = np.array(run(frames[0]))

    def none(*given, **options):
        raise AssertionError("the network runs")

    monkeypatch.setattr(run.steps.sparse, "compiled", none)
    np.testing.assert_array_equal(run(frames[1]), kept)
    assert not np.asarray(run.outcome.grid).any()
    assert (np.asarray(run.state.age) == 1).all()
    np.testing.assert_array_equal(run.state.frame_state.frames, frames[0])


def test_a_frame_of_one_block_is_executed_as_often_as_the_target_says():
    run = Runner(network, PARAMS, block_size=BLOCK, policy=POLICY)
    executed = []
    for frames in video(200)[:, :, :BLOCK, :BLOCK]:
        before = run.outcome and np.array(run.state.frame_state.outputs)
        outputs = np.array(run(frames))
        executed.append(bool(run.outcome.grid.any()))
        if executed[-1]:
            np.testing.assert_allclose(outputs, dense(frames), atol=1e-5)
        else:
            np.testing.assert_array_equal(outputs, before)
    assert executed[0]
    assert 0.4 < np.mean(executed) < 0.6


def test_a_count_stands_in_for_the_target():
    run = runner("random")
    run(video()[0])
    for count in (1, 5, 0, 6, 2):
        run(video()[1], count=count)
        assert int(run.outcome.grid.sum()) == count


def test_the_static_schedule_begins_anew_with_its_stream():
    frames, run = video(9, streams=2), runner("static")
    grids = []
    for t in range(9):
        run(frames[t], np.array([t == 0, t in (0, 4)]))
        grids.append(np.asarray(run.outcome.grid))
    assert grids[4][1].all()
    np.testing.assert_array_equal([g[1] for g in grids[4:]], [g[0] for g in grids[:5]])
    # Half of the blocks in each frame: none waits for more than one.
    assert all((a[0] | b[0]).all() for a, b in itertools.pairwise(grids))


def test_the_oracle_takes_the_blocks_that_are_wrong():
    run = runner("oracle")
    first = video()[0]
    run(first, dense=jnp.asarray(dense(first)))
    changed = first.copy()
    changed[:, :BLOCK, BLOCK : 2 * BLOCK] = video()[1][:, :BLOCK, BLOCK : 2 * BLOCK]
    run(changed, dense=jnp.asarray(dense(changed)), count=1)
    assert np.argwhere(run.outcome.grid[0]).tolist() == [[0, 1]]


def test_a_state_is_given_to_another_runner_and_stays_whole():
    frames = video(4)
    one, other = runner("static"), runner("static")
    one(frames[0])
    other.state = one.state
    np.testing.assert_array_equal(np.asarray(one(frames[1])), np.asarray(other(frames[1])))
    kept = jax.tree.map(jnp.copy, one.state)
    again = [np.asarray(one(frames[2]))]
    for _ in range(2):
        one.state = kept
        again.append(np.asarray(one(frames[2])))
    np.testing.assert_array_equal(again[0], again[1])
    np.testing.assert_array_equal(again[0], again[2])


@pytest.mark.parametrize("take", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_runner_is_not_copied_but_its_state_is(take):
    run = runner("static")
    run(video()[0])
    with pytest.raises(TypeError, match=r"runner\.state, not the Runner"):
        take(run)
    take(run.state)
    run(video()[1])


def test_a_state_that_was_written_into_is_refused():
    run = runner("all", capacity_steps=1)
    run(video()[0])
    before = run.state
    run(video()[1])
    with pytest.raises(ValueError, match=r"the next one has written into it; keep jax\.tree\.map"):
        run.state = before
    run(video()[2])


def test_a_state_of_numpy_arrays_is_taken_and_what_is_none_is_told():
    frames = video(3)
    one, other = runner("static"), runner("static")
    for frame in frames[:2]:
        one(frame)
    kept = one.state
    other.state = jax.tree.map(
        lambda x: x if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else np.array(x), kept
    )
    np.testing.assert_array_equal(np.asarray(other(frames[2])), np.asarray(one(frames[2])))
    with pytest.raises(TypeError, match="a state is a RunnerState or None; this is a dict"):
        other.state = {}


def test_a_state_of_another_policy_is_refused_by_the_array_that_differs():
    small, large = runner(), runner(dataclasses.replace(POLICY, widths=(8,)))
    small(video()[0])
    unlike = r"policy\.params\['network'\]\[.*\] is float32\[.*\], and this Runner's is float32"
    with pytest.raises(ValueError, match=unlike):
        large.state = small.state
    without = runner("random")
    with pytest.raises(ValueError, match=r"policy.* is .*, and this Runner's is not there"):
        without.state = small.state
    without(video()[0])
    with pytest.raises(ValueError, match=r"policy.* is not there, and this Runner's is float"):
        small.state = without.state
    assert_finite(small(video()[1]))


def interrupted(call):
    """The call, which computes and is then interrupted, as by Ctrl-C, before it returns."""

    def stops(*args, **options):
        jax.block_until_ready(call(*args, **options))
        raise KeyboardInterrupt

    return stops


@pytest.mark.parametrize("capacity", [None, 3])
def test_after_an_interrupted_frame_all_streams_begin_anew(capacity, monkeypatch):
    run = runner(capacity=capacity, train_interval=1)
    for frames in video(4):
        run(frames)
    learnt = int(run.state.policy.step)
    of, name = (run.steps.sparse, "compiled") if capacity is None else (run._pieces, "frame")
    with monkeypatch.context() as patch:
        patch.setattr(of, name, interrupted(getattr(of, name)))
        with pytest.raises(KeyboardInterrupt):
            run(video()[5])
    told = "all streams begin anew$" if capacity is None else "policy had learnt is lost"
    with pytest.warns(UserWarning, match=told):
        state = run.state
    assert int(state.policy.step) == (learnt if capacity is None else 0)
    assert state.missing.all()
    np.testing.assert_allclose(run(video()[6]), dense(video()[6]), atol=1e-5)
    assert run.outcome.grid.all()
    run(video()[7])  # without a word


def test_after_an_interrupted_frame_a_state_can_be_put_back(monkeypatch):
    run = runner("all")
    run(video()[0])
    kept = jax.tree.map(jnp.copy, run.state)
    with monkeypatch.context() as patch:
        patch.setattr(run.steps.sparse, "compiled", interrupted(run.steps.sparse.compiled))
        with pytest.raises(KeyboardInterrupt):
            run(video()[1])
    with pytest.raises(TypeError, match="this is a list"):
        run.state = []
    with pytest.warns(UserWarning, match="all streams begin anew"):
        run(video()[1])  # what was refused has changed nothing
    run.state = kept
    run(video()[1])
    assert int(run.state.frame) == 2


def test_logits_may_be_larger_than_the_frame():
    def larger(params, frames):
        n, h, w, c = frames.shape
        return jax.image.resize(frames, (n, 2 * h, 2 * w, c), "nearest")

    run = Runner(larger, PARAMS, block_size=BLOCK, policy=POLICY, train_interval=1)
    for frames in video(3):
        outputs = run(frames)
    assert outputs.shape == (1, 2 * SIZE[0], 2 * SIZE[1], 3)
    assert run.state.seen.shape[1:3] == (SIZE[0] // 4, SIZE[1] // 4)
    assert int(run.state.policy.step) == 2  # the first frame tells nothing


def test_frames_that_the_policy_would_see_as_white_are_told():
    with pytest.warns(
        UserWarning, match="float32 from .* to 25.*the policy takes floats from 0 to"
    ):
        runner()(255 * video()[0])
    with pytest.warns(UserWarning, match="float32 from -0.9.*below 0 as 0.*in the network"):
        runner()(2 * video()[0] - 1)
    with pytest.warns(UserWarning, match="int32 from 0 to 25.*the policy takes floats from 0 to"):
        Runner(lambda params, x: network(params, x / 255), PARAMS, block_size=BLOCK)(
            (255 * video()[0]).astype(np.int32)
        )


def test_errors_name_what_is_possible():
    for wrong, message in (
        ({"train_interval": 0}, "train_interval is 0; it is 1 frame or more"),
        ({"capacity_steps": 0}, "capacity_steps is 0; it is 1 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            runner(**wrong)
    with pytest.raises(ValueError, match=r"target is 1\.5; it is a fraction of the blocks"):
        Runner(network, PARAMS, policy="random", target=1.5)
    with pytest.raises(ValueError, match=r"reset has shape \(2,\), and frames are of 1 streams"):
        runner()(video()[0], reset=[True, False])
    with pytest.raises(AttributeError, match="params"):
        runner().params = PARAMS
    with pytest.raises(ValueError, match="no policy is named 'best'; there are all, none, random"):
        runner("best")
    with pytest.raises(ValueError, match="the oracle needs `dense`"):
        runner("oracle")(video()[0])
    two = Runner(lambda p, f: (f, f), PARAMS, block_size=BLOCK, policy=POLICY)
    with pytest.raises(ValueError, match="give logits="):
        two(video()[0])


@pytest.mark.parametrize(
    ("options", "call", "message"),
    [
        ({"gain": lambda outputs: outputs}, (), r"it is a bc_jax.policy.Gain\(keep, compare\)"),
        ({"logits": "seg"}, (), "logits is 'seg'; it is a function from the network's outputs"),
        ({}, ({"image": 0},), "frames are a dict; they are one array .* along the channels"),
        ({}, ((video()[0], video()[0][..., :1]),), "frames are a tuple; they are one array"),
        ({}, (video()[0], video()[0]), "reset has shape .* inputs are joined along the channels"),
    ],
)
def test_what_is_of_another_kind_is_told_what_it_is(options, call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Runner(network, PARAMS, block_size=BLOCK, policy=POLICY, **options)(*call)


def quarter(params, frames):
    """A quarter of the network's rows and columns, rounded up."""
    return network(params, frames)[:, ::4, ::4]


@pytest.mark.parametrize("policy", [POLICY, "oracle"])
def test_blocks_that_are_no_whole_number_of_logits_are_refused(policy):
    frames = np.zeros((1, 66, 99, 3), np.float32)
    message = r"shape \[1, 17, 25, 3\].*grid of 2 x 3 blocks of \(33, 33\).*such as \(36, 36\)"
    with pytest.raises(ValueError, match=message):
        Runner(quarter, PARAMS, block_size=33, policy=policy).start(frames)


def test_a_policy_that_looks_at_no_logits_takes_any_blocks():
    frames = np.zeros((1, 66, 99, 3), np.float32)
    assert Runner(quarter, PARAMS, block_size=33, policy="random")(frames).shape == (1, 17, 25, 3)


def test_logits_are_thinned_only_where_blocks_stay_whole():
    # Every fourth of 68 rows is 17, which two blocks do not divide.
    start = Runner(network, PARAMS, block_size=34, policy=POLICY).start
    assert start(np.zeros((1, 68, 68, 3), np.float32)).seen.shape == (1, 68, 68, 3)
    start = Runner(network, PARAMS, block_size=32, policy=POLICY).start
    assert start(np.zeros((1, 64, 64, 3), np.float32)).seen.shape == (1, 16, 16, 3)


def test_a_mask_of_one_channel_is_learnt_from_as_two_classes():
    def mask(params, frames):
        return network(params, frames)[..., :1]

    settings = {"block_size": BLOCK, "policy": POLICY, "train_interval": 1}
    for policy in (POLICY, "oracle"):
        with pytest.raises(ValueError, match="of one class, whose probability never changes; give"):
            Runner(mask, PARAMS, **settings | {"policy": policy}).start(video()[0])
    assert Runner(mask, PARAMS, **settings | {"policy": "random"})(video()[0]).shape[-1] == 1
    both = Runner(
        mask, PARAMS, **settings, logits=lambda z: jnp.concatenate([jnp.zeros_like(z), z], -1)
    )
    for frames in video(3):
        outputs = both(frames)
    assert outputs.shape[-1] == 1
    assert float(both.outcome.gain.max()) > 0


def test_logits_of_a_network_with_several_outputs():
    def several(params, frames):
        return {"scores": network(params, frames), "double": 2 * network(params, frames)}

    run = Runner(
        several, PARAMS, block_size=BLOCK, policy="oracle", logits=lambda out: out["scores"]
    )
    for frames in video(3):
        outputs = run(frames, dense=jnp.asarray(dense(frames)))
    np.testing.assert_allclose(outputs["double"], 2 * outputs["scores"], rtol=1e-6)
