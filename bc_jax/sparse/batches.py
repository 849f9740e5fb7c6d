"""Products of a batch of one stay products of a batch.

`jnp.matmul` drops axes of size one before a product and puts them back afterwards, so that one
stream's attention would look like another network than many streams' does.
"""

import dataclasses

from bc_jax.sparse.program import Op, Program


def keep_batches(program: Program) -> Program:
    """The same program, whose products have the axes of size one that were dropped for them."""
    kept, gone = {}, set()
    for op in program.ops:
        if op.name == "dot_general" and (found := _with_batch(program, op)):
            kept[op], spread = found
            gone.add(spread)
    ops = tuple(kept.get(op, op) for op in program.ops if op not in gone)
    return dataclasses.replace(program, ops=ops)


def _with_batch(program: Program, op: Op) -> tuple[Op, Op] | None:
    """A product of operands from which nothing is dropped, and what it makes needless."""
    dropped = [program.producers.get(x) if isinstance(x, int) else None for x in op.inputs]
    readers = program.readers[op.outputs[0]]
    if len(readers) != 1 or op.outputs[0] in program.outputs:
        return None
    if any(made is None or made.name != "squeeze" for made in dropped):
        return None
    dimensions = [tuple(made.params["dimensions"]) for made in dropped]
    (spread,), ones, rank = readers, len(dimensions[0]), len(op.out_avals[0].shape)
    put_back = (
        spread.name == "broadcast_in_dim"
        and tuple(spread.params["shape"]) == (*(1,) * ones, *op.out_avals[0].shape)
        and tuple(spread.params["broadcast_dimensions"]) == tuple(range(ones, ones + rank))
    )
    if len(dimensions[1]) != ones or not put_back:
        return None
    contract, batch = [], []
    for axes, dims, made, other in zip(
        op.params["dimension_numbers"][0],
        dimensions,
        dropped,
        op.params["dimension_numbers"][1],
        strict=True,
    ):
        left = [a for a in range(len(made.in_shapes[0])) if a not in dims]
        contract.append(tuple(left[a] for a in axes))
        batch.append((*dims, *(left[a] for a in other)))
    product = dataclasses.replace(
        op,
        inputs=tuple(made.inputs[0] for made in dropped),
        outputs=spread.outputs,
        params=op.params | {"dimension_numbers": (tuple(contract), tuple(batch))},
        in_shapes=tuple(made.in_shapes[0] for made in dropped),
        out_avals=spread.out_avals,
    )
    return product, spread
