"""Cityscapes read from a miniature of its tree, with the true names and formats."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from bc_jax.data import TruncatedVideo, batches, open_source
from bc_jax.data.cityscapes import check, clips, main
from bc_jax.data.labels import IGNORE, TRAIN_IDS

SIZE = (24, 48)
# City, sequence, first frame of a 30-frame snippet; the last two follow one another.
SNIPPETS = {
    "train": [("aachen", 0, 0)],
    "val": [("frankfurt", 0, 275), ("lindau", 1, 0), ("lindau", 1, 30)],
}


def picture(split, snippet, t):
    rng = np.random.default_rng((len(split), snippet, t))
    return rng.integers(0, 256, (*SIZE, 3), np.uint8)


def write_tree(root, labels=True):
    for split, snippets in SNIPPETS.items():
        for k, (city, sequence, first) in enumerate(snippets):
            frames = root / "leftImg8bit_sequence" / split / city
            truth = root / "gtFine" / split / city
            frames.mkdir(parents=True, exist_ok=True)
            for t in range(30):
                name = f"{city}_{sequence:06d}_{first + t:06d}"
                Image.fromarray(picture(split, k, t)).save(frames / f"{name}_leftImg8bit.png")
            if labels:
                truth.mkdir(parents=True, exist_ok=True)
                name = f"{city}_{sequence:06d}_{first + 19:06d}_gtFine"
                ids = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % 34
                Image.fromarray(ids.astype(np.uint8)).save(truth / f"{name}_labelIds.png")
                for other in ("color.png", "instanceIds.png", "polygons.json"):
                    (truth / f"{name}_{other}").write_bytes(b"not read")
    return root


@pytest.fixture
def tree(tmp_path):
    return write_tree(tmp_path / "cityscapes")


def test_a_clip_is_the_20_frames_up_to_the_labelled_one(tree):
    found = clips(tree, "val")
    assert [c.name for c in found] == [
        "frankfurt_000000_000294", "lindau_000001_000019", "lindau_000001_000049",
    ]  # fmt: skip
    assert [len(c.frames) for c in found] == [20] * 3
    assert found[0].frames[0].name == "frankfurt_000000_000275_leftImg8bit.png"
    assert found[0].frames[-1].name == "frankfurt_000000_000294_leftImg8bit.png"
    assert found[0].labels.name == "frankfurt_000000_000294_gtFine_labelIds.png"


def test_without_labels_snippets_are_counted(tree, tmp_path):
    bare = write_tree(tmp_path / "bare", labels=False)
    for split in SNIPPETS:
        names = [clip.name for clip in clips(tree, split)]
        assert [clip.name for clip in clips(bare, split)] == names
    assert all(clip.labels is None for clip in clips(bare, "val"))
    assert next(batches(f"cityscapes:{bare}/val")).labels is None


def test_clips_play_with_labels_on_their_last_frames(tree):
    source = open_source(f"cityscapes:{tree}/val")
    assert (source.size, source.length, source.fps) == (SIZE, 60, 17.0)
    played = list(batches(source))
    ids = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % 34
    for at, batch in enumerate(played):
        clip, t = divmod(at, 20)
        np.testing.assert_array_equal(batch.frames[0], picture("val", clip, t))
        assert batch.reset[0] == (t == 0)
        assert batch.last[0] == (t == 19)
        if t == 19:
            np.testing.assert_array_equal(batch.labels[0], TRAIN_IDS[ids])
        else:
            assert (batch.labels == IGNORE).all()
    assert set(np.unique(played[19].labels)) == {*range(19), IGNORE}


def test_label_ids_become_training_numbers():
    expected = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11,
                25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}  # fmt: skip
    assert {i: int(n) for i, n in enumerate(TRAIN_IDS) if n != IGNORE} == expected


def test_a_whole_tree_is_well(tree, capsys):
    assert check(tree, ("train", "val"), size=SIZE, full=True) == []
    assert main([str(tree), "--split", "val", "--size", "24", "48"]) == 0
    assert "val: 3 clips of 20 frames, 3 with labels: all well" in capsys.readouterr().out


def test_all_that_is_wrong_is_listed(tree, capsys):
    folder = tree / "leftImg8bit_sequence" / "val" / "frankfurt"
    name = "frankfurt_000000_{:06d}_leftImg8bit.png".format
    (folder / name(276)).unlink()
    (folder / name(300)).unlink()  # behind the labelled frame: no part of the clip
    Image.new("RGB", (48, 25)).save(folder / name(278))
    whole = (folder / name(280)).read_bytes()
    (folder / name(280)).write_bytes(whole[: len(whole) // 2])
    (folder / name(281)).write_bytes(b"")
    Image.new("L", (48, 24)).save(folder / name(282))
    damaged = bytearray((folder / name(283)).read_bytes())
    damaged[60:90] = bytes(30)
    (folder / name(283)).write_bytes(damaged)
    found = {p.path.name: p.what for p in check(tree, ("val",), size=SIZE)}
    assert found == {
        name(276): "is missing",
        name(278): "is 48x25 (width x height), not 48x24",
        name(280): f"is cut off after {len(whole) // 2} bytes",
        name(281): "is no PNG file (0 bytes)",
        name(282): "is no 8-bit RGB picture: PNG type 0, 8 bits",
    }
    full = {p.path.name: p.what for p in check(tree, ("val",), size=SIZE, full=True)}
    assert full.keys() - found.keys() == {name(283)}
    assert main([str(tree), "--size", "24", "48"]) == 1
    said = capsys.readouterr()
    assert name(276) in said.out
    assert "there is no folder" in said.out  # the test split
    assert "6 problems" in said.err


def test_the_command_runs(tree):
    command = [sys.executable, "-m", "bc_jax.data.cityscapes", str(tree), "--split", "train"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 1  # all files are of another size than Cityscapes' own
    assert "is 48x24 (width x height), not 2048x1024" in run.stdout
    assert "Warning" not in run.stderr


def test_opening_says_what_is_missing(tree, tmp_path):
    frame = next((tree / "leftImg8bit_sequence/val/lindau").glob("*_000031_*"))
    frame.unlink()
    with pytest.raises(ValueError, match=r"1 of 60 frames are missing, the first is .*000031"):
        open_source(f"cityscapes:{tree}/val")
    with pytest.raises(ValueError, match="is no split of Cityscapes; give"):
        open_source(f"cityscapes:{tree}")
    with pytest.raises(ValueError, match="unpack leftImg8bit_sequence"):
        open_source(f"cityscapes:{tmp_path / 'none'}/val")


def test_a_truncated_frame_ends_the_source(tree):
    frame = next((tree / "leftImg8bit_sequence/val/frankfurt").glob("*_000277_*"))
    frame.write_bytes(frame.read_bytes()[:500])
    source = open_source(f"cityscapes:{tree}/val")
    with pytest.raises(TruncatedVideo, match=r"000277.*2 frames could be read"):
        list(source)
