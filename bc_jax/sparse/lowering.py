"""How an operation runs on tiles, by backend and shape; the one place where speed is decided.

Each operation has a plain version, in which tiles are a batch, and faster ones that must equal it.
On a GPU the tiles are a natural batch. XLA's CPU convolution is slow on many small images: there
the tiles are stacked into tall images, whose rows that straddle two tiles are thrown away, a few
tiles at a time so that they stay in cache.
"""

import jax
import jax.numpy as jnp
import numpy as np

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


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
    if kernel.shape[:2] == (1, 1) and groups == 1 and lhs_dilation == (1, 1):
        tiles = tiles[:, :: strides[0], :: strides[1]]
        return jax.lax.dot_general(
            tiles, kernel[0, 0], (((3,), (0,)), ((), ())), precision, preferred
        )

    def plain(images, kernel):
        return jax.lax.conv_general_dilated(
            images,
            kernel,
            strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            dimension_numbers=_DIMENSIONS,
            feature_group_count=groups,
            precision=precision,
            preferred_element_type=preferred,
        )

    if jax.default_backend() != "cpu" or lhs_dilation != (1, 1) or groups > 1:
        return plain(tiles, kernel)
    return stacked(plain, tiles, kernel, strides[0], at_a_time=_tiles_at_a_time(tiles, kernel))


def _tiles_at_a_time(tiles: jax.Array, kernel: jax.Array) -> int:
    """How many tiles a stack holds: about as many as stay in a core's cache."""
    _, height, width, channels = tiles.shape
    one = height * width * (channels + kernel.shape[3]) * tiles.dtype.itemsize
    return int(np.clip(2**21 // one, 1, 16))


def stacked(plain, tiles, kernel, stride: int, *, at_a_time: int) -> jax.Array:
    """Convolve tiles as tall images of `at_a_time` tiles each.

    Args:
        plain: the convolution of a batch of images, without padding along the rows.
        tiles: [K, hp, wp, C].
        kernel: [kh, kw, C, D].
        stride: the convolution's stride along the rows.
        at_a_time: tiles per image.
    """
    count, height, width, channels = tiles.shape
    extra = -height % stride  # so that each tile's results start at a multiple of the stride
    spare = -count % at_a_time
    if extra or spare:
        tiles = jnp.pad(tiles, ((0, spare), (0, extra), (0, 0), (0, 0)))
    height += extra
    rows = jax.eval_shape(
        plain, jax.ShapeDtypeStruct((1, height - extra, width, channels), tiles.dtype), kernel
    ).shape[1]
    per_tile = height // stride

    def run(image):
        result = plain(image[None], kernel)[0]
        missing = at_a_time * per_tile - result.shape[0]
        if missing > 0:
            result = jnp.pad(result, ((0, missing), (0, 0), (0, 0)))
        result = result[: at_a_time * per_tile]
        return result.reshape(at_a_time, per_tile, *result.shape[1:])[:, :rows]

    images = tiles.reshape(-1, at_a_time * height, width, channels)
    result = jax.lax.map(run, images) if images.shape[0] > 1 else run(images[0])[None]
    return result.reshape(-1, *result.shape[2:])[:count]


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


def matrix_per_block(matrix: np.ndarray, blocks: int, before: int, after: int) -> np.ndarray:
    """Each block's part of a matrix [out, in]: [blocks, out/blocks, before + in/blocks + after]."""
    out, size = matrix.shape[0] // blocks, matrix.shape[1] // blocks
    padded = np.pad(matrix, ((0, 0), (before, after)))
    width = before + size + after
    return np.stack(
        [padded[b * out : (b + 1) * out, b * size : b * size + width] for b in range(blocks)]
    )


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


def resample(tiles, taps, axis: int, before: int, size: int, out: int, dtype) -> jax.Array:
    """Apply taps along one axis of tiles that carry their halo: slices, weights and sums.

    Args:
        tiles: [K, h, w, *rest] with `before` pixels of halo in front along `axis`.
        taps: from `find_taps`.
        axis: 1 or 2.
        before: pixels of halo in front.
        size: pixels of the tile itself.
        out: results per tile, a multiple of `size` or a divisor of it.
        dtype: of the result.
    """
    up = len(taps)
    count = out // up
    raise_to = jnp.promote_types(dtype, jnp.float32)
    phases = []
    for weights in taps:
        total = None
        for offset, weight in weights.items():
            start, step = before + offset, size // count
            part = jax.lax.slice_in_dim(tiles, start, start + (count - 1) * step + 1, step, axis)
            if weight != 1:
                part = part.astype(raise_to) * jnp.asarray(weight, raise_to)
            total = part if total is None else total + part
        phases.append(total.astype(dtype))
    if up == 1:
        return phases[0]
    result = jnp.stack(phases, axis + 1)
    return result.reshape(*tiles.shape[:axis], out, *tiles.shape[axis + 1 :])
