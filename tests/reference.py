"""A slow NumPy reference of block-sparse networks, layer by layer, independent of the engine.

A reference network is a function `program(layers, frames)` written with the methods of `Layers`.
Each layer keeps its whole dense input; nothing is packed, no halo is exchanged, all is float64.
Per frame, a windowed layer combines its input with what it remembers,

    combined = where(executed, this frame's input, remembered input),

computes its dense result from that, and only the executed blocks of the result are valid. All
others are overwritten with NaN, so a reference that read one would show it.
"""

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Value:
    """An intermediate result: `array` [N, H, W, C], valid in executed blocks only if `blocked`."""

    array: np.ndarray
    blocked: bool


class Layers:
    """The layers of one frame: the grid, and the memory that outlives the frame."""

    def __init__(self, grid: np.ndarray, memory: dict[int, np.ndarray]):
        """Takes grid bool [N, Gh, Gw] and the memory {number of the reading layer: its input}."""
        self.grid, self.memory, self.readers = grid, memory, 0

    def mask(self, array: np.ndarray) -> np.ndarray:
        """Executed pixels [N, H, W, 1] of an array whose H and W are multiples of the grid's."""
        _, grid_h, grid_w = self.grid.shape
        height, width = array.shape[1:3]
        assert height % grid_h == 0 and width % grid_w == 0, (array.shape, self.grid.shape)
        rows = np.repeat(self.grid, height // grid_h, axis=1)
        return np.repeat(rows, width // grid_w, axis=2)[..., None]

    def blocked(self, array: np.ndarray) -> Value:
        """The array, valid in executed blocks only."""
        return Value(np.where(self.mask(array), array, np.nan), blocked=True)

    def combine(self, x: Value) -> np.ndarray:
        """What a layer that looks beyond its own pixel reads: fresh where executed, else memory."""
        if not x.blocked:
            return x.array
        reader, self.readers = self.readers, self.readers + 1
        remembered = self.memory.get(reader, np.zeros_like(x.array))
        self.memory[reader] = np.where(self.mask(x.array), x.array, remembered)
        return self.memory[reader]

    def windowed(self, function: Callable, x: Value) -> Value:
        """A layer that reads a window around each pixel."""
        return self.blocked(function(self.combine(x)))

    def whole(self, function: Callable, *xs: Value) -> Value:
        """A layer that mixes all of space: computed on the whole, its result fresh everywhere."""
        return Value(function(*[self.combine(x) for x in xs]), blocked=False)

    def pixelwise(self, function: Callable, *xs: Value) -> Value:
        """A layer that stays within a pixel (or a block): element-wise, on channels, reshaping."""
        with np.errstate(invalid="ignore"):
            array = function(*[x.array for x in xs])
        return self.blocked(array) if any(x.blocked for x in xs) else Value(array, blocked=False)

    def conv(self, x: Value, kernel: np.ndarray, **options) -> Value:
        """A convolution; see `conv`."""
        return self.windowed(lambda a: conv(a, kernel, **options), x)

    def pool(self, x: Value, kind: str, size: int, **options) -> Value:
        """A pooling; see `pool`."""
        return self.windowed(lambda a: pool(a, kind, size, **options), x)

    def resize(self, x: Value, factor: float, method: str, **options) -> Value:
        """A resizing, one layer that reads diagonal neighbours too; see `resize`."""
        return self.windowed(lambda a: resize(a, factor, method, **options), x)

    def relu(self, x: Value) -> Value:
        """max(x, 0)."""
        return self.pixelwise(lambda a: np.maximum(a, 0), x)

    def concat(self, *xs: Value) -> Value:
        """Concatenation on channels."""
        return self.pixelwise(lambda *arrays: np.concatenate(arrays, axis=-1), *xs)


class Reference:
    """A block-sparse network over a video: call it with each frame and its grid in turn."""

    def __init__(self, program: Callable):
        """Takes `program(layers, frames: Value) -> Value`."""
        self.program, self.memory, self.output = program, {}, None

    def __call__(self, frames: np.ndarray, grid: np.ndarray) -> np.ndarray:
        """Output [N, h, w, C] after frames [N, H, W, C], executing grid bool [N, Gh, Gw]."""
        layers = Layers(grid, self.memory)
        new = self.program(layers, layers.blocked(frames.astype(np.float64))).array
        old = np.zeros_like(new) if self.output is None else self.output
        self.output = np.where(layers.mask(new), new, old)
        assert np.isfinite(self.output).all()
        return self.output


def pair(x) -> tuple:
    """(x, x) for a number, a pair as it is."""
    return tuple(x) if isinstance(x, tuple | list) else (x, x)


def same_padding(size: int, window: int, stride: int) -> tuple[int, int]:
    """'SAME': as many outputs as ceil(size / stride), the odd pixel of padding behind."""
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def transpose_padding(window: int, stride: int, same: bool) -> tuple[int, int]:
    """Padding of a transposed convolution around its dilated input."""
    if not same:
        return window - 1, stride - 1 + max(window - stride, 0)
    total = window + stride - 2
    front = window - 1 if stride > window - 1 else -(-total // 2)
    return front, total - front


def fit(array: np.ndarray, padding, value: float) -> np.ndarray:
    """Pads rows and columns with `value`; a negative amount cuts."""
    for axis, (front, back) in zip((1, 2), padding, strict=True):
        length = array.shape[axis]
        array = array.take(range(max(-front, 0), length - max(-back, 0)), axis)
        amounts = [(0, 0)] * 4
        amounts[axis] = (max(front, 0), max(back, 0))
        array = np.pad(array, amounts, constant_values=value)
    return array


def dilate(array: np.ndarray, factor: tuple[int, int]) -> np.ndarray:
    """Puts factor - 1 zeros between the pixels."""
    n, height, width, channels = array.shape
    shape = (n, (height - 1) * factor[0] + 1, (width - 1) * factor[1] + 1, channels)
    out = np.zeros(shape, array.dtype)
    out[:, :: factor[0], :: factor[1]] = array
    return out


def taps(array: np.ndarray, size, stride, dilation):
    """For each pixel of the window: its place in it, and the pixels [N, h, w, C] seen there."""
    spans = [(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)]
    height, width = (
        (length - span) // s + 1
        for length, span, s in zip(array.shape[1:3], spans, stride, strict=True)
    )
    for i in range(size[0]):
        for j in range(size[1]):
            top, left = i * dilation[0], j * dilation[1]
            rows = slice(top, top + (height - 1) * stride[0] + 1, stride[0])
            columns = slice(left, left + (width - 1) * stride[1] + 1, stride[1])
            yield (i, j), array[:, rows, columns]


def resolve(padding, sizes, spans, strides) -> list[tuple[int, int]]:
    """'SAME', 'VALID' or pairs, as pairs."""
    if padding == "SAME":
        return [same_padding(*a) for a in zip(sizes, spans, strides, strict=True)]
    return [(0, 0), (0, 0)] if padding == "VALID" else list(padding)


def conv(
    x: np.ndarray,
    kernel: np.ndarray,
    *,
    stride=1,
    padding="SAME",
    dilation=1,
    groups: int = 1,
    upsample=1,
) -> np.ndarray:
    """Convolves x [N, H, W, C], kernel [kh, kw, C / groups, D]; upsample is lhs_dilation."""
    stride, dilation, size = pair(stride), pair(dilation), kernel.shape[:2]
    x = dilate(x, pair(upsample))
    spans = [(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)]
    x = fit(x, resolve(padding, x.shape[1:3], spans, stride), 0.0)
    out = []
    for part, weights in zip(np.split(x, groups, -1), np.split(kernel, groups, -1), strict=True):
        out.append(sum(seen @ weights[at] for at, seen in taps(part, size, stride, dilation)))
    return np.concatenate(out, axis=-1)


def pool(
    x: np.ndarray, kind: str, size, *, stride=1, padding="SAME", count_padding: bool = True
) -> np.ndarray:
    """Pooling of kind 'max', 'min' or 'mean' over windows of `size`."""
    size, stride = pair(size), pair(stride)
    padding = resolve(padding, x.shape[1:3], size, stride)
    outside = {"max": -np.inf, "min": np.inf, "mean": 0.0}[kind]

    def windows(array, value):
        return np.stack([t for _, t in taps(fit(array, padding, value), size, stride, (1, 1))])

    if kind != "mean":
        return getattr(windows(x, outside), kind)(axis=0)
    count = windows(np.ones_like(x), float(count_padding)).sum(axis=0)
    return windows(x, outside).sum(axis=0) / count


def resize_weights(size: int, factor: float, method: str, antialias: bool) -> np.ndarray:
    """[out, in] weights, pixel centres at halves; outside the image there is nothing to weigh."""
    out = round(size * factor)
    centres = (np.arange(out) + 0.5) / factor - 0.5
    if method == "nearest":
        chosen = np.floor((np.arange(out) + 0.5) / factor).astype(int)
        return np.eye(size)[chosen]
    width = max(1 / factor, 1.0) if antialias else 1.0
    weights = np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(size)[None, :]) / width)
    return weights / weights.sum(axis=1, keepdims=True)


def resize(x: np.ndarray, factor, method: str, *, antialias: bool = True) -> np.ndarray:
    """Resizes x [N, H, W, C] by `factor` (one or a pair), method 'nearest' or 'bilinear'."""
    sizes = zip(x.shape[1:3], pair(factor), strict=True)
    rows, columns = (resize_weights(n, by, method, antialias) for n, by in sizes)
    return np.einsum("ah,bw,nhwc->nabc", rows, columns, x)


def depth_to_space(x: np.ndarray, factor: int) -> np.ndarray:
    """[N, H, W, factor^2 C] -> [N, factor H, factor W, C]."""
    n, height, width, channels = x.shape
    out = np.zeros((n, height * factor, width * factor, channels // factor**2), x.dtype)
    for i, part in enumerate(np.split(x, factor**2, axis=-1)):
        out[:, i // factor :: factor, i % factor :: factor] = part
    return out


def space_to_depth(x: np.ndarray, factor: int) -> np.ndarray:
    """[N, H, W, C] -> [N, H / factor, W / factor, factor^2 C]."""
    parts = [x[:, i::factor, j::factor] for i in range(factor) for j in range(factor)]
    return np.concatenate(parts, axis=-1)


def softmax(x: np.ndarray) -> np.ndarray:
    """Softmax on channels."""
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
