"""Short loops turn by turn, loops over streams at once, and choices known before a program runs.

Layers whose parameters are stacked are a loop over them, and so are a few steps of refinement. Told
one after the other, their operations run on blocks as any others do. So do those of `jax.lax.map`
over streams, told as `jax.vmap`.
"""

import dataclasses

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from bc_jax.sparse.pointwise import bare
from bc_jax.sparse.program import Constant, Draft, Op, Program

# Turns of a loop that is told so; of one over parts of what depends on the frame, which may be its
# rows; and the operations that a loop may become.
_TURNS, _PARTS, _OPERATIONS = 64, 8, 4096


def unroll(program: Program) -> Program:
    """The same program, without short loops and known choices among what depends on the frames."""
    found = True
    while found:  # those inside of others come with the next round
        program, found = _unroll(program)
    return program


def _unroll(program: Program) -> tuple[Program, bool]:
    """The program without those that stand in no other, and whether there was any."""
    draft = Draft(program.avals)
    alias: dict[int, int | Constant] = {}
    varying = {program.inputs[-1]}

    def named(x):
        return alias.get(x, x) if isinstance(x, int) else x

    for op in program.ops:
        op, before = dataclasses.replace(op, inputs=tuple(map(named, op.inputs))), len(draft.ops)
        reads = [isinstance(x, int) and x in varying for x in op.inputs]
        maps = op.name == "scan" and _maps_streams(program, op, reads)
        if maps and (at_once := _at_once(op, draft)) is not None:
            results = at_once
        elif op.name == "scan" and _is_short(op, reads):
            results = _turn_by_turn(op, draft)
        elif op.name == "cond" and any(reads) and (at := program.static(op.inputs[0])) is not None:
            branches = op.params["branches"]
            branch = branches[int(np.clip(at, 0, len(branches) - 1))]
            results = draft.inline(branch, op.inputs[1:], op.layer)
        else:
            draft.ops.append(op)
            results = op.outputs
        alias |= {x: r for x, r in zip(op.outputs, results, strict=True) if r is not x}
        for made in draft.ops[before:]:
            if any(isinstance(x, int) and x in varying for x in made.inputs):
                varying.update(made.outputs)
    if not alias:
        return program, False
    outputs = tuple(map(named, program.outputs))
    changes = {"ops": tuple(draft.ops), "outputs": outputs, "avals": draft.avals}
    return dataclasses.replace(program, **changes), True


def _maps_streams(program: Program, op: Op, reads: list[bool]) -> bool:
    """Whether a loop's turns are each of a stream, and none reads what another has made."""
    (same, carried), (streams, *_) = roles(op), program.avals[program.inputs[-1]].shape
    return carried == 0 and any(reads[same:]) and op.params["length"] == streams


def _is_short(op: Op, reads: list[bool]) -> bool:
    p = op.params
    parts = reads[sum(roles(op)) :]
    longest = _PARTS if any(parts) else _TURNS
    small = p["length"] * _operations(p["jaxpr"]) <= _OPERATIONS
    return any(reads) and 0 < p["length"] <= longest and small


def roles(op: Op) -> tuple[int, int]:
    """How many operands of a loop are the same in all turns, and how many go from turn to turn.

    The rest has a part for each turn. The shapes tell; JAX's parameters of it differ by version.
    """
    body = bare(op.params["jaxpr"])
    read, made = ([x.aval.ndim for x in ends] for ends in (body.invars, body.outvars))
    carried = sum(n == aval.ndim for n, aval in zip(made, op.out_avals, strict=True))
    return sum(n == len(s) for n, s in zip(read, op.in_shapes, strict=True)) - carried, carried


def _operations(jaxpr) -> int:
    """The operations of a jaxpr, and of those that it calls; of loops turn by turn."""
    count = 0
    for eqn in bare(jaxpr).eqns:
        inner = [v for v in jax.tree.leaves(list(eqn.params.values())) if hasattr(v, "eqns")]
        turns = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        count += 1 + turns * sum(map(_operations, inner))
    return count


def _at_once(op: Op, draft: Draft) -> list[int | Constant] | None:
    """Append the operations of all turns of a loop that carries nothing; returns its results.

    None where what is called, as Python in order, is not for several turns at once.
    """
    same, _ = roles(op)
    axes = [None if i < same else 0 for i in range(len(op.inputs))]
    turns = jax.vmap(jex.jaxpr_as_fun(op.params["jaxpr"]), axes)
    try:
        return draft.append(turns, op.inputs, op.layer)
    except (NotImplementedError, ValueError):  # as `jax.vmap` refuses what it cannot do
        return None


def _turn_by_turn(op: Op, draft: Draft) -> list[int | Constant]:
    """Append a loop's operations; returns its results."""
    p, (same, carried) = op.params, roles(op)
    first = same + carried
    consts, carry, parts = op.inputs[:same], op.inputs[same:first], op.inputs[first:]
    made = {}
    for turn in range(p["length"])[:: -1 if p["reverse"] else 1]:

        def now(*arrays, turn=turn):
            return [jax.lax.index_in_dim(x, turn, keepdims=False) for x in arrays]

        part = draft.append(now, parts, op.layer) if parts else []
        results = draft.inline(p["jaxpr"], [*consts, *carry, *part], op.layer)
        carry, made[turn] = results[:carried], results[carried:]

    def together(*arrays):
        return [jnp.stack(arrays)]

    stacks = zip(*(made[turn] for turn in range(p["length"])), strict=True)
    return [*carry, *(draft.append(together, x, op.layer)[0] for x in stacks)]
