"""What to change in a network, or in its blocks, for more speed."""

import warnings
from collections.abc import Iterator

from bc_jax.sparse.findings import Findings, Row
from bc_jax.sparse.operation import by, percent, pixels_read

# A share of the network's cost that is worth a word, and one that leaves nothing to gain.
_NOTABLE, _ALL = 0.01, 0.9
# Pixels read for one that a tile has, beyond which the halo costs more than the tile.
_WIDE_HALO = 2.0
# A tile's side in pixels, below which a convolution's overhead costs more than its sums.
_SMALL_TILE = 4
# Layers that a line of advice names; the rest are counted.
_LAYERS_TOLD = 3

_REMEDIES = (
    ("no rule for", "leave it out, or write its rule: CONTRIBUTING.md tells how"),
    (
        "reduces over all of space",
        "what follows it is whole too: keep that small, or normalise each channel by fixed "
        "statistics (batch norm)",
    ),
    (
        "the result's pixels",
        "pad with 'SAME', and make the block a multiple of all strides and windows up to there",
    ),
    (
        "drops the axis of streams",
        "write the network for one image [H, W, C], and map it over streams: "
        "jax.vmap(network, (None, 0))",
    ),
    ("streams", "give the network each stream, or image, by itself: one call for each of them"),
    ("mixes", "mix within windows that divide the block, or after the network"),
    ("contracts space", "mix within windows that divide the block, or after the network"),
    ("computed", "where it does not depend on the frame, make it a constant"),
    ("the input is not cut into blocks", "make its size a multiple of the grid's rows and columns"),
    (
        "along space",
        "where it surrounds a frame with its own pixels, pad with zeros; else move it behind the "
        "network, to the outputs",
    ),
    ("", "move it behind the network, to the outputs"),
)
# Reasons that larger blocks may do away with: windows, say, that do not divide a tile.
_OF_BLOCKS = ("cuts blocks apart", "merges an axis of space")


class BlockSparsityWarning(UserWarning):
    """A network gains little or nothing from running block by block."""


def warn_of_no_gain(report: Findings) -> None:
    """Warn, at the caller's caller, where nothing is to be gained from blocks."""
    if report.fallbacks and report.whole_macs >= _ALL * report.macs > 0:
        _, first = max(
            enumerate(report.rows),
            key=lambda row: bool(row[1].reason) * report.forced_macs(row[0]),
        )
        warnings.warn(
            f"{percent(report.whole_macs, report.macs)} of the network's multiply-accumulates run "
            f"on the whole frame whatever the grid, most of all because of {first.name} "
            f"{list(first.shape)}{_in_layers([first])}: {first.reason}; "
            "print(sparse.explain(params, frames)) tells what to change",
            BlockSparsityWarning,
            stacklevel=3,
        )


def advise_on_fallbacks(report: Findings) -> list[str]:
    """A line for each kind of fallback that makes a notable share of the network run whole."""
    kinds: dict[tuple[str, str], list[int]] = {}
    for number, row in enumerate(report.rows):
        if row.reason:
            kinds.setdefault((row.name, row.reason), []).append(number)
    forced = {kind: report.forced_macs(*numbers) for kind, numbers in kinds.items()}
    said = []
    for (name, reason), cost in sorted(forced.items(), key=lambda pair: -pair[1]):
        if cost < _NOTABLE * report.macs:
            continue
        numbers = kinds[name, reason]
        which = f"{name} {list(report.rows[numbers[0]].shape)}"
        which += f" and {len(numbers) - 1} more like it" if len(numbers) > 1 else ""
        which += _in_layers([report.rows[number] for number in numbers])
        remedy = next(remedy for words, remedy in _REMEDIES if words in reason)
        if (larger := _blocks_without(report, name, reason)) is not None:
            remedy = f"blocks of {larger} would not do so, being a multiple of the windows there"
        several, share = len(numbers) > 1, percent(cost, report.macs)
        does = f"{'force' if several else 'forces'} {share} of the work to be dense"
        if not share:
            does = "run on the whole frame" if several else "runs on the whole frame"
        said.append(f"{which} {does} ({reason}): {remedy}")
    return said


def _blocks_without(report: Findings, name: str, reason: str) -> str | None:
    """The least blocks with which no such fallback is left; None where frames hold no 2 x 2."""
    if not any(words in reason for words in _OF_BLOCKS):
        return None
    for found in _with_larger(report):
        left = any((row.name, row.reason) == (name, reason) for row in found.rows)
        if not left and found.whole_macs * report.macs < report.whole_macs * found.macs:
            return by(found.block_size)
    return None


def _with_larger(report: Findings) -> Iterator[Findings]:
    """The findings with blocks of two, four and more times the sides; frames hold 2 x 2 of them."""
    factor = 1
    while all(4 * factor <= blocks for blocks in report.grid_shape[1:]):
        factor *= 2
        yield report.at(tuple(factor * side for side in report.block_size))


def advise_on_blocks(report: Findings) -> Iterator[str]:
    """A line on halos larger than their tiles, and one on tiles too small for a convolution."""
    wide, small = _wide(report), _small(report)
    factor = _factor(report) if wide or small else 1
    if factor == 1:
        return
    larger = by([factor * side for side in report.block_size])
    if wide:
        worst = max(wide, key=lambda row: row.pixels_read)
        tile = (factor * worst.tile[0], factor * worst.tile[1])
        yield (
            f"the halo eats the gain of {len(wide)} window(s) with "
            f"{percent(sum(row.macs for row in wide), report.macs)} of the MACs: {worst.label}"
            f"{_in_layers([worst])} reads {worst.pixels_read:.1f} pixels for each pixel of its "
            f"tiles of {by(worst.tile)}; blocks of {larger} would make it "
            f"{pixels_read(tile, worst.halo):.1f}"
        )
    if small:
        least = min((row.tile for row in small), key=min)
        yield (
            f"{percent(sum(row.macs for row in small), report.macs)} of the MACs run on tiles of "
            f"down to {by(least)} pixels, too few for their overhead: blocks of {larger} would "
            f"make them {by([factor * side for side in least])}"
        )


def _wide(report: Findings) -> list[Row]:
    """The windows whose halo is larger than their tiles, where halos cost much in all."""
    if report.pixels_read < 0.5 * (1 + _WIDE_HALO):
        return []
    return [r for r in report.rows if r.where == "blocks" and r.pixels_read >= _WIDE_HALO]


def _small(report: Findings) -> list[Row]:
    """The windows whose tiles are too small, where they have a notable share of the cost."""
    windows = [r for r in report.rows if r.where == "blocks" and r.tile and r.macs]
    small = [row for row in windows if min(row.tile) < _SMALL_TILE]
    return small if sum(row.macs for row in small) >= _NOTABLE * report.macs else []


def _factor(report: Findings) -> int:
    """How many times larger blocks leave neither; else the most of which frames hold 2 x 2."""
    factor = 1
    for found in _with_larger(report):
        factor *= 2
        if not _wide(found) and not _small(found):
            break
    return factor


def _in_layers(rows: list[Row]) -> str:
    """Where these stand, for a sentence: " in stage1/norm, stage2/norm and 2 other layers"."""
    layers = list(dict.fromkeys(row.layer for row in rows if row.layer))
    shown, left = ", ".join(layers[:_LAYERS_TOLD]), len(layers) - _LAYERS_TOLD
    return (f" in {shown}" if shown else "") + (f" and {left} other layer(s)" if left > 0 else "")
