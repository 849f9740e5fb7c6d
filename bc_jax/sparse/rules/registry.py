"""The table of rules: how each primitive runs on blocks."""

from collections.abc import Callable

RULES: dict[str, Callable] = {}


def rule(*names: str):
    """Register a rule for the primitives of these names.

    A rule is called as `rule(context, op, *operands)` with at least one operand `Blocked` or
    `Whole`. It returns the result or results as values, or raises `Declined(reason)`; then the
    original operation runs on whole arrays.
    """

    def register(function):
        for name in names:
            RULES[name] = function
        return function

    return register
