"""The video of a run, and what shows pictures as they are made."""

import dataclasses
import io
import os
import signal
import sys

import av
import numpy as np
import pytest
import zoo
from PIL import Image

from bc_jax import build, film, visualize
from bc_jax.config import load
from bc_jax.data import open_source
from bc_jax.data.opening import path_of
from bc_jax.evaluation import Evaluation
from bc_jax.view import VideoWriter
from bc_jax.view.display import Terminal, displayed

SETTINGS = ("--config", "configs/debug.py", "--width", "1280")


def decoded(path):
    with av.open(str(path)) as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        return [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]


@pytest.fixture
def clip(tmp_path):
    """A video of one's own: nine frames whose size is no multiple of the blocks."""
    path = tmp_path / "own.mp4"
    with VideoWriter(path, 12.5) as writer:
        for frame in open_source("pedestrians", size=(90, 120), frames=9):
            writer.write(frame)
    return path


def run(*arguments, monkeypatch):
    monkeypatch.setattr(build, "network", lambda config: zoo.tiny_network())
    arguments = list(map(str, arguments))
    monkeypatch.setattr(sys, "argv", ["visualize", *arguments])
    visualize.main(arguments)


def test_a_video_of_ones_own_is_one_command(root, clip, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(root)
    output = tmp_path / "drawn" / "out.mp4"
    own = ("--input", clip, "--output", output, "--stills", "4", "--data.size", "90", "120")
    run(*SETTINGS, *own, monkeypatch=monkeypatch)
    assert str(output) in capsys.readouterr().out
    frames = decoded(output)
    assert len(frames) == 9
    data = output.read_bytes()
    assert data.find(b"moov") < data.find(b"mdat")  # it plays while it loads
    with av.open(str(output)) as video:
        assert float(video.streams.video[0].average_rate) == pytest.approx(12.5)
    stills = sorted((output.parent / "out_stills").glob("*.png"))
    assert [path.name for path in stills] == ["000000.png", "000004.png", "000008.png"]
    picture = np.asarray(Image.open(stills[1]))
    assert picture.shape == frames[4].shape
    assert np.abs(frames[4].astype(float) - picture).mean() < 5


def test_help_names_every_kind_of_input(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["visualize"])
    with pytest.raises(SystemExit):
        visualize.main(["--help"])
    said = capsys.readouterr().out.partition("--input")[2].partition("--output")[0]
    assert all(name in said for name in ("camera:0", "pedestrians", "street:val"))


def test_ctrl_c_leaves_a_video_that_plays(root, clip, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(root)
    output = tmp_path / "out.mp4"
    measured = Evaluation.glance

    def interrupt(evaluation):
        if len(evaluation.dense_row.measurements) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return measured(evaluation)

    monkeypatch.setattr(Evaluation, "glance", interrupt)
    own = ("--input", clip, "--output", output, "--data.size", "90", "120")
    run(*SETTINGS, *own, monkeypatch=monkeypatch)
    assert len(decoded(output)) == 3
    assert "3 frames" in capsys.readouterr().out


def test_a_video_that_is_cut_short_is_drawn_as_far_as_it_goes(
    root, clip, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(root)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(clip.read_bytes()[:-400])
    output = tmp_path / "out.mp4"
    own = ("--input", cut, "--output", output, "--data.size", "90", "120")
    run(*SETTINGS, *own, monkeypatch=monkeypatch)
    said = capsys.readouterr().out
    assert "ends early" in said
    assert "--data.frames" not in said  # what could be read is in the video
    assert 2 <= len(decoded(output)) < 9


def test_the_input_is_drawn_from_its_beginning_whatever_the_config_measures():
    arguments = visualize.Arguments(input="other.mp4", frames=5)
    config = visualize.only_learned(visualize.DEFAULT, arguments)
    assert config.data.source == "other.mp4"
    assert (config.data.start, config.data.frames) == (0, 5)
    assert (config.evaluate.start, config.evaluate.frames) == (None, None)
    assert build.evaluation_start(config) == 0
    measured = dataclasses.replace(
        visualize.DEFAULT.evaluate, source="street:val", targets=(0.3, 0.5)
    )
    elsewhere = dataclasses.replace(visualize.DEFAULT, evaluate=measured)
    config = visualize.only_learned(elsewhere, arguments)
    assert (config.evaluate.source, config.evaluate.targets) == (None, (0.3,))
    assert config.evaluate.policies == ("learned",)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--data.frames", "3"),
            "--data.frames is for other commands; --frames says what is drawn",
        ),
        (("--evaluate.start=3",), "--evaluate.start is for other commands; --start says"),
    ],
)
def test_what_is_not_heeded_is_refused(words, message, capsys):
    with pytest.raises(SystemExit):
        visualize.main([*words])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--frames", "0"), "error: frames is 0, and 1 is the least"),
        (("--start", "-2"), "error: start is -2, and 0 is the least"),
        (("--stills", "-3"), "stills is -3, and 0 is the least"),
        (("--fps", "inf"), "fps is inf, which is not finite"),
        (("--fps", "0"), "fps 0.0 is not above 0; it can be 0.001 to 1000 frames per second"),
        (("--fps", "1e9"), "fps 1000000000.0 is no frame rate; it can be 0.001 to 1000"),
        (("--width", "10"), "width is 10; it is even and at least 960, at most 16384"),
        (("--start", "600"), "start 600 is beyond the end of video "),
        (("--start", "600"), "; --start says where to begin"),
        (("--output", "/proc/x.mp4"), "video /proc/x.mp4 cannot be written: "),
        (("--output", "out.avi"), "out.avi does not end in .mp4"),
    ],
)
def test_what_cannot_be_drawn_is_told_before_anything_is(words, message, monkeypatch, capsys):
    monkeypatch.setattr(Evaluation, "frame", lambda *_: pytest.fail("a frame was run"))
    with pytest.raises(SystemExit):
        run("--data.size", "64", "64", *words, monkeypatch=monkeypatch)
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.splitlines()[-1].startswith("visualize: error: ")


def test_a_video_of_one_frame(root, clip, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(root)
    output = tmp_path / "out.mp4"
    own = ("--input", clip, "--output", output, "--data.size", "90", "120", "--frames", "1")
    run(*SETTINGS, *own, monkeypatch=monkeypatch)
    assert len(decoded(output)) == 1
    assert "1 frames" in capsys.readouterr().out


def refused(monkeypatch, capsys, *words):
    """What visualize says on stderr; no network is built and nothing is opened before."""
    monkeypatch.setattr(build, "network", lambda config: pytest.fail("work was begun"))
    with pytest.raises(SystemExit) as stop:
        visualize.main(list(map(str, words)))
    assert stop.value.code == 1
    return capsys.readouterr().err


def test_the_input_is_not_written_over(clip, tmp_path, monkeypatch, capsys):
    before = clip.read_bytes()
    link = tmp_path / "link.mp4"
    link.symlink_to(clip)
    for output in (clip, link, tmp_path / "drawn" / ".." / "own.mp4"):
        said = refused(monkeypatch, capsys, "--input", clip, "--output", output)
        assert f"--output {output} would write to {output}, and the input is {clip}" in said
    assert clip.read_bytes() == before
    shipped = path_of("pedestrians")
    said = refused(monkeypatch, capsys, "--output", shipped)
    assert f"the input is {shipped}" in said


def test_a_folder_that_is_read_is_not_written_to(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "out_stills"
    folder.mkdir()
    stills = ("--output", tmp_path / "out.mp4", "--stills", "2")
    said = refused(monkeypatch, capsys, "--input", folder, *stills)
    assert f"would write to {folder}, and the input is {folder}" in said
    for words in (("--output", folder / "out.mp4"), ("--output", folder)):
        assert "would write to" in refused(monkeypatch, capsys, "--input", folder, *words)
    # Without stills that folder is not written to; what is no path is nowhere.
    apart = visualize.Arguments(output=str(tmp_path / "out.mp4"))
    visualize.check_apart(str(folder), apart)
    visualize.check_apart("street:val", visualize.Arguments(output="street:val/out.mp4"))


def test_the_terminal_shows_the_picture_in_half_blocks():
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, 40:] = (10, 200, 30)
    stream = io.StringIO()
    terminal = Terminal(stream, size=(11, 40))
    assert terminal.show(picture)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 10
    assert all(line.count("▀") == 40 for line in lines)
    assert lines[3].count("38;2;10;200;30;48;2;10;200;30") == pytest.approx(20, abs=1)
    terminal.show(picture)
    assert stream.getvalue().count("\x1b[2J") == 1  # later pictures are drawn over it


def test_what_is_not_wanted_is_not_shown(capsys):
    with displayed(False) as show:
        assert show(np.zeros((4, 4, 3), np.uint8))
    assert capsys.readouterr().out == ""


def test_a_picture_that_never_came_is_the_last_frames(root, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    network = zoo.tiny_network()
    config = load("configs/debug.py")
    data = dataclasses.replace(config.data, source=str(clip), size=(90, 120), frames=3)
    drawn = dataclasses.replace(config.evaluate, policies=("learned",), start=0, frames=3)
    config = dataclasses.replace(config, data=data, evaluate=drawn)
    evaluation = Evaluation(config, network, (90, 120))
    tops = []
    monkeypatch.setattr(film, "panel", lambda **seen: tops.append(seen["gain_max"]) or PICTURE)
    wanted = film.Wanted(picture=lambda index: None, last=tmp_path / "frame.png")
    with (
        pytest.warns(UserWarning, match="shows the last frame, 2: .* in the 3 measured"),
        film.Film(evaluation, wanted) as drawing,
    ):
        for batch in build.evaluation_frames(config):
            evaluation.frame(batch)
            drawing.frame(batch)
            drawing.picture(batch)
    assert (tmp_path / "frame.png").is_file()
    assert tops == [film.GAIN_MOST[config.policy.gain]] * 4  # one scale for the whole run


PICTURE = np.zeros((4, 4, 3), np.uint8)
