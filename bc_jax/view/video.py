"""Pictures to an mp4 file that browsers play."""

import contextlib
import errno
import os
from fractions import Fraction
from pathlib import Path

import numpy as np

from bc_jax.limits import FPS

_BT709 = 1  # FFmpeg's number for the colours of HD video


class VideoWriter:
    """Write H.264 video (yuv420p, mp4 that starts to play while it loads).

    The file appears under its name when the writer is closed, or its `with` block left, without an
    error; until then, and after an error, whatever had that name before is still there.

    Args:
      path: ends in .mp4; its folder is made where it is missing.
      fps: frames per second.
      crf: constant quality, 0 (lossless) to 51; 20 looks like the original.
      preset: x264's trade of time for size.

    Raises:
      ValueError: the path does not end in .mp4, or fps is not 0.001 to 1000.
      OSError: nothing can be written there, now or later; names the path.
    """

    def __init__(
        self, path: str | os.PathLike, fps: float, *, crf: int = 20, preset: str = "medium"
    ):
        self.path = Path(path)
        if self.path.suffix.lower() != ".mp4":
            raise ValueError(f"{self.path} does not end in .mp4, the one format that is written")
        if not FPS[0] <= fps <= FPS[1]:
            raise ValueError(f"fps is {fps}; it is positive, from {FPS[0]} to {FPS[1]}")
        self._rate = Fraction(fps).limit_denominator(1001)
        self._options = {"crf": str(crf), "preset": preset}
        # The process's number keeps two writers of one name apart.
        self._unfinished = self.path.with_name(f".{self.path.stem}.{os.getpid()}.mp4")
        self._check_writable()
        self._container = None
        self._closed = False
        self.size: tuple[int, int] | None = None  # (H, W) of the frames given
        self.frames = 0

    def write(self, frame: np.ndarray):
        """Append a frame.

        Args:
          frame: uint8 RGB [H, W, 3]; an odd side loses its last row or column, since yuv420p
            holds even ones only.

        Raises:
          ValueError: it is something else, or of another size than the first frame.
        """
        if self._closed:
            raise ValueError(f"{self.path} is closed; open another VideoWriter")
        if frame.ndim != 3 or frame.shape[-1] != 3 or frame.dtype != np.uint8:
            raise ValueError(
                f"a frame is uint8 [H, W, 3]; this one is {frame.dtype} {list(frame.shape)}"
            )
        if min(frame.shape[:2]) < 2:
            raise ValueError(f"a frame is at least 2x2; this one has shape {list(frame.shape)}")
        if self._container is None:
            self._open(frame.shape[:2])
        if frame.shape[:2] != self.size:
            raise ValueError(
                f"frame {self.frames} has shape {list(frame.shape)}, the first one "
                f"{[*self.size, 3]}; a video has one size"
            )
        height, width = self._stream.height, self._stream.width
        picture = _pyav().VideoFrame.from_ndarray(
            np.ascontiguousarray(frame[:height, :width]), format="rgb24"
        )
        # Named outright: players guess the matrix of unmarked video by its height.
        picture = picture.reformat(format="yuv420p", dst_colorspace=_BT709)
        with self._naming():
            self._container.mux(self._stream.encode(picture))
        self.frames += 1

    def close(self):
        """Finish the file and put it in its place; does nothing the second time.

        Raises:
          ValueError: no frame was written, and so there is no file.
        """
        if self._closed:
            return
        if self._container is None:
            self._closed = True
            raise ValueError(f"{self.path}: no frame was written, so there is no video")
        try:
            with self._naming():
                self._container.mux(self._stream.encode(None))
                self._container.close()
                os.replace(self._unfinished, self.path)
        except BaseException:
            self._drop()
            raise
        self._closed = True

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind, error, trace):
        if kind is None:
            self.close()
        else:
            self._drop()

    def _check_writable(self):
        """See that the file can be written, by one that is removed again."""
        try:
            if self.path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._unfinished.touch()
            self._unfinished.unlink()
        except OSError as error:
            why = error.strerror
            raise type(error)(f"video {self.path} cannot be written: {why}") from error

    @contextlib.contextmanager
    def _naming(self):
        """Name the video in an error such as a full disk's."""
        try:
            yield
        except OSError as error:
            raise OSError(f"video {self.path} cannot be written: {error.strerror}") from error

    def _open(self, size: tuple[int, int]):
        self._container = _pyav().open(
            str(self._unfinished), "w", format="mp4", options={"movflags": "faststart"}
        )
        stream = self._container.add_stream("libx264", rate=self._rate, options=self._options)
        stream.height, stream.width = (side // 2 * 2 for side in size)
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = 1  # limited: 16 to 235
        self._stream, self.size = stream, tuple(size)

    def _drop(self):
        self._closed = True
        if self._container is not None:
            with contextlib.suppress(OSError):  # a full disk's, which has been told
                self._container.close()
            self._unfinished.unlink(missing_ok=True)


def _pyav():
    try:
        import av
    except ImportError as error:
        raise ImportError("writing video needs PyAV: pip install av") from error
    return av
