"""Many small arrays as one of each dtype, so that a program takes and returns few.

A GPU's host needs a few microseconds for each array that a program is given or returns: for a
policy's, a third of the time in which the GPU does a frame.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

# Elements at a multiple of which each array begins: XLA hands a product's library the part of an
# array that it multiplies, and cuBLAS wants 16 bytes' alignment.
_ALIGNED = 32


@struct.dataclass
class Packed:
    """A pytree's arrays, one after the other.

    Attributes:
        arrays: one flat array per dtype, in the order of first use; zeros between them.
        tree: static, the pytree's structure.
        places: static, each leaf's shape, and which array it is in.
    """

    arrays: tuple[jax.Array, ...]
    tree: jax.tree_util.PyTreeDef = struct.field(pytree_node=False)
    places: tuple[tuple[tuple[int, ...], int], ...] = struct.field(pytree_node=False)


def pack(tree: Any) -> Packed:
    """Put a pytree's arrays together; each must have one of JAX's plain dtypes, not a key's."""
    leaves, structure = jax.tree.flatten(tree)
    dtypes = list(dict.fromkeys(leaf.dtype for leaf in leaves))
    arrays = tuple(
        jnp.concatenate([_whole(leaf) for leaf in leaves if leaf.dtype == dtype])
        for dtype in dtypes
    )
    return Packed(arrays, structure, tuple((x.shape, dtypes.index(x.dtype)) for x in leaves))


def unpack(packed: Packed) -> Any:
    """The pytree again."""
    starts = [0] * len(packed.arrays)
    leaves = []
    for shape, number in packed.places:
        start, size = starts[number], math.prod(shape)
        leaves.append(packed.arrays[number][start : start + size].reshape(shape))
        starts[number] += size + -size % _ALIGNED
    return jax.tree.unflatten(packed.tree, leaves)


def _whole(leaf: jax.Array) -> jax.Array:
    """Flat, with zeros behind it up to where the next one begins."""
    return jnp.pad(leaf.reshape(-1), (0, -leaf.size % _ALIGNED))
