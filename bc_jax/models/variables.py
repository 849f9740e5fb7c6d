"""A network's variables in one `.npz` file: flat names such as `params/encoder/b1/bn/scale`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

Variables = dict[str, Any]


def flatten(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Nested variables to `{"params/a/b": leaf}`, sorted by name."""
    return dict(sorted(traverse_util.flatten_dict(variables, sep="/").items()))


def write_variables(path: str | os.PathLike, variables: Mapping[str, Any]) -> None:
    """Write variables to the file `path`, whole or not at all."""
    arrays = {name: np.asarray(leaf) for name, leaf in flatten(variables).items()}
    unfinished = Path(path).with_name(Path(path).name + ".unfinished")
    with open(unfinished, "wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(unfinished, path)


def read_variables(path: str | os.PathLike) -> Variables:
    """Read what `write_variables` wrote: {'params': ..., 'batch_stats': ...} of NumPy arrays."""
    with np.load(path, allow_pickle=False) as file:
        return traverse_util.unflatten_dict(dict(file), sep="/")


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
