"""What has a faster way on a CPU, both ways on tiles: the plain one, and a CPU's.

python -m benchmarks.lowerings

Sixteen tiles, of the sizes that blocks of 128 pixels have in a network's layers; the dilated ones
cut out of a frame, the pooled ones with what is around them. A ratio above 1 says that a CPU's way
is the faster one here. On another backend it is not taken, whatever this says.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from bc_jax import lowering
from bc_jax.bench import random_grids
from bc_jax.lowering import Convolution, best_ready, convolve_taps, make_ready
from bc_jax.lowering.convolution import convolve_on_cpu, convolve_plainly
from bc_jax.lowering.pool import pool_apart, pool_together
from bc_jax.lowering.softmax import relative_entropy, relative_entropy_plainly, softmax
from bc_jax.sparse import Blocks, Halo, keep_memory
from bc_jax.sparse.halo import Frames, read_halo, read_shifted
from bc_jax.timing import alternate
from benchmarks import cases
from benchmarks.cases import DEFAULT, Case
from benchmarks.parts import bound

COLUMNS = {
    "what": "{what}",
    "tiles": "{tiles}",
    "plain ms": "{plain_ms:.2f}",
    "CPU's ms": "{cpu_ms:.2f}",
    "ratio": "{ratio:.2f}",
}
GRID = (1, 4, 8)
EXECUTED = 16


def measure(case: Case = DEFAULT, *, repeats: int = 15, warm_up: int = 2) -> list[dict]:
    """One row per operation; both ways are timed in turn.

    Args:
        case: of which only the dtype matters.
        repeats: rounds that count.
        warm_up: rounds before them.
    """
    keep_memory()
    dtype, rows = jnp.dtype(case.dtype), []
    for what, tile, plain, on_cpu in (*_convolutions(dtype), *_dilated(dtype), *_others(dtype)):
        ways = {"plain": plain, "cpu": on_cpu}
        calls = {
            name: bound(way, *args, compiles=lowering.jit) for name, (way, *args) in ways.items()
        }
        timings = alternate(calls, repeats=repeats, warm_up=warm_up)
        row = {"benchmark": "lowerings", "what": what, "tiles": "x".join(map(str, tile))}
        row |= {"dtype": case.dtype, "executed": EXECUTED, "repeats": repeats}
        row |= timings["plain"].milliseconds("plain") | timings["cpu"].milliseconds("cpu")
        rows.append(row | {"ratio": timings["plain"].median / timings["cpu"].median})
    return rows


def _convolutions(dtype):
    """(what, tile, plain way, a CPU's way) each; a way is a function and its arguments."""
    for what, tile, kernel, how in (
        ("3x3 to 64 features", (32, 32, 64), (3, 3, 64, 64), Convolution()),
        ("3x3 to 128 features", (32, 32, 128), (3, 3, 128, 128), Convolution()),
        ("3x3 to 256 features", (8, 8, 256), (3, 3, 256, 256), Convolution()),
        ("3x3 to 512 features", (4, 4, 512), (3, 3, 512, 512), Convolution()),
        ("3x3/2 to 128 features", (32, 32, 64), (3, 3, 64, 128), Convolution(strides=(2, 2))),
        ("3x3, every channel by itself", (32, 32, 96), (3, 3, 1, 96), Convolution(groups=96)),
        ("7x7, every channel by itself", (16, 16, 192), (7, 7, 1, 192), Convolution(groups=192)),
        ("3x3, 32 groups", (32, 32, 128), (3, 3, 4, 128), Convolution(groups=32)),
        ("3x3, 32 groups", (16, 16, 256), (3, 3, 8, 256), Convolution(groups=32)),
        ("3x3 to 12 features", (32, 32, 12), (3, 3, 12, 12), Convolution()),
        ("3x3 to 20 features", (64, 64, 36), (3, 3, 36, 20), Convolution()),
        ("transposed 2x2/2", (64, 64, 20), (2, 2, 20, 20), _transposed(2)),
        ("transposed 3x3/2", (32, 32, 64), (3, 3, 64, 32), _transposed(3)),
        ("transposed 4x4/2", (32, 32, 64), (4, 4, 64, 32), _transposed(4)),
    ):
        halo = 0 if how.lhs_dilation != (1, 1) else kernel[0] // 2 * 2
        sides = (tile[0] + halo, tile[1] + halo, tile[2])
        tiles, kernel = _random((EXECUTED, *sides), dtype), _random(kernel, dtype)
        ready = make_ready(kernel, best_ready(kernel, tile[:2], how))
        plain = functools.partial(convolve_plainly, how=how), tiles, kernel
        yield what, tile, plain, (functools.partial(convolve_on_cpu, how=how), tiles, ready)


def _transposed(size: int) -> Convolution:
    """A transposed convolution that doubles both sides."""
    low, high = size // 2, size - size // 2
    padding = (low, high) if size > 2 else (1, 1)
    return Convolution(lhs_dilation=(2, 2), padding=(padding, padding))


def _dilated(dtype):
    """Likewise: halos read and convolved, moved tiles read and convolved."""
    blocks = Blocks.of(random_grids(GRID, EXECUTED, 1)[0], capacity=EXECUTED)
    for tile, features, dilation in (
        ((16, 16, 12), 12, 16),
        ((8, 8, 25), 25, 4),
        ((8, 8, 2048), 256, 18),
    ):
        halo, (h, w, channels) = Halo(*4 * [dilation]), tile
        height, width = (n * side + 2 * dilation for n, side in zip(GRID[1:], (h, w), strict=True))
        frame = Frames(_random((1, height, width, channels), dtype), halo)
        like = jax.ShapeDtypeStruct((EXECUTED, *tile), dtype)
        kernel = _random((3, 3, channels, features), dtype)
        steps = [(dilation * i, dilation * j) for i in (-1, 0, 1) for j in (-1, 0, 1)]

        def of_halos(frame, kernel, blocks, halo=halo, like=like, dilation=dilation):
            tiles = read_halo(like, frame, blocks, halo=halo)
            return convolve_plainly(tiles, kernel, Convolution(rhs_dilation=2 * (dilation,)))

        def of_moved(frame, kernel, blocks, like=like, steps=steps):
            return convolve_taps(read_shifted(frame, like, blocks, steps), kernel)

        what = f"3x3 dilated {dilation} to {features}"
        args = frame, kernel, blocks
        yield what, tile, (of_halos, *args), (of_moved, *args)


def _others(dtype):
    """Likewise: pooling tiles with what is around them, and what policies make of logits."""
    tile, window = (64, 64, 64), ("reduce_window_max", (3, 3), (2, 2))
    tiles, columns, rows, corners = (
        _random((EXECUTED, h, w, tile[2]), dtype) for h in (64, 1) for w in (64, 1)
    )
    around = {(-1, 0): rows, (0, -1): columns, (-1, -1): corners}
    together, apart = (functools.partial(f, window=window) for f in (pool_together, pool_apart))
    yield "3x3/2 maxima", tile, (together, tiles, around), (apart, tiles, around)

    tile = (32, 32, 19)
    logits, others = (_random((EXECUTED, *tile), jnp.float32) * scale for scale in (100, 110))
    yield "softmax", tile, (jax.nn.softmax, logits), (softmax, logits)
    both = logits, others
    yield "KL of softmax", tile, (relative_entropy_plainly, *both), (relative_entropy, *both)


def _random(shape, dtype) -> jax.Array:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return jnp.asarray(values / math.sqrt(math.prod(shape[1:-1])), dtype)


if __name__ == "__main__":
    cases.command(measure, COLUMNS, __doc__)
