"""Sources of frames, padding, and clips in streams."""

import json
import os
import warnings
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bc_jax.data import (
    TruncatedVideo,
    batches,
    crop,
    natural_key,
    open_source,
    pad_to_blocks,
    padded_size,
    shipped_clips,
)
from bc_jax.data.folder import SUFFIXES
from bc_jax.data.video import open_device

FRAMES = 30


def picture(t, size=(48, 64)):
    """A frame whose mean tells its number t (0 to 49): a ramp that brightens by 4 a frame."""
    height, width = size
    ramp = np.linspace(0, 40, width)[None, :, None] + np.linspace(0, 8, height)[:, None, None]
    return np.clip(np.broadcast_to(ramp + 4 * t, (height, width, 3)), 0, 255).astype(np.uint8)


def number(frame):
    """The t of `picture(t)`, from a frame that went through a codec."""
    return round((float(frame.mean()) - float(picture(0, frame.shape[:2]).mean())) / 4)


def write_video(path, frames=FRAMES, size=(48, 64), container=None, faststart=True, **options):
    """A lossless H.264 file with B-frames, so that decoding order differs from showing order."""
    flags = {"movflags": "faststart"} if faststart and path.suffix == ".mp4" else {}
    with av.open(str(path), "w", format=container, options=flags) as file:
        stream = file.add_stream("libx264", rate=25, options={"crf": "1", "bf": "3", **options})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for t in range(frames):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture(t, size), format="rgb24")))
        file.mux(stream.encode(None))
    return path


def write_images(folder, numbers, size=(24, 32), suffix=".png"):
    folder.mkdir(exist_ok=True)
    for t in numbers:
        Image.fromarray(picture(t, size)).save(folder / f"img{t}{suffix}")
    return folder


def cut_file(path, share, to):
    data = path.read_bytes()
    to.write_bytes(data[: int(len(data) * share)])
    return to


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "ramp.mp4")


def numbers(source):
    return [number(frame) for frame in source]


# --- what a source yields -----------------------------------------------------------------------


def test_video_yields_rgb_frames_in_order_and_knows_itself(video):
    source = open_source(video)
    assert (source.size, source.fps, source.length) == ((48, 64), 25.0, FRAMES)
    frames = list(source)
    assert all(f.shape == (48, 64, 3) and f.dtype == np.uint8 for f in frames)
    assert [number(f) for f in frames] == list(range(FRAMES))
    assert np.abs(frames[7].astype(int) - picture(7)).max() <= 4
    assert numbers(source) == list(range(FRAMES))  # iterating again starts anew


def test_colours_keep_their_channels(tmp_path):
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 250
    (tmp_path / "red").mkdir()
    Image.fromarray(red).save(tmp_path / "red" / "0.png")
    np.testing.assert_array_equal(next(iter(open_source(tmp_path / "red"))), red)


@pytest.mark.filterwarnings("ignore:.* that were asked for")
@pytest.mark.parametrize("start", [0, 1, 11, FRAMES - 1, FRAMES])
def test_start_and_frames_are_exact(video, start):
    whole = list(open_source(video))
    part = list(open_source(video, start=start, frames=5))
    assert len(part) == min(5, FRAMES - start) == open_source(video, start=start, frames=5).length
    for a, b in zip(part, whole[start:], strict=False):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["mp4", "mkv", "folder", "street"])
def test_fewer_frames_than_were_asked_for_are_told(tmp_path, kind):
    options = {"start": 2}
    if kind == "folder":
        spec = write_images(tmp_path / "images", range(6))
    elif kind == "street":
        spec, options = "street:val/0?frames=6", {"start": 2, "size": (32, 64)}
    else:  # Matroska does not tell how many there are before they have been read
        spec = write_video(tmp_path / f"a.{kind}", frames=6)
    with pytest.warns(UserWarning, match="has 4 frames from frame 2 on, not the 90 that"):
        assert len(list(open_source(spec, frames=90, **options))) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(open_source(spec, frames=4, **options))) == 4


@pytest.mark.filterwarnings("ignore:.* that were asked for")
def test_segments_nest(video):
    outer = open_source(video, start=4, frames=10)
    assert numbers(outer.segment(3)) == list(range(7, 14))
    assert numbers(outer.segment(3, 2)) == [7, 8]
    assert numbers(outer.segment(8, 100)) == [12, 13]
    assert outer.segment(8, 100).length == 2


def test_resize_gives_every_frame_the_size(video):
    source = open_source(video, size=(24, 40), frames=3)
    assert source.size == (24, 40)
    frames = list(source)
    assert {f.shape for f in frames} == {(24, 40, 3)}
    assert [number(f) for f in frames] == [0, 1, 2]


def test_shipped_clip_opens_by_name():
    assert "pedestrians" in shipped_clips()
    source = open_source("pedestrians")
    assert (source.size, source.fps, source.length) == ((576, 768), 10.0, 600)
    a, b = list(open_source("pedestrians", start=100, frames=2))
    still = (a == b).all(-1).mean()
    assert 0.5 < still < 0.95  # a fixed camera: most pixels stand still, and some do not
    assert shipped_clips()["pedestrians"].stat().st_size <= 2_000_000


def test_shipped_clip_says_its_true_length():
    with av.open(str(shipped_clips()["pedestrians"])) as file:
        assert sum(1 for _ in file.decode(video=0)) == open_source("pedestrians").length


def test_phone_video_is_turned_upright(tmp_path, video):
    data = bytearray(video.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version and flags, times, ids, layer, volume
    one = 1 << 16
    assert int.from_bytes(data[at : at + 4], "big") == one
    # The matrix [a b; c d] of a quarter turn clockwise: a = d = 0, b = 1, c = -1.
    for place, value in ((0, 0), (4, one), (12, -one), (16, 0)):
        data[at + place : at + place + 4] = value.to_bytes(4, "big", signed=True)
    turned = tmp_path / "turned.mp4"
    turned.write_bytes(data)
    source = open_source(turned)
    assert source.size == (64, 48)
    upright, stored = next(iter(source)), next(iter(open_source(video)))
    np.testing.assert_array_equal(upright, np.rot90(stored, -1))


def test_live_device_has_no_length_and_no_past():
    source = open_device("test device", "testsrc=size=64x48:rate=30", "lavfi")
    assert (source.size, source.fps, source.length, source.live) == ((48, 64), 30.0, None, True)
    assert [f.shape for f in source.segment(0, 3)] == [(48, 64, 3)] * 3
    with pytest.raises(ValueError, match="test device is live: start must be 0, not 5"):
        source.segment(5)


# --- folders ------------------------------------------------------------------------------------


def test_folder_is_read_in_natural_order(tmp_path):
    folder = write_images(tmp_path / "a", [10, 2, 1, 33, 9, 20])
    (folder / "notes.txt").write_text("no image")
    (folder / "._img3.png").write_bytes(b"what macOS leaves behind")
    source = open_source(folder)
    assert (source.length, source.fps, source.size) == (6, None, (24, 32))
    assert numbers(source) == [1, 2, 9, 10, 20, 33]
    assert numbers(open_source(folder, start=2, frames=2)) == [9, 10]


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".PNG"])
def test_folder_formats(tmp_path, suffix):
    assert numbers(open_source(write_images(tmp_path / "a", [3, 4], suffix=suffix))) == [3, 4]


def test_image_modes_become_rgb(tmp_path):
    grey = picture(20, (8, 16))[..., 0]
    Image.fromarray(grey).save(tmp_path / "0.png")
    Image.fromarray(grey.astype(np.uint16) * 256 + 77).save(tmp_path / "1.png")
    Image.fromarray(np.dstack([grey] * 3 + [np.full_like(grey, 9)])).save(tmp_path / "2.png")
    for frame in open_source(tmp_path):
        np.testing.assert_array_equal(frame, np.dstack([grey] * 3))


def test_photo_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by a quarter, clockwise
    Image.fromarray(picture(1, (16, 32))).save(tmp_path / "0.jpg", exif=exif)
    assert open_source(tmp_path).size == (32, 16)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.from_regex(r"[a-zA-Z_.\-]{0,3}[0-9]{0,4}[a-z]{0,2}", fullmatch=True), max_size=8)
)
def test_natural_order_is_a_total_order(names):
    once = sorted(names, key=natural_key)
    assert sorted(reversed(once), key=natural_key) == once
    assert len({natural_key(n) for n in names}) == len(set(names))


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.sampled_from(["img", "", "a1_"]))
def test_natural_order_counts(a, b, prefix):
    key_a, key_b = natural_key(f"{prefix}{a}.png"), natural_key(f"{prefix}{b}.png")
    assert (key_a < key_b) == (a < b)


def test_link_out_of_the_folder_is_refused(tmp_path):
    outside = write_images(tmp_path / "outside", [5])
    folder = write_images(tmp_path / "inside", [1])
    os.symlink(folder / "img1.png", folder / "img2.png")
    assert numbers(open_source(folder)) == [1, 1]  # a link inside is fine
    os.symlink(outside / "img5.png", folder / "img3.png")
    with pytest.raises(ValueError, match=r"img3\.png is a link out of the folder, to .*img5"):
        open_source(folder)


def test_empty_folder(tmp_path):
    (tmp_path / "read.me").write_text("")
    with pytest.raises(ValueError, match=r"holds no image: none of its 1 entries .*\.png"):
        open_source(tmp_path)


def test_broken_image_says_how_many_were_read(tmp_path):
    folder = write_images(tmp_path / "a", [1, 2, 3, 4])
    cut_file(folder / "img3.png", 0.5, folder / "img3.png")
    read = []
    with pytest.raises(TruncatedVideo, match=r"img3\.png cannot be read .*2 of 4 frames") as error:
        read.extend(number(f) for f in open_source(folder))
    assert read == [1, 2]
    assert error.value.frames_read == 2
    with pytest.warns(UserWarning, match="2 of 4"):
        assert numbers(open_source(folder, on_error="stop")) == [1, 2]


def test_size_change_in_a_folder(tmp_path):
    folder = write_images(tmp_path / "a", [0, 1])
    write_images(folder, [2], size=(20, 30))
    read = []
    with pytest.raises(ValueError) as error:
        read.extend(open_source(folder))
    assert len(read) == 2
    for part in ("frame 2 is 30x20", "the first one 32x24", "size=(24, 32)", "--data.size 24 32"):
        assert part in str(error.value)
    assert {f.shape for f in open_source(folder, size=(24, 32))} == {(24, 32, 3)}


# --- what cannot be read ------------------------------------------------------------------------


def test_missing_file_names_the_path_and_the_clips(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*gone\.mp4; .*pedestrians"):
        open_source(tmp_path / "gone.mp4")


@pytest.mark.parametrize("content", [b"", b"not a video", b"\x00" * 5000])
def test_no_video(tmp_path, content):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.mp4 cannot be opened .*no video that FFmpeg knows"):
        open_source(path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rtsp://user@camera/1", r"'rtsp://user@camera/1' is an address, and none is read over a"),
        ("HTTP://a/b.mp4", r"'HTTP://a/b.mp4' is an address.*give a video file, .*of your own"),
        ("", "'' is empty; give a video file, a folder of images"),
    ],
)
def test_what_is_no_path_is_told(spec, message):
    with pytest.raises(ValueError, match=message):
        open_source(spec)


def test_sound_alone_is_no_video(tmp_path):
    path = tmp_path / "tone.wav"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        file.mux(stream.encode(frame))
    with pytest.raises(ValueError, match=r"tone\.wav holds no video; it holds audio"):
        open_source(path)


def test_no_camera():
    with pytest.raises(ValueError, match="there is no /dev/video987; cameras here"):
        open_source("camera:987")
    with pytest.raises(ValueError, match="given by its number, such as 'camera:0'"):
        open_source("camera:front")


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
@pytest.mark.parametrize("share", [0.6, 0.85])
def test_truncated_video_yields_what_there_is_then_raises(tmp_path, suffix, share):
    codec = {"g": "10"}  # several key frames
    whole = write_video(tmp_path / f"whole{suffix}", size=(96, 128), **codec)
    assert numbers(open_source(whole)) == list(range(FRAMES))
    path = cut_file(whole, share, tmp_path / f"cut{suffix}")
    read = []
    with pytest.raises(TruncatedVideo, match=r"the file ends after frame .*on_error='stop'") as e:
        read.extend(open_source(path))
    count = len(read)
    assert 3 < count < FRAMES
    assert e.value.frames_read == count
    assert f"(or frames={count}, on the command line --data.frames {count})" in str(e.value)
    with pytest.raises(TruncatedVideo, match=rf"\(or frames={count - 2}, "):
        list(open_source(path, start=2))  # frames are counted from there
    assert f"{count} of {FRAMES}" in str(e.value) or suffix == ".mkv"
    for a, b in zip(read, open_source(whole), strict=False):
        np.testing.assert_array_equal(a, b)  # no half frame, and none left out

    with pytest.warns(UserWarning, match=f"{count}.* frames could be read$"):
        assert len(list(open_source(path, on_error="stop"))) == count
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(open_source(path, frames=count))) == count


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_file_cut_between_two_frames_is_truncated(tmp_path, suffix):
    whole = write_video(tmp_path / f"whole{suffix}", g="10", bf="0")
    with av.open(str(whole)) as file:
        place = [packet.pos for packet in file.demux(video=0) if packet.size][12]
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole.read_bytes()[:place])
    with pytest.raises(TruncatedVideo, match="the file ends after frame 11: 12 of 30 frames"):
        list(open_source(path))


@pytest.mark.parametrize("codec", ["mpeg4", "mjpeg"])
def test_frames_that_a_recorder_dropped_are_not_missing(tmp_path, codec):
    path, times = tmp_path / "a.avi", (0, 1, 3, 4, 8, 12, 13)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25)
        stream.height, stream.width = 48, 64
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for time in times:
            frame = av.VideoFrame.from_ndarray(picture(time), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    np.testing.assert_allclose(numbers(open_source(path)), times, atol=1)


def test_file_cut_within_its_last_frame_is_truncated(tmp_path, video):
    path = tmp_path / "cut.mp4"
    path.write_bytes(video.read_bytes()[:-3])
    with pytest.raises(TruncatedVideo, match=f"of {FRAMES} frames could be read"):
        list(open_source(path))


def test_file_without_its_end_cannot_be_opened(tmp_path):
    whole = write_video(tmp_path / "a.mp4", faststart=False)  # the header stands at the end
    with pytest.raises(ValueError, match=r"header or end is missing|may have been cut off"):
        open_source(cut_file(whole, 0.8, tmp_path / "cut.mp4"))


def test_file_with_no_whole_frame_cannot_be_opened(tmp_path, video):
    data = video.read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: data.index(b"mdat") + 8])
    with pytest.raises(ValueError, match="not one of its frames can be decoded"):
        open_source(path)


def test_size_change_in_a_video(tmp_path):
    a = write_video(tmp_path / "a.ts", frames=5, container="mpegts")
    b = write_video(tmp_path / "b.ts", frames=5, size=(32, 48), container="mpegts")
    joined = tmp_path / "joined.ts"
    joined.write_bytes(a.read_bytes() + b.read_bytes())
    read = []
    with pytest.raises(ValueError, match=r"frame 5 is 48x32 .*first one 64x48; .*size=\(48, 64\)"):
        read.extend(open_source(joined))
    assert len(read) == 5
    assert [f.shape for f in open_source(joined, size=(48, 64))] == [(48, 64, 3)] * 10


def test_start_beyond_the_end(tmp_path, video):
    with pytest.raises(ValueError, match=r"start 31 is beyond the end of .*: it has 30 frames"):
        open_source(video, start=31)
    matroska = write_video(tmp_path / "a.mkv", frames=5)  # does not tell its length
    assert open_source(matroska).length is None
    with pytest.raises(ValueError, match=r"start 9 is beyond its end: it has 5 frames"):
        list(open_source(matroska, start=9))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"start": -1}, "start is -1"),
        ({"frames": -2}, "frames is -2"),
        ({"size": (0, 4)}, r"size is \(0, 4\)"),
        ({"on_error": "skip"}, "on_error is 'skip'; it can be 'raise' or 'stop'"),
    ],
)
def test_bad_options(video, option, message):
    with pytest.raises(ValueError, match=message):
        open_source(video, **option)


# --- padding ------------------------------------------------------------------------------------

sides = st.integers(1, 40)
block_sides = st.integers(1, 17)


@given(st.tuples(sides, sides), st.tuples(block_sides, block_sides), st.integers(0, 2))
def test_padding_is_the_edge_and_cropping_undoes_it(size, block, leading):
    shape = (*([2] * leading), *size, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    padded, kept = pad_to_blocks(frames, block)
    assert kept == size
    high, wide = padded.shape[-3:-1]
    assert high % block[0] == 0 and 0 <= high - size[0] < block[0]
    assert wide % block[1] == 0 and 0 <= wide - size[1] < block[1]
    assert padded_size(size, block) == (high, wide)
    rows = np.minimum(np.arange(high), size[0] - 1)
    columns = np.minimum(np.arange(wide), size[1] - 1)
    np.testing.assert_array_equal(padded, frames[..., rows, :, :][..., columns, :])
    back = crop(padded, kept, axes=(leading, leading + 1))
    np.testing.assert_array_equal(back, frames)
    assert np.shares_memory(back, padded)


@given(st.tuples(sides, sides), st.sampled_from([1, 2, 4]), st.integers(1, 4))
def test_crop_of_a_prediction_covers_the_frame(size, stride, blocks):
    high, wide = padded_size(size, stride * blocks)
    for trailing in ((), (5,)):
        prediction = np.zeros((2, high // stride, wide // stride, *trailing))
        cropped = crop(prediction, size, stride)
        for side, got in zip(size, cropped.shape[1:3], strict=True):
            assert side <= got * stride < side + stride


def test_whole_blocks_are_not_copied():
    frames = np.zeros((2, 32, 64, 3), np.uint8)
    assert pad_to_blocks(frames, 32)[0] is frames
    assert pad_to_blocks(frames, (32, 64))[0] is frames


def test_padding_errors():
    with pytest.raises(ValueError, match=r"shape \(4, 4\); they are \[\.\.\., H, W, C\]"):
        pad_to_blocks(np.zeros((4, 4)), 2)
    with pytest.raises(ValueError, match="block_size is 0"):
        pad_to_blocks(np.zeros((4, 4, 3)), 0)
    with pytest.raises(ValueError, match="the frame is empty"):
        pad_to_blocks(np.zeros((0, 4, 3)), 2)
    with pytest.raises(ValueError, match=r"axis 1 is shorter than the 5 that a frame of \(10, 8\)"):
        crop(np.zeros((1, 4, 4)), (10, 8), 2)


# --- streams ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Five clips of 3, 4, 2, 5 and 1 frames, numbered through."""
    root = tmp_path_factory.mktemp("clips")
    ranges = [(0, 3), (3, 7), (7, 9), (9, 14), (14, 15)]
    return [write_images(root / f"c{k}", range(a, b)) for k, (a, b) in enumerate(ranges)]


def played(iterator):
    """(frame numbers, resets, index) of each batch."""
    return [
        ([number(f) for f in frames], reset.tolist(), index.tolist())
        for frames, reset, index, *_ in iterator
    ]


def test_one_stream_plays_the_sources_in_turn(folders):
    steps = played(batches(folders))
    assert [n for (n,), _, _ in steps] == list(range(15))
    assert [t for t, (_, (r,), _) in enumerate(steps) if r] == [0, 3, 7, 9, 14]
    assert steps[8][2] == [[2, 1]]


def test_streams_play_side_by_side_until_all_is_seen(folders):
    steps = played(batches(folders, 2))
    # Stream 0 plays clips 0, 2, 4 (6 frames), stream 1 clips 1, 3 (9 frames).
    first, second = zip(*(n for n, _, _ in steps), strict=True)
    assert second == (*range(3, 7), *range(9, 14))
    assert first == (0, 1, 2, 7, 8, 14, 0, 1, 2)  # done before: begins again
    resets = list(zip(*(r for _, r, _ in steps), strict=True))
    assert [t for t, r in enumerate(resets[0]) if r] == [0, 3, 5, 6]
    assert [t for t, r in enumerate(resets[1]) if r] == [0, 4]


def test_what_is_played_again_does_not_count(folders):
    played = list(batches(folders, 2))
    again = [batch.again.tolist() for batch in played]
    assert again == [[False, False]] * 6 + [[True, False]] * 3
    counted = np.stack([batch.counts for batch in played])
    assert counted.sum() == 15 - 5  # all frames but the clips' first ones
    reset = np.stack([batch.reset for batch in played])
    np.testing.assert_array_equal(counted, ~reset & ~np.array(again))


def test_a_position_of_other_frames_of_a_source_is_refused(video):
    first, later = (open_source(video, start=start, frames=8) for start in (0, 6))
    position = batches(first).position
    with pytest.raises(ValueError, match="the position was saved for"):
        batches(later, position=position)
    two = [open_source(video, start=start, frames=4) for start in (4, 12)]
    with pytest.raises(ValueError, match="the position was saved for"):
        batches(two[::-1], position=batches(two).position)


def test_batches_have_their_dtypes(folders):
    frames, reset, index, *_ = next(batches(folders, 2))
    assert (frames.shape, frames.dtype) == ((2, 24, 32, 3), np.uint8)
    assert (reset.shape, reset.dtype) == ((2,), bool)
    assert (index.shape, index.dtype) == ((2, 2), np.int32)


def test_one_source_is_cut_into_segments(video):
    steps = played(batches(video, 4))  # 30 frames: 7, 7, 7 and 9
    assert len(steps) == 9
    assert steps[0] == ([0, 7, 14, 21], [True] * 4, [[0, 0], [0, 7], [0, 14], [0, 21]])
    assert steps[8][0] == [1, 8, 15, 29]


def test_clips_of_a_given_length_reset(video):
    steps = played(batches(video, 2, clip_frames=8))  # clips of 8, 8, 8 and 6
    assert [t for t, (_, r, _) in enumerate(steps) if r[0]] == [0, 8]
    assert [t for t, (_, r, _) in enumerate(steps) if r[1]] == [0, 8, 14]
    assert [n for (n, _), _, _ in steps] == [*range(0, 8), *range(16, 24)]


def test_passes(folders):
    once = played(batches(folders, 2))
    assert played(batches(folders, 2, passes=3)) == once * 3
    endless = batches(folders, 2, passes=None)
    assert played(next(endless) for _ in range(40)) == (once * 5)[:40]


@pytest.mark.parametrize("streams", [1, 2, 3])
def test_position_goes_on_exactly(folders, streams):
    def start(position=None):
        return batches(folders, streams, passes=2, position=position)

    whole = played(start())
    for t in range(len(whole) + 1):
        first = start()
        before = played(next(first) for _ in range(t))
        saved = json.loads(json.dumps(first.position))
        first.close()
        resumed = start(saved)
        assert resumed.position == saved
        assert before + played(resumed) == whole


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 40), st.sampled_from([None, 4, 7]), st.integers(1, 3))
def test_position_in_a_video_goes_on_exactly(video, t, clip_frames, streams):
    def start(position=None):
        return batches(video, streams, clip_frames=clip_frames, passes=None, position=position)

    first = start()
    for _ in range(t):
        next(first)
    resumed = start(json.loads(json.dumps(first.position)))
    for _ in range(5):
        for a, b in zip(next(first), next(resumed), strict=True):
            np.testing.assert_array_equal(a, b)


def test_position_in_a_source_of_unknown_length(tmp_path):
    path = write_video(tmp_path / "a.mkv", frames=6)
    whole = played(batches(path, passes=2))
    assert len(whole) == 12
    for t in (3, 6, 9):
        first = batches(path, passes=2)
        before = played(next(first) for _ in range(t))
        assert before + played(batches(path, passes=2, position=first.position)) == whole


@pytest.mark.parametrize("passes", [1, 2])
def test_the_position_after_the_last_frame_goes_on_with_a_longer_source(video, passes):
    def start(frames, passes, position=None):
        return batches(open_source(video, frames=frames), passes=passes, position=position)

    first = start(10, 1)
    before = played(first)  # to its end, not only to its last frame
    assert next(first, None) is None
    saved = json.loads(json.dumps(first.position))
    assert (saved["pass"], saved["step"]) == (0, 10)
    assert before + played(start(16, passes, saved)) == played(start(16, passes))
    # And with as many frames as before, there are only other passes to come.
    assert before + played(start(10, passes, saved)) == played(start(10, passes))


def test_camera_begins_anew_with_a_reset():
    camera = open_device("test device", "testsrc=size=64x48:rate=30", "lavfi")
    first = batches(camera)
    for _ in range(3):
        next(first)
    resumed = batches(camera, position=first.position)
    assert [next(resumed).reset.item() for _ in range(3)] == [True, False, False]


def test_position_of_other_clips_is_refused(folders, video):
    position = batches(folders, 2).position
    with pytest.raises(
        ValueError, match=r"saved for 2 streams of 5 clips from c0, c1, c2, \.\.\. \(.*\), a"
    ):
        batches(folders, 3, position=position)
    with pytest.raises(ValueError, match=r"these are 2 streams of 2 clips from ramp\.mp4"):
        batches(video, 2, position=position)
    with pytest.raises(ValueError, match="saved for something else"):
        batches(video, 2, position={"epoch": 3})
    longer, shorter = (open_source(video, frames=frames) for frames in (8, 4))
    message = r"from ramp\.mp4 \(4, 4 frames\), and these are .* \(2, 2 frames\)"
    with pytest.raises(ValueError, match=message):
        batches(shorter, 2, position=batches(longer, 2).position)


def test_position_beyond_a_clips_end_is_refused(video):
    played = batches(open_source(video, frames=8))
    for _ in range(6):
        next(played)
    with pytest.raises(ValueError, match=r"after 6 frames of a clip of ramp\.mp4 that has 4 now"):
        batches(open_source(video, frames=4), position=played.position)


def test_truncated_source_ends_the_batches_or_moves_on(tmp_path, folders):
    folder = write_images(tmp_path / "a", [20, 21, 22])
    cut_file(folder / "img22.png", 0.4, folder / "img22.png")
    with pytest.raises(TruncatedVideo, match="2 of 3"):
        list(batches([folder, folders[0]]))
    with pytest.warns(UserWarning, match="2 of 3"):
        steps = played(batches([open_source(folder, on_error="stop"), folders[0]]))
    assert [n for (n,), _, _ in steps] == [20, 21, 0, 1, 2]


def test_batches_errors(tmp_path, folders, video):
    with pytest.raises(ValueError, match="5 clips are too few for 6 streams; give fewer streams"):
        batches(folders, 6)
    with pytest.raises(ValueError, match="streams is 0"):
        batches(folders, 0)
    with pytest.raises(ValueError, match="clip_frames is 0"):
        batches(folders, clip_frames=0)
    with pytest.raises(ValueError, match="no sources"):
        batches([])
    with pytest.raises(
        ValueError, match=r"is 64x48 .*, folder .*c0 32x24; open both with one size"
    ):
        batches([folders[0], video])
    matroska = write_video(tmp_path / "a.mkv", frames=4)
    with pytest.raises(ValueError, match="does not tell its length"):
        batches(matroska, 2)
    with pytest.raises(ValueError, match="yields no frame"):
        next(batches(open_source(folders[0], frames=0)))
