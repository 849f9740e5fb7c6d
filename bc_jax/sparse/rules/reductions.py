"""Reductions: over channels on the tiles, over space from a part of each block.

What is reduced over space depends on all blocks; so each block's own part is remembered, which is
small, and the parts are reduced in every frame.
"""

import math

import jax
import jax.numpy as jnp

from bc_jax import lowering
from bc_jax.sparse.rules.elementwise import leader, tiles_of
from bc_jax.sparse.rules.registry import rule
from bc_jax.sparse.values import NO_PAD, Blocked, Declined, Whole, plain
from bc_jax.sparse.windows import fill

REDUCTIONS = ("reduce_max", "reduce_min", "reduce_sum", "reduce_prod", "reduce_and", "reduce_or")


def after_removing(axes: tuple[int, ...], removed) -> tuple[int, ...]:
    """Axes of a value's shape, after some others were removed from it."""
    return tuple(a - sum(r < a for r in removed) for a in axes)


@rule(*REDUCTIONS)
def reduce(context, op, x):
    """Over channels: on the tiles. Over space: blocks' own parts are remembered."""
    axes = tuple(op.params["axes"])
    if isinstance(x, Blocked) and {*x.axes[1:]} <= {*axes}:
        x = _without_what_is_cut(context, op, x)
    x = leader([x])
    space = [i for i, a in enumerate(x.axes[1:]) if a in axes]
    if not space and x.axes[0] in axes:
        raise Declined("reduces over streams")
    if not space:
        (tiles,) = op.bind(x.tiles, axes=x.tile_axes(axes))
        return x.new(tiles, after_removing(x.axes, axes))
    several = "one value" if len(space) == 2 else "one row or column"
    context.reason = f"reduces over all of space; cheap, from {several} per block"
    apart = _apart(context, op, x)
    whole = _sum_squares(context, op, *apart) if apart else _of_blocks(context, op, x)
    (whole,) = op.bind(whole, axes=axes)
    return Whole(whole, whole.shape)


def _of_blocks(context, op, x: Blocked) -> jax.Array:
    """An operation's result for each block, or row or column of one, where it reduces over those.

    That is small to remember, and cheap to reduce whole.
    """
    cut, axes = _in_parts(context, x, op.params["axes"])
    (parts,) = op.bind(cut, axes=axes)
    return _remembered(context, op, x, parts, "blocks")


def _remembered(context, op, x: Blocked, parts: jax.Array, name: str) -> jax.Array:
    """All blocks' parts, in the program's layout; axes are of size one where they were reduced."""
    parts = jnp.expand_dims(parts, [a for a in x.tile_axes(op.params["axes"]) if a > 2])
    return context.dense(Blocked(parts, x.axes, key=f"{op.outputs[0]}_{name}"))


def _apart(context, op, x: Blocked) -> tuple[Blocked, Whole] | None:
    """An image, and what is the same for all that is summed, whose differences are squared."""
    producers = context.program.producers
    square = producers.get(op.inputs[0])
    squares = square is not None and (
        square.name == "square"
        or (square.name == "integer_pow" and square.params["y"] == 2)
        or (square.name == "mul" and square.inputs[0] == square.inputs[1])
    )
    minus = producers.get(square.inputs[0]) if squares else None
    if op.name != "reduce_sum" or minus is None or minus.name != "sub":
        return None
    image, same = (context.values.get(of) for of in minus.inputs)
    if isinstance(same, Blocked):
        image, same = same, image
    if not (isinstance(image, Blocked) and isinstance(same, Whole) and same.varies):
        return None
    alike = image.axes == x.axes and image.pad == NO_PAD
    alike &= image.tiles.dtype == op.out_avals[0].dtype == x.tiles.dtype
    alike &= jnp.issubdtype(x.tiles.dtype, jnp.floating)
    fits = all(same.array.shape[a] == 1 for a in op.params["axes"])
    return (image, same) if alike and fits else None


def _sum_squares(context, op, image: Blocked, same: Whole) -> jax.Array:
    """Sums of squared differences, of blocks from what is this frame's, as a mean is in a variance.

    Blocks remember their own mean and the squared differences from it, by which those from any
    other number are known. (Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm for
    Computing Sample Variances, 1979.)
    """
    cut, axes = _in_parts(context, image, op.params["axes"])
    own = cut.mean(axes, keepdims=True)
    parts = {"means": own.squeeze(axes), "squares": jnp.square(cut - own).sum(axes)}
    means, squares = (_remembered(context, op, image, x, name) for name, x in parts.items())
    count = math.prod(cut.shape[a] for a in axes)
    return squares + count * jnp.square(means - same.array)


def _without_what_is_cut(context, op, x: Blocked) -> Blocked:
    """The image with what changes no result where the program has cut it."""
    if x.pad == NO_PAD or x.grows:
        return x
    (neutral,) = op.bind(jnp.zeros((0,), x.tiles.dtype), axes=(0,))
    cut = tuple((-low, -high) for low, high in x.pad)
    return x.new(fill(x.tiles, context.blocks, neutral, cut=cut))


@rule("reduce")
def reduce_by_function(context, op, *operands):
    """By a function of a program's own, over channels."""
    arrays, initial = operands[: len(op.outputs)], operands[len(op.outputs) :]
    x, dimensions = leader(arrays), tuple(op.params["dimensions"])
    if {*dimensions} & {*x.axes}:
        raise Declined("reduces over space, by a function that is not known")
    tiles = [tiles_of(context, array, x) for array in arrays]
    results = op.bind(*tiles, *map(plain, initial), dimensions=x.tile_axes(dimensions))
    return [x.new(result, after_removing(x.axes, dimensions)) for result in results]


def sums_pixels(op, lhs: Blocked, rhs: Blocked) -> bool:
    """Whether a product is a sum over the pixels that two values share, of each stream apart."""
    contract, batch = (list(zip(*axes, strict=True)) for axes in op.params["dimension_numbers"])
    stream, *space = zip(lhs.axes, rhs.axes, strict=True)
    meet = stream in batch and {*space} <= {*contract}
    return meet and lhs.tiles.shape[1:3] == rhs.tiles.shape[1:3]


def sum_pixels(context, op, lhs: Blocked, rhs: Blocked) -> Whole:
    """Such a product: blocks' own products are remembered, and summed.

    Raises:
        Declined: where they are larger than what they are made of, which is remembered instead.
    """
    contract, batch = op.params["dimension_numbers"]
    cut = [_in_parts(context, x, x.axes)[0] for x in (lhs, rhs)]
    out, streams = op.out_avals[0], batch[0].index(lhs.stream)
    parts = math.prod(context.parts) * math.prod(out.shape) // out.shape[streams]
    if parts > sum(math.prod(x.tiles.shape[1:]) for x in (lhs, rhs)):
        raise Declined("mixes pixels with pixels")

    def places(axes) -> list[tuple[int, ...]]:  # where both have them when cut; a part's own pixels
        both = zip((lhs, rhs), axes, strict=True)
        return [tuple(a + min(a, 2) for a in x.tile_axes(some)) for x, some in both]

    numbers = places(contract), [(1, 3, *axes) for axes in places(batch)]
    product = lowering.dot_general(
        *cut, numbers, op.params["precision"], op.params["preferred_element_type"]
    )
    tiles = jnp.moveaxis(product, 2 + streams, 0)  # [K, rows, columns, ...]
    context.in_parts = True
    whole = context.dense(Blocked(tiles, (0, 1, 2), key=f"{op.outputs[0]}_blocks"))
    whole = jnp.moveaxis(whole.sum(axis=(1, 2)).astype(out.dtype), 0, streams)
    return Whole(whole, whole.shape)


def _in_parts(context, x: Blocked, reduced) -> tuple[jax.Array, tuple[int, ...]]:
    """Tiles [K, rows, h, columns, w, *rest], cut into blocks' parts along rows and columns.

    A tile is of one block, but where it is a whole frame.

    Args:
        context: the walk's.
        x: the value.
        reduced: the program's axes that are to be reduced; along the others all stays apart.

    Returns:
        The tiles, and the axes of theirs to reduce.
    """
    k, *sides = x.tiles.shape[:3]
    for i, axis in enumerate(x.axes[1:]):
        if axis in reduced:
            sides[i] = math.gcd(context.parts[i], sides[i])
    h, w, *rest = x.tiles.shape[1:]
    cut = x.tiles.reshape(k, sides[0], h // sides[0], sides[1], w // sides[1], *rest)
    return cut, (2, 4, *(a + 2 for a in x.tile_axes(reduced) if a > 2))
