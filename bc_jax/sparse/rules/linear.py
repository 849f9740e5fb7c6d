"""Matrix products: along channels on the tiles, along space with a known matrix (resizing).

`jax.image.resize` multiplies each axis of space by a matrix of interpolation weights, or, for
nearest neighbours, picks pixels by a known index. Both are a matrix that is known while tracing and
whose rows of one block read only pixels near that block; so each tile reads a halo and is
multiplied by its own part of the matrix, whatever the method of interpolation.
"""

import itertools

import jax.numpy as jnp
import numpy as np

from bc_jax import lowering
from bc_jax.sparse import halo as halos
from bc_jax.sparse import sides
from bc_jax.sparse.borders import Border, split_index
from bc_jax.sparse.halo import Halo
from bc_jax.sparse.program import Op, Program
from bc_jax.sparse.rules.attention import against_all
from bc_jax.sparse.rules.elementwise import leader, with_stream
from bc_jax.sparse.rules.reductions import after_removing, sum_pixels, sums_pixels
from bc_jax.sparse.rules.registry import rule
from bc_jax.sparse.values import NO_PAD, Blocked, Declined, Resized, Whole, plain

# Pixels by which results may always be from what they read.
_NEAR = 2


@rule("dot_general")
def dot_general(context, op, lhs, rhs):
    """Dense layers and 1 x 1 convolutions, products per pixel, and resizing."""
    (lhs_contract, rhs_contract), (lhs_batch, _) = op.params["dimension_numbers"]
    for x, contract, left in ((lhs, lhs_contract, True), (rhs, rhs_contract, False)):
        resizes = isinstance(x, Resized) and len(contract) == 1 and not lhs_batch
        if resizes and contract[0] in x.axes:
            return _along_space(context, op, x, contract[0], left)
    lhs, rhs = context.finish(lhs), context.finish(rhs)
    if lhs_batch:
        return _batch(context, op, lhs, rhs)
    if isinstance(lhs, Blocked) and isinstance(rhs, Blocked):
        raise Declined("mixes pixels with pixels")
    left = not isinstance(rhs, Blocked)
    x, other = (lhs, rhs) if left else (rhs, lhs)
    x_contract, other_contract = (
        (lhs_contract, rhs_contract) if left else (rhs_contract, lhs_contract)
    )
    if not isinstance(x, Blocked):
        # A dense layer on a whole value: back into blocks where its last axis is contracted.
        rank = len(x.shape) if hasattr(x, "shape") else 0
        if rank < 4 or tuple(x_contract) != (rank - 1,):
            raise Declined("")
        x = context.image(x)
        if x is None or rank - 1 in x.axes:
            raise Declined("")
    if any(a in x.axes for a in x_contract):
        if len(x_contract) != 1 or x.merged:
            raise Declined("contracts space together with another axis")
        return _along_space(context, op, x, x_contract[0], left)
    x = leader([x])
    contract = (tuple(x.tile_axis(a) for a in x_contract), tuple(other_contract))
    other = plain(other)
    tiles = lowering.dot_general(
        x.tiles,
        other,
        (contract, ((), ())),
        op.params["precision"],
        op.params["preferred_element_type"],
    )
    # Tiles now end with x's free axes, then the other's.
    free = [a for a in range(x.rank) if a not in x_contract]
    added = other.ndim - len(other_contract)
    if left:
        return x.new(tiles, tuple(free.index(a) for a in x.axes))
    kept = tiles.ndim - added
    order = (0, 1, 2, *range(kept, tiles.ndim), *range(3, kept))
    return x.new(jnp.transpose(tiles, order), tuple(added + free.index(a) for a in x.axes))


def _batch(context, op, lhs, rhs) -> Blocked | Whole:
    """Products of each pixel with itself, summed over pixels or not, or with all others."""
    blocked = [leader([x]) for x in (lhs, rhs) if isinstance(x, Blocked)]
    if not blocked:
        raise Declined("")
    if len(blocked) == 2:
        lhs, rhs = blocked = _of_one_batch(context, op, *blocked)
    if len(blocked) == 2 and _alike(op, *blocked):
        return _per_pixel(op, *blocked)
    if len(blocked) == 2 and sums_pixels(op, *blocked):
        return sum_pixels(context, op, *blocked)
    return against_all(context, op, lhs, rhs)


def _of_one_batch(context, op, lhs: Blocked, rhs: Blocked) -> list[Blocked]:
    """The operands with the axes of streams where the batch has both, if there is one stream."""
    pairs = list(zip(*op.params["dimension_numbers"][1], strict=True))
    if (lhs.stream, rhs.stream) in pairs:
        return [lhs, rhs]
    for a, b in pairs:
        moved = with_stream(context, lhs, a), with_stream(context, rhs, b)
        if (moved[0].stream, moved[1].stream) == (a, b):
            return list(moved)
    return [lhs, rhs]


def _alike(op, lhs: Blocked, rhs: Blocked) -> bool:
    """Whether two blocked values meet pixel by pixel."""
    pairs = list(zip(*op.params["dimension_numbers"][1], strict=True))
    meet = all((a, b) in pairs for a, b in zip(lhs.axes, rhs.axes, strict=True))
    return meet and lhs.tiles.shape[1:3] == rhs.tiles.shape[1:3]


def _per_pixel(op, lhs: Blocked, rhs: Blocked) -> Blocked:
    """A product of two blocked values for each pixel."""
    (lhs_contract, rhs_contract), (lhs_batch, rhs_batch) = op.params["dimension_numbers"]
    pairs = list(zip(lhs_batch, rhs_batch, strict=True))
    batch = sorted(pairs, key=lambda ab: lhs.tile_axis(ab[0]))
    tiles = lowering.dot_general(
        lhs.tiles,
        rhs.tiles,
        (
            (lhs.tile_axes(lhs_contract), rhs.tile_axes(rhs_contract)),
            (lhs.tile_axes(a for a, _ in batch), rhs.tile_axes(b for _, b in batch)),
        ),
        op.params["precision"],
        op.params["preferred_element_type"],
    )
    axes = tuple(pairs.index((a, b)) for a, b in zip(lhs.axes, rhs.axes, strict=True))
    # Batch axes other than space: from the tiles' order to the program's.
    others = [pair for pair in batch if pair[0] not in lhs.axes]
    wanted = [pair for pair in pairs if pair[0] not in lhs.axes]
    order = [3 + others.index(pair) for pair in wanted]
    rest = range(3 + len(others), tiles.ndim)
    return lhs.new(jnp.transpose(tiles, (0, 1, 2, *order, *rest)), axes)


def _along_space(context, op, x, axis: int, left: bool):
    matrix = known_matrix(context.program, op, 1 - left, axis)
    if matrix is None:
        raise Declined("contracts space with a matrix that is computed, or is too large to look at")
    matrix = matrix.astype(np.float64)
    # The product puts the new axis last, or first where the matrix stands on the left.
    free = [a for a in range(x.rank) if a != axis]
    at = {a: (i if left else i + 1) for i, a in enumerate(free)}
    at[axis] = x.rank - 1 if left else 0
    return _resize(context, x, axis, matrix, op.out_avals[0].dtype, at)


def _resize(context, x: Blocked | Resized, axis: int, matrix: np.ndarray, dtype, at) -> Resized:
    """Note that an axis of space is to be multiplied by a matrix; axis `a` moves to `at[a]`."""
    if axis == x.axes[0]:
        raise Declined("mixes streams")
    if x.axes[1] == x.axes[2]:
        raise Declined("picks from the axis that rows and columns were merged into")
    along = x.axes[1:].index(axis)
    if isinstance(x, Resized) and x.maps[along] is not None:
        x = context.finish(x)  # one matrix after the other
    source = x.source if isinstance(x, Resized) else x
    if source.grows:
        raise Declined("resizes an image that was padded")
    # Of an image that was cut, all but what is left counts for nothing.
    matrix = np.pad(matrix, ((0, 0), tuple(-side for side in source.pad[along])))
    side = sides.after(None, sides.by_matrix(matrix), matrix.shape[1])
    if not sides.at_own_places(side, context.grid[along], near=_NEAR / matrix.shape[1]):
        raise Declined("moves pixels to other blocks")
    maps = list(x.maps) if isinstance(x, Resized) else [None, None]
    maps[along] = lowering.axis_map(matrix, context.grid[along], source.tiles.shape[1 + along])
    if maps[along] is None:
        raise Declined("mixes all of an axis of space")
    context.taps = float(np.count_nonzero(matrix)) / matrix.shape[0]
    context.halo_read = _halo(maps)
    axes = tuple(at[a] for a in x.axes)
    return Resized(source, axes, tuple(maps), dtype)


def _halo(maps) -> Halo:
    rows, columns = [(m.before, m.after) if m else (0, 0) for m in maps]
    return Halo(*rows, *columns)


def finish_resize(context, x: Resized) -> Blocked:
    """Carry out a resizing: one halo for both axes, as one layer."""
    how = {"maps": x.maps, "dtype": x.dtype}
    tiles = context.at_once(x.source, _halo(x.maps), halos.exchange_and_resize, **how)
    if tiles is None:
        tiles = context.exchange(x.source, _halo(x.maps), 0)
        tiles = halos.resize(tiles, context.blocks, **how)
    cut = tuple((0, 0) if m else sides for m, sides in zip(x.maps, x.source.pad, strict=True))
    return Blocked(tiles, x.axes, key=x.key, pad=cut)


@rule("gather")
def gather(context, op, x, indices):
    """Picks along axes by a known index of each: nearest-neighbour resizing, or channels.

    And from a table or from a pixel's own channels by pixels' own indices.
    """
    indices = context.finish(indices)
    if isinstance(indices, Blocked) and not isinstance(x, Blocked | Resized):
        return _look_up(op, x, leader([indices]))
    if isinstance(indices, Blocked):
        return _pick_own(op, leader([context.finish(x)]), leader([indices]))
    if not isinstance(x, Blocked | Resized):
        raise Declined("")
    numbers, shape = op.params["dimension_numbers"], op.in_shapes[0]
    axes = numbers.start_index_map
    one = context.program.static(op.inputs[1])
    if one is not None and one.ndim == 1:
        return _pick_one(op, leader([context.finish(x)]), one.tolist())
    found = gathered(context.program, op)
    border = _border(context, op, x, axes, found)
    if border is not None:
        return border
    if not (isinstance(x, Blocked) and {*axes} <= {*x.axes}):
        x = x if isinstance(x, Resized) else leader([x])
    if not found or sorted(axes) != list(numbers.collapsed_slice_dims):
        raise Declined("gathers at places that are computed")
    sizes = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    if op.params["slice_sizes"] != sizes:
        raise Declined("gathers a part of space")
    if any(
        index.size and (index.min() < 0 or index.max() >= shape[axis])
        for axis, (_, index) in found.items()
    ):
        raise Declined("gathers outside the array")
    if x.axes[0] in axes:
        raise Declined("selects streams")
    kept = [a for a in range(x.rank) if a not in axes]
    at = dict(zip(kept, numbers.offset_dims, strict=True))
    at |= {axis: place for axis, (place, _) in found.items()}
    stays = {a: a for a in range(x.rank)}
    for axis, (_, index) in found.items():
        x = _pick(context, op, x, axis, index, at if axis == axes[-1] else stays)
    return x


def _pick_one(op, x: Blocked, place: list[int]) -> Blocked:
    """A single place of channels, whose axis the result has not."""
    numbers, shape = op.params["dimension_numbers"], op.in_shapes[0]
    axes = numbers.start_index_map
    sizes = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    whole = op.params["slice_sizes"] == sizes and numbers.collapsed_slice_dims == axes
    if not whole or {*axes} & {*x.axes} or len(axes) > 1 or not 0 <= place[0] < shape[axes[0]]:
        raise Declined("gathers a part of space, or of several axes")
    tiles = jnp.take(x.tiles, place[0], axis=x.tile_axis(axes[0]))
    return x.new(tiles, after_removing(x.axes, axes))


def _look_up(op, table, indices: Blocked) -> Blocked:
    """What pixels' indices, which are along the last axis, pick from a table."""
    numbers = op.params["dimension_numbers"]
    if numbers.operand_batching_dims or indices.rank - 1 in indices.axes:
        raise Declined("gathers at places that are computed")
    batch, offsets = indices.tiles.ndim - 1, numbers.offset_dims
    behind = tuple(range(batch, batch + len(offsets)))
    (tiles,) = op.bind(
        plain(table), indices.tiles, dimension_numbers=numbers._replace(offset_dims=behind)
    )
    places = [a for a in range(len(op.out_avals[0].shape)) if a not in offsets]
    return _placed(indices, tiles, places, [*(places[a] for a in indices.rest[:-1]), *offsets])


def _pick_own(op, x: Blocked, indices: Blocked) -> Blocked:
    """What pixels' indices pick from the same pixels' channels, as `jnp.take_along_axis` does."""
    numbers, last = op.params["dimension_numbers"], indices.rank - 1
    batch = numbers.operand_batching_dims, numbers.start_indices_batching_dims
    pairs = list(zip(x.axes, indices.axes, strict=True))
    meet = {*pairs} <= {*zip(*batch, strict=True)} and x.tiles.shape[:3] == indices.tiles.shape[:3]
    if not meet or last in indices.axes:
        raise Declined("gathers at places that are computed")
    if numbers.offset_dims:  # each index of several channels
        if {x.axes, indices.axes} != {(0, 1, 2)} or min(numbers.offset_dims) < 3:
            raise Declined("gathers at places that are computed")
        return indices.new(*op.bind(x.tiles, indices.tiles))
    both = zip(x.tile_axes(batch[0]), indices.tile_axes(batch[1]), strict=True)
    of_operand, of_indices = zip(*sorted(both), strict=True)
    picked = x.tile_axes(numbers.start_index_map)
    numbers = numbers._replace(
        operand_batching_dims=of_operand,
        start_indices_batching_dims=of_indices,
        collapsed_slice_dims=tuple(sorted(picked)),
        start_index_map=picked,
    )
    ones = (1,) * x.tiles.ndim
    (tiles,) = op.bind(x.tiles, indices.tiles, dimension_numbers=numbers, slice_sizes=ones)
    return indices.new(tiles)


def _placed(x: Blocked, tiles, places, rest: list[int]) -> Blocked:
    """Tiles as a value: where the program has the axes of `x`, and where the tiles' others."""
    order = sorted(range(len(rest)), key=rest.__getitem__)
    tiles = jnp.transpose(tiles, (0, 1, 2, *(3 + i for i in order)))
    return x.new(tiles, tuple(places[a] for a in x.axes))


def per_pixel(op, x: Blocked, kernel) -> Blocked:
    """A convolution whose window is a pixel, of whatever rank: a dense layer."""
    p = op.params
    lhs, rhs, out = p["dimension_numbers"]
    matrix = jnp.transpose(plain(kernel), (rhs[1], rhs[0], *rhs[2:])).reshape(
        -1, kernel.shape[rhs[0]]
    )
    contract = ((x.tile_axis(lhs[1]),), (0,))
    how = p["precision"], p["preferred_element_type"]
    tiles = lowering.dot_general(x.tiles, matrix, (contract, ((), ())), *how)
    places = {a: b for a, b in zip(lhs, out, strict=True)}
    return _placed(x, tiles, places, [*(places[a] for a in x.rest if a != lhs[1]), out[1]])


def _border(context, op, x, axes, found) -> Blocked | None:
    """The value with pixels of its own around the image; None where others are picked."""
    offsets, (axis, *others) = op.params["dimension_numbers"].offset_dims, axes
    if not found or others or axis not in x.axes[1:] or axis in offsets:
        return None
    around = split_index(found[axis][1], op.in_shapes[0][axis])
    x = context.finish(x) if around else x
    if around is None or x.merged:
        return None
    along, before = x.axes[1:].index(axis), x.pad_value if x.pad != NO_PAD else Border()
    if x.pad[along] != (0, 0) or not isinstance(before, Border):
        raise Declined("the image is padded twice")
    border = before.along(along, *around)
    if max(border.reach(along), *map(len, around)) > x.tiles.shape[1 + along]:
        raise Declined("the image is padded with pixels of more than a block, or by more")
    pad = tuple(tuple(map(len, around)) if i == along else p for i, p in enumerate(x.pad))
    return x.same(pad=pad, pad_value=border)


def known_matrix(program: Program, op: Op, number: int, axis: int) -> np.ndarray | None:
    """The matrix [out, in] that a product multiplies an operand's axis by.

    None for a product of another kind, or a matrix that is computed.
    """
    (contract, other), _ = (pair[:: 1 - 2 * number] for pair in op.params["dimension_numbers"])
    if tuple(contract) != (axis,):
        return None
    matrix = program.static(op.inputs[1 - number])
    return None if matrix is None or matrix.ndim != 2 else np.moveaxis(matrix, other[0], 1)


def gathered(program: Program, op: Op) -> dict[int, tuple[int, np.ndarray]]:
    """The axes along which a gather picks at known places: where the result has each; its index.

    What is picked stands where no offset dimension does. Empty where places are computed.
    """
    numbers = op.params["dimension_numbers"]
    axes, offsets = numbers.start_index_map, numbers.offset_dims
    found = picks(program.static(op.inputs[1]), len(axes)) or []
    behind = [a for a in range(len(op.out_avals[0].shape)) if a not in offsets]
    return {axis: (behind[at], index) for axis, (at, index) in zip(axes, found, strict=False)}


def picks(indices: np.ndarray | None, axes: int) -> list[tuple[int, np.ndarray]] | None:
    """For each of so many axes, which dimension of the indices it goes along, and its index there.

    Args:
        indices: [*dimensions, axes], or None where they are not known.
        axes: as many as there are dimensions.

    Returns:
        None where an axis' index is not of one dimension, and each of another.
    """
    if indices is None or indices.ndim != 1 + axes:
        return None
    for order in itertools.permutations(range(axes)):
        lines = [
            indices[(*(slice(None if a == where else 1) for a in range(axes)), axis)]
            for axis, where in enumerate(order)
        ]
        if all((indices[..., axis] == line).all() for axis, line in enumerate(lines)):
            return [(where, line.ravel()) for where, line in zip(order, lines, strict=True)]
    return None


def _pick(context, op, x: Blocked | Resized, axis: int, index: np.ndarray, at):
    """Some places of an axis of the operation's operand; each axis `a` moves to `at[a]`."""
    if axis in x.axes:
        matrix = np.zeros((index.size, op.in_shapes[0][axis]))
        matrix[np.arange(index.size), index] = 1
        return _resize(context, x, axis, matrix, op.out_avals[0].dtype, at)
    x = context.finish(x)
    result = x.new(jnp.take(x.tiles, index, axis=x.tile_axis(axis)))
    rest = sorted(range(len(x.rest)), key=lambda i: at[x.rest[i]])
    tiles = jnp.transpose(result.tiles, (0, 1, 2, *(3 + i for i in rest)))
    return x.new(tiles, tuple(at[a] for a in x.axes))
