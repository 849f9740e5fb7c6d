"""The page of a run that has only some of what it can show."""

import html.parser
import json
import re

import pytest

from bc_jax import report, results

METRICS = "step,executed,reward,loss\n2,1.0,nan,nan\n4,0.5,0.1,-0.2\n6,0.3,0.2,-0.1\n"


def test_a_training_run_alone_has_its_curves(tmp_path):
    (tmp_path / "metrics.csv").write_text(METRICS)
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    config = {"name": "<mine>", "policy": {"target": 0.4}}
    (checkpoints / "00000006.json").write_text(json.dumps({"metadata": {"config": config}}))
    page = report.write(tmp_path).read_text()
    assert "&lt;mine&gt;" in page and "<mine>" not in page
    assert "trained for 6 frames" in page
    assert "target 0.4" in page
    assert "<h2>Learning curves</h2>" in page
    assert "<h2>Summary</h2>" not in page and "<h2>Frames</h2>" not in page


def test_the_page_names_what_was_measured():
    config = {
        "model": {"name": "a network"},
        "data": {"source": "for training"},
        "evaluate": {"source": "for measuring"},
    }
    assert "a network on for training" in report._about({}, config, {})
    assert "a network on for measuring" in report._about({"rows": []}, config, {})
    config["evaluate"]["source"] = None
    assert "a network on for training" in report._about({"rows": []}, config, {})


_VOID = {"meta", "img", "input", "image"}


class Outline(html.parser.HTMLParser):
    """What is open, and where elements stand in others; raises where tags do not pair."""

    def __init__(self):
        super().__init__()
        self.open, self.children = [], [("page", [])]

    def handle_starttag(self, tag, attributes):
        self.children[-1][1].append(tag)
        if tag not in _VOID:
            self.open.append(tag)
            self.children.append((tag, []))

    def handle_endtag(self, tag):
        if tag in _VOID:
            return
        assert self.open.pop() == tag
        parent, inside = self.children.pop()
        if parent == "figure":  # of which a caption is the first or the last
            assert inside[-1] == "figcaption" and inside.count("figcaption") == 1


def test_the_page_is_whole_and_reads_without_scripts(tmp_path):
    for frame in (0, 4):
        for name in ("frame", "blocks"):
            path = tmp_path / "views" / f"{frame:04d}" / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"a picture")
    run_with_an_evaluation(tmp_path, trained=8, frame=8, blocks={"size": [16, 16]})
    measured = json.loads((tmp_path / "results.json").read_text())
    measured |= {"execution_frequency": {"learned": [[0.5, 1]]}, "frame_size": [16, 32]}
    (tmp_path / "results.json").write_text(json.dumps(measured))
    page = report.write(tmp_path).read_text()
    outline = Outline()
    outline.feed(page)
    assert outline.open == [] and "figure" in page
    # Nothing is hidden by styles alone: only where the script has said that it is there.
    styles = page.partition("<style>")[2].partition("</style>")[0]
    hidden = re.findall(r"([^{}]*)\{[^{}]*display: none", styles)
    assert hidden and all(".live" in rule for rule in hidden)
    assert "<p>Executed blocks of frame 4</p><img" in page
    assert 'name="viewport"' in page and "prefers-color-scheme: dark" in page


def test_tables_and_video_say_what_they_are(tmp_path, monkeypatch):
    table = [["policy", "mIoU"], ["all <&>", "0.5"]]
    monkeypatch.setattr(report, "cells", lambda rows, without: table)
    summary = report._summary({"rows": []}, {})
    assert summary.count("<th ") == 3 and "<th>" not in summary
    assert '<th scope="col">mIoU</th>' in summary
    assert '<th scope="row">all &lt;&amp;&gt;</th><td>0.5</td>' in summary
    facts = report._settings({"commit": "abc"}, {})
    assert '<th scope="row">commit</th><td>abc</td>' in facts
    (tmp_path / "video.mp4").write_bytes(b"video")
    assert 'aria-label="video of the run"' in report._video(tmp_path / "video.mp4")


def run_with_an_evaluation(folder, *, trained, frame, own=True, checkpoint="there", **measured):
    """A folder whose training stands at a frame, evaluated from a checkpoint of another one."""
    folder.mkdir(exist_ok=True)
    (folder / "metrics.csv").write_text(METRICS)
    (folder / "checkpoints").mkdir(exist_ok=True)
    config = {"name": "run", "model": {"name": "net"}, "data": {"source": "clip"}}
    saved = {"step": trained, "metadata": {"config": config}}
    (folder / "checkpoints" / f"{trained:08d}.json").write_text(json.dumps(saved))
    row = dict.fromkeys(results._FIGURES) | {"policy": "learned"}
    about = {
        "rows": [row],
        "checkpoint": checkpoint,
        "checkpoint_of_this_run": own,
        "checkpoint_frames": {"learned": frame} if checkpoint else {},
        "config": config | measured,
    }
    (folder / "results.json").write_text(json.dumps(about))
    return report.write(folder).read_text()


def test_an_evaluation_of_an_earlier_frame_is_told(tmp_path):
    page = run_with_an_evaluation(tmp_path, trained=30, frame=24)
    assert "trained for 30 frames" in page
    assert (
        "these figures are of the policy after frame 24 of the training in this folder, which "
        "stands at frame 30" in page
    )
    page = run_with_an_evaluation(tmp_path, trained=30, frame=30)
    assert "trained for 30 frames" in page and "these figures are of" not in page


def test_an_evaluation_of_another_policy_is_told(tmp_path):
    page = run_with_an_evaluation(tmp_path, trained=30, frame=5, own=False)
    assert "a policy that began from there, and not from the training in this folder" in page
    page = run_with_an_evaluation(tmp_path, trained=30, frame=None, own=False, checkpoint=None)
    assert "a policy that began from a cold start, and not from" in page


def test_the_settings_of_training_are_its_own(tmp_path):
    page = run_with_an_evaluation(tmp_path / "same", trained=6, frame=6)
    assert "<summary>All settings</summary>" in page
    page = run_with_an_evaluation(tmp_path / "other", trained=6, frame=6, name="other", seed=77)
    assert "<title>run" in page
    trained = page.index("<summary>Settings of the training</summary>")
    measured = page.index("<summary>Settings of the evaluation</summary>")
    assert trained < measured < page.index("&quot;seed&quot;: 77")


def test_a_folder_without_a_run_is_told(tmp_path, capsys):
    with pytest.raises(SystemExit):
        report.main([str(tmp_path)])
    assert "holds no run" in capsys.readouterr().err
    (tmp_path / "results.json").write_text("{ half")
    with pytest.raises(ValueError, match="is damaged"):
        report.write(tmp_path)


def test_colours_are_viridis():
    assert report._colour(0) == "#440154"
    assert report._colour(1) == "#fde725"
    assert report._colour(7) == "#fde725"
