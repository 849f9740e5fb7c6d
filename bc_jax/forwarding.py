"""`jax.jit` for functions that return much of what they are given: that is not copied.

A compiled program returns arrays of its own, and copies an argument that it returns as it came.
"""

import functools
from collections.abc import Callable

import jax
from flax import struct


@struct.dataclass
class _Results:
    """Results without what need not be returned.

    Attributes:
        arrays: the others, each once.
        tree: static, the structure of all results.
        places: static, for each result whether it is an argument, and which leaf of the arguments
            or which of the arrays it is.
    """

    arrays: list[jax.Array]
    tree: jax.tree_util.PyTreeDef = struct.field(pytree_node=False)
    places: tuple[tuple[bool, int], ...] = struct.field(pytree_node=False)


def forwarding_jit(
    function: Callable, *, static: tuple[str, ...] = (), copied: type | tuple = (), **options
) -> Callable:
    """Compile a function; arguments that it returns as they came are returned themselves.

    Args:
        function: of pytrees.
        static: names of its static arguments, which are given by name.
        copied: types whose arrays are copied, where they are to be donated while the results live.
        **options: of `jax.jit`.

    Returns:
        The function, with `lower` as that of `jax.jit`.
    """

    def leaves(arguments, names) -> list:
        """The arguments' arrays; what is copied is one leaf, which no result is."""
        given = {name: value for name, value in names.items() if name not in static}
        return jax.tree.leaves((arguments, given), is_leaf=lambda x: isinstance(x, copied))

    @functools.partial(jax.jit, static_argnames=static, **options)
    def less(*arguments, **names):
        places = {id(x): (True, i) for i, x in enumerate(leaves(arguments, names))}
        results, tree = jax.tree.flatten(function(*arguments, **names))
        arrays, found = [], []
        for x in results:
            if id(x) not in places:
                places[id(x)] = (False, len(arrays))
                arrays.append(x)
            found.append(places[id(x)])
        return _Results(arrays, tree, tuple(found))

    @functools.wraps(function)
    def call(*arguments, **names):
        results, given = less(*arguments, **names), leaves(arguments, names)
        whole = [given[i] if came else results.arrays[i] for came, i in results.places]
        return jax.tree.unflatten(results.tree, whole)

    call.lower = less.lower
    return call
