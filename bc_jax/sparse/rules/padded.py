"""Images that a program has padded or cut, where an operation keeps each pixel by itself.

Such an operation makes of a padded image its own result on the image, padded with what it makes of
a pixel that stood around it. Images that were cut differently, as those are whose differences are
taken from pixel to pixel, are first moved to lie on one another.
"""

import dataclasses
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from bc_jax.sparse.borders import Border, Filled
from bc_jax.sparse.pointwise import NAMES, OWN_DERIVATIVE, called
from bc_jax.sparse.rules.channels import CUMULATIVE
from bc_jax.sparse.rules.reductions import REDUCTIONS
from bc_jax.sparse.rules.window import cut_off, move
from bc_jax.sparse.values import NO_PAD, Blocked, Declined, Whole

# Along which axes an operation moves elements or mixes them, by its parameters.
_ALONG: dict[str, Callable[[dict], Iterable[int]]] = {
    **dict.fromkeys((*NAMES, *OWN_DERIVATIVE, "broadcast_in_dim"), lambda params: ()),
    **dict.fromkeys((*REDUCTIONS, "argmax", "argmin"), lambda params: params["axes"]),
    **dict.fromkeys((*CUMULATIVE, "split"), lambda params: (params["axis"],)),
    **dict.fromkeys(("sort", "concatenate"), lambda params: (params["dimension"],)),
    **dict.fromkeys(("rev", "squeeze"), lambda params: params["dimensions"]),
    "tile": lambda params: (a for a, times in enumerate(params["reps"]) if times != 1),
}


def is_padded(op, operands) -> bool:
    """Whether an operation that keeps pixels by themselves has a padded or cut image to read."""
    padded = [x for x in operands if isinstance(x, Blocked) and x.pad != NO_PAD]
    if not padded or op.name not in _ALONG:
        return False
    return not {*_ALONG[op.name](op.params)} & {*padded[0].axes}


def run_padded(context, op, operands: list, run: Callable) -> list:
    """The results of an operation, padded as its operands are.

    Args:
        context: the walk's.
        op: the operation.
        operands: its operands, one of them padded or cut at least.
        run: the interpreter's, from (context, operation, operands) to results by the rule.

    Raises:
        Declined: where what stands around the results cannot be said.
    """
    images = [x for x in operands if isinstance(x, Blocked)]
    first = images[0]
    if {x.axes for x in images} != {first.axes} or first.merged:
        raise Declined("operands lie differently in space")
    canvas, pad = first.canvas(context.shape(first)), _common(images)
    operands = [_moved(context, x, pad) if isinstance(x, Blocked) else x for x in operands]
    inside = [_inside(context, x, first, pad, canvas) for x in operands]
    results = run(context, _sized(context, op, inside), inside)
    if len({x.pad for x in images}) > 1:
        results = [cut_off(context, r, pad) for r in results]
    around = _around(context, op, operands, first, canvas, run)
    return [r.same(pad=pad, pad_value=a) for r, a in zip(results, around, strict=True)]


def _common(images: list[Blocked]) -> tuple[tuple[int, int], ...]:
    """The padding that all can be moved to have; only what is cut can be."""
    pad = []
    for sides in zip(*(x.pad for x in images), strict=True):
        if len({*sides}) == 1:
            pad.append(sides[0])
            continue
        sizes = {*map(sum, sides)}
        if len(sizes) > 1 or max(sizes) > 0:
            raise Declined("images are padded differently")
        pad.append(next((s for s in sides if max(s) <= 0), (0, *sizes)))
    return tuple(pad)


def _moved(context, x: Blocked, pad) -> Blocked:
    """The image, moved so that it is padded or cut as `pad` says."""
    rest = tuple(
        (low - to_low, high - to_high)
        for (low, high), (to_low, to_high) in zip(x.pad, pad, strict=True)
    )
    if rest == NO_PAD:
        return x
    around = x.pad_value.within(pad) if isinstance(x.pad_value, Border) else x.pad_value
    if not x.grows:
        # What comes in is cut off again, but is computed with: the last pixels, once more.
        low = tuple((0,) * max(0, side) for side, _ in rest)
        x = x.same(pad_value=Border(low, tuple((-1,) * max(0, side) for _, side in rest)))
    return move(context, x, rest).same(pad=pad, pad_value=around)


def _inside(context, x, first: Blocked, pad, canvas):
    """What of an operand belongs to the image itself."""
    if isinstance(x, Blocked):
        return x.same(pad=NO_PAD, pad_value=0)
    array = x.array if isinstance(x, Whole) else x
    if jnp.ndim(array) != first.rank:
        return x
    shape = list(x.shape)
    for axis, sides in zip(first.axes[1:], pad, strict=True):
        shape[axis] = context.shape(first)[axis]
        if array.shape[axis] == canvas[axis] > 1:
            # What was cut off has the nearest number, as images' own.
            index = (np.arange(shape[axis]) + sides[0]).clip(0, canvas[axis] - 1)
            array = jnp.take(array, index, axis=axis)
    return (
        dataclasses.replace(x, array=array, shape=tuple(shape)) if isinstance(x, Whole) else array
    )


def _sized(context, op, operands):
    """The operation for images of another size, where a parameter has it."""
    if op.name != "broadcast_in_dim":
        return op
    shape, (x, *_) = list(op.params["shape"]), operands
    for axis in x.axes:
        shape[op.params["broadcast_dimensions"][axis]] = context.shape(x)[axis]
    return dataclasses.replace(op, params=op.params | {"shape": tuple(shape)})


def _around(context, op, operands, first: Blocked, canvas, run) -> list:
    """What stands around each of the results."""
    images = [x for x in operands if isinstance(x, Blocked)]
    if not images[0].grows:  # as the others, which lie on it
        return [0] * len(op.outputs)
    values = [x.pad_value for x in images]
    pixels = [
        _pixel(context, x, of, first, canvas) for x, of in zip(operands, op.inputs, strict=True)
    ]
    borders = [value for value in values if isinstance(value, Border)]
    if borders:
        if len({*values}) > 1:
            raise Declined("images are padded differently")
        return borders[:1] * len(op.outputs)
    arrays = [x.tiles if isinstance(x, Blocked) else getattr(x, "array", x) for x in pixels]
    if op.name in OWN_DERIVATIVE:
        arrays += getattr(called(op.primitive, op.params), "consts", ())
    if any(isinstance(x, jax.core.Tracer) for x in arrays):
        results = run(context, _sized(context, op, pixels), pixels)
        return [Filled(r.tiles, f"{n}") for r, n in zip(results, op.outputs, strict=True)]
    with jax.ensure_compile_time_eval():
        results = run(context, _sized(context, op, pixels), pixels)
        tiles = [np.asarray(r.tiles) for r in results]
    return [_known(tile, f"{n}") for tile, n in zip(tiles, op.outputs, strict=True)]


def _known(tile: np.ndarray, name: str):
    """A number, where all channels have the same."""
    alike = tile.size and (tile == tile.flat[0]).all() and not np.iscomplexobj(tile)
    return tile.flat[0].item() if alike else Filled(tile, name)


def _pixel(context, x, number, first: Blocked, canvas):
    """An operand as it is around the image, for one pixel."""
    if isinstance(x, Blocked):
        if isinstance(x.pad_value, Border):
            return x
        if isinstance(x.pad_value, Filled):
            tile = x.pad_value.tile
        else:
            tile = np.full((1, 1, 1, *x.tiles.shape[3:]), x.pad_value, x.tiles.dtype)
        return Blocked(tile, x.axes)
    known = context.program.static(number)
    array = x.array if isinstance(x, Whole) else x
    array = array if known is None else known
    if np.ndim(array) != first.rank:
        return array
    for axis in first.axes:
        if array.shape[axis] == canvas[axis] > 1:
            one = array if known is None else known.take([0], axis)
            if known is None or not (one == array).all():
                raise Declined("meets what differs around a padded image")
            array = known = one
    return array
