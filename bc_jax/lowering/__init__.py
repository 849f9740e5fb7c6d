"""How an operation runs, by backend and shape; the one place where speed is decided.

Tiles that carry their halo are a batch of small images. Each operation has a plain way, and where a
backend has a faster one a test holds the two together; `python -m benchmarks.lowerings` times both.
"""

from bc_jax.lowering.backend import compiler_options, half_of, jit, on_gpu
from bc_jax.lowering.bits import concatenate, moves
from bc_jax.lowering.convolution import Convolution, best_ready, convolve, kernel_order, make_ready
from bc_jax.lowering.dtypes import widened
from bc_jax.lowering.gradient import convolve_to_learn
from bc_jax.lowering.halo_exchange import exchange
from bc_jax.lowering.halo_lines import Exchange, exchanges_at_once
from bc_jax.lowering.halo_pool import exchange_and_pool, pools_at_once
from bc_jax.lowering.halo_resize import exchange_and_resize, resizes_at_once
from bc_jax.lowering.level import sigmoid_level
from bc_jax.lowering.pool import pool, pool_apart, pools_apart
from bc_jax.lowering.product import dot_general
from bc_jax.lowering.resample import apply_axis_map, axis_map
from bc_jax.lowering.softmax import relative_entropy, softmax
from bc_jax.lowering.sums import for_all_rows, sum_rows
from bc_jax.lowering.surround import surround
from bc_jax.lowering.taps import convolve_taps, reads_taps
from bc_jax.lowering.winograd import SummedKernel

__all__ = [
    "Convolution", "Exchange", "SummedKernel", "apply_axis_map", "axis_map", "best_ready",
    "compiler_options", "concatenate", "convolve", "convolve_taps", "convolve_to_learn",
    "dot_general", "exchange", "exchange_and_pool", "exchange_and_resize", "exchanges_at_once",
    "for_all_rows", "half_of", "jit", "kernel_order", "make_ready", "moves", "on_gpu", "pool",
    "pool_apart", "pools_apart", "pools_at_once", "reads_taps", "relative_entropy",
    "resizes_at_once", "sigmoid_level", "softmax", "sum_rows", "surround", "widened",
]  # fmt: skip
