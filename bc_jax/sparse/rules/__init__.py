"""One rule per primitive, a file per family."""

from bc_jax.sparse.rules import channels, elementwise, linear, shape, window
from bc_jax.sparse.rules.registry import RULES, rule

__all__ = ["RULES", "channels", "elementwise", "linear", "rule", "shape", "window"]
