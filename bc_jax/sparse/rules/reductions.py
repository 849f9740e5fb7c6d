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
    # A value per block, or a row or column of them: small to remember, and cheap to reduce whole.
    others = tuple(a for a in x.tile_axes(axes) if a > 2)
    (parts,) = op.bind(_in_parts(context, x, space), axes=(2, 4, *(a + 2 for a in others)))
    parts = Blocked(jnp.expand_dims(parts, others), x.axes, key=f"{op.outputs[0]}_blocks")
    several = "one value" if len(space) == 2 else "one row or column"
    context.reason = f"reduces over all of space; cheap, from {several} per block"
    whole = context.dense(parts)
    (whole,) = op.bind(whole, axes=axes)
    return Whole(whole, whole.shape)


def _without_what_is_cut(context, op, x: Blocked) -> Blocked:
    """The image with what changes no result where the program has cut it."""
    if x.pad == NO_PAD or any(side > 0 for sides in x.pad for side in sides):
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
    cut = [_in_parts(context, x, (0, 1)) for x in (lhs, rhs)]
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


def _in_parts(context, x: Blocked, space) -> jax.Array:
    """Tiles [K, rows, h, columns, w, *rest], cut into blocks' parts along rows and columns, 0, 1.

    A tile is of one block, but where it is a whole frame.
    """
    k, *sides = x.tiles.shape[:3]
    for i in space:
        sides[i] = math.gcd(context.parts[i], sides[i])
    h, w, *rest = x.tiles.shape[1:]
    return x.tiles.reshape(k, sides[0], h // sides[0], sides[1], w // sides[1], *rest)
