"""Generated streets as a source of frames: 'street:val/0-99?camera=fixed&noise=0'."""

import dataclasses
import functools
import re
from collections.abc import Iterator
from urllib.parse import parse_qsl

from bc_jax.data.source import Labelled, Source
from bc_jax.data.street.clip import Clip
from bc_jax.data.street.settings import SPLITS, StreetConfig


def parse(spec: str, size: tuple[int, int] | None) -> tuple[StreetConfig, str, int, int]:
    """Read what a source string asks for.

    Args:
      spec: 'street:SPLIT', 'street:SPLIT/CLIP' or 'street:SPLIT/FIRST-LAST', and after a '?' any
        fields of `StreetConfig` but `size`, as in a web address.
      size: (H, W) of the frames; None leaves the config's.

    Returns:
      The config, the split, its first clip, and how many there are.

    Raises:
      ValueError: it is not of this form, or asks for what there is not.
    """
    form = re.fullmatch(r"street:([a-z]+)(?:/([0-9]+)(?:-([0-9]+))?)?(?:\?(.*))?", spec)
    if not form:
        raise ValueError(
            f"{spec!r} is no street; give 'street:val', 'street:val/3', 'street:val/0-99', and "
            "settings as in 'street:val?camera=fixed&noise=0'"
        )
    split, first, last, settings = form.groups()
    if split not in SPLITS:
        raise ValueError(f"{spec!r}: there is no split {split!r}; there are {', '.join(SPLITS)}")
    start = int(first or 0)
    stop = int(last or first or SPLITS[split] - 1)
    if not start <= stop < SPLITS[split]:
        raise ValueError(
            f"{spec!r}: '{split}' has clips 0 to {SPLITS[split] - 1}; give one, or first-last"
        )
    kinds = {field.name: field.type for field in dataclasses.fields(StreetConfig)}
    del kinds["size"]
    values = {} if size is None else {"size": tuple(size)}
    for name, value in parse_qsl(settings or "", keep_blank_values=True):
        if name not in kinds:
            raise ValueError(
                f"{spec!r}: a street has no setting {name!r}; it has {', '.join(kinds)}"
            )
        kind = kinds[name] if kinds[name] in (int, float) else str
        try:
            values[name] = kind(value)
        except ValueError as error:
            raise ValueError(f"{spec!r}: {name} is {value!r}, and no {kind.__name__}") from error
    return StreetConfig(**values), split, start, stop - start + 1


# To lay out a clip takes as long as to draw many frames of it. Those in which reading begins are
# kept, for whoever comes back to them, as training does, whose batches have several clips in turn.
_clip = functools.lru_cache(maxsize=8)(Clip)


def open_street(spec: str, size: tuple[int, int] | None = None) -> Source:
    """A source of clips that are rendered as they are read, all frames with labels; see `parse`."""
    config, split, first, clips = parse(spec, size)

    def decode(skip: int) -> Iterator[Labelled]:
        if skip > clips * config.frames:
            raise ValueError(
                f"{spec}: start {skip} is beyond its end: it has {clips * config.frames} frames"
            )
        for number in range(skip // config.frames, clips):
            begins = number == skip // config.frames
            clip = (_clip if begins else Clip)(config, split, first + number)
            for t in range(skip % config.frames if begins else 0, config.frames):
                frame = clip.frame(t)
                yield Labelled(frame.image, frame.labels)

    plain = StreetConfig()
    settings = [
        f"{name}={value}"
        for name, value in dataclasses.asdict(config).items()
        if value != getattr(plain, name) and name != "size"
    ]
    return Source(
        name=" ".join([f"street {split} {first}-{first + clips - 1}", *settings]),
        size=config.size,
        fps=config.fps,
        length=clips * config.frames,
        decode=decode,
        labelled="all",
        clip_frames=config.frames,
    )
