"""Matrix products: along channels on the tiles, along space with a known matrix (resizing).

`jax.image.resize` multiplies each axis of space by a matrix of interpolation weights, or, for
nearest neighbours, picks pixels by a known index. Both are a matrix that is known while tracing and
whose rows of one block read only pixels near that block; so each tile reads a halo and is
multiplied by its own part of the matrix, whatever the method of interpolation.
"""

import jax
import jax.numpy as jnp
import numpy as np

from bc_jax.sparse import lowering
from bc_jax.sparse.halo import Halo
from bc_jax.sparse.rules.elementwise import leader
from bc_jax.sparse.rules.registry import rule
from bc_jax.sparse.values import Blocked, Declined, plain


@rule("dot_general")
def dot_general(context, op, lhs, rhs):
    """Dense layers and 1 x 1 convolutions, products per pixel, and resizing."""
    (lhs_contract, rhs_contract), (lhs_batch, _) = op.params["dimension_numbers"]
    if isinstance(lhs, Blocked) and isinstance(rhs, Blocked):
        return _per_pixel(op, lhs, rhs)
    if lhs_batch:
        raise Declined("a batch of products with a value that is not blocked")
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
        x = context.as_blocked(x, (0, 1, 2))
        if x is None:
            raise Declined("")
    x = leader([x])
    if any(a in x.axes for a in x_contract):
        if len(x_contract) != 1:
            raise Declined("contracts space together with another axis")
        return _along_space(context, op, x, x_contract[0], other_contract[0], left)
    contract = (tuple(x.tile_axis(a) for a in x_contract), tuple(other_contract))
    other = plain(other)
    tiles = jax.lax.dot_general(
        x.tiles,
        other,
        (contract, ((), ())),
        precision=op.params["precision"],
        preferred_element_type=op.params["preferred_element_type"],
    )
    # Tiles now end with x's free axes, then the other's.
    free = [a for a in range(x.rank) if a not in x_contract]
    added = other.ndim - len(other_contract)
    if left:
        return x.new(tiles, tuple(free.index(a) for a in x.axes))
    kept = tiles.ndim - added
    order = (0, 1, 2, *range(kept, tiles.ndim), *range(3, kept))
    return x.new(jnp.transpose(tiles, order), tuple(added + free.index(a) for a in x.axes))


def _per_pixel(op, lhs: Blocked, rhs: Blocked) -> Blocked:
    """A product of two blocked values for each pixel."""
    (lhs_contract, rhs_contract), (lhs_batch, rhs_batch) = op.params["dimension_numbers"]
    lhs, rhs = leader([lhs]), leader([rhs])
    pairs = list(zip(lhs_batch, rhs_batch, strict=True))
    if lhs.tiles.shape[1:3] != rhs.tiles.shape[1:3]:
        raise Declined("operands lie differently in space")
    if any((a, b) not in pairs for a, b in zip(lhs.axes, rhs.axes, strict=True)):
        raise Declined("mixes pixels with pixels")
    batch = sorted(pairs, key=lambda ab: lhs.tile_axis(ab[0]))
    tiles = jax.lax.dot_general(
        lhs.tiles,
        rhs.tiles,
        (
            (
                tuple(lhs.tile_axis(a) for a in lhs_contract),
                tuple(rhs.tile_axis(b) for b in rhs_contract),
            ),
            (tuple(lhs.tile_axis(a) for a, _ in batch), tuple(rhs.tile_axis(b) for _, b in batch)),
        ),
        precision=op.params["precision"],
        preferred_element_type=op.params["preferred_element_type"],
    )
    axes = tuple(pairs.index((a, b)) for a, b in zip(lhs.axes, rhs.axes, strict=True))
    # Batch axes other than space: from the tiles' order to the program's.
    others = [pair for pair in batch if pair[0] not in lhs.axes]
    wanted = [pair for pair in pairs if pair[0] not in lhs.axes]
    order = [3 + others.index(pair) for pair in wanted]
    rest = range(3 + len(others), tiles.ndim)
    return lhs.new(jnp.transpose(tiles, (0, 1, 2, *order, *rest)), axes)


def _along_space(context, op, x: Blocked, axis: int, matrix_axis: int, left: bool) -> Blocked:
    matrix = context.program.static(op.inputs[1] if left else op.inputs[0])
    if axis == x.axes[0] or matrix is None or matrix.ndim != 2:
        raise Declined("contracts space with a matrix that is computed")
    matrix = np.moveaxis(matrix, matrix_axis, 1).astype(np.float64)  # [out, in]
    dtype = op.out_avals[0].dtype
    result = apply_matrix(context, x, axis, matrix, dtype)
    # The product puts the new axis last, or first where the matrix stands on the left.
    free = [a for a in range(x.rank) if a != axis]
    at = {a: (i if left else i + 1) for i, a in enumerate(free)}
    at[axis] = x.rank - 1 if left else 0
    return _moved(result, at)


def _moved(x: Blocked, at: dict[int, int]) -> Blocked:
    """Rename the program's axes: axis `a` becomes `at[a]`."""
    axes = tuple(at[a] for a in x.axes)
    rest = sorted(range(len(x.rest)), key=lambda i: at[x.rest[i]])
    return x.new(jnp.transpose(x.tiles, (0, 1, 2, *(3 + i for i in rest))), axes)


def apply_matrix(context, x: Blocked, axis: int, matrix: np.ndarray, dtype) -> Blocked:
    """Multiply an axis of space by a known matrix [out, in], each tile by its own part."""
    along = x.axes[1:].index(axis)
    blocks, tile = context.grid[along], x.tiles.shape[1 + along]
    outputs, inputs = matrix.shape
    if outputs % blocks or inputs != blocks * tile:
        raise Declined("the result's pixels do not fall into the blocks")
    out = outputs // blocks
    before = after = 0
    for block in range(blocks):
        read = np.flatnonzero(np.any(matrix[block * out : (block + 1) * out], axis=0))
        if read.size:
            before = max(before, block * tile - read[0])
            after = max(after, read[-1] + 1 - (block + 1) * tile)
    if max(before, after) > max(tile, 4):
        raise Declined("mixes all of an axis of space")
    context.taps = float(np.count_nonzero(matrix)) / outputs
    taps = lowering.find_taps(matrix, out, tile)
    if taps is not None:
        offsets = [offset for weights in taps for offset in weights]
        before, after = max(0, -min(offsets)), max(0, 1 + max(offsets) - max(1, tile // out))
        if max(before, after) > tile:
            taps = None
    halo = Halo(before, after, 0, 0) if along == 0 else Halo(0, 0, before, after)
    if taps is not None:
        tiles = context.exchange(x, halo, "edge")
        result = lowering.resample(tiles, taps, 1 + along, before, tile, out, dtype)
    else:
        tiles = context.exchange(x, halo, 0)
        parts = lowering.matrix_per_block(matrix, blocks, before, after)
        place = context.blocks.coordinates()[1 + along]
        result = lowering.multiply_axis(tiles, parts, place, 1 + along, dtype)
    return x.new(result)


@rule("gather")
def gather(context, op, x, indices):
    """Picks along one axis by a known index: nearest-neighbour resizing, or channels."""
    x = leader([x])
    numbers, sizes = op.params["dimension_numbers"], op.params["slice_sizes"]
    index = context.program.static(op.inputs[1])
    single = len(numbers.start_index_map) == 1 and index is not None and index.ndim == 2
    if not single or numbers.collapsed_slice_dims != numbers.start_index_map:
        raise Declined("gathers at places that are computed")
    (axis,) = numbers.start_index_map
    shape = [context.shape(x)[a] for a in range(x.rank)]
    if any(sizes[a] != shape[a] for a in range(x.rank) if a != axis) or sizes[axis] != 1:
        raise Declined("gathers a part of space")
    index = index[:, 0]
    if index.size and (index.min() < 0 or index.max() >= shape[axis]):
        raise Declined("gathers outside the array")
    if axis == x.axes[0]:
        raise Declined("selects streams")
    if axis in x.axes:
        matrix = np.zeros((index.size, shape[axis]))
        matrix[np.arange(index.size), index] = 1
        result = apply_matrix(context, x, axis, matrix, x.tiles.dtype)
    else:
        result = x.new(jnp.take(x.tiles, index, axis=x.tile_axis(axis)))
    # The picked axis stands where no offset dimension does.
    offsets = list(numbers.offset_dims)
    picked = next(a for a in range(x.rank) if a not in offsets)
    kept = [a for a in range(x.rank) if a != axis]
    at = {a: offsets[i] for i, a in enumerate(kept)} | {axis: picked}
    return _moved(result, at)
