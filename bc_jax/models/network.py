"""`load`: a network by name, ready for frames as they come from a video."""

import dataclasses
import difflib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from . import cityscapes, espnet
from .deeplab import DeepLabV3Plus
from .swiftnet import SwiftNet
from .variables import Variables, check_variables, random_variables, read_variables

_WEIGHTS = Path(__file__).parent / "weights"


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A segmentation network with its parameters.

    Attributes:
      name: as given to `load`.
      apply_fn: `apply_fn(params, frames) -> logits`; frames are RGB [N, H, W, 3], uint8 or float in
        [0, 1]; logits are [N, H/stride, W/stride, classes]. Pure, and the same function object for
        every network of the same architecture and options, so compiled programs are shared.
      params: {'params': ..., 'batch_stats': ...}.
      train_fn: `train_fn(params, frames) -> (logits, batch_stats)`, for training: batch norm takes
        the batch's own statistics, and the running ones come back moved on. Else as `apply_fn`.
        None for a network that is only run.
      class_names: one name per class.
      palette: uint8 [classes, 3], an RGB colour per class.
      stride: side, in pixels of the frame, of one cell of the logits.
      multiple: the sides of a frame are multiples of it.
    """

    name: str
    apply_fn: Callable[[Any, jax.Array], jax.Array]
    params: Variables
    class_names: tuple[str, ...]
    palette: np.ndarray
    stride: int
    train_fn: Callable[[Any, jax.Array], tuple[jax.Array, Any]] | None = None
    multiple: int = 1


@dataclasses.dataclass(frozen=True)
class _Normalisation:
    """`(x - mean) / std` per channel, for x in [0, 1], in the order RGB or BGR."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bgr: bool = False

    def __call__(self, frames: jax.Array) -> jax.Array:
        x = _unit_range(frames)
        if self.bgr:
            # Slices put side by side, which act on channels alone; a reversal need not.
            x = jnp.concatenate([jax.lax.slice_in_dim(x, c, c + 1, axis=-1) for c in (2, 1, 0)], -1)
        mean = jnp.asarray(self.mean, x.dtype).reshape(1, 1, 1, 3)
        std = jnp.asarray(self.std, x.dtype).reshape(1, 1, 1, 3)
        return (x - mean) / std


def _unit_range(frames: jax.Array) -> jax.Array:
    """Frames as float32 in [0, 1]."""
    if frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"frames of shape {tuple(frames.shape)}: RGB frames are [N, H, W, 3]")
    if frames.dtype == jnp.uint8:
        return jnp.asarray(frames).astype(jnp.float32) / 255
    if jnp.issubdtype(frames.dtype, jnp.floating):
        return jnp.asarray(frames).astype(jnp.float32)
    raise ValueError(f"frames of type {frames.dtype}: give uint8, or floating point in [0, 1]")


_IMAGENET = _Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
# Its authors divide ((0..255) - mean) / std by 255 once more.
_ESPNET = _Normalisation(
    mean=(72.3923111 / 255, 82.90893555 / 255, 73.15840149 / 255),
    std=(45.3192215, 46.15289307, 44.91483307),
    bgr=True,
)


@functools.cache
def _apply_function(module: nn.Module, normalise: _Normalisation) -> Callable:
    def apply_fn(params, frames):
        return module.apply(params, normalise(frames), train=False)

    return apply_fn


@functools.cache
def _train_function(module: nn.Module, normalise: _Normalisation) -> Callable:
    def train_fn(params, frames):
        x = normalise(frames)
        logits, updated = module.apply(params, x, train=True, mutable=["batch_stats"])
        return logits, updated["batch_stats"]

    return train_fn


@dataclasses.dataclass(frozen=True)
class _Entry:
    """What `load` knows of a name: how to build the module, and which weights come with it."""

    module: Callable[..., nn.Module]
    normalise: _Normalisation
    stride: int
    multiple: int = 1
    weights: str | None = None  # file in the folder of weights, whose README.md credits it


_ENTRIES = {
    "espnet_cityscapes": _Entry(
        espnet.ESPNet, _ESPNET, stride=1, multiple=espnet.STRIDE, weights="espnet_cityscapes.npz"
    ),
    "swiftnet_street": _Entry(
        functools.partial(SwiftNet, "resnet18", base_width=24, decoder_width=64),
        _IMAGENET,
        stride=4,
        weights="swiftnet_street.npz",
    ),
    "swiftnet_rn18": _Entry(functools.partial(SwiftNet, "resnet18"), _IMAGENET, stride=4),
    "swiftnet_rn34": _Entry(functools.partial(SwiftNet, "resnet34"), _IMAGENET, stride=4),
    "swiftnet_rn50": _Entry(functools.partial(SwiftNet, "resnet50"), _IMAGENET, stride=4),
    "deeplabv3plus_rn50": _Entry(functools.partial(DeepLabV3Plus, "resnet50"), _IMAGENET, stride=4),
    "deeplabv3plus_rn101": _Entry(
        functools.partial(DeepLabV3Plus, "resnet101"), _IMAGENET, stride=4
    ),
}
NAMES = tuple(_ENTRIES)
# Fields of modules that are no options: Flax's own, and what the network's name says.
_FIXED = ("name", "parent", "backbone")
# Those that come with weights.
TRAINED = tuple(name for name, entry in _ENTRIES.items() if entry.weights)


def load(
    name: str, *, key: jax.Array | None = None, params: Variables | None = None, **options: Any
) -> Network:
    """A network by name, with its parameters.

    Args:
      name: one of `NAMES`. Those in `TRAINED` have weights; the others start at random.
      key: a PRNG key for random parameters, where no trained ones come with the name.
      params: parameters to use instead, {'params': ..., 'batch_stats': ...}.
      **options: fields of the module, such as `dtype=jnp.bfloat16` or DeepLabV3+'s
        `output_stride=8`.

    Raises:
      ValueError: for an unknown name, an option that the network has not or that is no number where
        it is one, parameters that do not fit (each is named), or not exactly one source of them.
    """
    if name not in _ENTRIES:
        raise ValueError(f"network {name!r} is not known: choose one of {', '.join(NAMES)}")
    entry = _ENTRIES[name]
    _check_options(name, entry, options)
    module = entry.module(**options)
    if module.num_classes < 1:
        raise ValueError(f"num_classes is {module.num_classes}; it is 1 or more")
    template = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    if params is None and entry.weights is not None:
        if key is not None:
            raise ValueError(f"{name} comes with its weights: it takes no key")
        params = read_variables(_WEIGHTS / entry.weights)
    if params is None:
        if key is None:
            raise ValueError(
                f"{name} has no weights of its own: give key=jax.random.key(0) for random ones, or "
                "params="
            )
        params = random_variables(key, template)
    else:
        check_variables(params, template, f"parameters of {name}")
        params = jax.tree.map(jnp.asarray, params)
    return Network(
        name=name,
        apply_fn=_apply_function(module, entry.normalise),
        params=params,
        class_names=cityscapes.class_names(module.num_classes),
        palette=cityscapes.palette(module.num_classes),
        stride=entry.stride,
        train_fn=_train_function(module, entry.normalise),
        multiple=entry.multiple,
    )


def _check_options(name: str, entry: _Entry, options: dict[str, Any]) -> None:
    """Raise ValueError for the first option that is not one of the network's."""
    module = getattr(entry.module, "func", entry.module)
    fields = {f.name: f.type for f in dataclasses.fields(module) if f.name not in _FIXED}
    for option, value in options.items():
        if option not in fields:
            close = difflib.get_close_matches(option, fields, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{name} has no option {option!r}; it has {', '.join(fields)}{hint}")
        if fields[option] is int and not isinstance(value, int | np.integer):
            raise ValueError(f"{option} of {name} is {value!r}; it is a whole number")
