"""A network's parameters: the arrays, and what else a pytree of a library's modules may hold."""

from collections.abc import Callable, Hashable

import jax
import jax.numpy as jnp


def array_leaves(params) -> list:
    """The leaves that are arrays, or numbers, as arrays; shapes stand for themselves."""
    return [
        leaf if _is_array(leaf) else jnp.asarray(leaf)
        for leaf in jax.tree.leaves(params)
        if _becomes_array(leaf)
    ]


def leaf_shapes(params) -> list[jax.ShapeDtypeStruct]:
    """Theirs; where they are numbers, their types give way to those of what they meet."""
    return [
        jax.ShapeDtypeStruct(x.shape, x.dtype, weak_type=getattr(x, "weak_type", False))
        for x in array_leaves(params)
    ]


def rebuilder(params) -> Callable:
    """A function from other arrays to parameters like these, whose other leaves stay."""
    fixed, tree = _fixed_leaves(params), jax.tree.structure(params)

    def rebuild(arrays):
        arrays = iter(arrays)
        return jax.tree.unflatten(tree, [f[0] if f else next(arrays) for f in fixed])

    return rebuild


def identity(params) -> Hashable | None:
    """What tells parameters from others beside their arrays; None where that cannot be told.

    It is their structure, and the leaves that are no arrays: functions and names in modules. JAX's
    settings, by which a network is another one, are among it.
    """
    found = _settings(), jax.tree.structure(params), _fixed_leaves(params)
    try:
        hash(found)
    except TypeError:
        return None
    return found


def _settings() -> Hashable:
    """What is the same as long as JAX's settings are under which a function is traced."""
    with jax.disable_jit(False):
        return jax.tree.structure(_marked.eval_shape())


class _Mark:
    """A pytree without leaves, which is like no other."""


jax.tree_util.register_static(_Mark)
# Traced once for the settings that there are, as JAX knows best which those are.
_marked = jax.jit(_Mark)


def _is_array(leaf) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _becomes_array(leaf) -> bool:
    return _is_array(leaf) or isinstance(leaf, int | float | complex)


def _fixed_leaves(params) -> tuple:
    """Per leaf nothing where it becomes an array, else the leaf."""
    return tuple(() if _becomes_array(leaf) else (leaf,) for leaf in jax.tree.leaves(params))
