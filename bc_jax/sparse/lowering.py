"""How an operation runs on tiles, by backend and shape; the one place where speed is decided.

Tiles that carry their halo are a batch of small images. `compiler_options` says how to compile
programs so that the backend handles such batches well.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

# XLA's YNNPACK convolution is several times slower than its Eigen one on small images without
# padding, which is what tiles with a halo are; an empty list of fusions leaves them to Eigen.
_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}


def compiler_options() -> dict[str, str]:
    """What to give `jax.jit(..., compiler_options=)` for block-sparse programs on this backend."""
    return dict(_CPU_OPTIONS) if _on_cpu() and _has_cpu_options() else {}


@functools.cache
def _has_cpu_options() -> bool:
    try:
        jax.jit(lambda: 0, compiler_options=_CPU_OPTIONS).lower().compile()
    except Exception:  # a version of XLA without the option, nor the slow convolution
        return False
    return True


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# A CPU's product of patches and kernel is slow where its results have few features.
_FEW_FEATURES = 24
# Tiles with fewer channels are quickly copied once for each of a kernel's places.
_FEW_CHANNELS = 32


def convolve(
    tiles: jax.Array,
    kernel: jax.Array,
    *,
    strides: tuple[int, int],
    padding,
    lhs_dilation: tuple[int, int],
    rhs_dilation: tuple[int, int],
    groups: int,
    precision=None,
    preferred=None,
) -> jax.Array:
    """Convolve tiles that carry their halo: [K, hp, wp, C] with [kh, kw, C/groups, D]."""
    size, features, none = kernel.shape[:2], kernel.shape[3], (1, 1)
    accuracy = {"precision": precision, "preferred_element_type": preferred}
    if size == none and groups == 1 and lhs_dilation == none:
        return _multiply(tiles[:, :: strides[0], :: strides[1]], kernel[0, 0], **accuracy)

    def convolution(kernel, strides):
        return jax.lax.conv_general_dilated(
            tiles,
            kernel,
            strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            dimension_numbers=_DIMENSIONS,
            feature_group_count=groups,
            **accuracy,
        )

    if _on_cpu() and groups == 1 and strides == rhs_dilation == none:
        if lhs_dilation == size and tuple(padding) == tuple((g - 1, g - 1) for g in size):
            return _enlarge(tiles, kernel, **accuracy)
        width = tiles.shape[2] + sum(padding[1]) - size[1] + 1
        if lhs_dilation == none and features < _FEW_FEATURES and width % 2 == 0:
            result = convolution(_for_two_pixels(kernel), (1, 2))
            return result.reshape(*result.shape[:2], width, features)
    return convolution(kernel, strides)


def _multiply(tiles: jax.Array, matrix: jax.Array, **accuracy) -> jax.Array:
    """Multiply each pixel's channels: [K, h, w, C] by [C, D]."""
    return jax.lax.dot_general(tiles, matrix, (((3,), (0,)), ((), ())), **accuracy)


def _for_two_pixels(kernel: jax.Array) -> jax.Array:
    """A kernel that gives two neighbouring results at once: [kh, kw + 1, C, 2 D].

    A third more work for a 3x3 kernel, and twice the features.
    """
    pads = [(0, 0)] * kernel.ndim
    pads[1] = (0, 1)
    first = jnp.pad(kernel, pads)
    pads[1] = (1, 0)
    return jnp.concatenate([first, jnp.pad(kernel, pads)], axis=-1)


def _enlarge(tiles: jax.Array, kernel: jax.Array, **accuracy) -> jax.Array:
    """A transposed convolution in which every pixel makes a patch of its own, the kernel's size."""
    k, h, w, channels = tiles.shape
    down, right, _, features = kernel.shape
    matrix = jnp.transpose(kernel[::-1, ::-1], (2, 0, 1, 3)).reshape(channels, -1)
    patches = _multiply(tiles, matrix, **accuracy).reshape(k, h, w, down, right, features)
    patches = jnp.transpose(patches, (0, 1, 3, 2, 4, 5))
    return patches.reshape(k, h * down, w * right, features)


def reads_taps(tile: tuple[int, ...], kernel: tuple[int, ...], padded: tuple[int, int]) -> bool:
    """Whether a dilated convolution is faster on shifted tiles than on tiles with their halo.

    Args:
        tile: (h, w, C).
        kernel: (kh, kw, C, D).
        padded: (height, width) of a tile with its halo.
    """
    if not _on_cpu():
        return False
    h, w, channels = tile
    return channels <= _FEW_CHANNELS or math.prod(kernel[:2]) * h * w <= math.prod(padded)


def convolve_taps(
    taps: list[jax.Array], kernel: jax.Array, *, precision=None, preferred=None
) -> jax.Array:
    """Convolve tiles of which there is a shifted one for each of the kernel's places.

    Args:
        taps: [K, h, w, C] each, row by row of the kernel.
        kernel: [kh, kw, C, D].
        precision: as `jax.lax.dot_general` takes it.
        preferred: likewise, the result's dtype; None is the tiles'.
    """
    *_, channels, features = kernel.shape
    if channels <= features:
        matrix = kernel.reshape(-1, features)
        wide = jnp.concatenate(taps, axis=-1)
        return _multiply(wide, matrix, precision=precision, preferred_element_type=preferred)
    result = preferred or jnp.result_type(taps[0], kernel)
    summed = jnp.promote_types(result, jnp.float32)
    matrices = kernel.reshape(-1, channels, features)
    products = [
        _multiply(tap, matrix, precision=precision, preferred_element_type=summed)
        for tap, matrix in zip(taps, matrices, strict=True)
    ]
    return functools.reduce(jnp.add, products).astype(result)


def surround(tiles: jax.Array, around: dict[tuple[int, int], jax.Array]) -> jax.Array:
    """Put pieces around tiles, those that a CPU copies least for, or a GPU starts least kernels.

    Args:
        tiles: [K, h, w, *rest].
        around: by the step (dy, dx) to where it lies, a piece [K, *, *, *rest]: at sides (-1, 0),
            (1, 0), (0, -1) and (0, 1), and at the corners between those that there are.

    Returns:
        [K, top + h + bottom, left + w + right, *rest].
    """
    fits = _surround_in_place if _on_cpu() else _surround_plainly
    return fits(tiles, around)


def _surround_plainly(tiles, around) -> jax.Array:
    pieces = around | {(0, 0): tiles}
    rows = [
        jnp.concatenate([pieces[dy, dx] for dx in (-1, 0, 1) if (dy, dx) in pieces], axis=2)
        for dy in (-1, 0, 1)
        if (dy, 0) in pieces
    ]
    return jnp.concatenate(rows, axis=1)


def _surround_in_place(tiles, around) -> jax.Array:
    """One padded copy of the tiles, fused with what computes them, and the pieces written to it."""
    h, w = tiles.shape[1:3]

    def size(dy, dx):
        return around[dy, dx].shape[1 if dy else 2] if (dy, dx) in around else 0

    top, left = size(-1, 0), size(0, -1)
    pads = [(0, 0, 0), (top, size(1, 0), 0), (left, size(0, 1), 0)]
    pads += [(0, 0, 0)] * (tiles.ndim - 3)
    result = jax.lax.pad(tiles, jnp.zeros((), tiles.dtype), pads)
    rows, columns = {-1: 0, 0: top, 1: top + h}, {-1: 0, 0: left, 1: left + w}
    for (dy, dx), piece in around.items():
        start = (0, rows[dy], columns[dx], *(0,) * (tiles.ndim - 3))
        result = jax.lax.dynamic_update_slice(result, piece, start)
    return result


_POOL = {
    "reduce_window_max": jnp.maximum,
    "reduce_window_min": jnp.minimum,
    "reduce_window_sum": jnp.add,
}


def pool(tiles: jax.Array, name: str, *, size, strides, dilation, out) -> jax.Array:
    """Pool tiles that carry their halo, one axis after the other, by shifted slices."""
    combine = _POOL[name]
    for axis in (1, 2):
        i = axis - 1
        parts = [
            jax.lax.slice_in_dim(
                tiles,
                place * dilation[i],
                place * dilation[i] + (out[i] - 1) * strides[i] + 1,
                strides[i],
                axis,
            )
            for place in range(size[i])
        ]
        result = parts[0]
        for part in parts[1:]:
            result = combine(result, part)
        tiles = result
    return tiles


@dataclasses.dataclass(frozen=True, eq=False)
class AxisMap:
    """A known matrix along one axis of space, as each tile applies it.

    Attributes:
        before: pixels that it reads in front of a tile.
        after: pixels that it reads behind it.
        blocks: tiles along the axis.
        tile: pixels per tile.
        out: results per tile.
        taps: weights by phase and offset, see `find_taps`; None where the matrix has no such form.
        parts: each block's part of the matrix, [blocks, out, before + tile + after]; zero beyond
            the image.
    """

    before: int
    after: int
    blocks: int
    tile: int
    out: int
    taps: list[dict[int, float]] | None
    parts: np.ndarray


def axis_map(matrix: np.ndarray, blocks: int, tile: int) -> AxisMap | None:
    """The map of a matrix [out, in]; None where its results do not belong to blocks."""
    outputs, inputs = matrix.shape
    if outputs % blocks or inputs != blocks * tile:
        return None
    out = outputs // blocks
    taps = find_taps(matrix, out, tile)
    before = after = 0
    for block in range(blocks):
        read = np.flatnonzero(np.any(matrix[block * out : (block + 1) * out], axis=0))
        if read.size:
            before = max(before, block * tile - int(read[0]))
            after = max(after, int(read[-1]) + 1 - (block + 1) * tile)
    if max(before, after) > max(tile, 4):
        return None
    if taps is not None:
        # Beyond the image the taps repeat its last pixel, so they need the halo there too.
        offsets = [offset for weights in taps for offset in weights]
        before = max(before, -min(offsets))
        after = max(after, 1 + max(offsets) - max(1, tile // out))
    padded = np.pad(matrix, ((0, 0), (before, after)))
    width = before + tile + after
    parts = [padded[b * out : (b + 1) * out, b * tile : b * tile + width] for b in range(blocks)]
    return AxisMap(before, after, blocks, tile, out, taps, np.stack(parts))


def apply_axis_map(tiles, axis_map: AxisMap, place, axis: int, dtype) -> jax.Array:
    """Apply a map to tiles that carry their halo along `axis` (1 or 2).

    Args:
        tiles: [K, h, w, *rest].
        axis_map: the map.
        place: int32 [K], each tile's block along the axis.
        axis: 1 or 2.
        dtype: of the result.
    """
    if axis_map.taps is None:
        return multiply_axis(tiles, axis_map.parts, place, axis, dtype)
    return resample(_repeat_edges(tiles, axis_map, place, axis), axis_map, axis, dtype)


def _repeat_edges(tiles, axis_map: AxisMap, place, axis: int) -> jax.Array:
    """Fill the halo beyond the image with the image's last pixel."""
    front, back = axis_map.before, axis_map.before + axis_map.tile

    def cut(start, stop):
        return jax.lax.slice_in_dim(tiles, start, stop, axis=axis)

    def at(block):
        return (place == block).reshape(-1, *(1,) * (tiles.ndim - 1))

    parts = [cut(front, back)]
    if axis_map.before:
        parts.insert(0, jnp.where(at(0), cut(front, front + 1), cut(0, front)))
    if axis_map.after:
        last = cut(back, back + axis_map.after)
        parts.append(jnp.where(at(axis_map.blocks - 1), cut(back - 1, back), last))
    return jnp.concatenate(parts, axis=axis)


def multiply_axis(tiles, parts: np.ndarray, place, axis: int, dtype) -> jax.Array:
    """Multiply one axis of each tile by its block's matrix.

    Args:
        tiles: [K, h, w, *rest] with their halo along `axis`.
        parts: [blocks, out, in].
        place: int32 [K], each tile's block along the axis.
        axis: 1 or 2.
        dtype: of the result.
    """
    compute = jnp.promote_types(dtype, jnp.float32)
    alike = bool((np.ptp(parts, axis=0) == 0).all())
    parts = jnp.asarray(parts, compute)
    moved = jnp.moveaxis(tiles, axis, -1).astype(compute)
    shape = moved.shape[1:-1]
    moved = moved.reshape(moved.shape[0], -1, moved.shape[-1])
    highest = jax.lax.Precision.HIGHEST
    if alike:
        result = jnp.einsum("kxi,oi->kxo", moved, parts[0], precision=highest)
    else:
        result = jnp.einsum("kxi,koi->kxo", moved, parts[place], precision=highest)
    result = result.reshape(result.shape[0], *shape, -1)
    return jnp.moveaxis(result, -1, axis).astype(dtype)


def find_taps(matrix: np.ndarray, out: int, tile: int) -> list[dict[int, float]] | None:
    """The few weights of a resampling by an integer factor, where the matrix is one.

    Args:
        matrix: [outputs, inputs]; beyond the image it repeats the image's last pixel.
        out: results per tile.
        tile: pixels per tile.

    Returns:
        For each of `up` phases the weight at each pixel offset, `up` being out/tile (or 1 where the
        image shrinks); None where the matrix is of another kind.
    """
    if out % tile and tile % out:
        return None
    up, down = max(1, out // tile), max(1, tile // out)
    outputs, inputs = matrix.shape
    middle = outputs // up // 2
    taps = [
        {int(i) - middle * down: float(matrix[middle * up + phase, i])
         for i in np.flatnonzero(matrix[middle * up + phase])}
        for phase in range(up)
    ]  # fmt: skip
    if sum(map(len, taps)) > 8 * up:
        return None
    expected = np.zeros_like(matrix)
    for row in range(outputs):
        for offset, weight in taps[row % up].items():
            expected[row, np.clip(row // up * down + offset, 0, inputs - 1)] += weight
    return taps if np.allclose(expected, matrix, atol=1e-6) else None


def resample(tiles, axis_map: AxisMap, axis: int, dtype) -> jax.Array:
    """Apply taps along one axis of tiles that carry their halo: slices, weights and sums."""
    up = len(axis_map.taps)
    count = axis_map.out // up
    step = axis_map.tile // count
    raise_to = jnp.promote_types(dtype, jnp.float32)
    phases = []
    for weights in axis_map.taps:
        total = None
        for offset, weight in weights.items():
            start = axis_map.before + offset
            part = jax.lax.slice_in_dim(tiles, start, start + (count - 1) * step + 1, step, axis)
            if weight != 1:
                part = part.astype(raise_to) * jnp.asarray(weight, raise_to)
            total = part if total is None else total + part
        phases.append(total.astype(dtype))
    if up == 1:
        return phases[0]
    result = jnp.stack(phases, axis + 1)
    return result.reshape(*tiles.shape[:axis], axis_map.out, *tiles.shape[axis + 1 :])
