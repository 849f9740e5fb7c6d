"""Where a sum of sigmoids has a given value, found by comparing many places at once."""

import jax
import jax.numpy as jnp

from bc_jax.lowering import backend
from bc_jax.lowering.halo_lines import pallas_triton

# Steps and what each divides by: between bounds that are 60 scores apart at first, at float
# precision at last. A step in operations takes a GPU two kernels, up to some thousands of places.
_FEW_PLACES = 6, 32
_FEW_STEPS = 2, 4096
_MARGIN = 15.0  # beyond the largest and the smallest score, where sigmoid is 0 or 1
# Scores of a row that a kernel compares with all places at once; more take long to compile.
_MOST = 512


def sigmoid_level(scores: jax.Array, mean: jax.Array | float) -> jax.Array:
    """Returns c, one per row, with mean_b sigmoid(scores_b - c) = mean: [N].

    Args:
        scores: [N, B], float32, finite.
        mean: in [0, 1].
    """
    if backend.on_gpu() and scores.shape[1] <= _MOST and pallas_triton() is not None:
        return level_at_once(scores, mean)
    return level_plainly(scores, mean)


def level_plainly(scores: jax.Array, mean: jax.Array) -> jax.Array:
    """As `sigmoid_level`, in operations that every backend has."""
    if not backend.on_gpu():
        return jax.vmap(lambda row: _level(row, True, mean, len(row), *_FEW_PLACES))(scores)
    # Else XLA computes it anew to compare with it, in kernels apart from the sums that follow.
    mean = jax.lax.optimization_barrier(jnp.asarray(mean, scores.dtype))
    return jax.vmap(lambda row: _level(row, True, mean, len(row), *_FEW_STEPS))(scores)


def level_at_once(scores: jax.Array, mean: jax.Array, *, interpret: bool = False) -> jax.Array:
    """The same in one kernel of a GPU, which is interpreted where it is said."""
    pallas, triton = pallas_triton()
    streams, count = scores.shape
    size = 1 << (count - 1).bit_length()

    def make_level(scores, mean, levels):
        row = pallas.program_id(0)
        there = jax.lax.broadcasted_iota(jnp.int32, (size,), 0) < count
        mine = triton.load(scores.at[pallas.ds(row * count, size)], mask=there, other=0.0)
        levels[row] = _level(mine, there, mean[0], count, *_FEW_PLACES)

    return pallas.pallas_call(
        make_level,
        out_shape=jax.ShapeDtypeStruct((streams,), scores.dtype),
        grid=(streams,),
        compiler_params=triton.CompilerParams(num_warps=4),
        interpret=interpret,
        name="sigmoid_level",
    )(scores.reshape(-1), jnp.asarray(mean, scores.dtype).reshape(1))


def _level(scores, there, mean, count: int, steps: int, sections: int):
    """The level of a row's scores [B], of which those `there` are `count`: a number."""
    low = jnp.min(jnp.where(there, scores, jnp.inf)) - _MARGIN
    width = jnp.max(jnp.where(there, scores, -jnp.inf)) + _MARGIN - low
    place = 1 + jax.lax.broadcasted_iota(jnp.int32, (sections, 1), 0)
    inner = place.reshape(-1) < sections
    for _ in range(steps):
        width = width / sections
        probability = jax.nn.sigmoid(scores[None, :] - (low + width * place.astype(width.dtype)))
        spent = jnp.sum(jnp.where(there, probability, 0.0), axis=1) / count
        passed = jnp.where(inner & (spent > mean), 1.0, 0.0).astype(low.dtype)
        low = low + width * jnp.sum(passed)
    return low + width / 2
