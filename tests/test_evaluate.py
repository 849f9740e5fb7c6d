"""evaluate.py as a user runs it, and the figures it computes, checked by hand."""

import csv
import dataclasses
import html
import json
import math
import os
import re
import shutil
import signal
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import zoo
from PIL import Image
from test_train import begin, finish, script

from bc_jax import build, results
from bc_jax.config import Config, DataConfig, PolicyConfig
from bc_jax.evaluation import Evaluation
from bc_jax.measurement import Measurement, Row, close_gaps, summary

SETTINGS = ("--config", "configs/debug.py", "--data.frames", "6")
POLICIES = ("all", "random", "static", "difference", "learned", "oracle")


@pytest.fixture(scope="module")
def evaluated(root, tmp_path_factory):
    """A trained policy and its evaluation, each a run of its script."""
    folder = tmp_path_factory.mktemp("evaluated")
    directory = ("--train.directory", folder)
    code, _, err = finish(begin(root, "train", *SETTINGS, *directory))
    assert code == 0, err
    checkpoint = ("--checkpoint", folder / "checkpoints")
    code, out, err = finish(begin(root, "evaluate", *SETTINGS, *directory, *checkpoint))
    assert code == 0, err
    return folder, out


def failure(root, capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        script(root, "evaluate").main(list(map(str, arguments)))
    return stop.value.code, capsys.readouterr().err


def test_results_hold_every_row_and_figure(evaluated):
    folder, out = evaluated
    document = json.loads((folder / "results.json").read_text())
    rows = {row["policy"]: row for row in document["rows"]}
    assert list(rows) == ["dense", *POLICIES]
    for row in rows.values():
        assert row["frames"] == 7  # of eight, the first one aside
        assert 0 < row["agreement"] <= 1
        assert row["agreement"] + row["disagreement"] == pytest.approx(1)
        assert 0 < row["miou"] <= 1
        assert row["ms_per_frame"] >= row["ms_network"] > 0
        assert row["macs_per_frame"] > 0
        assert row["speedup"] == pytest.approx(rows["dense"]["ms_per_frame"] / row["ms_per_frame"])
    assert rows["dense"]["speedup"] == 1
    assert rows["all"]["executed_fraction"] == 1
    assert rows["all"]["disagreement"] < 1e-3  # but for ties, the dense network's
    assert rows["all"]["macs_per_frame"] == rows["dense"]["macs_per_frame"]
    assert rows["learned"]["executed_fraction"] < 0.9
    assert rows["learned"]["ms_learning"] > 0
    for name in ("random", "static", "difference", "oracle"):  # at equal compute
        assert rows[name]["executed_fraction"] == rows["learned"]["executed_fraction"]
        assert rows[name]["macs_per_frame"] < rows["learned"]["macs_per_frame"]
    assert document["config"]["name"] == "debug"
    assert document["device"]["platform"] == "cpu"
    assert {"python", "jax", "jaxlib", "numpy"} <= document["versions"].keys()
    assert document["command"].startswith("evaluate.py --config configs/debug.py")
    assert document["dense"]["version"] in document["dense"]["ms_in_warm_up"]
    assert document["state_bytes"] > 0
    assert document["checkpoint_of_this_run"]
    assert document["checkpoint_frames"] == {"learned": 6}
    trained_by = document["checkpoint_trained_by"]["learned"]
    assert trained_by["config"]["policy"] == document["config"]["policy"]
    assert trained_by["command"].startswith("train.py --config configs/debug.py")
    assert trained_by["commit"] == document["commit"]
    assert "position" not in trained_by
    for name in POLICIES:
        frequency = np.array(document["execution_frequency"][name])
        assert frequency.shape == (3, 4)
        assert frequency.mean() == pytest.approx(rows[name]["executed_fraction"], abs=1e-3)
    assert rows["learned"]["probability_gap"] > 0
    assert rows["random"]["probability_gap"] is None
    assert "| learned" in out
    assert out.splitlines()[1].startswith("| ---")
    assert "| learned" in (folder / "results.md").read_text()


def test_frames_are_listed(evaluated):
    with (evaluated[0] / "frames.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 * (1 + len(POLICIES))
    for row in rows:
        first = row["frame"] == "0"
        assert row["counts"] == str(int(not first))
        if first:
            assert row["executed"] == "1.0"
        elif row["policy"] in ("random", "learned"):
            assert row["blocks"] in ("6", "12")
    assert {r["timed"] for r in rows if int(r["frame"]) < 2} == {"0"}


def test_pictures_and_video_are_drawn(evaluated):
    folder = evaluated[0]
    for name in ("frame.png", "executed.png", "tradeoff.png"):
        picture = np.asarray(Image.open(folder / name).convert("RGB"))
        assert min(picture.shape[:2]) > 300
        assert picture.std() > 20
    import av

    with av.open(str(folder / "video.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == 6
    drawn = np.asarray(Image.open(folder / "frame.png").convert("RGB"), float)
    assert np.abs(frames[4] - drawn).mean() < 5  # the same picture, but for the compression


def test_the_report_opens_in_a_browser_and_its_slider_works(evaluated, tmp_path):
    page = (evaluated[0] / "report.html").read_text()
    for title in (
        *("Summary", "Frames", "Where blocks were executed", "Executed fraction over time"),
        *("Accuracy against cost", "Time per part", "Learning curves", "Video"),
        "Settings and versions",
    ):
        assert f"<h2>{title}</h2>" in page
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    said, seen = browse(page, tmp_path)
    assert seen["errors"] == [] and "CONSOLE" not in said, said
    assert seen["broken"] == []
    assert seen["plots"] >= 5 and seen["blocks"] == 12 and seen["video"]
    assert [clip for clip in seen["clips"]] == ["inset(0px 0px 0px 50%)", "inset(0px 0px 0px 20%)"]
    assert seen["shown"][0] == ["frame", "blocks"]
    assert seen["shown"][1] == ["prediction", "gain"]


# Does in the page what a user would do, and leaves what it saw as JSON in the page's body.
_USE = """
<script>
addEventListener("load", () => setTimeout(() => {
  const get = (role) => document.querySelector(`[data-role=${role}]`);
  const set = (role, value) => {
    get(role).value = value;
    get(role).dispatchEvent(new Event("input", {bubbles: true}));
  };
  const visible = () => [...document.querySelectorAll(".stage img")]
    .filter((image) => getComputedStyle(image).display !== "none" && image.offsetWidth > 100)
    .map((image) => image.dataset.view);
  const clip = () => document.querySelector(".stage img.right").style.clipPath;
  const seen = {errors: window.errors, clips: [clip()], shown: [visible()]};
  set("left", "prediction"); set("right", "gain"); set("slider", "20");
  seen.clips.push(clip()); seen.shown.push(visible());
  seen.broken = [...document.images].filter((image) => !image.naturalWidth).map((i) => i.alt);
  seen.plots = document.querySelectorAll("img.plot").length;
  seen.blocks = document.querySelectorAll("svg.heat rect").length;
  seen.video = document.querySelector("video") !== null;
  document.body.textContent = "SEEN" + JSON.stringify(seen) + "SEEN";
}, 500));
</script>
"""


def browse(page, folder):
    """Open a page in headless Chromium; what it says on stderr, and what `_USE` saw."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    watch = "<head><script>window.errors = []; onerror = (e) => errors.push(e);</script>"
    path = folder / "page.html"
    path.write_text(page.replace("<head>", watch, 1).replace("</body>", _USE + "</body>"))
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr")
    run = subprocess.run(
        [chromium, *options, f"--user-data-dir={folder / 'profile'}", "--dump-dom",
         "--virtual-time-budget=4000", path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return run.stderr, json.loads(html.unescape(run.stdout.split("SEEN")[1]))


def test_fixed_blocks_are_the_targets_in_each_frame(root, evaluated, tmp_path):
    checkpoint = ("--checkpoint", evaluated[0] / "checkpoints", "--train.directory", tmp_path)
    policies = ("--evaluate.policies", "all", "random", "learned")
    code, out, err = finish(
        begin(root, "evaluate", *SETTINGS, *checkpoint, *policies, "--blocks.fixed")
    )
    assert code == 0, err
    assert "blocks.fixed: a frame is one program" in out
    document = json.loads((tmp_path / "results.json").read_text())
    executed = {row["policy"]: row["executed_fraction"] for row in document["rows"]}
    assert executed == {"dense": 1, "all": 1, "random": 0.5, "learned": 0.5}


def test_a_foreign_checkpoint_is_told(root, evaluated, capsys):
    folder = evaluated[0]
    checkpoint = ("--checkpoint", folder / "checkpoints")
    code, said = failure(root, capsys, *SETTINGS, *checkpoint, "--policy.widths", "8")
    assert code == 1
    assert "policy.widths was (4,) and is (8,)" in said
    code, said = failure(root, capsys, *SETTINGS, *checkpoint, "--blocks.size", "16", "16")
    assert "blocks.size was (32, 32) and is (16, 16)" in said
    code, said = failure(root, capsys, *SETTINGS, *checkpoint, "--seed", "1")
    assert (code, "seed was 0 and is 1" in said) == (1, True)


def test_blocks_that_the_network_cannot_have_are_told(root, capsys):
    given = ("--config", "configs/quickstart.py", "--blocks.size", "64", "20")
    code, said = failure(root, capsys, *given)
    assert (code, "blocks.size is (64, 20)" in said) == (1, True)
    assert "espnet_cityscapes takes frames whose sides are multiples of 8; give (64, 24)" in said


def test_a_missing_or_damaged_checkpoint_is_told(root, tmp_path, capsys):
    code, said = failure(root, capsys, *SETTINGS, "--checkpoint", tmp_path / "none")
    assert (code, "there is no directory" in said) == (1, True)
    assert f"--checkpoint {tmp_path / 'none'}: " in said and f"{tmp_path} has nothing" in said
    (tmp_path / "00000003.json").write_text("{ half")
    code, said = failure(root, capsys, *SETTINGS, "--checkpoint", tmp_path)
    assert (code, "is damaged" in said) == (1, True)


def test_a_missing_checkpoint_is_told_where_no_row_begins_from_it(root, tmp_path, capsys):
    given = (*SETTINGS, "--evaluate.policies", "random", "--train.directory", tmp_path / "run")
    code, said = failure(root, capsys, *given, "--checkpoint", tmp_path / "none")
    assert (code, f"--checkpoint {tmp_path / 'none'}: there is no directory" in said) == (1, True)
    several = ("--checkpoint", tmp_path / "at_{target}", "--evaluate.targets", "0.3", "0.5")
    code, said = failure(root, capsys, *given, *several)
    assert (code, f"there is no directory {tmp_path / 'at_0.3'}" in said) == (1, True)
    assert not (tmp_path / "run").exists()


def test_frames_beyond_the_end_are_told(root, capsys):
    for start in ("9999", "600"):  # of 600 frames
        code, said = failure(root, capsys, *SETTINGS, "--evaluate.start", start)
        assert (code, "beyond its end" in said or "beyond the end" in said) == (1, True)
        assert f"start {start} is" in said and said.endswith("evaluate.start says where to begin\n")
    first = ("--data.start", "600", "--evaluate.start", "None", "--evaluate.frames", "None")
    code, said = failure(root, capsys, *SETTINGS, *first)
    assert (code, said.endswith("it has 600 frames; data.start says where to begin\n")) == (1, True)


def test_help_lists_every_field(root, capsys):
    with pytest.raises(SystemExit) as stop:
        script(root, "evaluate").main(["--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    for field in ("--checkpoint", "--evaluate.policies", "--evaluate.paper_checkpoint"):
        assert field in said


def measured(frame, blocks, wrong, times=(1.0, 10.0, 0.0), *, counts=True, timed=True):
    return Measurement(frame, counts, timed, blocks, blocks / 4, wrong, *times)


def test_a_rows_figures_by_hand():
    row = Row(
        "learned",
        None,
        [
            measured(0, 4, 0.0, (99.0, 99.0, 99.0), counts=False),
            measured(1, 1, 0.1, (99.0, 99.0, 0.0), timed=False),
            measured(2, 2, 0.2, (1.0, 10.0, 6.0)),
            measured(3, 3, 0.3, (2.0, 20.0, 0.0)),
            measured(4, 2, 0.4, (3.0, 60.0, 0.0)),
        ],
        np.array([[3, 1], [0, 4]]),
    )
    figures = summary(row, lambda blocks: 100 * blocks + 7, 3, 1)
    assert figures["frames"] == 4
    assert figures["timed_frames"] == 3
    assert figures["executed_fraction"] == pytest.approx(0.5)
    assert figures["macs_per_frame"] == pytest.approx(207)
    assert figures["disagreement"] == pytest.approx(0.25)
    assert figures["ms_network"] == 20  # the median of 10, 20, 60
    assert figures["ms_per_frame"] == pytest.approx(20 + 2 + 6 / 3)
    assert figures["miou"] == pytest.approx((3 / 4 + 4 / 5) / 2)
    per_stream = summary(row, lambda blocks: 100 * blocks + 7, 3, 2)
    assert per_stream["ms_per_frame"] == pytest.approx(12)
    assert per_stream["macs_per_frame"] == pytest.approx(103.5)


def test_without_a_timed_frame_there_is_no_time():
    row = Row("all", None, [measured(1, 4, 0.0, timed=False)], np.eye(2))
    figures = summary(row, lambda blocks: 0.0, 3, 1)
    assert figures["ms_per_frame"] is None
    assert figures["ms_learning"] is None
    assert figures["speedup"] is None
    assert json.dumps(figures, allow_nan=False)


def test_gaps_by_hand():
    wrong = {"dense": 0.0, "all": 0.0, "random": 0.06, "learned": 0.03, "oracle": 0.02}
    rows = [{"policy": k, "disagreement": v, "gap_closed": None} for k, v in wrong.items()]
    close_gaps(rows)
    closed = {row["policy"]: row["gap_closed"] for row in rows}
    assert closed["learned"] == pytest.approx(0.75)
    assert (closed["random"], closed["oracle"]) == (0, 1)
    assert closed["dense"] is None
    assert closed["all"] is None
    alone = [row | {"gap_closed": None} for row in rows if row["policy"] != "oracle"]
    close_gaps(alone)
    assert all(row["gap_closed"] is None for row in alone)


def test_the_table_is_aligned_and_leaves_out_what_is_not_known():
    row = Row("random", None, [measured(1, 1, 0.25)], np.eye(2))
    figures = summary(row, lambda blocks: 2.5e9, 3, 1)
    lines = results.table([figures]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "| random |" in lines[2]
    assert " 2.50 |" in lines[2]
    assert lines[2].rstrip().endswith("|  |") or lines[2].rstrip().endswith(" |")
    assert "None" not in lines[2]
    assert not math.isnan(figures["miou"])


def test_the_papers_row_has_the_papers_settings():
    config = Config(
        policy=PolicyConfig(target=0.4),
        data=DataConfig(),
    )
    bare = Evaluation.__new__(Evaluation)
    bare.config = config
    assert bare.policy("paper", 0.25) == PolicyConfig.paper(target=0.25)
    assert bare.policy("learned@0.2", 0.2) == dataclasses.replace(config.policy, target=0.2)
    assert bare.policy("oracle", 0.25) == "oracle"


def test_what_is_not_as_it_should_be_is_told():
    bare = Evaluation.__new__(Evaluation)
    bare.config = Config(policy=PolicyConfig(target=0.3))
    bare.report = SimpleNamespace(macs=10, whole_macs=1)

    def said(name, executed, gap):
        row = {"policy": name, "target": 0.3, "executed_fraction": executed, "probability_gap": gap}
        row["timed_frames"] = 2
        return results.warnings(bare, [row])

    assert said("learned", 0.31, 0.4) == []
    assert said("random@0.3", 0.9, None) == []
    (far,) = said("paper", 0.4, 0.4)
    assert "0.400" in far and "0.3" in far and "constrained" in far
    (alike,) = said("learned@0.3", 0.3, 0.01)
    assert "does not tell blocks apart" in alike and "0.010" in alike
    bare.report = SimpleNamespace(macs=10, whole_macs=6)
    assert "60% of the network" in said("learned", 0.3, 0.4)[0]


def test_an_evaluation_replaces_the_one_before_and_keeps_it_where_it_fails(
    root, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(build, "network", lambda config: zoo.tiny_network())
    small = ("--evaluate.policies", "random", "--train.directory", tmp_path, "--evaluate.frames")

    def evaluate(*words):
        script(root, "evaluate").main(list(map(str, (*SETTINGS, *small, *words))))

    def there():
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    (tmp_path / "mine.txt").write_text("kept")
    (tmp_path / "table.md").write_text("of the evaluation before")
    evaluate(6, "--evaluate.picture", 2)
    first = there()
    drawn = ("video.mp4", "frame.png", "executed.png", "tradeoff.png", "report.html", "results.md")
    assert {*drawn, "mine.txt"} <= {path.name for path in first}
    assert tmp_path / "table.md" not in first
    views = {path.name for path in (tmp_path / "views").iterdir()}

    def fail(evaluation):
        raise ValueError("half-way")

    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "results", fail)
        with pytest.raises(SystemExit):
            evaluate(3, "--evaluate.video_frames", 1)
    assert "half-way" in capsys.readouterr().err
    assert there() == first

    measured = Evaluation.glance

    def stop(evaluation):
        os.kill(os.getpid(), signal.SIGTERM)
        return measured(evaluation)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "glance", stop)
        with pytest.raises(SystemExit) as ended:
            evaluate(3, "--evaluate.video_frames", 1, "--evaluate.picture", "None")
    assert ended.value.code == 130
    assert "stopped after frame 1: " in capsys.readouterr().out
    assert there() == first

    evaluate(3, "--evaluate.video_frames", 0, "--evaluate.picture", "None")
    second = {path.name for path in there()}
    assert second >= {"mine.txt", "results.json", "executed.png", "report.html"}
    assert not second & {"video.mp4", "frame.png"}
    assert {path.name for path in (tmp_path / "views").iterdir()} != views
    assert not list(tmp_path.glob(".*"))
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Video</h2>" not in page
    shown = set(re.findall(r'data-frame="(\d+)"', page))
    assert shown == {str(int(path.name)) for path in (tmp_path / "views").iterdir()}


def test_an_evaluation_does_not_replace_what_it_reads(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "network", lambda config: pytest.fail("work was begun"))
    own = (*SETTINGS, "--train.directory", tmp_path)
    for option in ("--data.source", "--evaluate.source"):
        for read in (tmp_path / "video.mp4", tmp_path / "views" / "000003"):
            code, said = failure(root, capsys, *own, option, read)
            assert (code, f"the frames are read from {read};" in said) == (1, True)


def test_rows_without_times_are_told():
    config = Config(policy=PolicyConfig(target=0.3))
    seen = SimpleNamespace(measurements=[measured(k, 4, 0.0) for k in range(8)])
    report = SimpleNamespace(macs=10, whole_macs=1)
    evaluation = SimpleNamespace(config=config, dense_row=seen, report=report)

    def said(**timed):
        return results.warnings(
            evaluation,
            [
                {"policy": name, "target": None, "executed_fraction": 1, "timed_frames": frames}
                for name, frames in timed.items()
            ],
        )

    assert said(dense=3, all=3, random=2) == []
    (warm_up,) = said(dense=0, all=0, random=0)
    assert "of the 8 frames measured" in warm_up
    assert "the first 10 (evaluate.warm_up)" in warm_up
    (compiling,) = said(dense=3, all=3, random=0)
    assert "no times of 'random'" in compiling
