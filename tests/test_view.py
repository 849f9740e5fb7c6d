"""Panels, plots and video."""

import os
import re
import resource

import av
import numpy as np
import pytest
from PIL import Image

from bc_jax import film
from bc_jax.data import open_source
from bc_jax.models import cityscapes
from bc_jax.view import (
    VideoWriter,
    drawing,
    panel,
    panels,
    plot_executed,
    plot_log,
    plot_tradeoff,
    plots,
)
from bc_jax.view.colours import distances, distinct
from bc_jax.view.drawing import block_edges, colour_mapped, fit_text, font, font_of, spread, viridis
from bc_jax.view.plots import read_log, running_mean

NAMES = ("road", "person", "sky")
PALETTE = np.array([[128, 64, 128], [220, 20, 60], [70, 130, 180]], np.uint8)


def inputs(seed=0, size=(96, 128), grid=(3, 4)):
    rng = np.random.default_rng(seed)
    return {
        "frame": rng.integers(0, 256, (*size, 3), np.uint8),
        "prediction_classes": rng.integers(0, 3, (size[0] // 4, size[1] // 4)),
        "executed": np.arange(grid[0] * grid[1]).reshape(grid) % 3 == 0,
        "frame_state": rng.integers(0, 256, (*size, 3), np.uint8),
        "information_gain": rng.random(grid),
        "probabilities": rng.random(grid),
    }


def draw(given, **options):
    return panel(**{"palette": PALETTE, "class_names": NAMES, "width": 960, **given, **options})


def changed_cells(a, b):
    """Which of the strip ('strip') and the 2x3 views, row by row (0 to 5), differ."""
    assert a.shape == b.shape
    different = (a != b).any(-1)
    strip = 38
    cells = {"strip"} if different[:strip].any() else set()
    for row, half in enumerate(np.array_split(different[strip:], 2)):
        for column, cell in enumerate(np.array_split(half, 3, axis=1)):
            cells |= {3 * row + column} if cell.any() else set()
    return cells


@pytest.fixture(scope="module")
def before():
    return draw(inputs(), figures={"frame": 1})


# --- panels -------------------------------------------------------------------------------------


def test_panel_is_an_even_rgb_picture_that_fits_a_screen(before):
    assert before.dtype == np.uint8
    height, width, channels = before.shape
    assert channels == 3 and height % 2 == 0 and width % 2 == 0
    assert width <= 960 and height <= 540


@pytest.mark.parametrize("size", [(96, 128), (64, 128), (128, 72), (1080, 1920)])
@pytest.mark.parametrize("width", [960, 1920])
def test_panel_fits_for_any_shape_of_frame(size, width):
    figures = {f"a figure {k}": 0.123 for k in range(9)}
    grid = (2, 2)
    picture = draw(inputs(size=size, grid=grid), figures=figures, title="Title", width=width)
    assert picture.shape[1] <= width
    assert picture.shape[0] <= width * 9 / 16
    assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0


@pytest.mark.parametrize(
    ("name", "views"),
    [
        ("frame", {0, 1, 2}),
        ("prediction_classes", {1}),
        ("executed", {2, 4, 5}),  # outlined on the gain and the probabilities as well
        ("frame_state", {3}),
        ("information_gain", {4}),
        ("probabilities", {5}),
    ],
)
def test_each_view_shows_its_own_input(before, name, views):
    given = inputs()
    if name == "executed":
        given[name] = ~given[name]
    else:
        given[name] = inputs(seed=1)[name]
    assert changed_cells(before, draw(given, figures={"frame": 1})) == views


def test_figures_and_title_change_the_strip_alone(before):
    assert changed_cells(before, draw(inputs(), figures={"frame": 2})) == {"strip"}
    named = draw(inputs(), figures={"frame": 1}, title="A title")
    assert changed_cells(before, named) == {"strip"}


@pytest.mark.parametrize("size", [(96, 128), (64, 128), (128, 72)])
@pytest.mark.parametrize("width", [960, 1280, 1920])
def test_a_title_is_seen_to_its_end(size, width):
    figures = {f"of figures, {k}": 0.123 for k in range(10)}
    some, other = (
        draw(
            inputs(size=size),
            figures=figures,
            title=f"espnet_cityscapes, policy: {end}",
            width=width,
        )
        for end in ("learned 1", "learned 2")  # as wide as one another
    )
    assert (some != other).any()


def test_changing_numbers_do_not_move_anything():
    size = {
        draw(inputs(), figures={"loss": v, "reward": v, "policy": "paper"}).shape
        for v in (0, -0.00123, 1e-9, 123456.0, float("nan"), float("inf"))
    }
    assert len(size) == 1


def test_float_and_uint8_frames_look_the_same(before):
    given = inputs()
    for name in ("frame", "frame_state"):
        given[name] = given[name].astype(np.float32) / 255
    np.testing.assert_array_equal(draw(given, figures={"frame": 1}), before)


def test_executed_blocks_are_bright_and_the_others_dark():
    given = inputs()
    given["frame"] = np.full((96, 128, 3), 200, np.uint8)
    given["executed"] = np.zeros((3, 4), bool)
    dark = draw(given)
    given["executed"] = np.ones((3, 4), bool)
    bright = draw(given)
    assert (dark == 200).all(-1).sum() < (bright == 200).all(-1).sum()
    assert (dark == 60).all(-1).sum() > 10_000  # 30 % of 200
    assert (bright == (255, 176, 0)).all(-1).sum() > 1000
    assert not (dark == (255, 176, 0)).all(-1).any()


def test_without_probabilities_the_sixth_view_shows_the_classes(before):
    given = {**inputs(), "probabilities": None}
    assert changed_cells(before, draw(given, figures={"frame": 1})) == {5}
    only_sky = {**given, "prediction_classes": np.full((24, 32), 2)}
    assert (draw(only_sky) == PALETTE[2]).all(-1).sum() > 10_000


def test_legend_names_the_classes_that_are_there():
    def swatches(classes):
        picture = draw({**inputs(), "prediction_classes": np.array(classes)})
        return [bool((picture == colour).all(-1).any()) for colour in PALETTE]

    assert swatches([[0, 0], [0, 0]]) == [True, False, False]
    assert swatches([[0, 2], [0, 0]]) == [True, False, True]


def test_gain_max_keeps_colours_comparable():
    given = inputs()
    twice = {**given, "information_gain": given["information_gain"] * 2}
    # Of its own maximum, the doubled gain has the same colours; only the scale's number differs.
    own = draw(given), draw(twice)
    fixed = draw(given, gain_max=2.0), draw(twice, gain_max=2.0)
    assert (own[0] != own[1]).any(-1).sum() < 500
    assert (fixed[0] != fixed[1]).any(-1).sum() > 10_000


def test_gain_that_is_zero_or_not_finite():
    given = inputs()
    draw({**given, "information_gain": np.zeros((3, 4))})
    broken = np.full((3, 4), np.nan)
    picture = draw({**given, "information_gain": broken, "executed": np.zeros((3, 4), bool)})
    assert (picture == 128).all(-1).sum() > 10_000


def test_blocks_may_reach_beyond_a_cropped_frame():
    given = inputs(size=(80, 100))  # 3 x 4 blocks of 32, of which the last are cut
    given["executed"] = np.zeros((3, 4), bool)
    given["executed"][2, 3] = True
    given["frame"] = np.full((80, 100, 3), 200, np.uint8)
    given["frame_state"] = np.zeros((80, 100, 3), np.uint8)
    amber = (draw(given, block_size=32) == (255, 176, 0)).all(-1)
    rows, columns = np.nonzero(amber.any(1))[0], np.nonzero(amber.any(0))[0]
    ratio = (rows[-1] - rows[0] + 1) / (columns[-1] - columns[0] + 1)
    assert ratio == pytest.approx(16 / 4, rel=0.2)  # 16 rows and 4 columns of it are left


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame": np.zeros((4, 4))}, r"frame has shape \(4, 4\); it is \[H, W, 3\]"),
        ({"frame_state": np.zeros((8, 8, 3))}, r"frame_state has shape \(8, 8, 3\), frame \(96"),
        ({"executed": np.zeros(12, bool)}, r"executed has shape \(12,\); it is \[Gh, Gw\]"),
        ({"information_gain": np.zeros((2, 2))}, r"information_gain has shape \(2, 2\), exec"),
        ({"probabilities": np.zeros((2, 2))}, r"probabilities has shape \(2, 2\), executed"),
        ({"prediction_classes": np.zeros((4, 4))}, r"are float64 \(4, 4\); they are integers"),
        ({"prediction_classes": np.full((4, 4), 7)}, "go from 7 to 7; there are 3 classes"),
        ({"palette": PALETTE[:2]}, r"palette has shape \(2, 3\) for 3 class names"),
        ({"width": 401}, "width is 401; it is even and at least 960"),
        ({"gain_max": 0}, "gain_max is 0; it is positive"),
        ({"block_size": 8}, r"3x4 blocks of 8x8 do not cover the frame of 96x128"),
    ],
)
def test_panel_errors(change, message):
    with pytest.raises(ValueError, match=message):
        draw({**inputs(), **change})


def places_of(picture, colours):
    """The (row, column) of each colour's first pixel in the picture; None where it is not there."""
    found = [np.argwhere((picture == colour).all(-1)) for colour in colours]
    return [tuple(at[0]) if len(at) else None for at in found]


def test_the_legend_keeps_each_class_in_its_place():
    names = [f"class {k}" for k in range(20)]
    colours = np.array([(255 - k, 3, 250) for k in range(20)], np.uint8)

    def places(classes):
        given = {**inputs(), "prediction_classes": np.array([classes])}
        given["frame"] = np.zeros((96, 128, 3), np.uint8)  # the prediction's own colours are mixed
        return places_of(draw(given, palette=colours, class_names=names), colours)

    every = places(list(range(20)))
    assert None not in every and every == sorted(every)
    some = places([17, 17, 17, 3])
    assert some == [at if k in (3, 17) else None for k, at in enumerate(every)]


def test_a_legend_without_room_names_the_most_frequent_in_order():
    names = [f"a class of a long name, {k}" for k in range(150)]
    colours = np.array([(255 - k, 3, 250) for k in range(150)], np.uint8)
    classes = np.concatenate([np.arange(150), np.full(50, 149), np.full(50, 90)])
    given = {**inputs(), "prediction_classes": classes[None]}
    given["frame"] = np.zeros((96, 128, 3), np.uint8)
    picture = draw(given, palette=colours, class_names=names)
    places = places_of(picture, colours)
    shown = [at for at in places if at]
    assert 3 < len(shown) < 20 and shown == sorted(shown)
    assert places[90] and places[149] and not places[120]


def test_the_note_on_classes_counts_those_that_the_legend_names(monkeypatch):
    said = []
    monkeypatch.setattr(panels, "fit_text", lambda text, *room: said.append(text) or text)
    names = [f"a class of a long name, {k}" for k in range(150)]
    colours = np.zeros((150, 3), np.uint8)
    for classes, note in ((np.arange(150), r"150 of 150 classes, 1?\d of them named below"),
                          (np.arange(3), "3 of 150 classes, named below")):  # fmt: skip
        said.clear()
        given = {**inputs(), "prediction_classes": classes[None]}
        draw(given, palette=colours, class_names=names)
        assert any(re.fullmatch(note, text) for text in said)


def test_letters_that_the_usual_font_lacks_come_from_another_that_is_installed():
    text = "\u1d81 road"  # which Matplotlib's STIX has
    assert ord("\u1d81") not in drawing._letters_in(font(20).path)
    assert {*map(ord, text)} <= drawing._letters_in(font_of(text, 20).path)
    assert font_of("road", 20).path == font(20).path


def test_names_that_no_font_can_write_are_told_once(monkeypatch):
    monkeypatch.setattr(drawing, "_installed", lambda: (font(20).path,))
    for cache in (drawing._file_with, drawing.warn_of_missing_letters):
        cache.cache_clear()
    names = ["\u9053\u8def", "\u05d3\u05e8\u05da", *NAMES[2:]]  # Chinese; Hebrew, which it has
    with pytest.warns(UserWarning, match="all letters of \u9053\u8def: ") as told:
        draw(inputs(), class_names=names)
        draw(inputs(), class_names=names)
    assert len(told) == 1
    drawing._file_with.cache_clear()


FIGURES = ("frame", "target", "executed", "mean executed", "GMACs", "dense GMACs", "ms",
           "dense ms", "speed-up", "agreement")  # fmt: skip


def strip_cells(names, size=(64, 128)):
    figures = {name: "0.123" for name in names}
    plan = panels._plan(size, 1920, "espnet_cityscapes, policy: learned", figures, NAMES)
    return panels._strip(plan, "espnet_cityscapes, policy: learned", figures)[2], plan


def test_the_running_figures_stand_in_one_row_where_there_is_room():
    cells, plan = strip_cells(FIGURES)
    assert {row for row, _, _ in cells} == {0}
    assert cells[-1][1] + cells[-1][2] <= plan.size[1] - plan.gap


def test_figures_that_need_more_rows_stand_in_a_table():
    cells, _ = strip_cells([*FIGURES, *(name + " again" for name in FIGURES)])
    rows = max(row for row, _, _ in cells) + 1
    columns = -(-20 // rows)
    assert rows > 1
    for place, (row, x, _) in enumerate(cells):
        assert (row, x) == (place // columns, cells[place % columns][1])


# --- pieces -------------------------------------------------------------------------------------


def test_viridis_brightens_evenly_from_end_to_end():
    encoded = viridis() / 255  # sRGB to CIE lightness
    linear = np.where(encoded > 0.04045, ((encoded + 0.055) / 1.055) ** 2.4, encoded / 12.92)
    lightness = 116 * np.cbrt(linear @ np.array([0.2126, 0.7152, 0.0722])) - 16
    even = np.linspace(lightness[0], lightness[-1], 256)
    assert lightness[-1] - lightness[0] > 70
    assert np.abs(lightness - even).max() < 3


def test_values_take_their_colours():
    np.testing.assert_array_equal(
        colour_mapped(np.array([0.0, 2.0, 5.0, np.nan]), 2.0),
        [viridis()[0], viridis()[255], viridis()[255], [128] * 3],
    )


def test_distinct_colours_are_told_apart_by_all_eyes():
    def least(colours):
        return (distances(colours, colours) + 1e9 * np.eye(len(colours))).min()

    usual = cityscapes.palette(19)
    assert least(distinct(19)) > 20 > 4 > least(usual)
    red, green = np.array([[230, 60, 40]]), np.array([[120, 130, 40]])  # alike without red or green
    plain = np.linalg.norm(red - green)
    assert distances(red, green)[0, 0] < 0.4 * plain
    np.testing.assert_array_equal(distinct(30)[:19], distinct(19))


def test_small_gains_are_told_apart_from_none():
    values = np.array([0.0, 0.01, 0.25, 1.0])
    np.testing.assert_array_equal(
        colour_mapped(values, 1.0, power=0.5), viridis()[[0, 26, 128, 255]]
    )


def test_text_fits_its_room():
    for room in (0, 5, 30, 80, 500):
        assert font(17).getlength(fit_text("a text of some length", font(17), room)) <= room
    assert fit_text("short", font(17), 500) == "short"


def test_blocks_are_spread_over_their_pixels():
    rows, columns = block_edges(2, 8, 6, 12), block_edges(3, 4, 12, 12)
    np.testing.assert_array_equal(rows, [0, 4, 6])  # the second block is cut
    painted = spread(np.arange(6).reshape(2, 3), rows, columns)
    assert painted.shape == (6, 12)
    assert painted[0, 0] == 0 and painted[3, 4] == 1 and painted[4, 3] == 3 and painted[5, 11] == 5


# --- video --------------------------------------------------------------------------------------


def moving(t, size=(48, 64)):
    frame = np.full((*size, 3), 30, np.uint8)
    frame[10:30, 2 * t : 2 * t + 12] = (230, 120, 20)
    return frame


def test_video_comes_back_as_it_was_written(tmp_path):
    path = tmp_path / "new" / "folder" / "a.mp4"
    with VideoWriter(path, 12.5, crf=8) as writer:
        for t in range(20):
            writer.write(moving(t))
        assert not path.exists()
    assert writer.frames == 20
    source = open_source(path)
    assert (source.length, source.fps, source.size) == (20, 12.5, (48, 64))
    for t, frame in enumerate(source):
        assert np.abs(frame.astype(int) - moving(t)).mean() < 3
        np.testing.assert_allclose(frame[20, 2 * t + 6], (230, 120, 20), atol=12)
    assert os.listdir(path.parent) == ["a.mp4"]


def test_video_is_what_browsers_play(tmp_path):
    path = tmp_path / "a.mp4"
    with VideoWriter(path, 10) as writer:
        writer.write(moving(0, (721, 1281)))  # odd sides
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt, stream.frames) == ("h264", "yuv420p", 1)
        assert (context.height, context.width) == (720, 1280)
        assert (context.colorspace, context.color_range) == (1, 1)


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 200, 0), (20, 30, 250), (255, 255, 255)])
def test_colours_survive(tmp_path, colour):
    path = tmp_path / "a.mp4"
    with VideoWriter(path, 10) as writer:
        writer.write(np.full((32, 32, 3), colour, np.uint8))
    np.testing.assert_allclose(next(iter(open_source(path)))[16, 16], colour, atol=4)


@pytest.fixture
def full_disk():
    """No file can be longer than 200 kB, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_told_and_nothing_is_left(tmp_path, full_disk):
    noise = np.random.default_rng(0).integers(0, 256, (60, 128, 128, 3), np.uint8)
    told = r"video .*a\.mp4 cannot be written: File too large"
    with pytest.raises(OSError, match=told), VideoWriter(tmp_path / "a.mp4", 10) as writer:
        for frame in noise:
            writer.write(frame)
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match=r"picture .*a\.png cannot be written: File too large"):
        film._save(noise.reshape(960, 1024, 3), tmp_path / "a.png")


def test_an_error_leaves_the_old_video(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"what was there")
    with pytest.raises(RuntimeError, match="in between"), VideoWriter(path, 10) as writer:
        writer.write(moving(0))
        raise RuntimeError("in between")
    assert path.read_bytes() == b"what was there"
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_another_size_is_an_error_that_names_both(tmp_path):
    with (
        pytest.raises(ValueError, match=r"frame 1 has shape \[50, 64, 3\], the first one \[48, 64"),
        VideoWriter(tmp_path / "a.mp4", 10) as writer,
    ):
        writer.write(moving(0))
        writer.write(moving(0, (50, 64)))
    assert os.listdir(tmp_path) == []


def test_video_errors(tmp_path):
    with pytest.raises(ValueError, match=r"a\.avi does not end in \.mp4"):
        VideoWriter(tmp_path / "a.avi", 10)
    for fps in (0, 1e-9, 1e9, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"fps is {fps}; it is positive, from 0.001 to 1000"):
            VideoWriter(tmp_path / "a.mp4", fps)
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(OSError, match=r"folder.mp4 cannot be written: it is a folder"):
        VideoWriter(tmp_path / "folder.mp4", 10)
    with pytest.raises(OSError, match=r"video /proc/x.mp4 cannot be written: No such file"):
        VideoWriter("/proc/x.mp4", 10)
    writer = VideoWriter(tmp_path / "a.mp4", 10)
    with pytest.raises(ValueError, match=r"a frame is uint8 \[H, W, 3\]; this one is float32 \[4"):
        writer.write(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(ValueError, match=r"at least 2x2; this one has shape \[1, 4, 3\]"):
        writer.write(np.zeros((1, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="no frame was written"):
        writer.close()
    writer.close()
    with pytest.raises(ValueError, match="is closed"):
        writer.write(moving(0))


# --- plots --------------------------------------------------------------------------------------


def is_picture(path):
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    return min(pixels.shape[:2]) > 300 and pixels.std() > 5


def test_frames_are_whole_numbers_on_the_axis(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure))
    plot_executed(tmp_path / "a.png", [0.3] * 20)
    log = tmp_path / "metrics.csv"
    log.write_text("step,loss\n" + "".join(f"{t},{t}\n" for t in range(20)))
    plot_log(tmp_path / "b.png", log, ["loss"])
    for figure in figures:
        ticks = figure.axes[0].get_xticks()
        np.testing.assert_array_equal(ticks, np.round(ticks))


def test_plots_are_written(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("step,reward,loss,policy\n1,0.5,,paper\n2,0.6,1.5,paper\n3,,1.25,paper\n")
    paths = [
        plot_executed(tmp_path / "new" / "a.png", np.linspace(1, 0.3, 50), 0.3),
        plot_executed(tmp_path / "b.png", {"one": [0.1, 0.2], "none yet": []}),
        plot_log(tmp_path / "c.png", log),
        plot_log(tmp_path / "d.png", log, ["reward"], x="time"),
        plot_tradeoff(tmp_path / "e.png", {"random": [(0.5, 0.1), (0.3, 0.2)], "all": [(1, 0)]}),
    ]
    assert all(is_picture(path) for path in paths)
    assert sorted(os.listdir(tmp_path)) == ["b.png", "c.png", "d.png", "e.png", "log.csv", "new"]


def test_log_is_read_with_its_gaps(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("step,loss,name\n1,,a\n2,2.5,b\n3\n")
    table = read_log(log)
    assert list(table) == ["step", "loss"]
    np.testing.assert_array_equal(table["loss"], [np.nan, 2.5, np.nan])


def test_log_errors(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("step,loss\n1,2\n2,what\n")
    with pytest.raises(ValueError, match=r"log\.csv, line 3: loss is 'what', which is no number"):
        read_log(log)
    log.write_text("step,loss\n1,2\n")
    with pytest.raises(ValueError, match=r"has no column reward; it has step, loss"):
        plot_log(tmp_path / "a.png", log)
    log.write_text("step,loss\n")
    with pytest.raises(ValueError, match="no rows below its header"):
        read_log(log)


def test_running_mean_is_the_mean_of_the_last_values():
    values = np.array([1.0, np.nan, 3.0, 5.0, np.inf])
    expected = [
        np.mean([v for v in values[max(0, t - 2) : t + 1] if np.isfinite(v)]) for t in range(5)
    ]
    np.testing.assert_allclose(running_mean(values, 3), expected)
    assert np.isnan(running_mean(np.array([np.nan]), 2)).all()
    with pytest.raises(ValueError, match="window is 0"):
        running_mean(values, 0)
