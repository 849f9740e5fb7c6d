"""A runner that compiles in the background: no frame but the first waits for a compiler."""

import logging
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_runner import BLOCK, PARAMS, POLICY, assert_close, network, runner, video

from bc_jax import blockcopy, build
from bc_jax.config import BlockConfig, Config
from bc_jax.sizes import Sizes

STEPS = {"capacity_steps": 3, "train_interval": 2}


def finished(run):
    """Wait until nothing is compiled any more."""
    if run._sizes._job is not None:
        run._sizes._job.result()


@pytest.fixture
def compiling_threads(caplog):
    """Names of the threads in which programs are compiled; the list may be emptied."""
    names = []

    def note(record):
        if record.getMessage().startswith("Finished XLA compilation"):
            names.append(record.threadName)
        return True

    caplog.handler.addFilter(note)
    jax.config.update("jax_log_compiles", True)
    with caplog.at_level(logging.WARNING):
        yield names
    jax.config.update("jax_log_compiles", False)
    caplog.handler.removeFilter(note)


@pytest.mark.parametrize("policy", [POLICY, "random"], ids=["learned", "random"])
def test_it_does_what_a_runner_that_waits_does(policy):
    waits, goes_on = runner(policy, **STEPS), runner(policy, background=True, **STEPS)
    rooms = set()
    for frames in video(20):
        expected, outputs = waits(frames), goes_on(frames)
        np.testing.assert_allclose(outputs, expected, atol=1e-5)
        np.testing.assert_array_equal(goes_on.outcome.grid, waits.outcome.grid)
        np.testing.assert_allclose(goes_on.outcome.gain, waits.outcome.gain, atol=1e-5)
        rooms.add(
            (goes_on._sizes.compiling is not None, int(np.asarray(goes_on.outcome.grid).sum()))
        )
    # There were frames of few blocks while their program was being compiled.
    assert any(compiling and blocks < 6 for compiling, blocks in rooms)
    if policy is POLICY:
        assert int(goes_on.state.policy.step) == int(waits.state.policy.step) > 5
        assert goes_on.metrics.keys() == waits.metrics.keys()
    assert_close(goes_on.state.frame_state, waits.state.frame_state)


def test_after_the_first_frame_all_is_compiled_in_the_other_thread(compiling_threads):
    run = runner(background=True, **STEPS)
    frames = [jnp.asarray(frame) for frame in video(30)]
    run(frames[0])
    assert "network for 6 blocks" in run.compiled  # in which fewer have room too
    assert "MainThread" in compiling_threads
    compiling_threads.clear()
    sizes = set()
    for frame in frames[1:]:
        run(frame)
        finished(run)
        sizes.add(int(np.asarray(run.outcome.grid).sum()))
    assert compiling_threads
    assert "MainThread" not in compiling_threads
    assert run._sizes._there == sizes | {6}


def test_of_a_fixed_capacity_all_is_compiled_in_the_first_frame(compiling_threads):
    run = runner(background=True, capacity=2, train_interval=2)
    frames, begins = [jnp.asarray(frame) for frame in video(6)], np.array([True])
    run(frames[0])
    compiling_threads.clear()
    for number, frame in enumerate(frames[1:]):
        run(frame, begins if number > 2 else None)
        assert int(np.asarray(run.outcome.grid).sum()) == (6 if number > 2 else 2)
    assert not compiling_threads
    assert int(run.state.frame) == 6


@pytest.mark.parametrize("options", [{}, {"capacity": 3}], ids=["in parts", "at once"])
def test_the_first_frame_leaves_no_more_than_a_frame(options):
    run, other = runner(background=True, **STEPS, **options), runner(**STEPS, **options)
    for one in (run, other):
        one(video()[0])
    assert_close(run.state, other.state)
    assert run.metrics == {}
    assert int(run.state.policy.step) == 0
    # A state that is put in before the first frame goes on from there.
    later = runner(background=True, **STEPS, **options)
    later.state = run.state
    np.testing.assert_allclose(later(video()[1]), other(video()[1]), atol=1e-5)
    assert int(later.state.frame) == 2


def test_a_first_frame_that_was_interrupted_is_made_up_for(monkeypatch, compiling_threads):
    run = runner(background=True, **STEPS)

    def stops(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "_run_in_parts", stops)
        with pytest.raises(KeyboardInterrupt):
            run(video()[0])
    run(video()[0])
    compiling_threads.clear()
    for frame in video(8)[1:]:
        run(jnp.asarray(frame))
        finished(run)
    assert "MainThread" not in compiling_threads


def test_frames_beside_which_something_is_compiled_are_told():
    told = []
    run = runner(background=True, on_compile=told.append, **STEPS)
    run(video()[0])
    assert "policy that learns" in told
    run(video()[1])
    (said,) = run.compiled
    assert f"{said}, in the background" in told
    finished(run)
    for frames in video(20)[2:]:
        run(frames)
        finished(run)
    assert run.compiled == ()


def test_a_config_says_whether_to(compiling_threads):
    config = Config(
        name="any",
        policy=POLICY,
        blocks=BlockConfig(size=(BLOCK, BLOCK), capacities=3, background=True),
    )
    run = build.runner(config, blockcopy(network, BLOCK), PARAMS, POLICY)
    for frame in video(8):
        run(frame)
        finished(run)
    assert any(name.startswith("compiling") for name in compiling_threads)


def test_sizes_are_taken_as_they_are_there():
    sizes, may_end = Sizes(total=12, steps=4), threading.Event()
    assert [sizes.fitting(blocks) for blocks in (0, 3, 4, 12)] == [3, 3, 6, 12]
    assert sizes.room(3) == 3  # none is there
    sizes.add(12)
    assert sizes.room(3) == 12
    assert sizes.compile(6, may_end.wait)
    assert sizes.compiling == 6
    assert not sizes.compile(3, may_end.wait)  # one at a time
    assert sizes.room(6) == 12
    may_end.set()
    sizes._job.result()
    assert [sizes.room(size) for size in (3, 6, 9)] == [6, 6, 12]
    assert sizes.compiling is None


def test_what_goes_wrong_in_the_other_thread_is_told_once():
    sizes = Sizes(total=4, steps=4)
    sizes.add(4)

    def fails():
        raise MemoryError("no room to compile")

    assert sizes.lacks(2)
    sizes.compile(2, fails)
    with pytest.raises(MemoryError):
        sizes._job.result()
    with pytest.warns(UserWarning, match=r"2 blocks could not .* MemoryError: no room"):
        assert sizes.room(2) == 4
    # It is not tried again; others are.
    assert not sizes.lacks(2)
    assert not sizes.compile(2, lambda: None)
    assert sizes.compile(3, lambda: None)
    sizes._job.result()
    assert [sizes.room(size) for size in (2, 3)] == [3, 3]


def test_where_nothing_can_be_compiled_beside_frames_go_on(monkeypatch):
    """In the program of all blocks; each size that fails is told once, at the call."""
    run, waits = runner(background=True, **STEPS), runner(**STEPS)
    frames = video(16)

    def fails():
        raise MemoryError("no room to compile")

    run(frames[0])
    waits(frames[0])
    monkeypatch.setattr(run, "_compiling", lambda *given: fails)
    sizes = set()
    with pytest.warns(UserWarning, match="could not be compiled") as told:
        for frame in frames[1:]:
            np.testing.assert_allclose(run(frame), waits(frame), atol=1e-5)
            finished_or_failed(run)
            sizes.add(run._sizes.fitting(int(np.asarray(run.outcome.grid).sum())))
    assert len(told) == len(sizes - {6}) > 1
    assert {warning.filename for warning in told} == {__file__}
    assert run.compiled == ()


def finished_or_failed(run):
    if run._sizes._job is not None:
        run._sizes._job.exception()
