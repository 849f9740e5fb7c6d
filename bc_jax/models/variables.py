"""A network's variables: drawn at random, checked, and kept in one `.npz` file.

Flat names are such as `params/encoder/b1/bn/scale`.
"""

import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

Variables = dict[str, Any]


def flatten(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Nested variables to `{"params/a/b": leaf}`, sorted by name."""
    return dict(sorted(traverse_util.flatten_dict(variables, sep="/").items()))


def checksum(variables: Mapping[str, Any]) -> str:
    """A CRC-32 of all names, shapes, types and values, as eight hexadecimal digits."""
    crc = 0
    for path, leaf in jax.tree_util.tree_flatten_with_path(variables)[0]:
        array = np.ascontiguousarray(leaf)
        about = f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}"
        crc = zlib.crc32(array.tobytes(), zlib.crc32(about.encode(), crc))
    return f"{crc:08x}"


def write_variables(
    path: str | os.PathLike, variables: Mapping[str, Any], *, dtype: Any = None
) -> None:
    """Write variables to the file `path`, whole or not at all.

    Args:
      path: of the file, `.npz`.
      variables: {'params': ..., 'batch_stats': ...}.
      dtype: what they are stored in, such as float16 for half the size; None: what they are.

    Raises:
      ValueError: a value is beyond what the dtype holds.
    """
    with np.errstate(over="ignore"):  # told below
        arrays = {name: np.asarray(leaf, dtype) for name, leaf in flatten(variables).items()}
    for name, array in arrays.items():
        if dtype is not None and not np.isfinite(array).all():
            raise ValueError(f"{name} has values that are not finite in {np.dtype(dtype)}")
    unfinished = Path(path).with_name(Path(path).name + ".unfinished")
    with open(unfinished, "wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(unfinished, path)


def read_variables(path: str | os.PathLike) -> Variables:
    """Read what `write_variables` wrote: {'params': ..., 'batch_stats': ...} of NumPy arrays.

    Those that were stored in float16 come back as float32.

    Raises:
      OSError: the file cannot be opened.
      ValueError: it is damaged, or something else than `write_variables` writes.
    """
    try:
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as file:
            leaves = {name: np.asarray(leaf) for name, leaf in file.items()}
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} is damaged, or no file of a network's parameters: these are .npz files, as "
            "training a network writes them, and bc-jax convert of a PyTorch checkpoint"
        ) from error
    arrays = {
        name: leaf.astype(np.float32) if leaf.dtype == np.float16 else leaf
        for name, leaf in leaves.items()
    }
    return traverse_util.unflatten_dict(arrays, sep="/")


_CONSTANTS = {"scale": 1.0, "var": 1.0, "bias": 0.0, "mean": 0.0, "alpha": 0.25}


def random_variables(key: jax.Array, template: Mapping[str, Any]) -> Variables:
    """Variables distributed as the modules' own initialisers have them, but all from one draw.

    A draw per layer, as in `module.init`, is a program that takes ten seconds to compile.

    Args:
      key: a PRNG key.
      template: nested variables of anything that has a shape, as `jax.eval_shape` gives them.
    """
    leaves = flatten(template)
    kernels = {name: leaf for name, leaf in leaves.items() if name.endswith("/kernel")}
    ends = np.cumsum([leaf.size for leaf in kernels.values()])
    numbers = np.asarray(jax.random.normal(key, (int(ends[-1]),)))
    result = {
        name: np.full(leaf.shape, _CONSTANTS[name.rsplit("/", 1)[1]], np.float32)
        for name, leaf in leaves.items()
        if name not in kernels
    }
    for end, (name, leaf) in zip(ends, kernels.items(), strict=True):
        height, width, _, features = leaf.shape
        deviation = (2 / (height * width * features)) ** 0.5
        result[name] = deviation * numbers[end - leaf.size : end].reshape(leaf.shape)
    return traverse_util.unflatten_dict(jax.tree.map(jnp.asarray, result), sep="/")


def check_variables(given: Mapping[str, Any], expected: Mapping[str, Any], what: str) -> None:
    """Raise one ValueError that names every missing, surplus and misshapen leaf.

    Args:
      given: nested variables of arrays.
      expected: nested variables of anything that has a shape.
      what: whose variables they are, for the message.
    """
    got = {name: tuple(np.shape(leaf)) for name, leaf in flatten(given).items()}
    want = {name: tuple(leaf.shape) for name, leaf in flatten(expected).items()}
    report_differences(got, want, what)


def report_differences(
    given: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], what: str
) -> None:
    """Raise one ValueError that names every missing, surplus and misshapen entry, if any."""
    faults = [f"missing {name}" for name in expected if name not in given]
    faults += [f"surplus {name}" for name in given if name not in expected]
    faults += [
        f"misshapen {name}: {given[name]}, not {shape}"
        for name, shape in expected.items()
        if name in given and given[name] != shape
    ]
    if faults:
        raise ValueError(f"{what}: {len(faults)} entries do not fit:\n  " + "\n  ".join(faults))
