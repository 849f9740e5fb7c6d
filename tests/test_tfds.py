"""The TFDS builders: written and read back, without TensorFlow."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from test_cityscapes import SIZE, picture, write_tree

from bc_jax.data.cityscapes import read_labels
from bc_jax.data.street import Clip, StreetConfig
from bc_jax.data.tfds_builders import CityscapesVideo, StreetVideo, StreetVideoConfig

STREET = StreetConfig(size=(32, 64), frames=3)


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    config = StreetVideoConfig(name="tiny", street=STREET, train=2, val=1, test=1)
    folder = tmp_path_factory.mktemp("street")
    builder = StreetVideo(data_dir=folder, config=config, file_format="array_record")
    builder.download_and_prepare()
    return builder


def test_street_clips_are_read_as_they_were_rendered(street):
    assert street.name == "street_video"
    assert {name: split.num_examples for name, split in street.info.splits.items()} == {
        "train": 2, "val": 1, "test": 1,
    }  # fmt: skip
    source = street.as_data_source("train")
    assert sorted(int(example["clip"]) for example in source) == [0, 1]
    for example in source:
        clip = Clip(STREET, "train", int(example["clip"]))
        frames, labels = np.asarray(example["frames"]), np.asarray(example["labels"])
        assert (frames.shape, frames.dtype) == ((3, 32, 64, 3), np.uint8)
        boxes = []
        for t, frame in enumerate(clip):
            np.testing.assert_array_equal(frames[t], frame.image)
            np.testing.assert_array_equal(labels[t, ..., 0], frame.labels)
            boxes += [(t, *box) for box in frame.boxes]
        np.testing.assert_array_equal(example["boxes"], boxes)


def test_the_named_configs_differ_in_what_they_say():
    configs = {config.name: config.street for config in StreetVideo.BUILDER_CONFIGS}
    assert configs["half"] == StreetConfig()
    assert configs["fixed"] == dataclasses.replace(StreetConfig(), camera="fixed")
    assert configs["small"].size == (256, 512)


def prepare(tree, folder, size=SIZE):
    builder = CityscapesVideo(data_dir=folder, size=size, file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=str(tree)))
    return builder


def test_cityscapes_clips_are_read_as_their_files_are(tmp_path):
    tree = write_tree(tmp_path / "cityscapes")
    builder = prepare(tree, tmp_path / "data")
    assert builder.name == "cityscapes_video"
    assert {n: s.num_examples for n, s in builder.info.splits.items()} == {"train": 1, "val": 3}
    seen = {}
    for example in builder.as_data_source("val"):
        name = example["name"]
        seen[name.decode() if isinstance(name, bytes) else str(name)] = example
    example = seen["lindau_000001_000049"]
    frames = np.asarray(example["frames"])
    assert frames.shape == (20, *SIZE, 3)
    for t in range(20):
        np.testing.assert_array_equal(frames[t], picture("val", 2, t))
    truth = tree / "gtFine/val/lindau/lindau_000001_000049_gtFine_labelIds.png"
    np.testing.assert_array_equal(example["labels"][..., 0], read_labels(truth))


def test_cityscapes_that_is_not_whole_is_told_before_anything_is_written(tmp_path):
    tree = write_tree(tmp_path / "cityscapes")
    next((tree / "leftImg8bit_sequence/val/lindau").glob("*_000031_*")).unlink()
    with pytest.raises(
        ValueError, match=r"1 files are not .*\n.*000031_leftImg8bit.png: is missing"
    ):
        prepare(tree, tmp_path / "data")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("not Cityscapes")
    with pytest.raises(ValueError, match="holds no folder leftImg8bit_sequence"):
        prepare(tmp_path / "other", tmp_path / "data")


def test_no_tensorflow_is_needed(street):
    code = """
import sys
from bc_jax.data.street import StreetConfig
from bc_jax.data.tfds_builders import StreetVideo, StreetVideoConfig
config = StreetVideoConfig(
    name="one", street=StreetConfig(size=(16, 32), frames=2), train=1, val=1, test=1
)
builder = StreetVideo(data_dir=sys.argv[1], config=config, file_format="array_record")
builder.download_and_prepare()
frames = builder.as_data_source("val")[0]["frames"]
print(len(frames), frames[0].shape, "tensorflow" in sys.modules)
"""
    command = [sys.executable, "-c", code, str(street.data_path.parent)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "2 (16, 32, 3) False" in run.stdout
