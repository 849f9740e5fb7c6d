"""Table 1: the supplement's rows as printed, runs beside them, and nothing that nobody measured."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from bc_jax import build, evaluate, results, table
from bc_jax.config import Config, DataConfig, EvaluateConfig, PolicyConfig, to_json
from bc_jax.models import Network
from bc_jax.models.cityscapes import class_names
from bc_jax.view import Method, plot_methods

RUN = (
    *("--config", "configs/debug.py", "--data.source", "street:train/0?frames=3"),
    *("--data.size", "64", "96", "--data.start", "2", "--train.train_interval", "99"),
    *("--evaluate.source", "street:val/0-1?frames=4", "--evaluate.start", "None"),
    *("--evaluate.frames", "None", "--evaluate.policies", "all", "random", "learned"),
    *("--evaluate.warm_up", "0", "--evaluate.picture", "None", "--evaluate.video_frames", "0"),
)


def plain_network(config):
    """One matrix product from colours to Cityscapes' classes."""
    import jax.numpy as jnp

    def apply(params, frames):
        return jnp.einsum("nhwc,cd->nhwd", frames[:, ::4, ::4].astype(jnp.float32), params)

    params = np.random.default_rng(0).normal(size=(3, 19)).astype(np.float32)
    return Network("plain", apply, params, class_names(19), np.zeros((19, 3), np.uint8), 4)


@pytest.fixture(scope="module")
def street(root, tmp_path_factory):
    """An evaluation of two targets on two clips, with its table."""
    folder = tmp_path_factory.mktemp("street") / "mine"
    targets = ("--evaluate.targets", "0.4", "0.7", "--train.directory", str(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(build, "network", plain_network)
        patch.setattr(sys, "argv", ["evaluate.py"])
        evaluate.main([*RUN, *targets, "--table"])
    return folder


def test_each_target_has_its_rows(street):
    about = json.loads((street / "results.json").read_text())
    rows = {row["policy"]: row for row in about["rows"]}
    held = ("random@0.4", "learned@0.4", "random@0.7", "learned@0.7")
    assert list(rows) == ["dense", "all", *held]
    assert about["targets"] == [0.4, 0.7]
    assert [rows[name]["target"] for name in held] == [0.4, 0.4, 0.7, 0.7]
    for target in ("0.4", "0.7"):
        random, learned = rows[f"random@{target}"], rows[f"learned@{target}"]
        assert random["executed_fraction"] == learned["executed_fraction"]
    assert rows["learned@0.4"]["executed_fraction"] != rows["learned@0.7"]["executed_fraction"]
    assert all(about["execution_frequency"][name] for name in held)


def test_the_source_of_its_own_is_measured_from_its_beginning_to_its_end(street):
    rows = json.loads((street / "results.json").read_text())["rows"]
    for row in rows:
        assert row["frames"] == 6  # two clips of four frames, less their first ones
        assert (row["labelled_frames"], row["labelled_last_frames"]) == (6, 2)


def test_several_streams_count_each_frame_once(root, tmp_path, monkeypatch):
    """Three clips in two streams: one of them plays its only clip again, which is not counted."""
    monkeypatch.chdir(root)
    monkeypatch.setattr(build, "network", plain_network)
    monkeypatch.setattr(sys, "argv", ["evaluate.py"])
    drawn, found = {}, []
    monkeypatch.setattr(results, "plot_executed", lambda path, of, target: drawn.update(of))
    for streams in (1, 2):
        folder = tmp_path / str(streams)
        own = ("--evaluate.source", "street:val/0-2?frames=4", "--data.streams", str(streams))
        evaluate.main([*RUN, *own, "--train.directory", str(folder)])
        rows = json.loads((folder / "results.json").read_text())["rows"]
        found.append({row["policy"]: row for row in rows})
    one, two = (rows["dense"] for rows in found)
    assert (one["labelled_frames"], one["labelled_last_frames"]) == (9, 3)
    for name in ("labelled_frames", "labelled_last_frames", "miou_labels", "miou_labels_last"):
        assert one[name] == two[name]
    # What is drawn has the table's mean.
    mean = found[1]["learned"]["executed_fraction"]
    assert np.nanmean(drawn["learned"]) == pytest.approx(mean)
    assert np.isnan(drawn["learned"][0])


def test_figures_over_all_frames_count_the_first_ones(street):
    rows = {row["policy"]: row for row in json.loads((street / "results.json").read_text())["rows"]}
    dense, random = rows["dense"], rows["random@0.4"]
    assert dense["macs_per_frame_all"] == dense["macs_per_frame"]
    # Two of eight frames are executed whole.
    expected = 0.25 * dense["macs_per_frame"] + 0.75 * random["macs_per_frame"]
    assert random["macs_per_frame_all"] == pytest.approx(expected)
    assert random["ms_per_frame_all"] > 0


def test_a_street_is_never_beside_cityscapes(street):
    text = (street / "table.md").read_text()
    cityscapes, rest = text.split("## Measured on ")
    assert cityscapes.count(table.QUOTED + " ") >= 23 and "measured:" not in cityscapes
    assert rest.startswith("street val/0-1?frames=4 at 64x96 (generated): 2 clips")
    assert "Not Cityscapes: mIoU cannot be compared" in rest
    assert "| mine" in rest and table.QUOTED not in rest
    assert "Not normalised, the device's TFLOPS not being given: mine." in rest
    assert "weights: random" in rest
    document = json.loads((street / "table.json").read_text())
    assert all(row["ms_norm"] is None for row in document["measured"])
    assert {row["source"] for row in document["quoted"]} == {table.QUOTED}
    assert min(np.asarray(Image.open(street / "table.png")).shape[:2]) > 500


def test_several_runs_each_with_its_device(street, tmp_path, capsys):
    dense = table.read_run(street)
    assert dense.tflops is None
    table.main([str(street), str(street), "--output", str(tmp_path), "--tflops", "11.34", "5.67"])
    assert capsys.readouterr().out.strip() == str(tmp_path / "table.md")
    rows = json.loads((tmp_path / "table.json").read_text())["measured"]
    whole, half = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    for one, other in zip(whole, half, strict=True):
        assert one["ms_norm"] == pytest.approx(one["ms"])
        assert other["ms_norm"] == pytest.approx(other["ms"] / 2)
        assert one["speedup"] == pytest.approx(one["dense_ms"] / one["ms"])


def test_a_run_on_cityscapes_stands_in_the_table(street, tmp_path):
    about = json.loads((street / "results.json").read_text())
    about["config"]["evaluate"]["source"] = "cityscapes:some/where/val"
    about["frame_size"] = [1024, 2048]
    (tmp_path / "results.json").write_text(json.dumps(about))
    run = table.read_run(tmp_path, 11.34)
    assert run.data_set == table.CITYSCAPES
    text = table.write([run], tmp_path).read_text()
    first = text.split("## Measured on ")[0]
    assert "bc_jax learned, t=0.4" in first and "bc_jax random" not in first
    assert f"measured: {tmp_path.name}, 2 clips" in first
    about["frame_size"] = [512, 1024]
    (tmp_path / "results.json").write_text(json.dumps(about))
    assert table.read_run(tmp_path).data_set == "Cityscapes val at 512x1024"


def test_runs_of_several_seeds_are_averaged(street, tmp_path):
    def run(name, seed, shift, **evaluate):
        about = json.loads((street / "results.json").read_text())
        config = about["config"]
        config |= {"seed": seed, "name": name, "evaluate": config["evaluate"] | evaluate}
        config["train"]["directory"] = str(tmp_path / name)
        for row in about["rows"]:
            if row["policy"] != "dense":
                row["miou_labels_last"] -= shift
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(about))
        return table.read_run(tmp_path / name)

    shifts = [0.01, 0.02, 0.06]
    seeds = [run(f"seed{seed}", seed, shift) for seed, shift in enumerate(shifts)]
    text = table.write(seeds, tmp_path).read_text()
    document = json.loads((tmp_path / "table.json").read_text())
    rows = {(row["policy"], row["target"]): row for row in document["over_seeds"]}
    assert set(rows) == {(row["policy"], row["target"]) for row in document["measured"]}
    losses = [row["loss_last"] for row in document["measured"]
              if (row["policy"], row["target"]) == ("learned", 0.4)]  # fmt: skip
    learned = rows["learned", 0.4]
    assert learned["seeds"] == [0, 1, 2] and len(learned["runs"]) == 3
    assert np.diff(losses) == pytest.approx(100 * np.diff(shifts))
    mean, deviation = learned["loss_last"]["mean"], learned["loss_last"]["deviation"]
    assert (mean, deviation) == pytest.approx((np.mean(losses), np.std(losses, ddof=1)))
    assert rows["dense", None]["miou_last"]["deviation"] == 0
    assert f"{mean:.2f} ± {deviation:.2f}" in text and "| 0, 1, 2 |" in text
    # One seed twice, or with other settings, is no sample of seeds.
    table.write([seeds[0], run("again", 0, 0.3), run("other", 3, 0.3, warm_up=1)], tmp_path)
    assert json.loads((tmp_path / "table.json").read_text())["over_seeds"] == []


def test_the_supplements_rows_are_all_there():
    rows = table.quoted()
    assert len(rows) == 23
    block = {row["variant"]: row for row in rows if row["method"] == "BlockCopy+SwiftNet"}
    assert [block[t]["miou"] for t in ("t=0.3", "t=0.5", "t=0.7")] == [70.8, 76.4, 77.4]
    assert {row["baseline_miou"] for row in block.values()} == {77.7}
    assert next(row for row in rows if row["method"] == "ClockWork")["ms_norm"] is None


def test_the_supplements_times_are_normalised_as_ours():
    known = {name.removeprefix("Nvidia GTX ").removeprefix("Nvidia "): tflops
             for name, tflops in table.factors().items()}  # fmt: skip
    checked = set()
    for row in table.quoted():
        if row["gpu"] in known and row["ms_norm"]:
            times, over = row["ms"] * table.factor(known[row["gpu"]]), row["ms_norm"]
            if row["gpu"] == "Titan XP":  # the supplement divides there
                times = row["ms"] / table.factor(known[row["gpu"]])
            assert times == pytest.approx(over, rel=0.01), row
            checked.add(row["gpu"])
    assert checked == set(known)


def test_what_is_no_run_is_told(street, tmp_path, capsys, monkeypatch, root):
    def said(*arguments):
        with pytest.raises(SystemExit):
            table.main([*map(str, arguments), "--output", str(tmp_path / "out")])
        return capsys.readouterr().err

    assert "has no results.json; evaluate.py writes it" in said(tmp_path)
    assert "--tflops has 2 figures for 1 runs" in said(street, "--tflops", 1, 2)
    assert "tflops is 0" in said(street, "--tflops", 0)
    assert "tflops is inf; a device has a number" in said(street, "--tflops", "inf")
    results = tmp_path / "results.json"
    results.write_text("{}")
    assert "is damaged, or of an evaluate.py before" in said(tmp_path)
    about = json.loads((street / "results.json").read_text())
    for row in about["rows"]:
        row["labelled_last_frames"] = 0
    results.write_text(json.dumps(about))
    assert "measured to its last frame with labels" in said(tmp_path)
    assert not (tmp_path / "out").exists()
    monkeypatch.chdir(root)
    monkeypatch.setattr(build, "network", plain_network)
    with pytest.raises(SystemExit):
        evaluate.main(["--config", "configs/debug.py", "--data.size", "64", "96", "--table"])
    assert "these frames have no labels" in capsys.readouterr().err


def test_labels_of_the_figure_are_clear_of_one_another(tmp_path, monkeypatch):
    from matplotlib.text import Text

    from bc_jax.view import methods

    drawn = {}

    def keep(figure, path):
        figure.draw_without_rendering()
        drawn["figure"] = figure
        return path

    monkeypatch.setattr(methods, "save_figure", keep)
    table._draw(tmp_path / "a.png", [])
    for axes in drawn["figure"].axes:
        boxes = [Text.get_window_extent(text) for text in axes.texts]  # without their leaders
        assert len(boxes) >= 9
        for k, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[:k]), axes.texts[k]


def test_a_method_without_a_line_is_a_point(tmp_path):
    one = Method("mine", ((100.0, 70.0),))
    path = plot_methods(tmp_path / "a.png", [one], [], note="a word")
    assert min(np.asarray(Image.open(path)).shape[:2]) > 500


def test_a_config_says_where_it_is_measured():
    config = Config(
        policy=PolicyConfig(target=0.3), data=DataConfig(source="a.mp4", start=3, frames=5)
    )
    assert build.evaluation_start(config) == 3
    other = Config(data=config.data, evaluate=EvaluateConfig(source="b.mp4"))
    assert build.evaluation_start(other) == 0
    assert json.loads(to_json(other))["evaluate"]["source"] == "b.mp4"
