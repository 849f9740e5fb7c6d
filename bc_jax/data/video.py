"""Video files and cameras, through PyAV."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from bc_jax.data.source import Source, TruncatedVideo


def open_video(path: Path) -> Source:
    """All frames of a video file, turned upright where the file says that they are not.

    Args:
      path: a file in any format that FFmpeg decodes.

    Returns:
      The source; its size is the first frame's, its length the number in the file's header.

    Raises:
      ValueError: the file is not a video, or not one of its frames can be decoded.
    """
    name = f"video {path}"
    with _opened(name, str(path)) as container:
        stream = _video_stream(name, container)
        fps = float(stream.average_rate) if stream.average_rate else None
        length = stream.frames or None
        try:
            first = next(_frames(name, container, stream, 0), None)
        except TruncatedVideo:
            first = None
    if first is None:
        raise ValueError(f"{name}: not one of its frames can be decoded; it may be truncated")

    def decode(skip: int) -> Iterator[np.ndarray]:
        with _opened(name, str(path)) as container:
            yield from _frames(name, container, _video_stream(name, container), skip)

    return Source(name=name, size=first.shape[:2], fps=fps, length=length, decode=decode)


def open_camera(index: int) -> Source:
    """A camera by its number, read through Video4Linux (Linux: /dev/video0 is camera 0).

    Raises:
      ValueError: there is no such camera; the message lists those there are.
    """
    device = Path(f"/dev/video{index}")
    if not device.exists():
        there = sorted(p.name for p in Path("/dev").glob("video*"))
        raise ValueError(
            f"camera {index}: there is no {device}; cameras here: {', '.join(there) or 'none'} "
            "(cameras are read through Video4Linux, on Linux only)"
        )
    return open_device(f"camera {index}", str(device), "v4l2")


def open_device(name: str, device: str, device_format: str) -> Source:
    """A live source that FFmpeg reads as a device.

    Args:
      name: for messages.
      device: what the device format opens, such as /dev/video0.
      device_format: FFmpeg's name for the kind of device, such as v4l2.
    """
    with _opened(name, device, device_format) as container:
        stream = _video_stream(name, container)
        fps = float(stream.average_rate) if stream.average_rate else None
        size = (stream.codec_context.height, stream.codec_context.width)

    def decode(skip: int) -> Iterator[np.ndarray]:
        with _opened(name, device, device_format) as container:
            for frame in container.decode(_video_stream(name, container)):
                yield _rgb(frame)

    return Source(name=name, size=size, fps=fps, length=None, decode=decode, live=True)


@contextmanager
def _opened(name: str, file: str, device_format: str | None = None):
    try:
        import av
    except ImportError as error:
        raise ImportError("reading video needs PyAV: pip install av") from error
    try:
        container = av.open(file, format=device_format)
    except (av.error.FFmpegError, OSError) as error:
        why = getattr(error, "strerror", None) or error
        hint = (
            ""
            if device_format
            else "; it is no video that FFmpeg knows, or its header or end is missing"
        )
        raise ValueError(f"{name} cannot be opened ({why}){hint}") from error
    with container:
        yield container


def _video_stream(name: str, container):
    if not container.streams.video:
        kinds = ", ".join(stream.type for stream in container.streams)
        kinds = kinds or "nothing: it may have been cut off"
        raise ValueError(f"{name} holds no video; it holds {kinds}")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    return stream


def _frames(name: str, container, stream, skip: int) -> Iterator[np.ndarray]:
    """Decode from the beginning, exact to the frame; convert only the frames after `skip`."""
    seen = 0
    decoded = _decoded(container, stream)
    while True:
        try:
            frame = next(decoded)
        except StopIteration as end:
            why = end.value
            break
        if seen >= skip:
            yield _rgb(frame)
        seen += 1
    if why:
        whole = f" of {stream.frames}" if stream.frames else ""
        raise TruncatedVideo(
            f"{name}: {why} after frame {seen - 1}: {seen}{whole} frames could be read",
            seen,
            usable=seen - skip,
        )
    if skip > seen:
        raise ValueError(f"{name}: start {skip} is beyond its end: it has {seen} frames")


def _decoded(container, stream):
    """Yield the frames that decode, in order; return why it stopped early, or None."""
    import av

    seen, next_pts = 0, None
    packets = _packets(container, stream)
    packet, why = None, None
    while True:
        try:
            packet = next(packets)
        except StopIteration as end:
            packet, why = None, end.value  # None flushes the decoder
        try:
            frames = stream.decode(packet)
        except av.error.EOFError:
            frames = []
        except av.error.InvalidDataError:
            if seen == 0 and packet:  # a recording may begin in the middle of a group
                continue
            return "the file is damaged"
        for frame in frames:
            # Frames stand in the file in another order: where it was cut, some are there whose
            # predecessors are not, and it is the decoder's last frames that show the gap.
            if why and None not in (next_pts, frame.pts) and frame.pts > next_pts:
                return why
            yield frame
            seen += 1
            known = frame.pts is not None and frame.duration
            next_pts = frame.pts + frame.duration if known else None
        if packet is None:
            return why


def _packets(container, stream):
    """Yield the packets but for a last one that is cut off; return why it ended early, or None."""
    import av

    count, end, held, why = 0, None, None, None
    demuxed = container.demux(stream)
    while True:
        try:
            packet = next(demuxed, None)
        except av.error.InvalidDataError:
            packet, why = None, "the file is damaged"
        if packet is None or (packet.size == 0 and packet.dts is None):
            break
        # The last packet of a cut file is marked, and decodes to a frame that is half grey; so
        # are those at the seam of two transport streams, which are whole.
        ready = [held, packet] if held else [packet]
        held = ready.pop() if packet.is_corrupt else None
        for each in ready:
            count += 1
            if each.pts is not None:
                end = max(end or 0, each.pts + (each.duration or 0))
            yield each
    early = held is not None or _ends_early(container, stream, count, end)
    return why or ("the file ends" if early else None)


def _ends_early(container, stream, packets: int, end: int | None) -> bool:
    """Whether the file holds less than its header says."""
    import av

    frame_time = 1 / (stream.average_rate * stream.time_base) if stream.average_rate else 0
    has_edits = "mp4" in container.format.name
    if stream.frames or has_edits:
        # Edit lists leave packets out, and AVI counts frames that were dropped as they were
        # recorded: the time must be short as well.
        if packets >= stream.frames:
            return False
        if None in (stream.duration, end):
            return not has_edits
        return end < (stream.start_time or 0) + stream.duration - frame_time / 2
    if container.duration is None or end is None or len(container.streams) > 1:
        return False  # the container's duration may be another stream's
    start = container.start_time or 0
    whole = (start + container.duration) / av.time_base
    return float(end * stream.time_base) < whole - 1.5 * float(frame_time * stream.time_base)


def _rgb(frame) -> np.ndarray:
    """uint8 RGB [H, W, 3] of a decoded frame, turned as its display matrix says."""
    image = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image
