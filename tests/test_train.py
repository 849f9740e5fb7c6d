"""train.py as a user runs it: what it writes, how it goes on, what it says where it cannot."""

import csv
import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from bc_jax import build, training
from bc_jax.checkpoint import Checkpointer, CheckpointError
from bc_jax.command_line import stopping
from bc_jax.config import (
    Config,
    ConfigError,
    DataConfig,
    ModelConfig,
    PolicyConfig,
    TaskConfig,
    TrainConfig,
    load,
    to_json,
)
from bc_jax.models.variables import checksum

FRAMES, EVERY = 24, 4
SETTINGS = ("--config", "configs/debug.py", "--train.checkpoint_every", str(EVERY))


def script(root, name):
    spec = importlib.util.spec_from_file_location(name, root / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where tyro looks for the comments on fields
    spec.loader.exec_module(module)
    return module


def begin(root, name, *arguments):
    """Start a script as a user would."""
    return subprocess.Popen(
        [sys.executable, f"{name}.py", *map(str, arguments)],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )


def finish(process, timeout=300):
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    """A run that nothing disturbed, and one that was killed, side by side."""
    undisturbed, killed = (tmp_path_factory.mktemp(name) for name in ("whole", "killed"))
    first = begin(root, "train", *SETTINGS, "--train.directory", undisturbed)
    second = begin(root, "train", *SETTINGS, "--train.directory", killed)
    kill_at_checkpoint(second, killed)
    code, out, err = finish(first)
    assert code == 0, err
    return undisturbed, killed, out, err


def kill_at_checkpoint(process, folder):
    """Kill a run while it is past its first checkpoint and before its last."""
    deadline = time.monotonic() + 300
    while not (folder / "checkpoints" / f"{2 * EVERY:08d}.json").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL


def newest(folder):
    """Step, and each leaf's place, shape, type and checksum, of both checkpoints; the position."""
    policy, streams = (
        json.loads(max((folder / part).glob("*.json")).read_text())
        for part in ("checkpoints", "streams")
    )
    assert policy["step"] == streams["step"]
    same = {"position": policy["metadata"]["position"], "metrics": streams["metadata"]["metrics"]}
    return policy["step"], policy["leaves"], streams["leaves"], same


def figures(folder):
    """The rows of metrics.csv without the times."""
    with (folder / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "ms"} for row in csv.DictReader(file)]


def failure(root, capsys, *arguments):
    """What train.py says on stderr, and its exit code; in this process, since it is quick."""
    with pytest.raises(SystemExit) as stop:
        script(root, "train").main(list(map(str, arguments)))
    return stop.value.code, capsys.readouterr().err


def test_a_run_writes_checkpoints_and_metrics(root, whole):
    folder, _, out, err = whole
    assert f"done after frame {FRAMES}" in out
    assert "compiling network for all blocks" in err
    assert f"{FRAMES}/{FRAMES}" in err
    step, leaves, _, _ = newest(folder)
    assert step == FRAMES
    paths = [leaf["path"] for leaf in leaves]
    for part in (".params", ".batch_stats", ".opt_state", ".executed_fraction", ".multiplier"):
        assert any(part in path for path in paths), part
    assert len(list((folder / "checkpoints").glob("*.json"))) == 3
    rows = figures(folder)
    assert [int(row["step"]) for row in rows] == list(range(2, FRAMES + 1, 2))
    assert set(rows[0]) == {"step", *training.FIGURES} - {"ms"}
    assert rows[0]["reward"] == "nan"  # before anything was learnt
    assert abs(float(rows[-1]["reward"])) < 1
    metadata = json.loads(max((folder / "checkpoints").glob("*.json")).read_text())["metadata"]
    assert metadata["config"]["name"] == "debug"
    network = build.network(load(root / "configs" / "debug.py"))
    assert metadata["parameters"] == checksum(network.params)
    assert metadata["command"].startswith("train.py --config configs/debug.py")
    assert {"commit", "versions", "device"} <= metadata.keys()


def test_a_run_that_was_stopped_in_every_way_ends_bit_for_bit_as_one_that_was_not(
    root, whole, monkeypatch, capsys
):
    undisturbed, folder, _, _ = whole
    arguments = [*SETTINGS, "--train.directory", str(folder)]
    train, logged = script(root, "train"), training.figures

    # Killed by the fixture. It goes on, and is stopped by Ctrl-C one frame later.
    before = saved_step(folder)
    assert 0 < before < FRAMES
    stop_at = before + 1

    def interrupt(runner):
        if int(runner.state.frame) == stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        return logged(runner)

    monkeypatch.setattr(training, "figures", interrupt)
    with pytest.raises(SystemExit) as stop:
        train.main(arguments)
    monkeypatch.undo()
    assert stop.value.code == 130
    said = capsys.readouterr().out
    assert f"going on after frame {before}" in said
    assert f"stopped after frame {stop_at}" in said
    assert saved_step(folder) == stop_at

    # What Ctrl-C left is damaged afterwards: the checkpoint before it is gone back to.
    for path in (folder / "checkpoints").glob(f"{stop_at:08d}-*/**/*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-7])
    with pytest.warns(UserWarning, match=f"going back to frame {before}: .* is damaged"):
        train.main(arguments)
    assert f"going on after frame {before}" in capsys.readouterr().out
    assert newest(folder) == newest(undisturbed)
    assert figures(folder) == figures(undisturbed)


def test_more_frames_of_a_video_are_gone_on_with(root, whole, tmp_path, capsys):
    few = FRAMES - EVERY - 1  # no multiple of train.checkpoint_every
    arguments = [*SETTINGS, "--train.directory", str(tmp_path)]
    train = script(root, "train")
    train.main([*arguments, "--data.frames", str(few)])
    train.main(arguments)
    said = capsys.readouterr().out
    assert f"going on after frame {few} " in said
    assert f"done after frame {FRAMES}" in said
    assert newest(tmp_path) == newest(whole[0])
    assert figures(tmp_path) == figures(whole[0])


def test_the_number_of_frames_is_free_in_the_first_pass_alone(tmp_path):
    given = Config(data=DataConfig(frames=10, passes=2), train=TrainConfig(directory=str(tmp_path)))
    more = dataclasses.replace(given, data=DataConfig(frames=16, passes=3))
    about = {"config": json.loads(to_json(given)), "position": {"pass": 0}}
    Checkpointer(tmp_path / "checkpoints").save(8, {}, about)
    training.Saved(more).check()
    about["position"]["pass"] = 1
    Checkpointer(tmp_path / "checkpoints").save(12, {}, about)
    message = r"data\.frames was 10 and is 16 \(it can change in the first pass alone, .* pass 2\)"
    with pytest.raises(ConfigError, match=message):
        training.Saved(more).check()
    training.Saved(dataclasses.replace(given, data=DataConfig(frames=10, passes=3))).check()


def test_a_run_that_trained_a_network_is_not_gone_on_with(tmp_path):
    given = Config(train=TrainConfig(directory=str(tmp_path)))
    network = json.loads(to_json(dataclasses.replace(given, task=TaskConfig())))
    about = {"config": network, "position": {"batch": 3}}
    Checkpointer(tmp_path / "checkpoints").save(3, {}, about)
    with pytest.raises(ConfigError, match="holds a run with other settings: task"):
        training.Saved(given).check()


def saved_step(folder):
    return training.Saved(Config(train=TrainConfig(directory=str(folder)))).latest


def test_other_settings_are_told_and_nothing_is_touched(root, whole, capsys):
    folder = whole[0]
    before = newest(folder)
    code, said = failure(
        root, capsys, *SETTINGS, "--train.directory", folder, "--policy.target", "0.4"
    )
    assert code == 1
    assert "policy.target was 0.5 and is 0.4" in said
    assert "--fresh" in said
    assert newest(folder) == before


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--data.source", "typo.mp4"), "there is no file or folder typo.mp4"),
        (("--model.weights", "typo.npz"), "typo.npz"),
        (("--blocks.size", "10", "10"), "10"),
        (("--resume",), "--fresh starts over and --resume goes on"),
    ],
)
def test_fresh_removes_nothing_where_it_cannot_begin(root, whole, capsys, wrong, message):
    folder = whole[0]
    before = newest(folder)
    (folder / "results.md").write_text("an evaluation")
    code, said = failure(root, capsys, *SETTINGS, "--train.directory", folder, "--fresh", *wrong)
    assert (code, message in said) == (1, True)
    assert newest(folder) == before
    assert (folder / "results.md").is_file() and (folder / "report.html").is_file()


def test_fresh_removes_what_was_there(tmp_path):
    config = Config(train=TrainConfig(directory=str(tmp_path)))
    for part in ("checkpoints", "streams"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "00000003.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("mine")
    saved = training.Saved(config)
    assert saved.latest == 3
    saved.clear()
    assert saved.latest is None
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_fresh_removes_the_evaluation_of_what_was_there(root, tmp_path, capsys):
    old = Config(name="old", model=ModelConfig("espnet_cityscapes"), seed=7)
    about = {"config": json.loads(to_json(old)), "rows": []}
    (tmp_path / "results.json").write_text(json.dumps(about))
    for name in ("results.md", "frames.csv", "frame.png", "video.mp4", "report.html", "mine.txt"):
        (tmp_path / name).write_text("old")
    (tmp_path / "views" / "000001").mkdir(parents=True)
    run = (*SETTINGS, "--train.directory", str(tmp_path), "--data.frames", "2", "--fresh")
    script(root, "train").main(list(run))
    there = {path.name for path in tmp_path.iterdir()}
    assert there == {"checkpoints", "streams", "metrics.csv", "report.html", "mine.txt"}
    page = (tmp_path / "report.html").read_text()
    assert "swiftnet_rn18 on pedestrians" in page and "espnet" not in page
    assert "<h2>Summary</h2>" not in page


def test_resume_insists(root, tmp_path, capsys):
    code, said = failure(root, capsys, *SETTINGS, "--train.directory", tmp_path, "--resume")
    assert (code, "has no checkpoint to go on from" in said) == (1, True)


def test_a_foreign_checkpoint_is_told(root, tmp_path, capsys):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "00000004.json").write_text('{"step": 4}')
    code, said = failure(root, capsys, *SETTINGS, "--train.directory", tmp_path)
    assert (code, "was not written by bc_jax" in said) == (1, True)


@pytest.mark.parametrize("config", ["debug", "street_network"])
def test_a_run_with_nothing_whole_says_how_to_start_over(root, tmp_path, capsys, config):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "00000004.json").write_text('{"step')
    settings = ("--config", f"configs/{config}.py", "--train.directory", tmp_path)
    code, said = failure(root, capsys, *settings)
    assert (code, "is damaged" in said, "; --fresh starts over" in said) == (1, True, True)


def test_a_missing_video_is_told(root, tmp_path, capsys):
    code, said = failure(
        root, capsys, *SETTINGS, "--train.directory", tmp_path, "--data.source", "no.mp4"
    )
    assert code == 1
    assert "there is no file or folder no.mp4" in said
    assert not list(tmp_path.iterdir())


def test_a_truncated_video_keeps_what_was_learnt(root, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (12, 96, 128, 3), np.uint8)
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{i}.png")
    damaged = folder / "5.png"
    damaged.write_bytes(damaged.read_bytes()[:3000])
    code, said = failure(
        root, capsys, *SETTINGS, "--train.directory", tmp_path, "--data.source", folder
    )
    assert code == 1
    assert "5 of 12 frames could be read" in said
    assert saved_step(tmp_path) == 5


def test_help_lists_every_field_and_a_wrong_one_is_told(root, capsys):
    with pytest.raises(SystemExit) as stop:
        script(root, "train").main(["--config", "configs/debug.py", "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for field in ("--policy.target", "--data.source", "--blocks.size", "--fresh", "--resume"):
        assert field in out
    assert "BC_JAX_CACHE" in out
    code, said = failure(root, capsys, *SETTINGS, "--policy.tarjet", "0.4")
    assert code == 2
    assert "--policy.tarjet" in said


def test_the_first_ctrl_c_asks_and_the_second_interrupts():
    # A shell starts what runs in the background with interrupts ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), stopping() as asked:
        assert not asked()
        os.kill(os.getpid(), signal.SIGINT)
        assert asked()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


def test_a_policy_serves_the_network_that_it_was_trained_with(tmp_path):
    params = {"params": {"conv": np.arange(6, dtype=np.float32)}}
    other = {"params": {"conv": np.arange(6, dtype=np.float32) + 1}}
    drawn = ModelConfig("swiftnet_rn18")
    read = ModelConfig("swiftnet_rn18", weights="there/weights.npz")
    half = dataclasses.replace(drawn, dtype="bfloat16")

    def loads(trained, serving, with_params=params):
        about = {"config": json.loads(to_json(trained)), "parameters": checksum(params)}
        Checkpointer(tmp_path).save(0, {}, about)
        # Where the network is the same, what is read is looked at.
        with pytest.raises((CheckpointError, Accepted)) as stop:
            training.load_policy(tmp_path, serving, with_params, accept)
        return str(stop.value)

    def accept():
        raise Accepted("accepted")

    assert loads(Config(model=drawn), Config(model=drawn)) == "accepted"
    assert loads(Config(model=drawn), Config(model=half)) == "accepted"
    # Drawn on another device, the same seed's may differ in their last bits.
    assert loads(Config(model=drawn), Config(model=drawn), other) == "accepted"
    assert "seed was 0 and is 1" in loads(Config(model=drawn), Config(model=drawn, seed=1))
    assert "model.weights was None and is 'there/weights.npz'" in loads(
        Config(model=drawn), Config(model=read)
    )
    moved = dataclasses.replace(read, weights="here/weights.npz")
    assert loads(Config(model=read), Config(model=moved, seed=1)) == "accepted"
    said = loads(Config(model=read), Config(model=moved), other)
    assert "parameters had other values" in said
    assert "model.weights was 'there/weights.npz' and is 'here/weights.npz'" in said
    assert "parameters had other values" in loads(Config(model=read), Config(model=read), other)
    shipped = Config(model=ModelConfig("espnet_cityscapes"))
    assert loads(shipped, dataclasses.replace(shipped, seed=1)) == "accepted"


class Accepted(Exception):
    """A checkpoint is read."""


def test_differences_name_fields_and_values():
    one = Config(policy=PolicyConfig(target=0.3))
    other = Config(policy=PolicyConfig(target=0.5), data=DataConfig(passes=3), seed=2)
    said = training.differences(one, other, free=("data.passes",))
    assert said == "policy.target was 0.3 and is 0.5, seed was 0 and is 2"
    assert training.differences(one, other, only=("policy",), free=("policy.target",)) == ""
    assert training.differences(one, one) == ""
