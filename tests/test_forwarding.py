"""Compiled functions that hand back what they were given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from bc_jax.forwarding import forwarding_jit


@struct.dataclass
class Donated:
    x: jax.Array


def pointer(x: jax.Array) -> int:
    return x.unsafe_buffer_pointer()


def test_what_comes_back_as_it_was_is_the_argument_itself():
    traced = []

    def function(state, more):
        traced.append(1)
        return {"same": state["a"], "new": state["b"] + more, "twice": (state["b"], state["b"])}

    call = forwarding_jit(function)
    for seed in range(2):
        a, b = (jnp.full(4, seed + i, jnp.float32) for i in range(2))
        results = call({"a": a, "b": b}, 1.0)
        assert results["same"] is a and results["twice"] == (b, b)
        np.testing.assert_array_equal(results["new"], b + 1)
    assert len(traced) == 1


def test_a_result_that_is_returned_twice_is_made_once():
    one, two = forwarding_jit(lambda x: (y := x + 1, y))(jnp.ones(3))
    assert one is two


def test_what_will_be_donated_is_copied():
    x = jnp.arange(8.0)
    call = forwarding_jit(lambda d, y: (d.x, y), copied=Donated)
    copy, same = call(Donated(x), x)
    assert pointer(copy) != pointer(x) and same is x
    np.testing.assert_array_equal(copy, x)


@pytest.mark.parametrize("negate", [False, True])
def test_static_arguments_decide_what_comes_back(negate):
    call = forwarding_jit(lambda x, *, negate: -x if negate else x, static=("negate",))
    x = jnp.ones(3)
    result = call(x, negate=negate)
    assert (result is x) == (not negate)
    np.testing.assert_array_equal(result, -x if negate else x)


def test_a_pullback_holds_the_arguments():
    call = forwarding_jit(lambda w, x: jax.vjp(jnp.matmul, w, x))
    w, x = jnp.ones((3, 4)), jnp.ones((4, 2))
    out, pullback = call(w, x)
    np.testing.assert_array_equal(out, jnp.matmul(w, x))
    kept = {pointer(leaf) for leaf in jax.tree.leaves(pullback)}
    assert {pointer(w), pointer(x)} <= kept
    np.testing.assert_array_equal(pullback(out)[0], out @ x.T)


def test_options_are_those_of_jit():
    with pytest.raises(TypeError, match="nonsense"):
        forwarding_jit(lambda x: x, nonsense=1)
