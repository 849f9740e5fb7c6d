"""Training batches: shuffled, augmented, and the same from a saved position on."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from test_cityscapes import write_tree

from bc_jax.data.labels import IGNORE
from bc_jax.data.pipeline import Augmentation, TrainingBatches

SPEC = "street:train/0-1?frames=4&noise=0"
CROP = Augmentation((24, 40))


def some(number=8, **settings):
    given = {"batch_size": 2, "augmentation": CROP, "size": (32, 64)} | settings
    made = TrainingBatches(SPEC, **given)
    return [next(made) for _ in range(number)], made


def assert_same(one, two):
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.frames, b.frames)
        np.testing.assert_array_equal(a.labels, b.labels)


def test_batches_have_the_shapes_asked_for():
    (batch,), _ = some(1, batch_size=4, frames_per_clip=2)
    assert (batch.frames.shape, batch.frames.dtype) == ((4, 24, 40, 3), np.uint8)
    assert (batch.labels.shape, batch.labels.dtype) == ((4, 24, 40), np.uint8)
    assert set(np.unique(batch.labels)) <= {*range(19), IGNORE}


def test_a_clip_serves_several_batches_and_clips_change_one_after_the_other():
    plain = Augmentation((32, 64), scale=(1, 1), flip=False)
    given = {"size": (32, 64), "batches_per_clip": 4}
    made = TrainingBatches("street:train/0-7?frames=1&noise=0&flicker=0", 2, plain, **given)
    rows = np.array([[row.tobytes() for row in next(made).frames] for _ in range(10)])
    changes = [(rows[1:, slot] != rows[:-1, slot]).nonzero()[0] + 1 for slot in (0, 1)]
    assert [list(at) for at in changes] == [[4, 8], [2, 6]]
    assert len(set(rows.ravel())) == 6


def test_several_crops_of_a_frame_stand_side_by_side():
    crop = Augmentation((16, 32), scale=(1, 1), flip=False)
    made = TrainingBatches(SPEC, 4, crop, size=(32, 64), crops_per_frame=2, frames_per_clip=2)
    labels = next(made).labels
    assert labels.shape == (4, 16, 32)
    assert (labels[0] != labels[1]).any()


@pytest.mark.parametrize("frames_per_clip", [1, 2])
def test_a_saved_position_goes_on_bit_for_bit(frames_per_clip):
    whole, _ = some(8, frames_per_clip=frames_per_clip, seed=3)
    _, begun = some(5, frames_per_clip=frames_per_clip, seed=3)
    position = json.loads(json.dumps(begun.position))
    rest, resumed = some(3, frames_per_clip=frames_per_clip, seed=3, position=position)
    assert_same(rest, whole[5:])
    assert resumed.position["batch"] == 8
    assert any((a.labels != b.labels).any() for a, b in zip(rest, whole, strict=False))


def test_a_pass_takes_every_clip_once_and_the_next_another_order():
    plain = Augmentation((32, 64), scale=(1, 1), flip=False)
    still = "street:train/0-4?frames=1&noise=0"
    made = TrainingBatches(still, 2, plain, size=(32, 64))
    rows = [row.tobytes() for _ in range(5) for row in next(made).frames]
    passes = [rows[:5], rows[5:]]
    assert all(len(set(one)) == 5 for one in passes)
    assert len({frozenset(one) for one in passes}) == 1
    assert len({tuple(one) for one in passes}) > 1
    other = TrainingBatches(still, 2, plain, size=(32, 64), seed=1)
    assert [row.tobytes() for _ in range(2) for row in next(other).frames] != rows[:4]


def test_a_position_of_other_batches_is_refused():
    _, made = some(1)
    with pytest.raises(ValueError, match="the position was saved for"):
        some(1, seed=1, position=made.position)


def test_other_processes_give_the_same_batches(root, tmp_path):
    expected, _ = some(3)
    script = tmp_path / "read.py"
    script.write_text(f"""
import sys
import numpy as np
from bc_jax.data.pipeline import Augmentation, TrainingBatches

if __name__ == "__main__":
    made = TrainingBatches({SPEC!r}, 2, Augmentation((24, 40)), size=(32, 64), workers=2)
    found = [next(made) for _ in range(3)]
    made.close()
    np.savez(sys.argv[1], frames=[f for f, _ in found], labels=[t for _, t in found])
""")
    command = [sys.executable, str(script), str(tmp_path / "found.npz")]
    env = os.environ | {"PYTHONPATH": str(root)}
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    assert run.returncode == 0, run.stderr
    found = np.load(tmp_path / "found.npz")
    np.testing.assert_array_equal(found["frames"], [b.frames for b in expected])
    np.testing.assert_array_equal(found["labels"], [b.labels for b in expected])


def test_memory_that_processes_share_is_given_back(root, tmp_path):
    script = tmp_path / "read.py"
    script.write_text(f"""
from bc_jax.data.pipeline import Augmentation, TrainingBatches

if __name__ == "__main__":
    made = TrainingBatches({SPEC!r}, 2, Augmentation((256, 512)), size=(32, 64), workers=1)
    held = [next(made) for _ in range(2)]
    made.close()
    assert next(made, None) is None
    print(type(held[0].frames).__name__)
""")
    env = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, str(script)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    assert (run.returncode, run.stdout, run.stderr) == (0, "ndarray\n", "")


def test_cityscapes_gives_its_labelled_frames(tmp_path):
    tree = write_tree(tmp_path / "cityscapes")
    made = TrainingBatches(f"cityscapes:{tree}/val", 3, Augmentation((24, 48), (1, 1), False))
    assert (next(made).labels != IGNORE).any((1, 2)).all()
    with pytest.raises(ValueError, match="has labels on a clip's last frame alone"):
        TrainingBatches(f"cityscapes:{tree}/val", 4, CROP, frames_per_clip=2)


def test_what_cannot_be_is_told(tmp_path):
    for settings, said in (
        ({"batch_size": 3, "frames_per_clip": 2}, "batch_size, 3, is a multiple of"),
        ({"frames_per_clip": 5}, "it can be 1 to 4"),
        ({"batches_per_clip": 0}, "batches_per_clip 0; each is at least 1"),
        ({"batch_size": 2, "crops_per_frame": 4}, "crops_per_frame 4 .* batch_size, 2, is a"),
        ({"batch_size": 5}, "takes 5 clips, and .* has 2"),
    ):
        with pytest.raises(ValueError, match=said):
            some(1, **settings)
    with pytest.raises(ValueError, match="has no clips with labels"):
        TrainingBatches("pedestrians", 2, CROP)
    with pytest.raises(ValueError, match="scale is"):
        Augmentation((8, 8), scale=(2, 1))


# --- augmentation -------------------------------------------------------------------------------


def coded(size=(40, 60)):
    """A frame whose colours say where a pixel is and what its label is."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    labels = ((rows // 10 + columns // 10) % 3).astype(np.uint8)
    return np.stack([rows, columns, labels * 100], -1).astype(np.uint8), labels


def test_without_change_a_frame_stays_as_it_is():
    frame, labels = coded()
    same = Augmentation((40, 60), scale=(1, 1), flip=False)
    cut = same(frame, labels, np.random.default_rng(0))
    np.testing.assert_array_equal(cut[0], frame)
    np.testing.assert_array_equal(cut[1], labels)


@pytest.mark.parametrize("scale", [(1, 1), (0.5, 0.5), (2, 2), (0.5, 2)])
def test_labels_stay_with_their_pixels(scale):
    frame, labels = coded()
    made = Augmentation((32, 32), scale=scale)
    flipped = 0
    for seed in range(20):
        image, classes = made(frame, labels, np.random.default_rng(seed))
        assert image.shape == (32, 32, 3)
        there = classes != IGNORE
        assert there.any()
        close = np.abs(image[..., 2][there].astype(int) - classes[there] * 100) < 30
        assert close.mean() > 0.75  # all but the edges between squares
        columns = image[16, there[16], 1].astype(int)
        flipped += columns[0] > columns[-1]
        if scale == (1, 1):  # nothing is interpolated but by parts of a pixel
            assert (np.abs(np.diff(columns)) <= 2).all()
    assert 3 < flipped < 17


def test_a_crop_larger_than_the_frame_is_filled_up():
    frame, labels = coded((16, 16))
    image, classes = Augmentation((32, 48), scale=(1, 1), flip=False)(
        frame, labels, np.random.default_rng(0)
    )
    assert (classes != IGNORE).sum() == 16 * 16
    assert (image[classes == IGNORE] == 114).all()
