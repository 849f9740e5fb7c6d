"""One operation of a traced network: what it is called, what it costs, where its window moves."""

import numpy as np

from bc_jax.sparse.halo import Halo
from bc_jax.sparse.plan import Record
from bc_jax.sparse.program import Op


def by(sizes) -> str:
    """Sizes as text: 3x3."""
    return "x".join(map(str, sizes))


def percent(part: float, whole: float) -> str:
    """A part as text, in percent; "" where there is no whole."""
    return f"{100 * part / whole:.1f} %" if whole else ""


def pixels_read(tile: tuple[int, int], halo: Halo) -> float:
    """Pixels that a window reads, halo included, for each pixel of its tile."""
    (h, w), (top, bottom, left, right) = tile, halo
    return (h + top + bottom) * (w + left + right) / (h * w)


def window_tile(record: Record, grid_shape) -> tuple[int, int] | None:
    """(h, w) of the tiles that a window on blocks moves over."""
    op = record.op
    if record.where != "blocks":
        return None
    if op.name == "conv_general_dilated":
        axes = op.params["dimension_numbers"].lhs_spec[2:]
    elif op.name.startswith("reduce_window"):
        moving = [a for a, size in enumerate(op.params["window_dimensions"]) if size > 1]
        axes = moving if len(moving) == 2 else (1, 2)
        if len(moving) == 1 and record.halo is None:  # over channels
            return None
    else:
        return None
    if len(axes) != 2:  # a window of a pixel, that is of another rank
        return None
    height, width = (op.in_shapes[0][axis] for axis in axes)
    # Of an image that was cut, some pixels of the last tiles are missing.
    return -(-height // grid_shape[1]), -(-width // grid_shape[2])


def label(op: Op) -> str:
    """An operation for a reader: "conv 3x3/2 dilation 4", "max pool 2x2/2"."""
    p = op.params
    if op.name == "conv_general_dilated":
        numbers, kernel = p["dimension_numbers"], op.in_shapes[1]
        groups, gaps = p["feature_group_count"], max(p["lhs_dilation"], default=1)
        text = "conv " + by([kernel[a] for a in numbers.rhs_spec[2:]])
        text += _stride(p["window_strides"]) + (f" transposed/{gaps}" if gaps > 1 else "")
        dilation = max(p["rhs_dilation"], default=1)
        text += f" dilation {dilation}" if dilation > 1 else ""
        return text + (f" groups {groups}" if groups > 1 else "")
    if op.name.startswith("reduce_window_"):
        axes = [a for a, size in enumerate(p["window_dimensions"]) if size > 1]
        window = by([p["window_dimensions"][a] for a in axes])
        strides = [p["window_strides"][a] for a in axes]
        return f"{op.name.removeprefix('reduce_window_')} pool {window}{_stride(strides)}"
    return op.name


def _stride(strides) -> str:
    if len(set(strides)) > 1:
        return f"/{by(strides)}"
    return f"/{strides[0]}" if strides and strides[0] > 1 else ""


def macs(record: Record) -> int:
    """Multiply-accumulates of one operation, nested control flow included once per trip."""
    op = record.op
    size = int(np.prod(op.out_avals[0].shape))
    if record.taps is not None:
        return int(size * record.taps)
    return _jaxpr_macs(op.name, op.params, op.in_shapes, size)


def _jaxpr_macs(name, params, in_shapes, out_size: int) -> int:
    if name == "conv_general_dilated":
        numbers = params["dimension_numbers"]
        kernel = in_shapes[1]
        gaps = int(np.prod(params["lhs_dilation"]))
        per_output = int(np.prod(kernel)) // kernel[numbers.rhs_spec[0]]
        return out_size * per_output // gaps
    if name == "dot_general":
        (contract, _), _ = params["dimension_numbers"]
        return out_size * int(np.prod([in_shapes[0][a] for a in contract]))
    trips = params.get("length", 1) if name == "scan" else 1
    inner = params.get("jaxpr") or params.get("body_jaxpr")
    if inner is None and params.get("branches"):
        inner = params["branches"][-1]
    if inner is None:
        return 0
    inner = getattr(inner, "jaxpr", inner)
    return trips * sum(
        _jaxpr_macs(
            e.primitive.name,
            e.params,
            [v.aval.shape for v in e.invars],
            int(np.prod(e.outvars[0].aval.shape)) if e.outvars else 0,
        )
        for e in inner.eqns
    )
