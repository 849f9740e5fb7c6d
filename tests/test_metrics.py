"""Metrics against counts made the slow way, and the files and lines that report them."""

import csv
import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bc_jax.logs import Logger, MetricsFile, Progress
from bc_jax.metrics import (
    RunningMean,
    agreement,
    average_precision,
    class_iou,
    confusion,
    miou,
    percentiles,
)


@st.composite
def label_pairs(draw):
    classes = draw(st.integers(1, 6))
    size = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    dtype = draw(st.sampled_from([np.uint8, np.int32, np.int64]))
    target = rng.integers(0, classes, size).astype(dtype)
    target[rng.random(size) < 0.2] = 255
    return classes, rng.integers(0, classes, size).astype(dtype), target


@given(label_pairs())
@settings(max_examples=100, deadline=None)
def test_iou_is_that_of_the_sets_of_pixels(pair):
    classes, prediction, target = pair
    matrix = confusion(prediction, target, classes=classes)
    counted = target != 255
    expected = []
    for c in range(classes):
        a, b = (
            set(np.flatnonzero(counted & (target == c))),
            set(np.flatnonzero(counted & (prediction == c))),
        )
        expected.append(len(a & b) / len(a | b) if a | b else np.nan)
    np.testing.assert_allclose(class_iou(matrix), expected)
    there = [v for v in expected if not np.isnan(v)]
    np.testing.assert_allclose(miou(matrix), np.mean(there) if there else np.nan)
    assert matrix.sum() == counted.sum()


def test_confusion_has_the_target_in_rows_and_adds_up():
    prediction, target = np.array([[0, 1], [1, 1]]), np.array([[0, 0], [1, 255]])
    matrix = confusion(prediction, target, classes=3)
    np.testing.assert_array_equal(matrix, [[1, 1, 0], [0, 1, 0], [0, 0, 0]])
    # Class 2 is in neither and does not count: IoU 1/2 and 1/2.
    assert miou(matrix) == 0.5
    # A class beyond those that count is but a wrong prediction: 3 of 4, without 4 of 5.
    assert miou([[3, 1], [0, 4]], classes=1) == 3 / 4
    assert np.isnan(class_iou(matrix)[2])
    halves = [confusion(p, t, classes=3) for p, t in zip(prediction, target, strict=True)]
    np.testing.assert_array_equal(sum(halves), matrix)


def test_many_classes_in_eight_bits():
    labels = np.arange(200, dtype=np.uint8)
    np.testing.assert_array_equal(confusion(labels, labels, classes=200), np.eye(200))


def test_another_value_is_ignored():
    assert confusion([0, 1], [0, 1], classes=2, ignore=1).sum() == 1
    assert confusion([0, 1], [0, -1], classes=2, ignore=-1).sum() == 1


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        ([0, 1], [0], r"prediction is \[2\] and the target \[1\]"),
        ([0, 3], [0, 1], r"prediction has class 3, and there are 3 \(from 0\)"),
        ([0, 1], [0, 254], "target has class 254"),
        ([-1, 1], [0, 1], "prediction has class -1"),
        ([0.0, 1.0], [0, 1], "prediction is float64, and classes are integers"),
    ],
)
def test_labels_that_cannot_be(prediction, target, message):
    with pytest.raises(ValueError, match=message):
        confusion(prediction, target, classes=3)
    with pytest.raises(ValueError, match="classes, classes"):
        class_iou(np.zeros((2, 3)))


def test_nothing_counted_is_nan():
    assert np.isnan(miou(confusion([0], [255], classes=2)))


BOX, BESIDE, HALF = (0, 0, 10, 10), (20, 0, 30, 10), (0, 0, 10, 5)  # HALF overlaps BOX by 0.5


@pytest.mark.parametrize(
    ("found", "true", "wanted"),
    [
        ([([BOX], [0.3])], [[BOX]], 1),
        ([([BOX, BESIDE], [0.9, 0.8])], [[BOX]], 1),  # wrong, but behind all that is right
        ([([BESIDE, BOX], [0.9, 0.8])], [[BOX]], 1 / 2),  # wrong, and before it
        ([([BOX, BOX], [0.9, 0.8])], [[BOX]], 1),  # a true box is found once
        ([([BOX, BOX, BESIDE], [0.9, 0.8, 0.7])], [[BOX, BESIDE]], (1 + 2 / 3) / 2),
        ([([HALF], [1])], [[BOX]], 1),
        ([([(0, 0, 10, 4.9)], [1])], [[BOX]], 0),
        ([([HALF, BOX], [0.9, 0.8])], [[BOX]], 1),  # the first takes it
        ([([BOX], [0.5]), ([BESIDE], [0.9])], [[BOX], [BOX]], 1 / 4),  # of all frames' boxes
        ([([BESIDE], [0.9]), ([BOX], [0.5])], [[BESIDE], [BOX]], 1),
        ([([], []), ([], [])], [[BOX], []], 0),
        ([([BOX], [0.5])], [[]], float("nan")),
        ([], [], float("nan")),
    ],
)
def test_average_precision_worked_out_by_hand(found, true, wanted):
    np.testing.assert_allclose(average_precision(found, true), wanted)


def test_average_precision_at_another_overlap():
    found = [([HALF], [1])]
    assert average_precision(found, [[BOX]], iou=0.51) == 0
    assert average_precision(found, [[HALF]], iou=1) == 1
    with pytest.raises(ValueError, match="iou is 0; it is above 0 and at most 1"):
        average_precision(found, [[BOX]], iou=0)
    with pytest.raises(ValueError, match="found in 1 frames, and 2 have true ones"):
        average_precision(found, [[BOX], []])
    with pytest.raises(ValueError, match=r"1 boxes have scores of shape \[2\]"):
        average_precision([([HALF], [1, 1])], [[BOX]])


def test_agreement():
    assert agreement(np.array([[1, 2], [3, 4]]), np.array([[1, 2], [3, 5]])) == 0.75
    with pytest.raises(ValueError, match="resize"):
        agreement(np.zeros((2, 2)), np.zeros(4))
    with pytest.raises(ValueError, match="empty"):
        agreement([], [])


def test_percentiles():
    assert percentiles([3, 1, 2]) == {"p10": 1.2, "p50": 2.0, "p90": 2.8}
    assert percentiles([1, 1, 1, 900], [50]) == {"p50": 1.0}
    with pytest.raises(ValueError, match="no values"):
        percentiles([])


def test_running_mean():
    mean = RunningMean()
    assert np.isnan(mean.mean)
    for value, weight in ((1.0, 1), (4.0, 3)):
        mean.add(value, weight)
    assert mean.mean == 13 / 4


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_written_at_once_and_a_new_run_begins_anew(tmp_path):
    path = tmp_path / "runs" / "metrics.csv"
    file = MetricsFile(path)
    for step in (1, 2):
        file.write(step, {"loss": step / 2, "fraction": 0.3})
        assert read(path)[-1] == {"step": str(step), "loss": str(step / 2), "fraction": "0.3"}
    with pytest.raises(
        ValueError, match=r"has the columns step, loss, fraction, and the row .*gain"
    ):
        file.write(3, {"loss": 1.0, "gain": 0.3})
    MetricsFile(path)
    assert read(path) == []


@pytest.mark.parametrize("cut", [0, 1, 5, 12])
def test_a_resumed_file_equals_one_of_a_run_that_was_not_stopped(tmp_path, cut):
    whole, stopped = tmp_path / "whole.csv", tmp_path / "stopped.csv"
    file = MetricsFile(whole)
    for step in range(1, 7):
        file.write(step, {"loss": 1 / step, "fraction": 0.3})
    # Killed after step 5, its last row cut short; the last checkpoint was at step 3.
    file = MetricsFile(stopped)
    for step in range(1, 6):
        file.write(
            step,
            {"fraction": 0.3, "loss": 1 / step}
            if step > 1
            else {"loss": 1 / step, "fraction": 0.3},
        )
    content = stopped.read_bytes()
    stopped.write_bytes(content[: len(content) - cut])
    file = MetricsFile(stopped, resume=3)
    for step in range(4, 7):
        file.write(step, {"loss": 1 / step, "fraction": 0.3})
    assert stopped.read_bytes() == whole.read_bytes()


def test_resuming_without_a_file_begins_one(tmp_path):
    MetricsFile(tmp_path / "m.csv", resume=3).write(4, {"loss": 1.0})
    assert read(tmp_path / "m.csv") == [{"step": "4", "loss": "1.0"}]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def ticking(seconds):
    times = itertools.count(0.0, seconds)
    return lambda: next(times)


def test_compiling_does_not_count_for_the_time_left():
    stream, now = io.StringIO(), [0.0]
    with Progress(10, stream=stream, pause=0.0, clock=lambda: now[0]) as progress:
        progress.update(0, note="compiling, once")
        for step in range(1, 11):
            now[0] += 101.0 if step == 1 else 1.0
            progress.update(step)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "0/10  compiling, once"
    assert lines[2] == "2/10  0:04 left"
    assert lines[-1] == "10/10  1:50 in all"


def test_progress_on_a_terminal_is_drawn_over_itself_and_not_too_often():
    stream = Terminal()
    with Progress(10, stream=stream, interval=2.0, clock=ticking(1.0)) as progress:
        for step in range(1, 11):
            progress.update(step, {"fraction": 0.31234})
    drawn = stream.getvalue().split("\r")[1:]
    assert [d.split("/")[0] for d in drawn] == ["1", "3", "5", "7", "9", "10"]
    assert drawn[1].startswith("3/10  0:07 left  fraction 0.3123")
    assert drawn[-1].rstrip(" \n") == "10/10  0:10 in all  fraction 0.3123"
    assert stream.getvalue().count("\n") == 1


def test_a_shorter_line_leaves_nothing_of_a_longer_one():
    stream = Terminal()
    progress = Progress(None, stream=stream, interval=0.0)
    progress.update(1, note="compiling for 48 blocks")
    progress.update(2)
    first, second = stream.getvalue().split("\r")[1:]
    assert first == "1  compiling for 48 blocks"
    assert second.rstrip() == "2" and len(second) == len(first)


def test_progress_elsewhere_is_a_line_now_and_then():
    stream = io.StringIO()
    with Progress(100, stream=stream, pause=30.0, clock=ticking(1.0)) as progress:
        for step in range(1, 101):
            progress.update(step, note="compiling" if step == 5 else "")
    lines = stream.getvalue().splitlines()
    assert [line.split("/")[0] for line in lines] == ["1", "5", "35", "65", "95", "100"]
    assert "\r" not in stream.getvalue()


def test_the_time_left_counts_from_where_the_run_was_resumed():
    stream = io.StringIO()
    progress = Progress(100, start=50, stream=stream, clock=ticking(10.0))
    progress.update(60)
    assert "0:40 left" in stream.getvalue()


def test_the_logger_keeps_every_nth_row_and_shows_what_was_chosen(tmp_path):
    stream = io.StringIO()
    with Logger(tmp_path / "m.csv", total=4, every=2, show=("fraction",), stream=stream) as logger:
        for step in range(1, 5):
            logger.write(step, {"loss": np.float32(0.5), "fraction": 0.25})
    assert [row["step"] for row in read(tmp_path / "m.csv")] == ["2", "4"]
    assert stream.getvalue().splitlines()[-1].endswith("fraction 0.25")
    assert "loss" not in stream.getvalue()
