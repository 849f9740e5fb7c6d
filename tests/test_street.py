"""The generated street: deterministic, exactly labelled, with flow and boxes that hold."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from bc_jax.data import Labelled, Source, batches, open_source
from bc_jax.data.labels import CLASSES, IGNORE, TRAIN_IDS
from bc_jax.data.source import resize_labels
from bc_jax.data.street import SPLITS, Clip, StreetConfig
from bc_jax.data.street.camera import View
from bc_jax.data.street.render import FAR, Panel, Picture
from bc_jax.data.street.texture import EMPTY, Canvas, Texture, channels, pack
from bc_jax.metrics import class_iou, confusion
from bc_jax.models.cityscapes import class_names

SMALL = StreetConfig(size=(64, 128))
PLAIN = dataclasses.replace(SMALL, noise=0, flicker=0)


@pytest.fixture(scope="module")
def clips():
    """A clip of each camera."""
    return {
        camera: Clip(dataclasses.replace(PLAIN, size=(128, 256), camera=camera), "val", k)
        for k, camera in enumerate(("driving", "slow", "fixed"))
    }


def test_the_classes_are_those_of_the_models():
    assert class_names(19) == CLASSES
    assert TRAIN_IDS[7] == 0
    assert TRAIN_IDS[33] == 18
    assert (TRAIN_IDS == IGNORE).sum() == 256 - 19


def test_a_clip_depends_on_seed_split_and_index_alone():
    one, again = Clip(SMALL, "train", 5), Clip(SMALL, "train", 5)
    again.frame(19)  # frames may be asked for in any order
    for t in (0, 7):
        a, b = one.frame(t, flow=True), again.frame(t)
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.labels, b.labels)
        assert a.boxes == b.boxes
        assert b.flow is None
    for other in (
        Clip(SMALL, "train", 6),
        Clip(SMALL, "val", 5),
        Clip(dataclasses.replace(SMALL, seed=1), "train", 5),
    ):
        assert (other.frame(0).labels != one.frame(0).labels).mean() > 0.1


@pytest.mark.parametrize("size", [(64, 128), (33, 47), (96, 64), (16, 16)])
def test_frames_have_the_size_asked_for(size):
    frame = Clip(dataclasses.replace(SMALL, size=size), "test", 0).frame(3, flow=True)
    assert (frame.image.shape, frame.image.dtype) == ((*size, 3), np.uint8)
    assert (frame.labels.shape, frame.labels.dtype) == (size, np.uint8)
    assert (frame.flow.shape, frame.flow.dtype) == ((*size, 2), np.float32)
    assert frame.labels.max() < 19
    assert np.isfinite(frame.flow).all()


def test_the_same_street_at_another_size():
    small, large = (
        Clip(dataclasses.replace(PLAIN, size=size), "val", 4).frame(2)
        for size in ((64, 128), (128, 256))
    )
    middles = large.labels[1::2, 1::2]
    assert (small.labels == middles).mean() > 0.9
    assert np.abs(small.image.mean((0, 1)) - large.image.mean((0, 1))).max() < 6


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_class_is_there(split):
    counts = np.zeros(256, int)
    for index in range(12):
        counts += np.bincount(Clip(SMALL, split, index).frame(10).labels.ravel(), minlength=256)
    share = counts[:19] / counts.sum()
    assert (share > 0.0005).all(), dict(zip(CLASSES, share, strict=True))
    assert share.max() < 0.5


def test_iterating_yields_all_frames():
    clip = Clip(dataclasses.replace(SMALL, frames=3), "val", 1)
    frames = list(clip)
    assert len(frames) == len(clip) == 3
    np.testing.assert_array_equal(frames[2].image, clip.frame(2).image)
    with pytest.raises(IndexError, match="frames 0 to 2"):
        clip.frame(3)


def test_boxes_hold_all_of_a_things_pixels(clips):
    things = range(11, 19)
    for clip in clips.values():
        frame = clip.frame(6)
        height, width = frame.labels.shape
        covered = np.zeros_like(frame.labels, bool)
        assert len(frame.boxes) > 3
        assert len({(b.label, b.track) for b in frame.boxes}) == len(frame.boxes)
        for box in frame.boxes:
            assert 0 <= box.top < box.bottom <= height
            assert 0 <= box.left < box.right <= width
            inside = frame.labels[box.top : box.bottom, box.left : box.right] == box.label
            edges = (inside[0], inside[-1], inside[:, 0], inside[:, -1])
            assert all(edge.any() for edge in edges)  # the box is tight
            covered[box.top : box.bottom, box.left : box.right] |= inside
        np.testing.assert_array_equal(covered, np.isin(frame.labels, things))


def test_things_keep_their_numbers_and_come_and_go(clips):
    tracks = [{b.track: b.label for b in clips["driving"].frame(t).boxes if b.label != 12}
              for t in (0, 19)]  # fmt: skip
    stayed = tracks[0].keys() & tracks[1].keys()
    assert len(stayed) > 3
    assert all(tracks[0][track] == tracks[1][track] for track in stayed)
    assert tracks[0].keys() != tracks[1].keys()


@pytest.mark.parametrize("camera", ["driving", "slow", "fixed"])
def test_flow_leads_to_what_is_seen_in_the_next_frame(clips, camera):
    clip = clips[camera]
    now, later = clip.frame(8, flow=True), clip.frame(9)
    height, width = now.labels.shape
    rows, columns = np.mgrid[:height, :width]
    to = np.floor(now.flow + 0.5).astype(int)
    x, y = columns + to[..., 0], rows + to[..., 1]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    assert inside.mean() > 0.7
    led = later.labels[y[inside], x[inside]]
    followed = (led == now.labels[inside]).mean()
    stayed = (later.labels == now.labels).mean()
    assert followed > 0.92  # all but what comes to be hidden
    if camera == "driving":
        assert stayed < followed - 0.02  # standing still would not do
    # Colours follow where they do not with the flow left out.
    moved = inside & (np.abs(now.flow).max(-1) > 1.5)
    if moved.sum() > 300:
        target = later.image[y[moved], x[moved]].astype(int)
        error = np.abs(target - now.image[moved]).mean()
        still = np.abs(later.image[moved].astype(int) - now.image[moved]).mean()
        assert error < 0.8 * still


def test_what_stands_still_is_still_before_a_fixed_camera(clips):
    clip = clips["fixed"]
    one, two = clip.frame(3, flow=True), clip.frame(4)
    same = (one.image == two.image).all(-1)
    assert 0.5 < same.mean() < 1
    assert (np.abs(one.flow).max(-1) < 1e-2).mean() > 0.5
    empty = Clip(dataclasses.replace(PLAIN, camera="fixed", traffic=0, speed=0), "val", 2)
    np.testing.assert_array_equal(empty.frame(0).image, empty.frame(9).image)


def changing(**settings):
    clip = Clip(dataclasses.replace(PLAIN, camera="fixed", **settings), "val", 2)
    return np.mean([
        (clip.frame(t).image != clip.frame(t + 4).image).any(-1).mean() for t in (0, 8)
    ])  # fmt: skip


def test_difficulty_can_be_set():
    quiet, busy = changing(traffic=0.2, speed=0.5), changing(traffic=2.0)
    assert quiet < busy < 0.9
    assert changing(noise=2.0) > 0.8
    assert changing(flicker=0.05) > 0.6
    driving = Clip(dataclasses.replace(PLAIN, camera="driving"), "val", 2)
    slow = Clip(dataclasses.replace(PLAIN, camera="slow"), "val", 2)
    shares = [np.mean(c.frame(3).image != c.frame(4).image) for c in (driving, slow)]
    assert shares[0] > shares[1] > 0


def test_noise_has_the_deviation_asked_for():
    noisy, plain = (
        Clip(dataclasses.replace(PLAIN, noise=noise), "val", 1).frame(0).image.astype(float)
        for noise in (4.0, 0)
    )
    inner = (plain > 20) & (plain < 235)
    assert np.std((noisy - plain)[inner]) == pytest.approx(4.0, rel=0.05)


def test_mixed_cameras_take_turns():
    assert [Clip(SMALL, "val", k).camera for k in range(3)] == ["driving", "slow", "fixed"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"size": (2048, 1024)}, "size is"),
        ({"size": (8, 64)}, "size is"),
        ({"camera": "drone"}, "camera is 'drone'; it can be mixed, driving, slow, fixed"),
        ({"frames": 0}, "frames is 0"),
        ({"traffic": -1}, "traffic is -1"),
        ({"noise": float("nan")}, "noise is nan"),
    ],
)
def test_settings_that_cannot_be_are_told(settings, said):
    with pytest.raises(ValueError, match=said):
        StreetConfig(**settings)


def test_clips_that_are_not_there_are_told():
    with pytest.raises(ValueError, match="no split 'valid'; there are train, val, test"):
        Clip(SMALL, "valid", 0)
    with pytest.raises(ValueError, match=f"clips 0 to {SPLITS['val'] - 1}"):
        Clip(SMALL, "val", SPLITS["val"])


# --- the renderer -------------------------------------------------------------------------------


def canvas(label=13, colour=(10, 20, 30)):
    made = Canvas(2.0, 1.0, 8, label)
    made.rect(0, 0, 2.0, 1.0, colour)
    return made


def test_a_panel_is_where_its_projection_is():
    view = View(x=0, z=0, height=1, yaw=0, focal=100, centre=50, horizon=40)
    picture = Picture(view, (80, 100))
    picture.panel(Panel(canvas().texture(), (-1, 10), (1, 10), 0, 1, owner=3))
    seen = picture.owner == 3
    # 10 metres away a metre is 10 pixels, and its foot is 1 metre below the horizon.
    expected = np.zeros_like(seen)
    expected[40:50, 40:60] = True
    np.testing.assert_array_equal(seen, expected)
    assert (picture.depth[seen] == 10).all()
    assert (picture.depth[~seen] == FAR).all()
    assert (channels(picture.texels)[seen] == (10, 20, 30, 13)).all()


def test_the_nearer_panel_is_seen_whatever_the_order():
    view = View(x=0, z=0, height=1, yaw=0.1, focal=100, centre=50, horizon=40)
    near = Panel(canvas(13).texture(), (-1, 6), (1, 8), 0, 1, owner=1)
    far = Panel(canvas(14).texture(), (-2, 12), (2, 9), 0, 2, owner=2)
    drawn = []
    for order in ((near, far), (far, near)):
        picture = Picture(view, (80, 100))
        for panel in order:
            picture.panel(panel)
        drawn.append(picture)
    np.testing.assert_array_equal(drawn[0].texels, drawn[1].texels)
    assert {1, 2} <= set(np.unique(drawn[0].owner))


def test_a_panel_beside_the_camera_is_cut_where_it_begins():
    view = View(x=0, z=0, height=1, yaw=0, focal=100, centre=50, horizon=40)
    picture = Picture(view, (80, 100))
    picture.panel(Panel(canvas().texture(), (2, -20), (2, 40), 0, 3))
    seen = channels(picture.texels)[..., 3] == 13
    assert seen[:, 99].any()
    assert not seen[:, :54].any()
    picture.panel(Panel(canvas().texture(), (2, -20), (2, -3), 0, 3))  # behind: nothing to see


def test_halving_keeps_colours_and_never_mixes_in_what_is_empty():
    rng = np.random.default_rng(0)
    rgb = rng.uniform(0, 255, (8, 8, 3)).astype(np.float32)
    labels = rng.choice([3, EMPTY], (8, 8)).astype(np.uint8)
    level = channels(Texture(pack(rgb, labels)).level(1, 0)).astype(int)
    exact = np.floor(rgb)
    for i in range(4):
        for j in range(8):
            one, two = exact[2 * i, j], exact[2 * i + 1, j]
            assert level[i, j, 3] == labels[2 * i, j]
            if EMPTY not in labels[2 * i : 2 * i + 2, j]:
                np.testing.assert_array_equal(level[i, j, :3], (one + two) // 2)
            else:
                np.testing.assert_array_equal(level[i, j, :3], one)
    assert Texture(pack(rgb, labels)).level(2, 1).shape == (2, 4)


def test_polygons_and_ellipses_have_their_areas():
    made = Canvas(4.0, 4.0, 32, 5)
    made.polygon([(1, 1), (3, 1), (3, 2), (1, 2)], (9, 9, 9))
    assert (made.labels == 5).mean() == pytest.approx(2 / 16, rel=0.03)
    made = Canvas(4.0, 4.0, 32, 5)
    made.ellipse(2, 2, 1.5, 1.0, (9, 9, 9), 7)
    assert (made.labels == 7).mean() == pytest.approx(np.pi * 1.5 / 16, rel=0.03)
    assert (made.labels == EMPTY).sum() + (made.labels == 7).sum() == made.labels.size


# --- as a source --------------------------------------------------------------------------------


def test_a_source_string_plays_clips_with_their_labels():
    source = open_source("street:val/2-4?frames=3&camera=fixed&noise=0&flicker=0", size=(32, 48))
    assert (source.size, source.length, source.fps) == ((32, 48), 9, 17.0)
    config = StreetConfig(size=(32, 48), frames=3, camera="fixed", noise=0, flicker=0)
    expected = [frame for k in (2, 3, 4) for frame in Clip(config, "val", k)]
    pairs = list(source.pairs())
    assert len(pairs) == len(expected)
    for pair, frame in zip(pairs, expected, strict=True):
        np.testing.assert_array_equal(pair.frame, frame.image)
        np.testing.assert_array_equal(pair.labels, frame.labels)
    np.testing.assert_array_equal(next(iter(source.segment(4))), expected[4].image)
    assert open_source("street:val/7").length == 20
    assert open_source("street:val").length == 20 * SPLITS["val"]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("street:", "is no street"),
        ("street:val/x", "is no street"),
        ("street:day", "no split 'day'; there are train, val, test"),
        ("street:val/9-3", "has clips 0 to 499"),
        ("street:val/500", "has clips 0 to 499"),
        ("street:val?weather=rain", "no setting 'weather'; it has frames, camera"),
        ("street:val?noise=loud", "noise is 'loud', and no float"),
        ("street:val?frames=2.5", "frames is '2.5', and no int"),
        ("street:val?camera=", "camera is ''; it can be"),
    ],
)
def test_source_strings_that_cannot_be_are_told(spec, said):
    with pytest.raises(ValueError, match=said):
        open_source(spec)


def test_every_clip_begins_with_a_reset_and_positions_go_on():
    source = open_source("street:train/0-4?frames=2", size=(16, 32))
    played = list(batches(source, 2))
    assert batches(source, 2).length == len(played) == 6  # three clips and two
    assert [b.reset.tolist() for b in played] == [[True] * 2, [False] * 2] * 3
    assert [b.last.tolist() for b in played] == [[False] * 2, [True] * 2] * 3
    assert [b.index[0, 1] for b in played] == [0, 1, 4, 5, 8, 9]
    assert all((b.labels.shape, b.labels.dtype) == ((2, 16, 32), np.uint8) for b in played)
    assert len({b.labels.tobytes() for b in played}) > 1
    begun = batches(source, 2)
    for _ in range(3):
        next(begun)
    position = json.loads(json.dumps(begun.position))
    for one, two in zip(batches(source, 2, position=position), played[3:], strict=True):
        np.testing.assert_array_equal(one.frames, two.frames)
        np.testing.assert_array_equal(one.labels, two.labels)
        np.testing.assert_array_equal(one.reset, two.reset)
    within = list(batches(source.segment(3)))  # begins in the middle of a clip
    assert [bool(b.reset[0]) for b in within] == [True, True, False, True, False, True, False]


def test_a_source_without_labels_has_none_and_mixed_ones_are_filled(tmp_path):
    for t in range(2):
        Image.fromarray(np.full((16, 32, 3), t, np.uint8)).save(tmp_path / f"{t}.png")
    assert next(batches(tmp_path)).labels is None
    street = open_source("street:train/0?frames=2", size=(16, 32))
    batch = next(batches([street, open_source(tmp_path)], 2))
    assert batch.labels[0].max() < 19
    assert (batch.labels[1] == IGNORE).all()


def test_labels_are_resized_with_their_frames():
    labels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    np.testing.assert_array_equal(resize_labels(labels, (2, 2)), [[5, 7], [13, 15]])
    np.testing.assert_array_equal(resize_labels(labels, (8, 8))[::2, ::2], labels)
    source = Source("s", (2, 2), None, 1, lambda skip: iter(()), labelled=True, resize=(2, 2))
    pair = source._fitted(Labelled(np.zeros((4, 4, 3), np.uint8), labels), 0)
    assert (pair.frame.shape, pair.labels.shape) == ((2, 2, 3), (2, 2))


def test_policies_are_compared_with_the_labels():
    import jax
    import jax.numpy as jnp

    from bc_jax.config import BlockConfig, Config, DataConfig, EvaluateConfig
    from bc_jax.evaluation import Evaluation
    from bc_jax.models import Network
    from bc_jax.results import table

    def apply_fn(params, frames):
        x = frames[:, ::4, ::4].astype(jnp.float32) / 255
        return jnp.einsum("nhwc,cd->nhwd", x, params["kernel"])

    rng = np.random.default_rng(0)
    params = {"kernel": rng.normal(size=(3, 20)).astype(np.float32)}
    network = Network("plain", apply_fn, params, class_names(20), np.zeros((20, 3), np.uint8), 4)
    size = (60, 96)  # padded to 64 x 96
    config = Config(
        blocks=BlockConfig(size=(32, 32), capacities=1),
        data=DataConfig(source="street:val/0-1?frames=3", size=size),
        evaluate=EvaluateConfig(policies=("all", "random"), target=0.5, warm_up=0),
    )
    evaluation = Evaluation(config, network, size)
    batch_list = list(batches(open_source(config.data.source, size=size)))
    for batch in batch_list:
        evaluation.frame(batch)
    matrices = {"miou_labels": 0, "miou_labels_last": 0}
    for batch in batch_list:
        padded = np.pad(batch.frames, ((0, 0), (0, 4), (0, 0), (0, 0)), mode="edge")
        logits = apply_fn(params, padded)
        large = jax.image.resize(logits, (1, 64, 96, 20), "bilinear", antialias=False)
        classes = np.asarray(large.argmax(-1))[:, :60]
        if not batch.reset[0]:
            found = confusion(classes, batch.labels, classes=20)
            matrices["miou_labels"] += found
            if batch.last[0]:
                matrices["miou_labels_last"] += found
    rows = {row["policy"]: row for row in evaluation.results()}
    for column, matrix in matrices.items():
        assert matrix.sum() == (4 if column == "miou_labels" else 2) * 60 * 96
        expected = np.nanmean(class_iou(matrix)[:19])
        assert rows["dense"][column] == pytest.approx(expected, rel=1e-3)
        assert rows["all"][column] == pytest.approx(expected, rel=1e-3)
        assert rows["random"][column] != pytest.approx(expected, rel=1e-3)
    assert "mIoU last" in table(list(rows.values()))
    unlabelled = [row | {"miou_labels": None, "miou_labels_last": None} for row in rows.values()]
    assert "mIoU last" not in table(unlabelled)
