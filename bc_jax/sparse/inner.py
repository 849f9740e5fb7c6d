"""What the results of loops and choices show of the frames: what runs inside of them tells.

A loop hands values from turn to turn, which have their places where each turn leaves them so.
"""

from collections.abc import Callable

import numpy as np

from bc_jax.sparse.loops import roles
from bc_jax.sparse.pointwise import bare
from bc_jax.sparse.program import Draft, Op, Program
from bc_jax.sparse.sides import UNKNOWN
from bc_jax.sparse.values import Whole

NAMES = ("scan", "while", "cond")
# A value of which nothing is known; None stands for one that depends on no frame.
_LOST = {"axes": None, "sides": (UNKNOWN,) * 3}
# Turns after which what is handed on is taken to be at no place.
_TURNS = 4


def inner_places(program: Program, op: Op, operands: list, after: Callable) -> list[dict]:
    """What `Whole` says of places, `axes` and `sides`, for each result of a loop or a choice.

    Args:
        program: that the operation is of.
        op: the operation.
        operands: what is said of each operand that depends on the frames, and None for others.
        after: `places_after` of an operation of a program, whose operands are `Whole`.
    """
    p = op.params

    def run(jaxpr, given: list) -> list:
        return _walk(_inner(program, jaxpr), given, after)

    if op.name == "cond":
        found = [run(branch, operands[1:]) for branch in p["branches"]]
        places = [_together(*branches) for branches in zip(*found, strict=True)]
    elif op.name == "while":
        first = p["cond_nconsts"] + p["body_nconsts"]
        consts, carry = operands[p["cond_nconsts"] : first], operands[first:]
        places = _carried(lambda carry: run(p["body_jaxpr"], [*consts, *carry]), carry)
    else:
        same, carried = roles(op)
        first = same + carried
        parts = [_moved(x, -1) for x in operands[first:]]

        def turn(carry):
            return run(p["jaxpr"], [*operands[:same], *carry, *parts])

        places = _carried(lambda carry: turn(carry)[:carried], operands[same:first])
        places += [_moved(x, 1) for x in turn(places)[carried:]]
    return [place or _LOST for place in places]


def _inner(program: Program, jaxpr) -> Program:
    """A jaxpr as a program; the last of its inputs, which tells their size, are the frames."""
    draft = Draft({})
    inputs = draft.numbers([v.aval for v in bare(jaxpr).invars])
    outputs = draft.inline(jaxpr, inputs, "")
    frames = draft.numbers([program.avals[program.inputs[-1]]])
    return Program(tuple(draft.ops), (*inputs, *frames), tuple(outputs), draft.avals)


def _walk(program: Program, given: list, after: Callable) -> list:
    """What is said of each of a program's results."""
    places = dict(zip(program.inputs, given, strict=False))
    for op in program.ops:
        operands = [
            _value(places.get(x) if isinstance(x, int) else None, shape)
            for x, shape in zip(op.inputs, op.in_shapes, strict=True)
        ]
        moves = any(x is not None for x in operands)
        found = after(program, op, operands) if moves else [None] * len(op.outputs)
        places |= zip(op.outputs, found, strict=True)
    return [places.get(x) if isinstance(x, int) else None for x in program.outputs]


def _value(place: dict | None, shape) -> Whole | None:
    return None if place is None else Whole(None, shape, **place)


def _carried(turn: Callable, places: list) -> list:
    """What is said of values that a loop hands on, before and after any turn."""
    for _ in range(_TURNS):
        found = list(map(_together, places, turn(places)))
        if all(map(_alike, places, found)):
            return found
        places = found
    return [_LOST] * len(places)


def _together(*places: dict | None) -> dict | None:
    """What can be said of one of several values."""
    first, *others = [x for x in places if x is not None] or [None]
    return first if all(_alike(first, x) for x in others) else _LOST


def _alike(one: dict | None, other: dict | None) -> bool:
    if one is None or other is None:
        return one is other
    sides = zip(one["sides"], other["sides"], strict=True)
    same = all((a is None) == (b is None) and (a is None or np.array_equal(a, b)) for a, b in sides)
    return one["axes"] == other["axes"] and same


def _moved(place: dict | None, by: int) -> dict | None:
    """The same of a value with one axis less in front, or one more."""
    if place is None or not place["axes"]:
        return place
    axes = tuple(a + by for a in place["axes"])
    return place | {"axes": axes} if min(axes) >= 0 else _LOST
