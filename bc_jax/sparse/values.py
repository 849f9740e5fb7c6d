"""What a value of the traced program is while it runs block-sparsely.

A value is `Blocked` (known on the executed blocks), `Whole` (known everywhere: the result of a
dense fallback, or something repeated over space), or a plain array that depends on no frame.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from bc_jax.sparse.borders import Border, Filled
from bc_jax.sparse.sides import Side

NO_PAD = ((0, 0), (0, 0))


class Declined(Exception):
    """A rule's word that it cannot run an operation block by block; says why."""


@dataclasses.dataclass(frozen=True, eq=False)
class Blocked:
    """A frame-like value, on the executed blocks.

    Tiles are always laid out `[K, h, w, *rest]`; `axes` says where the program has these three, so
    that transposing a value costs nothing and channels-first networks run channels-last. Where a
    program has made one axis of rows and columns, as transformers' tokens, both stand at this one,
    and so does N where streams are in it too, as windows are made a batch of.

    Attributes:
        tiles: [K, h, w, *rest], `rest` in the program's order.
        axes: where N, H and W stand in the program's shape.
        key: names the tensor's memory; values with the same tiles share it.
        pad: pixels of `pad_value` that the program has put around the image: ((top, bottom),
            (left, right)), negative where it has cut some; read by windowed operations, and by
            those of each pixel by itself.
        pad_value: what the image is padded with; a `Border` where with its own pixels.
        dense: [N, H, W, *rest] where the value is at hand for all blocks, else None.
        fresh: whether `dense` is this frame's everywhere, so that halos can be read from it.
        narrow: the value of fewer bits that this one was converted from, which takes less memory.
    """

    tiles: jax.Array
    axes: tuple[int, int, int]
    key: str | None = None
    pad: tuple[tuple[int, int], tuple[int, int]] = NO_PAD
    pad_value: float | Border | Filled = 0
    dense: jax.Array | None = None
    fresh: bool = False
    narrow: "Blocked | None" = None

    @property
    def stream(self) -> int:
        """Where the program has N."""
        return self.axes[0]

    @property
    def grows(self) -> bool:
        """Whether the program has put pixels around the image, at any side."""
        return any(side > 0 for sides in self.pad for side in sides)

    def canvas(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The image's shape with what the program has put around it, less what it has cut."""
        sides = dict(zip(self.axes[1:], map(sum, self.pad), strict=True))
        return tuple(size + sides.get(axis, 0) for axis, size in enumerate(shape))

    @property
    def merged(self) -> bool:
        """Whether rows and columns are one axis of the program."""
        return self.axes[1] == self.axes[2]

    @property
    def batched(self) -> bool:
        """Whether streams, rows and columns are one axis of the program."""
        return len({*self.axes}) == 1

    @property
    def rank(self) -> int:
        """The number of axes the program sees."""
        return self.tiles.ndim - 3 + len({*self.axes})

    @property
    def rest(self) -> tuple[int, ...]:
        """The program's axes that are not N, H or W, in the order of the tiles'."""
        return tuple(a for a in range(self.rank) if a not in self.axes)

    @property
    def order(self) -> tuple[int, ...]:
        """The program's axes in the order of the tiles'."""
        return (*self.axes, *self.rest)

    def tile_axis(self, axis: int) -> int:
        """Where the tiles have the program's axis, which is not that of rows and columns."""
        return self.order.index(axis)

    def tile_axes(self, axes: Iterable[int]) -> tuple[int, ...]:
        """Where the tiles have the program's axes: in two places what is merged."""
        return tuple(i for axis in axes for i, a in enumerate(self.order) if a == axis)

    def apart(self) -> "Blocked":
        """This value with all that is merged as axes of the program, one after the other."""
        n, at, _ = self.axes
        if self.batched:
            return self.same(axes=(at, at + 1, at + 2))
        return self.same(axes=(n + (n > at), at, at + 1)) if self.merged else self

    def same(self, **changes) -> "Blocked":
        """Another view of the same tiles, with the same memory."""
        return dataclasses.replace(self, **changes)

    def moved(self, sides, value: float = 0) -> "Blocked":
        """This value with pixels more at each side, or less where negative.

        Args:
            sides: ((top, bottom), (left, right)).
            value: of those that are added.

        Raises:
            Declined: where that cannot be said by `pad` and `pad_value`.
        """
        both = [
            pair
            for old, new in zip(self.pad, sides, strict=True)
            for pair in zip(old, new, strict=True)
        ]
        around, grows = self.pad_value, any(new > 0 for _, new in both)
        if grows and any(old > 0 for old, _ in both) and around != value:
            raise Declined("the image is padded twice, with one value and with another")
        top, bottom, left, right = (old + new for old, new in both)
        pad = ((top, bottom), (left, right))
        if isinstance(around, Border):
            around = around.within(pad)
        return self.same(pad=pad, pad_value=value if grows else around)

    def new(self, tiles: jax.Array, axes: tuple[int, int, int] | None = None) -> "Blocked":
        """A new value on the same blocks."""
        return Blocked(tiles, self.axes if axes is None else axes)


@dataclasses.dataclass(frozen=True, eq=False)
class Resized:
    """A blocked value on its way through a resizing, which a program does axis by axis.

    Both axes are one layer: carried out together, with one halo, when the value is first used by
    anything else.

    Attributes:
        source: the value before.
        axes: where N, H and W stand in the program's shape now.
        maps: the map along rows and along columns, or None.
        dtype: of the result.
        key: names the result's memory.
    """

    source: Blocked
    axes: tuple[int, int, int]
    maps: tuple[Any, Any]
    dtype: Any
    key: str | None = None

    @property
    def rank(self) -> int:
        """The number of axes the program sees."""
        return self.source.rank


@dataclasses.dataclass(frozen=True, eq=False)
class Whole:
    """An array that is known in full, in the program's layout.

    Attributes:
        array: of the program's rank; an axis of size 1 may stand for one of `shape`'s size, so that
            what is repeated over space stays small until it meets a tile.
        shape: the shape that the program sees.
        varies: whether it depends on the frame.
        axes: where N, H and W stand in the program's shape; None where that is not known.
        sides: what its streams, rows and columns show of the frames'. It is cut into blocks where
            all are at their own places.
    """

    array: jax.Array
    shape: tuple[int, ...]
    varies: bool = True
    axes: tuple[int, int, int] | None = None
    sides: tuple[Side, Side, Side] = (None, None, None)

    @property
    def full(self) -> jax.Array:
        """The array in the program's shape."""
        return jnp.broadcast_to(self.array, self.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Joined:
    """Tokens of pixels, and others before or behind them, as a class token.

    Attributes:
        parts: in order; pixels' tokens are blocked, rows and columns being merged.
        axis: of the program, along which the parts are joined.
        sizes: of each part along it.
    """

    parts: tuple[Blocked | Whole, ...]
    axis: int
    sizes: tuple[int, ...]

    @property
    def stream(self) -> int:
        """Where the program has N."""
        return next(part.stream for part in self.parts if isinstance(part, Blocked))


def varies(value) -> bool:
    """Whether a value depends on the frame."""
    return isinstance(value, Blocked | Resized | Joined) or (
        isinstance(value, Whole) and value.varies
    )


def plain(value) -> jax.Array:
    """The array of a value that is not blocked."""
    return value.full if isinstance(value, Whole) else value


def inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    """The permutation that undoes `order`."""
    return tuple(order.index(i) for i in range(len(order)))
