"""A traced function as a flat list of primitive operations.

`trace` runs `jax.make_jaxpr` and enters every nested call (jit, custom derivatives, remat, named
calls), so that the interpreter sees one list of operations on numbered values. Control flow (scan,
while, cond) is one operation each, until `loops` tells the short ones turn by turn.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, get_args

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from bc_jax.sparse.pointwise import OWN_DERIVATIVE, bare, called, is_pointwise

# Newer versions of JAX have primitives for what is also said with others.
_IN_OTHER_WORDS = {
    "stack": lambda *arrays, axis: [
        jax.lax.concatenate([jax.lax.expand_dims(x, [axis]) for x in arrays], axis)
    ],
    "unstack": lambda array, axis: [
        jax.lax.squeeze(jax.lax.slice_in_dim(array, i, i + 1, axis=axis), [axis])
        for i in range(array.shape[axis])
    ],
}
_ARRAYS = get_args(jax.typing.ArrayLike)  # Python's numbers among them
# Elements; larger values are not evaluated while tracing. A matrix that halves 4K has 2**23.
_LARGEST_STATIC = 1 << 24


@dataclasses.dataclass(frozen=True, eq=False)
class Constant:
    """A value that is known before the program runs: a literal or a closed-over array."""

    value: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Op:
    """One primitive operation.

    Attributes:
        primitive: the JAX primitive.
        inputs: number of a value, or a Constant, for each operand.
        outputs: numbers of the results.
        params: the primitive's parameters.
        in_shapes: shape of each operand.
        out_avals: shape and dtype of each result.
        layer: the scopes that it was traced in (`jax.named_scope`; Flax and Haiku open one for each
            module), as "Net/stage1/conv"; "" in none.
        acts: whether it is there for what it does, as to print or to call Python, beside its
            results: it is done in every frame, though nothing reads them.
    """

    primitive: Any
    inputs: tuple[int | Constant, ...]
    outputs: tuple[int, ...]
    params: dict[str, Any]
    in_shapes: tuple[tuple[int, ...], ...]
    out_avals: tuple[Any, ...]
    layer: str
    acts: bool

    @property
    def name(self) -> str:
        """The primitive's name."""
        return self.primitive.name

    @property
    def writes(self) -> bool:
        """Whether it is a call that is not entered, as arrays are written into there."""
        inner = called(self.primitive, self.params)
        return inner is not None and writes(inner)

    def bind(self, *operands, **changed) -> list:
        """Run the operation, with some parameters changed; always a list of results."""
        found = self.primitive.get_bind_params(self.params | changed)
        # Older versions of JAX return the functions that a call takes beside the parameters.
        functions, params = found if isinstance(found, tuple) else ((), found)
        results = self.primitive.bind(*functions, *operands, **params)
        return list(results) if self.primitive.multiple_results else [results]


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A flat program.

    Attributes:
        ops: in an order in which they can run.
        inputs: the numbers of the function's flattened arguments.
        outputs: of its flattened results.
        avals: shape and dtype of each value.
        out_tree: the structure of the results.
    """

    ops: tuple[Op, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int | Constant, ...]
    avals: dict[int, Any]
    out_tree: Any = None
    _known: dict[int, np.ndarray | None] = dataclasses.field(default_factory=dict, init=False)

    @functools.cached_property
    def producers(self) -> dict[int, Op]:
        """The operation that each value is a result of."""
        return {number: op for op in self.ops for number in op.outputs}

    @functools.cached_property
    def readers(self) -> dict[int, list[Op]]:
        """The operations that take each value, as often as they do."""
        readers = collections.defaultdict(list)
        for op in self.ops:
            for x in op.inputs:
                if isinstance(x, int):
                    readers[x].append(op)
        return readers

    def run(self, arguments: Sequence) -> list:
        """The results for the arguments, operation by operation."""
        values = dict(zip(self.inputs, arguments, strict=True))

        def read(x):
            return x.value if isinstance(x, Constant) else values[x]

        for op in self.ops:
            values.update(zip(op.outputs, op.bind(*map(read, op.inputs)), strict=True))
        return [read(x) for x in self.outputs]

    @property
    def holds_tracers(self) -> bool:
        """Whether the function closes over values that are being traced themselves."""
        constants = [*self.outputs, *(x for op in self.ops for x in op.inputs)]
        return any(
            isinstance(x, Constant) and isinstance(x.value, jax.core.Tracer) for x in constants
        )

    def static(self, value: int | Constant) -> np.ndarray | None:
        """Evaluate a value that depends on no argument (a resize matrix, say); None if it does."""
        if isinstance(value, Constant):
            known = not isinstance(value.value, jax.core.Tracer)
            return np.asarray(value.value) if known else None
        if value not in self._known:
            self._known[value] = self._evaluate(value)
        return self._known[value]

    def _evaluate(self, value: int) -> np.ndarray | None:
        needed: dict[Op, None] = {}  # in an order in which they can run

        def collect(operand) -> bool:
            if isinstance(operand, Constant):
                return not isinstance(operand.value, jax.core.Tracer)
            op = self.producers.get(operand)
            if op is None or op.acts:
                return False
            if any(np.prod(a.shape) > _LARGEST_STATIC for a in op.out_avals):
                return False
            if op not in needed:
                if not all(collect(inner) for inner in op.inputs):
                    return False
                needed[op] = None
            return True

        if not collect(value):
            return None

        # One small program, compiled once and run now, also while another one is being traced, and
        # where `jit` is switched off.
        program = Program(tuple(needed), (), (value,), self.avals)
        with jax.disable_jit(False):
            return np.asarray(jax.jit(lambda: program.run(())).lower().compile()()[0])


class Draft:
    """A program that is being made.

    Attributes:
        ops: its operations so far.
        avals: shape and dtype of each value, which are numbered from 0 on.
    """

    def __init__(self, avals: dict[int, Any]):
        """Without operations, of values that there are."""
        self.ops: list[Op] = []
        self.avals = dict(avals)

    def beside(self) -> "Draft":
        """Another whose values have numbers of the same row, and can be read by both."""
        other = Draft({})
        other.avals = self.avals
        return other

    def numbers(self, avals: Iterable) -> tuple[int, ...]:
        """Numbers of new values."""
        first = len(self.avals)
        self.avals |= dict(enumerate(avals, first))
        return tuple(range(first, len(self.avals)))

    def append(self, function: Callable, operands: Sequence, layer: str) -> list[int | Constant]:
        """Append the operations of a function of arrays; returns its results.

        Args:
            function: from arrays to a sequence of arrays.
            operands: what it is called with, numbers and constants.
            layer: where it is called.
        """
        shapes = [
            self.avals[x] if isinstance(x, int) else jax.eval_shape(jnp.asarray, x.value)
            for x in operands
        ]
        return self.inline(jax.make_jaxpr(function)(*shapes), operands, layer)

    def append_as(self, op: Op, function: Callable, operands: Sequence) -> None:
        """The same in the place of an operation, where the function's last one has the results."""
        self.append(function, operands, op.layer)
        self.ops[-1] = dataclasses.replace(self.ops[-1], outputs=op.outputs)

    def inline(self, jaxpr, operands: Sequence, layer: str) -> list[int | Constant]:
        """As `append`, of a jaxpr; the scopes inside it are named from its layer on."""
        consts = [Constant(c) for c in getattr(jaxpr, "consts", ())]
        jaxpr = bare(jaxpr)
        env: dict[Any, int | Constant] = dict(zip(jaxpr.constvars, consts, strict=True))
        env |= dict(zip(jaxpr.invars, operands, strict=True))

        def read(atom):
            return Constant(atom.val) if isinstance(atom, jex.Literal) else env[atom]

        for eqn in jaxpr.eqns:
            inputs = tuple(map(read, eqn.invars))
            inner = called(eqn.primitive, eqn.params)
            within = "/".join(filter(None, (layer, str(eqn.source_info.name_stack))))
            words = _IN_OTHER_WORDS.get(eqn.primitive.name)
            if words is not None:
                results = self.append(
                    functools.partial(words, axis=eqn.params["axis"]), inputs, within
                )
            elif inner is not None and not (_differs_by_itself(eqn, inner) or writes(inner)):
                results = self.inline(inner, inputs, within)
            else:
                shapes = tuple(tuple(v.aval.shape) for v in eqn.invars)
                avals = tuple(v.aval for v in eqn.outvars)
                results = self.numbers(avals)
                acts = bool(eqn.effects) or not results
                self.ops.append(
                    Op(eqn.primitive, inputs, results, eqn.params, shapes, avals, within, acts)
                )
            env.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]


def trace(function: Callable, *args) -> Program:
    """Trace a function of pytrees of arrays (or of shapes) into a flat program."""
    leaves, in_tree = jax.tree.flatten(args)
    out_trees = []

    def flat(*leaves):
        results = function(*jax.tree.unflatten(in_tree, leaves))
        paths, out_tree = jax.tree.flatten_with_path(results)
        for path, leaf in paths:
            if not isinstance(leaf, _ARRAYS) and not hasattr(leaf, "__jax_array__"):
                raise TypeError(
                    f"what the network returns holds {leaf!r} at outputs"
                    f"{jax.tree_util.keystr(path)}, which is no array: leave it out"
                )
        out_trees.append(out_tree)
        return [leaf for _, leaf in paths]

    closed = jax.make_jaxpr(flat)(*leaves)
    if writes(closed):  # as one call, which is not entered
        closed = jax.make_jaxpr(jax.jit(flat))(*leaves)
    draft = Draft({})
    inputs = draft.numbers(closed.in_avals)
    outputs = draft.inline(closed, inputs, "")
    return Program(tuple(draft.ops), inputs, tuple(outputs), draft.avals, out_trees[0])


def needed(ops: Sequence[Op], outputs) -> list[Op]:
    """Those of the operations that the outputs depend on, or that are there for what they do."""
    values, found = {x for x in outputs if isinstance(x, int)}, []
    for op in reversed(ops):
        if values & set(op.outputs) or op.acts:
            found.append(op)
            values |= {x for x in op.inputs if isinstance(x, int)}
    return found[::-1]


def writes(jaxpr) -> bool:
    """Whether a jaxpr's operations write into arrays (`jax.new_ref`), so that order matters."""
    jaxpr = bare(jaxpr)
    values = (*jaxpr.constvars, *(v for eqn in jaxpr.eqns for v in (*eqn.invars, *eqn.outvars)))
    return any(hasattr(v.aval, "inner_aval") for v in values)


def _differs_by_itself(eqn, inner) -> bool:
    """Whether a call has a derivative of its own, which entering it would lose, and can be kept."""
    return eqn.primitive.name in OWN_DERIVATIVE and is_pointwise(inner)
