"""One rule per primitive, a file per family."""

from bc_jax.sparse.rules import channels, elementwise, linear, parts, reductions, shape, window
from bc_jax.sparse.rules.joined import run_joined
from bc_jax.sparse.rules.linear import finish_resize
from bc_jax.sparse.rules.padded import is_padded, run_padded
from bc_jax.sparse.rules.registry import RULES, rule
from bc_jax.sparse.rules.window import POOLS, finish_move

# The primitives that resizing an image consists of, and moving it and what reads it when moved.
RESIZES = ("dot_general", "gather")
MOVES = ("pad", "slice", "dynamic_slice", "transpose", "conv_general_dilated", *POOLS)

__all__ = [
    "MOVES",
    "RESIZES",
    "RULES",
    "channels",
    "elementwise",
    "finish_move",
    "finish_resize",
    "is_padded",
    "linear",
    "parts",
    "reductions",
    "rule",
    "run_joined",
    "run_padded",
    "shape",
    "window",
]
