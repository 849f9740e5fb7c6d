"""One rule per primitive, a file per family."""

from bc_jax.sparse.rules import channels, elementwise, linear, shape, window
from bc_jax.sparse.rules.joined import run_joined
from bc_jax.sparse.rules.linear import finish_resize
from bc_jax.sparse.rules.registry import RULES, rule

# The primitives that resizing an image consists of.
RESIZES = ("dot_general", "gather")

__all__ = [
    "RESIZES",
    "RULES",
    "channels",
    "elementwise",
    "finish_resize",
    "linear",
    "rule",
    "run_joined",
    "shape",
    "window",
]
