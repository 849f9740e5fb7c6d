"""Clips played side by side in N streams, and the position to continue from."""

from collections.abc import Iterator, Sequence
from os import PathLike
from typing import NamedTuple

import numpy as np

from bc_jax.data.labels import IGNORE
from bc_jax.data.opening import open_source
from bc_jax.data.source import Labelled, Source, shown


class Batch(NamedTuple):
    """One time step of N streams."""

    frames: np.ndarray  # uint8 [N, H, W, 3], RGB
    reset: np.ndarray  # bool [N], true at the first frame of a clip
    index: np.ndarray  # int32 [N, 2]: which source, and which of its frames
    # uint8 [N, H, W]: classes, 255 where they are not known; None: no source has labels.
    labels: np.ndarray | None = None
    last: np.ndarray | None = None  # bool [N], true at a clip's last frame, where that is known
    # bool [N], true where a stream has played all its clips and plays them again until others have.
    again: np.ndarray | None = None

    @property
    def counts(self) -> np.ndarray:
        """Bool [N]: each frame once, but clips' first ones, of which all is executed."""
        return ~self.reset if self.again is None else ~(self.reset | self.again)


class Clip(NamedTuple):
    """A stretch of a source that is played from a reset."""

    source: int  # index into the sources
    start: int  # first frame, counted in the source
    frames: int | None  # at most so many; None: to the source's end


def cut(sources: Sequence[Source], streams: int, clip_frames: int | None = None) -> list[Clip]:
    """Cut sources into clips: their own, or consecutive ones of `clip_frames` frames.

    A single source that is a single clip is cut into as many equal segments as there are
    streams; what is left over goes to the last one.

    Args:
      sources: with known lengths where they have to be cut.
      streams: N.
      clip_frames: frames of a clip (the last of a source may be shorter); None: the
        sources' own clips.

    Returns:
      The clips, in the order of the sources.

    Raises:
      ValueError: fewer clips than streams, or a source to be cut whose length is not known.
    """
    if streams < 1:
        raise ValueError(f"streams is {streams}; it is 1 or more")
    if clip_frames is not None and clip_frames < 1:
        raise ValueError(f"clip_frames is {clip_frames}; it is None or 1 and more")
    clips = []
    for k, source in enumerate(sources):
        own = source.clip_frames if clip_frames is None else clip_frames
        segments = streams if len(sources) == 1 and own is None else 1
        if own is None and segments == 1:
            clips.append(Clip(k, 0, None))
            continue
        if source.length is None:
            raise ValueError(
                f"{source.name} does not tell its length, so it cannot be cut into clips; "
                "give frames=, or one source for each stream"
            )
        step = own or max(1, source.length // segments)
        # A source that begins within one of its clips has less of that one.
        begun = source.start % step if clip_frames is None and own else 0
        starts = [0, *range(step - begun, source.length, step)][: None if own else segments]
        ends = [*starts[1:], source.length]
        clips += [Clip(k, a, b - a) for a, b in zip(starts, ends, strict=True)]
    if len(clips) < streams:
        raise ValueError(
            f"{len(clips)} clips are too few for {streams} streams; give fewer streams, more "
            "sources, or a smaller clip_frames"
        )
    return clips


def batches(
    sources: Sequence[Source | str | PathLike] | Source | str | PathLike,
    streams: int = 1,
    *,
    clip_frames: int | None = None,
    passes: int | None = 1,
    position: dict | None = None,
) -> "Batches":
    """Play clips side by side: stream n plays clips n, n+N, n+2N, ... and resets at each.

    A pass ends when every stream has played all its clips; a stream that is done before begins
    its clips again, so that a batch is always full.

    Args:
      sources: one or several; what is no `Source` goes through `open_source`. All of one size.
      streams: N.
      clip_frames: see `cut`.
      passes: how many times to play everything; None: for ever.
      position: what `Batches.position` was; iteration goes on with the batch after it.

    Returns:
      An iterator of `Batch`, with the property `position`.

    Raises:
      ValueError: sources differ in size; see `cut`; or the position belongs to other clips.
    """
    if isinstance(sources, Source | str | PathLike):
        sources = [sources]
    opened = [s if isinstance(s, Source) else open_source(s) for s in sources]
    return Batches(opened, streams, clip_frames=clip_frames, passes=passes, position=position)


class Batches(Iterator[Batch]):
    """See `batches`."""

    def __init__(
        self,
        sources: Sequence[Source],
        streams: int,
        *,
        clip_frames: int | None = None,
        passes: int | None = 1,
        position: dict | None = None,
    ):
        if not sources:
            raise ValueError("there are no sources to play")
        for source in sources[1:]:
            if source.size != sources[0].size:
                raise ValueError(
                    f"{source.name} is {shown(source.size)} (width x height), {sources[0].name} "
                    f"{shown(sources[0].size)}; open both with one size=(height, width)"
                )
        self.size = sources[0].size  # (H, W)
        self.fps = sources[0].fps  # frames per second; None where that is not known
        self.streams = streams
        self.labelled = any(source.labelled for source in sources)  # whether any frame has labels
        self._sources, self._passes = list(sources), passes
        self._clips = cut(sources, streams, clip_frames)
        self._what = {
            "streams": streams,
            "clips": [
                [_file_name(sources[c.source].name), sources[c.source].start + c.start, c.frames]
                for c in self._clips
            ],
        }
        self._pass, self._step = 0, 0
        self._players = self._fresh_players()
        if position is not None:
            self._restore(position)
        self._position = self._stands()

    @property
    def length(self) -> int | None:
        """How many batches a pass has; None where it cannot be known."""
        played = [
            self._sources[clip.source].length if clip.frames is None else clip.frames
            for clip in self._clips
        ]
        if None in played:
            return None
        return max(sum(played[n :: self.streams]) for n in range(self.streams))

    @property
    def position(self) -> dict:
        """Where iteration stands, after the batch last returned; holds only what JSON holds.

        That is so after the last batch of all too: with sources that have become longer since,
        iteration goes on in the same pass.
        """
        return self._position

    def _stands(self) -> dict:
        return {
            "pass": self._pass,
            "step": self._step,
            "streams": [[player.clip, player.frame, player.done] for player in self._players],
            "of": self._what,
        }

    def __next__(self) -> Batch:
        if self._passes is not None and self._pass >= self._passes:
            raise StopIteration
        steps = [player.next() for player in self._players]
        if all(player.done for player in self._players):
            self.close()
            self._pass, self._players = self._pass + 1, self._fresh_players()
            return next(self)
        self._step += 1
        self._position = self._stands()
        pairs, reset, index, last = zip(*steps, strict=True)
        labels = None
        if self.labelled:
            labels = np.full((self.streams, *self.size), IGNORE, np.uint8)
            for n, pair in enumerate(pairs):
                if pair.labels is not None:
                    labels[n] = pair.labels
        return Batch(
            np.stack([pair.frame for pair in pairs]),
            np.array(reset),
            np.array(index, np.int32),
            labels,
            np.array(last),
            np.array([player.done for player in self._players]),
        )

    def close(self):
        """Close the files that are open; iterating on opens them again where it stands."""
        for player in self._players:
            player.close()

    def _fresh_players(self) -> list["_Player"]:
        return [_Player(self._sources, self._clips[n :: self.streams]) for n in range(self.streams)]

    def _restore(self, position: dict):
        saved = position.get("of")
        if saved != self._what:
            raise ValueError(
                f"the position was saved for {_summary(saved)}, and these are "
                f"{_summary(self._what)}; open the same sources, cut in the same way"
            )
        self._pass, self._step = position["pass"], position["step"]
        for player, (clip, frame, done) in zip(self._players, position["streams"], strict=True):
            player.go_to(clip, frame, done=done)


class _Player:
    """One stream: plays its clips in turn, and begins again after the last."""

    def __init__(self, sources: Sequence[Source], clips: Sequence[Clip]):
        self._sources, self._clips = sources, clips
        self.clip, self.frame = 0, 0  # the frame to read next
        self.done = False  # has played all clips once
        self._frames: Iterator[Labelled] | None = None
        self._reset = True

    def go_to(self, clip: int, frame: int, *, done: bool):
        """Go on from a frame of a clip; ValueError where the clip is shorter."""
        source = self._sources[self._clips[clip].source]
        frames = self._clips[clip].frames
        frames = source.length if frames is None else frames
        if frames is not None and frame > frames:
            raise ValueError(
                f"the position is after {frame} frames of a clip of {_file_name(source.name)} that "
                f"has {frames} now; give it as many frames as before, or more"
            )
        self.clip, self.frame, self.done = clip, frame, done

    def next(self) -> tuple[Labelled, bool, tuple[int, int], bool]:
        """The next frame, whether it begins a clip, its (source, frame), whether it ends one."""
        empty = 0
        while True:
            clip = self._clips[self.clip]
            if self._frames is None:
                self._open(clip)
            pair = next(self._frames, None)
            if pair is not None:
                break
            if self.frame == 0:
                empty += 1
            if empty == len(self._clips):
                raise ValueError(f"{self._sources[clip.source].name} yields no frame")
            self._advance()
        reset, self._reset = self._reset, False
        index = (clip.source, clip.start + self.frame)
        self.frame += 1
        ends = clip.frames if clip.frames is not None else self._sources[clip.source].length
        return pair, reset, index, self.frame == ends

    def _open(self, clip: Clip):
        source = self._sources[clip.source]
        if source.live:  # a camera has no past: it begins anew
            self.frame = 0
        self._reset = self.frame == 0
        left = None if clip.frames is None else clip.frames - self.frame
        self._frames = source.segment(clip.start + self.frame, left).pairs()

    def _advance(self):
        self.close()
        self.clip, self.frame = self.clip + 1, 0
        if self.clip == len(self._clips):
            self.clip, self.done = 0, True

    def close(self):
        if self._frames is not None:
            self._frames.close()
            self._frames = None


def _file_name(name: str) -> str:
    """A source's name without its folder, which may differ from machine to machine."""
    return name.replace("\\", "/").rsplit("/", 1)[-1]


def _summary(what) -> str:
    if not isinstance(what, dict) or not {"streams", "clips"} <= what.keys():
        return "something else"
    names = list(dict.fromkeys(str(clip[0]) for clip in what["clips"]))
    shown_names = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    lengths = ["all" if clip[2] is None else str(clip[2]) for clip in what["clips"]]
    shown_lengths = ", ".join(lengths[:5]) + (", ..." if len(lengths) > 5 else "")
    streams, clips = what["streams"], len(what["clips"])
    return f"{streams} streams of {clips} clips from {shown_names} ({shown_lengths} frames)"
