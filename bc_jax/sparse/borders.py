"""Padding by a frame's own pixels: mirrored, or the last ones repeated.

Programs say it with slices, flips and concatenations along space. `keep_borders` says it anew as
picks by a known index, of which a rule can see what they are; `surround` then gives tiles at the
image's sides what the index says, of their own pixels.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bc_jax import lowering
from bc_jax.sparse.program import Draft, Op, Program, needed


class Border(NamedTuple):
    """Which pixels stand outside an image, along rows and along columns; hashable.

    Attributes:
        low: for each axis, the places of those before the first pixel, outermost first.
        high: those behind the last, outermost last, counted from the end: -1 is the last pixel.
    """

    low: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    high: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    def along(self, axis: int, low, high) -> "Border":
        """With other places along rows (0) or columns (1)."""
        lows, highs = list(self.low), list(self.high)
        lows[axis], highs[axis] = tuple(map(int, low)), tuple(map(int, high))
        return Border(tuple(lows), tuple(highs))

    def within(self, pad) -> "Border":
        """Of these pixels the nearest, as many as ((top, bottom), (left, right)) says."""
        low = tuple(x[len(x) - max(n, 0) :] for x, (n, _) in zip(self.low, pad, strict=True))
        high = tuple(x[: max(n, 0)] for x, (_, n) in zip(self.high, pad, strict=True))
        return Border(low, high)

    def reach(self, axis: int) -> int:
        """How many pixels of the image, from its sides, are picked."""
        return max([0, *(place + 1 for place in self.low[axis]), *(-p for p in self.high[axis])])

    def index(self, axis: int, size: int) -> np.ndarray:
        """All of an axis, what is outside included, by places of the image."""
        low, high = (np.array(side[axis], int) for side in self)
        return np.concatenate([low, np.arange(size), size + high])


@dataclasses.dataclass(frozen=True, eq=False)
class Filled:
    """What stands around an image, where channels have numbers of their own, or computed ones.

    Attributes:
        tile: [1, 1, 1, *rest], of one pixel.
        name: of the operation that made it.
    """

    tile: jax.Array
    name: str

    def __str__(self) -> str:
        return self.name


def split_index(index: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray] | None:
    """(low, high) of `Border` where an index picks all of an axis of a size, and a border of it."""
    for start in range(len(index) - size + 1):
        middle, low, high = index[start : start + size], index[:start], index[start + size :] - size
        if (middle == np.arange(size)).all() and _mirrors(low[::-1]) and _mirrors(-1 - high):
            return (low, high) if len(index) > size > 1 else None
    return None


def _mirrors(places: np.ndarray) -> bool:
    """Whether places, from an image's side on, are the nearest, once or again, or the last one."""
    nearest = np.arange(len(places))
    return any((places == kind).all() for kind in (nearest, nearest + 1, 0 * nearest))


def surround(tiles, border: Border, halo, place, blocks: tuple[int, int]) -> jax.Array:
    """Tiles with their halo, whose pixels beyond the image are picked of the image's.

    Args:
        tiles: [K, top + h + bottom, left + w + right, *rest].
        border: as many places at each side as windows read of it.
        halo: (top, bottom, left, right).
        place: each tile's row and column of blocks, two int32 [K].
        blocks: the rows and columns of blocks.
    """
    for axis in (0, 1):
        before, after = halo[2 * axis : 2 * axis + 2]
        end = tiles.shape[1 + axis] - after
        low = [before + at for at in _at_least(border.low[axis][::-1], before)[::-1]]
        high = [end + at for at in _at_least(border.high[axis], after)]
        parts = [
            _outside(tiles, slice(0, before), low, place[axis] == 0, 1 + axis),
            jax.lax.slice_in_dim(tiles, before, end, axis=1 + axis),
            _outside(tiles, slice(end, None), high, place[axis] == blocks[axis] - 1, 1 + axis),
        ]
        tiles = lowering.concatenate([p for p in parts if p is not None], axis=1 + axis)
    return tiles


def _at_least(places: tuple[int, ...], count: int) -> tuple[int, ...]:
    """The nearest `count` places; no window reads those that there are not."""
    return (*places, *(places[-1:] or (0,)) * count)[:count]


def _outside(tiles, halo: slice, picks: list[int], at_side, axis: int) -> jax.Array | None:
    """The halo at one side, and what is picked in its place where the image ends there."""
    if not picks:
        return None
    halo = jax.lax.slice_in_dim(tiles, halo.start, halo.stop, axis=axis)
    picked = [jax.lax.slice_in_dim(tiles, at, at + 1, axis=axis) for at in picks]
    at_side = at_side.reshape(-1, *(1,) * (tiles.ndim - 1))
    return jnp.where(at_side, lowering.concatenate(picked, axis=axis), halo)


def pad_frames(array, axes, pad, around: float | Border | Filled) -> jax.Array:
    """Whole frames with what a program has put around them, and without what it has cut.

    Args:
        array: in the program's layout, or any other.
        axes: where it has rows and columns.
        pad: ((top, bottom), (left, right)), negative where cut.
        around: what it is padded with; a `Filled` tile in the array's layout.
    """
    if isinstance(around, Border):
        for along, (axis, (low, high)) in enumerate(zip(axes, pad, strict=True)):
            index = around.index(along, array.shape[axis])
            array = jnp.take(array, index[max(0, -low) : len(index) - max(0, -high)], axis=axis)
        return array
    config = [(0, 0, 0)] * array.ndim
    for axis, sides in zip(axes, pad, strict=True):
        config[axis] = (*sides, 0)
    filled = isinstance(around, Filled)
    padded = jax.lax.pad(array, jnp.asarray(0 if filled else around, array.dtype), config)
    if not filled:
        return padded
    inside = jax.lax.pad(jnp.ones(array.shape, bool), False, config)
    return jnp.where(inside, padded, around.tile)


def keep_borders(program: Program) -> Program:
    """The same program, in which pixels of a frame around itself are picks by a known index."""
    draft, alias = Draft(program.avals), {}
    for op in program.ops:
        if op.name == "concatenate":
            axis = op.params["dimension"]
            source, index = picked(program, op.outputs[0], axis)
            size = _shape(program, source)[axis]
            if source != op.outputs[0] and np.array_equal(index, np.arange(size)):
                alias[op.outputs[0]] = source
                continue
            if split_index(index, size):
                draft.append_as(op, _picks(index, axis), [source])
                continue
        draft.ops.append(op)

    def named(x):
        while isinstance(x, int) and x in alias:
            x = alias[x]
        return x

    ops = [dataclasses.replace(op, inputs=tuple(map(named, op.inputs))) for op in draft.ops]
    outputs = tuple(map(named, program.outputs))
    ops = tuple(needed(ops, outputs))
    return dataclasses.replace(program, ops=ops, outputs=outputs, avals=draft.avals)


def _shape(program: Program, value: int) -> tuple[int, ...]:
    return tuple(program.avals[value].shape)


def picked(program: Program, value: int, axis: int) -> tuple[int, np.ndarray]:
    """Of which value this one picks along an axis, and by which index; itself, where of none."""
    op, size = program.producers.get(value), _shape(program, value)[axis]
    if op is not None and op.name == "concatenate" and op.params["dimension"] == axis:
        parts = [x for x, shape in zip(op.inputs, op.in_shapes, strict=True) if shape[axis]]
        if all(isinstance(part, int) for part in parts):
            sources, indexes = zip(*(picked(program, x, axis) for x in parts), strict=True)
            if len({*sources}) == 1:
                return sources[0], np.concatenate(indexes)
    operand, index = (None, None) if op is None else _step(program, op, axis)
    if not isinstance(operand, int):
        return value, np.arange(size)
    source, of_source = picked(program, operand, axis)
    return source, of_source[index]


def _step(program: Program, op: Op, axis: int):
    """What an operation picks of along an axis, and by which index; (None, None) for no pick."""
    shape = op.out_avals[0].shape
    if op.name == "slice" and _alike(op.in_shapes[0], shape, axis):
        first, strides = op.params["start_indices"][axis], op.params["strides"]
        return op.inputs[0], first + np.arange(shape[axis]) * (strides[axis] if strides else 1)
    if op.name == "rev" and tuple(op.params["dimensions"]) == (axis,):
        return op.inputs[0], np.arange(shape[axis])[::-1]
    repeated = _repeated(program, op, axis)
    return (None, None) if repeated is None else (repeated, np.zeros(shape[axis], int))


def _alike(shape, other, axis: int) -> bool:
    return all(a == axis or s == o for a, (s, o) in enumerate(zip(shape, other, strict=True)))


def _repeated(program: Program, op: Op, axis: int) -> int | None:
    """What has one pixel along an axis, which `jnp.pad` repeats: by a new axis, merged then."""
    shape = op.out_avals[0].shape
    if op.name != "reshape" or not isinstance(op.inputs[0], int):
        return None
    spread = program.producers.get(op.inputs[0])
    if spread is None or spread.name != "broadcast_in_dim" or not isinstance(spread.inputs[0], int):
        return None
    before, made = spread.in_shapes[0], op.in_shapes[0]
    if len(before) != len(shape) or before[axis] != 1 or not _alike(before, shape, axis):
        return None
    new = {*range(len(made))} - {*spread.params["broadcast_dimensions"]}
    fits = new <= {axis, axis + 1} and len(new) == 1 and made[next(iter(new))] == shape[axis]
    return spread.inputs[0] if fits else None


def _picks(index: np.ndarray, axis: int) -> Callable:
    """A function of an array that picks along an axis."""

    def picks(x):
        rest = tuple(a for a in range(x.ndim) if a != axis)
        numbers = jax.lax.GatherDimensionNumbers(
            offset_dims=rest, collapsed_slice_dims=(axis,), start_index_map=(axis,)
        )
        sizes = tuple(1 if a == axis else size for a, size in enumerate(x.shape))
        mode = jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS
        return [jax.lax.gather(x, index[:, None].astype(np.int32), numbers, sizes, mode=mode)]

    return picks
