"""Running a program block by block.

`Context` is what a rule sees: the executed blocks, and three services that need memory: `exchange`
(tiles with their halo), `dense` (a value for all blocks, for operations that mix all of space) and
`align` (the part of a whole array that belongs to each tile). `interpret` walks the program. The
same walk, with a `Context` that has no memory, finds out what memory the program needs.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from bc_jax.sparse import halo as halos
from bc_jax.sparse.blocks import Blocks, split
from bc_jax.sparse.borders import Border, Filled, pad_frames, surround
from bc_jax.sparse.halo import Halo
from bc_jax.sparse.places import places_after
from bc_jax.sparse.plan import Plan, Ready, Record
from bc_jax.sparse.program import Constant, Op, Program
from bc_jax.sparse.rules import (
    MOVES,
    RESIZES,
    RULES,
    finish_move,
    finish_resize,
    is_padded,
    run_joined,
    run_padded,
)
from bc_jax.sparse.sides import at_own_places
from bc_jax.sparse.values import (
    NO_PAD,
    Blocked,
    Declined,
    Joined,
    Resized,
    Whole,
    inverse,
    plain,
    varies,
)
from bc_jax.sparse.windows import fill


class Context:
    """What the rules share while one frame runs.

    Attributes:
        parts: the rows and columns of blocks that a tile consists of.
        values: those of the program's that are known by now.
    """

    parts = (1, 1)

    def __init__(self, blocks: Blocks, program: Program, plan: Plan, memory: dict | None):
        """Without memory, the walk only notes in `plan` what it would need."""
        self.blocks = blocks
        self.program = program
        self.plan = plan
        self.memory = memory
        self.values: dict = {}
        self.halo_read: Halo | None = None
        self.moved = self.reads_all = self.in_parts = False
        self.taps: float | None = None
        self.reason = ""
        self._kept: set[str] = set()
        self._padded: dict = {}
        self._combined: dict = {}

    @property
    def grid(self) -> tuple[int, int]:
        """The grid's rows and columns."""
        return self.blocks.grid_shape[1:]

    def shape(self, x: Blocked) -> tuple[int, ...]:
        """The shape that the program sees, without padding around the image."""
        n, gh, gw = self.blocks.grid_shape
        sizes = (n, gh * x.tiles.shape[1], gw * x.tiles.shape[2], *x.tiles.shape[3:])
        shape = [1] * x.rank
        for axis, size in zip(x.order, sizes, strict=True):
            shape[axis] *= size
        return tuple(shape)

    def finish(self, value):
        """The value with its resizing, or its move to a side, carried out if it is amid one."""
        if isinstance(value, Blocked) and value.pad != NO_PAD and not any(map(sum, value.pad)):
            return finish_move(self, value)
        return finish_resize(self, value) if isinstance(value, Resized) else value

    def exchange(self, x: Blocked, halo: Halo, pad_value) -> jax.Array:
        """Tiles of `x` with their halo: [K, top + h + bottom, left + w + right, *rest]."""
        if halo == Halo():
            return x.tiles
        if isinstance(pad_value, Border):
            tiles = self.exchange(x, halo, 0)
            return surround(tiles, pad_value, halo, self.blocks.coordinates[1:], self.grid)
        if isinstance(pad_value, Filled):
            return fill(self.exchange(x, halo, 0), self.blocks, pad_value.tile, halo)
        self.halo_read = halo
        if x.fresh:
            return halos.window_halo(x.dense, self.blocks, halo=halo, pad_value=pad_value)
        h, w = x.tiles.shape[1:3]
        alone = self.grid == (1, 1)  # a block without neighbours
        if self.memory is None and not alone:
            self._plan_halo(x, halo)
        if self.memory is None or alone:
            return halos.surround_alone(x.tiles, halo=halo, pad_value=pad_value)
        memory = self.memory["halos"]
        # Strips take many copies to read: once, as wide as any reader asks. Windows take one.
        whole = isinstance(memory[x.key], halos.Frames)
        widest = halo if whole else self.plan.halos[x.key][0]
        at = (x.key, str(pad_value), widest)
        if at not in self._padded:
            wanted = {"halo": widest, "pad_value": pad_value}
            if x.key in self._kept:
                padded = halos.read_halo(x.tiles, memory[x.key], self.blocks, **wanted)
            else:
                self._kept.add(x.key)
                exchanged = halos.exchange_halo(x.tiles, memory[x.key], self.blocks, **wanted)
                padded, memory[x.key] = exchanged
            self._padded[at] = padded
        top, left = widest.top - halo.top, widest.left - halo.left
        return self._padded[at][
            :, top : top + halo.top + h + halo.bottom, left : left + halo.left + w + halo.right
        ]

    def pool(self, x: Blocked, halo: Halo, pad_value, window) -> jax.Array | None:
        """The tiles of `x` pooled without a copy that has a halo, where it is faster; else None.

        `window` is (name, size, strides) as `lowering.pool` takes them; `pad_value` changes no
        result.
        """
        how = {"pad_value": pad_value, "window": window}
        result = self.at_once(x, halo, halos.exchange_and_pool, **how)
        if result is not None or not self._exchanges(x, halo):
            return result
        if halos.pools_apart(x.tiles, self.memory["halos"][x.key], window, halo):
            self.halo_read = halo
            result = halos.pool_apart(x.tiles, self._stored(x), self.blocks, halo=halo, **how)
        return result

    def at_once(self, x: Blocked, halo: Halo, exchange, **how) -> jax.Array | None:
        """What a kernel makes of `x` and its halo: `exchange`, of `halos`; None without one."""
        if not self._exchanges(x, halo):
            return None
        memory = self.memory["halos"]
        made = exchange(x.tiles, memory[x.key], self.blocks, halo=halo, **how)
        if made is None:
            return None
        self.halo_read = halo
        result, memory[x.key] = made
        return result

    def _exchanges(self, x: Blocked, halo: Halo) -> bool:
        return self.memory is not None and self.remembers(x) and halo != Halo()

    def reads_kernel(self, operand: int | Constant, ready: Ready) -> None:
        """Notes how a convolution on blocks has its kernel, for what is made once."""
        if self.memory is None and isinstance(operand, int):
            self.plan.kernels.setdefault(operand, []).append(ready)

    def remembers(self, x: Blocked) -> bool:
        """Whether what neighbours ask of `x` is remembered, and neither at hand nor asked for."""
        return not x.fresh and self.grid != (1, 1)

    def shifted(self, x: Blocked, halo: Halo, steps: list[tuple[int, int]]) -> list[jax.Array]:
        """The tiles of `x`, which is remembered, moved by each of the steps; zero beyond the image.

        Args:
            x: the value.
            halo: of all the steps together, for which all of `x` is kept: `halos.keeps_frames`.
            steps: (rows, columns) each.
        """
        self.halo_read, self.moved = halo, True
        if self.memory is None:
            self._plan_halo(x, halo)
            return [x.tiles] * len(steps)
        return halos.read_shifted(self._stored(x), x.tiles, self.blocks, steps)

    def _plan_halo(self, x: Blocked, halo: Halo) -> None:
        kept, _ = self.plan.halos.get(x.key, (Halo(), None))
        tile = jax.ShapeDtypeStruct(x.tiles.shape[1:], x.tiles.dtype)
        self.plan.halos[x.key] = (kept.union(halo), tile)

    def _stored(self, x: Blocked) -> halos.Memory:
        """The memory of a tensor, with this frame's blocks."""
        memory = self.memory["halos"]
        if x.key not in self._kept:
            memory[x.key] = halos.store(memory[x.key], x.tiles, self.blocks)
            self._kept.add(x.key)
        return memory[x.key]

    def dense(self, value):
        """A value for all blocks, as an array in the program's layout."""
        if isinstance(value, Joined):
            return jnp.concatenate([self.dense(part) for part in value.parts], value.axis)
        if not isinstance(value, Blocked):
            return plain(value)
        array = jnp.transpose(self._widened(value), inverse(value.apart().order))
        if value.merged:
            array = array.reshape(self.shape(value))
        if value.pad == NO_PAD:
            return array
        around = value.pad_value
        if isinstance(around, Filled):
            around = Filled(jnp.transpose(around.tile, inverse(value.order)), around.name)
        return pad_frames(array, value.axes[1:], value.pad, around)

    def whole(self, value) -> Whole:
        """The same, as a value."""
        array = self.dense(value)
        return Whole(array, tuple(array.shape))

    def _widened(self, x: Blocked) -> jax.Array:
        if x.narrow is None or x.dense is not None:
            return self._dense(x)
        return self._widened(x.narrow).astype(x.tiles.dtype)

    def _dense(self, x: Blocked) -> jax.Array:
        if x.dense is not None:
            return x.dense
        n, gh, gw = self.blocks.grid_shape
        h, w, *rest = x.tiles.shape[1:]
        shape = jax.ShapeDtypeStruct((n, gh * h, gw * w, *rest), x.tiles.dtype)
        if self.memory is None:
            self.plan.dense[x.key] = shape
            return jnp.zeros(shape.shape, shape.dtype)
        if x.key not in self._combined:
            kept = self.memory["dense"][x.key]
            self.memory["dense"][x.key] = halos.write_tiles(kept, x.tiles, self.blocks)
            self._combined[x.key] = self.memory["dense"][x.key]
        return self._combined[x.key]

    def align(self, value, like: Blocked) -> jax.Array:
        """What belongs to each tile of `like`: an array that broadcasts against its tiles.

        Args:
            value: scalar, or an array with the rank of `like`, each axis of `like`'s size or 1.
            like: the value it meets.
        """
        array = value.array if isinstance(value, Whole) else jnp.asarray(value)
        if array.ndim == 0:
            return array
        if like.merged:
            array, like = array.reshape(self._apart(array.shape, like)), like.apart()
        array = jnp.transpose(array, like.order)
        n, gh, gw = self.blocks.grid_shape
        height, width = gh * like.tiles.shape[1], gw * like.tiles.shape[2]
        full = [size == 1 or array.shape[i] == size for i, size in enumerate((n, height, width))]
        across = [f and array.shape[i] > 1 for i, f in enumerate(full)]
        if not any(across):
            return array
        rows, columns = (gh if across[1] else 1), (gw if across[2] else 1)
        size, h, w = array.shape[0], array.shape[1] // rows, array.shape[2] // columns
        cut = array.reshape(size, rows, h, columns, w, *array.shape[3:])
        places = [
            c if spread else jnp.zeros_like(c)
            for c, spread in zip(self.blocks.coordinates, across, strict=True)
        ]
        return cut[places[0], places[1], :, places[2]]

    def _apart(self, shape: tuple[int, ...], like: Blocked) -> tuple[int, ...]:
        """A shape that meets `like`, which is merged, as it meets `like` apart."""
        at, count = like.axes[1], 2 + like.batched
        ones = shape[at] == 1
        apart = (1,) * count if ones else self.shape(like.apart())[at : at + count]
        return (*shape[:at], *apart, *shape[at + 1 :])

    def image(self, value) -> Blocked | None:
        """A value as tiles; None where it is not known to be an image of all of the frames."""
        if isinstance(value, Blocked):
            return value
        axes = value.axes if varies(value) else None
        if axes is None or len({*axes}) < 3 or not self._is_image(value.shape, axes):
            return None
        if not all(map(at_own_places, value.sides, self.blocks.grid_shape)):
            return None
        rest = [a for a in range(len(value.shape)) if a not in axes]
        dense = jnp.transpose(value.full, (*axes, *rest))
        return Blocked(self.cut(dense), axes, dense=dense, fresh=True)

    def _is_image(self, shape: tuple[int, ...], axes: tuple[int, int, int]) -> bool:
        """Whether an array's sides are those of the frames, or in proportion, in whole blocks."""
        n, gh, gw = self.blocks.grid_shape
        streams, rows, columns = (shape[a] for a in axes)
        _, height, width, *_ = self.program.avals[self.program.inputs[-1]].shape
        in_proportion = rows * width == columns * height
        return streams == n and not rows % gh and not columns % gw and in_proportion

    def cut(self, dense: jax.Array) -> jax.Array:
        """The executed blocks' tiles of an array [N, H, W, *rest]."""
        return split(dense, self.blocks)


def interpret(context: Context, args: list, records: list[Record] | None = None) -> list:
    """Run the program.

    Args:
        context: blocks, program and memory; its memory is updated.
        args: the program's arguments, `Blocked`, `Whole` or plain arrays.
        records: where to note what happened to each operation.

    Returns:
        The program's results, `Blocked`, `Whole` or plain arrays.
    """
    program = context.program
    values = context.values = dict(zip(program.inputs, args, strict=True))

    def read(operand, name: str = ""):
        if isinstance(operand, Constant):
            return operand.value
        value = values[operand]
        if name not in (RESIZES if isinstance(value, Resized) else MOVES):
            values[operand] = context.finish(value)
        return values[operand]

    for op in program.ops:
        operands = [read(operand, op.name) for operand in op.inputs]
        context.halo_read, context.moved, context.reads_all = None, False, False
        context.taps, context.reason, context.in_parts = None, "", False
        results, where, reason = _run(context, op, operands)
        for number, result in zip(op.outputs, results, strict=True):
            values[number] = _named(result, number, op)
        if records is not None:
            found = (context.halo_read, context.moved, context.taps, context.reads_all)
            records.append(Record(op, where, reason, *found))
    results = [read(output) for output in program.outputs]
    return [context.whole(x) if isinstance(x, Joined) else x for x in results]


def _named(value, number: int, op: Op):
    """A new value with a name for its memory."""
    if isinstance(value, Joined):
        parts = tuple(_named(part, number, op) for part in value.parts)
        return dataclasses.replace(value, parts=parts)
    if isinstance(value, Resized):
        return dataclasses.replace(value, key=f"{number}_resize")
    new = isinstance(value, Blocked) and value.key is None
    return value.same(key=f"{number}_{op.name}") if new else value


def _run(context: Context, op: Op, operands: list) -> tuple[list, str, str]:
    moves = any(varies(x) for x in operands)
    blocked = any(isinstance(x, Blocked | Resized | Joined) for x in operands)
    reason = f"no rule for {op.name}" + " that writes into arrays" * op.writes
    try:
        results = _by_rule(context, op, operands)
    except Declined as declined:
        results, reason = None, str(declined)
    if results is not None:
        where = "whole" if moves else "constant"
        if context.in_parts or any(isinstance(r, Blocked | Resized | Joined) for r in results):
            where = "blocks"
        return results, where, context.reason
    operands = [context.whole(x) if isinstance(x, Joined) else context.finish(x) for x in operands]
    if op.name == "broadcast_in_dim" and not any(isinstance(x, Blocked) for x in operands):
        return [_spread(context, op, operands)], "whole" if moves else "constant", ""
    results = op.bind(*map(context.dense, operands))
    if not moves:
        return results, "constant", ""
    if op.name in RULES and not blocked:
        reason = ""  # its operands are whole already
    places = places_after(context.program, op, operands, context.blocks.grid_shape)
    wholes = [Whole(r, r.shape, **place) for r, place in zip(results, places, strict=True)]
    return wholes, "whole", reason


def _by_rule(context: Context, op: Op, operands: list) -> list | None:
    """The results by the operation's rule; None where there is none, or nothing for it to do."""
    if any(isinstance(x, Joined) for x in operands):
        return run_joined(context, op, operands, _run)
    if is_padded(op, operands):
        return run_padded(context, op, operands, _by_rule)
    if op.name in RULES and any(isinstance(x, Blocked | Resized | Whole) for x in operands):
        results = RULES[op.name](context, op, *operands)
        return results if isinstance(results, list) else [results]
    return None


def _spread(context: Context, op: Op, operands: list) -> Whole:
    """A broadcast that is not carried out until it must be."""
    operand, shape = operands[0], tuple(op.params["shape"])
    small = [1] * len(shape)
    array = jnp.asarray(operand.full if isinstance(operand, Whole) else operand)
    for axis, at in enumerate(op.params["broadcast_dimensions"]):
        small[at] = array.shape[axis]
    (place,) = places_after(context.program, op, operands, context.blocks.grid_shape)
    return Whole(array.reshape(small), shape, varies(operand), **place)


def nbytes(tree) -> int:
    """Bytes of all arrays, or shapes, of a pytree."""
    return sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))
