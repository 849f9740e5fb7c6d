"""Checkpoints: a pytree and JSON beside it, written with orbax, whole or not at all.

A checkpoint of step 120 is a folder of arrays, `00000120-<random>/`, and a file `00000120.json`
that names the folder, holds the metadata, says each leaf's place in the tree, shape, dtype and
checksum, and has the checksums of the folder's files and of itself. The file comes last and in one
rename: a process killed at any moment leaves a folder that no file names, which the next save
removes. One process writes to a directory at a time.
"""

import contextlib
import dataclasses
import json
import logging
import re
import secrets
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from bc_jax.files import UNFINISHED, checksums, write_text

FORMAT, VERSION = "bc_jax checkpoint", 1
_FILE = re.compile(r"(\d{8,})\.json")
_FOLDER = re.compile(r"\d{8,}-[0-9a-f]{8}")
# What orbax calls such a folder until all of it is written.
_UNFINISHED_FOLDER = re.compile(_FOLDER.pattern + r"\.orbax-checkpoint-tmp(-\d+)?")

Tree = TypeVar("Tree")
T = TypeVar("T")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or read; says where, why and what is possible."""


class CorruptCheckpointError(CheckpointError):
    """A checkpoint whose files are damaged; older ones may be good."""


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """A leaf as the file describes it; PRNG keys are stored as their uint32 data."""

    path: str  # its place in the tree, such as ".optimizer[0].nu['kernel']"
    shape: tuple[int, ...]  # of the keys themselves where they are PRNG keys
    dtype: str
    key: str | None = None  # the PRNG's implementation
    crc32: int = 0  # of the stored bytes

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


class Checkpointer:
    """The checkpoints in one directory, the newest `keep` of them.

    Args:
      directory: where they are; made by the first save.
      keep: how many stay; older ones are removed after each save.
    """

    def __init__(self, directory: str | Path, *, keep: int = 3):
        if keep < 1:
            raise ValueError(f"keep is {keep}: at least one checkpoint is kept")
        self.directory = Path(directory).absolute()
        self.keep = keep
        self._restored = False

    def steps(self) -> list[int]:
        """The steps that were saved, in ascending order; none where there is no directory."""
        if not self.directory.is_dir():
            return []
        names = (_FILE.fullmatch(path.name) for path in self.directory.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def latest_step(self) -> int | None:
        """The newest step that was saved, or None."""
        return max(self.steps(), default=None)

    def save(self, step: int, tree: Any, metadata: Mapping[str, Any]) -> None:
        """Writes a checkpoint, whole or not at all, then removes those beyond `keep`.

        Later steps, left from a course that was not gone on with after `restore`, are removed too.

        Args:
          step: its number, >= 0; one that is there is replaced.
          tree: pytree of arrays, PRNG keys and Python numbers.
          metadata: what else to keep, as JSON: the config, the position in the data.

        Raises:
          CheckpointError: there are later steps and none was restored, a leaf is no array, the
            metadata is not JSON, or the directory cannot be written.
        """
        later = [s for s in self.steps() if s > step]
        if step < 0:
            raise CheckpointError(f"step {step} is below 0")
        if later and not self._restored:
            raise CheckpointError(
                f"{self.directory} has checkpoints up to step {later[-1]}, beyond step {step}: "
                "restore one to go on from, or choose another directory"
            )
        leaves, arrays = _pack(tree)
        folder = f"{step:08d}-{secrets.token_hex(4)}"
        document = {
            "format": FORMAT,
            "version": VERSION,
            "step": step,
            "folder": folder,
            "leaves": [dataclasses.asdict(leaf) for leaf in leaves],
        }
        try:
            document["metadata"] = json.loads(json.dumps(dict(metadata), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"metadata of step {step} is not JSON: {error}") from error
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
            _write_arrays(self.directory / folder, arrays)
            document["files"] = checksums(self.directory / folder)
            text = json.dumps({**document, "crc32": _checksum(document)})
            write_text(self._file(step), text)
        except Exception as error:  # of a full disk, orbax and tensorstore raise many kinds
            with contextlib.suppress(OSError):
                self._remove_leftovers()
            raise CheckpointError(f"cannot write to {self.directory}: {_short(error)}") from error
        for other in [*later, *[s for s in self.steps() if s <= step][: -self.keep]]:
            self._file(other).unlink()
        self._remove_leftovers()

    def metadata(self, *, step: int | None = None, fallback: bool = False) -> dict[str, Any]:
        """What was saved beside a tree; arguments and errors as for `restore`."""
        return self._newest(step, fallback, lambda s: self._document(s)["metadata"])

    def restore(
        self, like: Tree, *, step: int | None = None, fallback: bool = False
    ) -> tuple[Tree, dict[str, Any]]:
        """Reads a checkpoint.

        Args:
          like: pytree of arrays or `jax.ShapeDtypeStruct`s, structured as what was saved. NumPy
            arrays and Python numbers come back as such, all else as JAX arrays.
          step: which one; None is the newest.
          fallback: where it is damaged, take the newest good one before it, and warn.

        Returns:
          The tree, bit for bit as it was saved, and the metadata.

        Raises:
          CorruptCheckpointError: its files are damaged; says which other steps there are.
          CheckpointError: there is no such checkpoint, what is there is not bc_jax's, or the saved
            tree's structure, shapes or dtypes are not those of `like`.
        """
        restored = self._newest(step, fallback, lambda s: self._read(s, like))
        self._restored = True
        return restored

    def _newest(self, step: int | None, fallback: bool, read: Callable[[int], T]) -> T:
        """What `read` gives for the step, or for the first before it that is not damaged."""
        newest = self._choose(step)
        errors = []
        for candidate in [s for s in reversed(self.steps()) if s <= newest]:
            try:
                result = read(candidate)
            except CorruptCheckpointError as error:
                errors.append(str(error))
                if not fallback:
                    break
            else:
                if errors:
                    why = "; ".join(errors)
                    warnings.warn(f"going back to step {candidate}: {why}", stacklevel=3)
                return result
        others = ", ".join(str(s) for s in self.steps() if s != newest) or "none"
        more = "" if fallback else f"; other steps that are there: {others}"
        raise CorruptCheckpointError("; ".join(errors) + more)

    def _file(self, step: int) -> Path:
        return self.directory / f"{step:08d}.json"

    def _choose(self, step: int | None) -> int:
        """The step asked for, or the newest; raises where there is no such."""
        steps = self.steps()
        if not steps:
            if not self.directory.exists():
                there = next(path for path in self.directory.parents if path.is_dir())
                raise CheckpointError(
                    f"there is no directory {self.directory}; {there} has {_names(there)}"
                )
            if not self.directory.is_dir():
                raise CheckpointError(f"{self.directory} is a file, not a directory of checkpoints")
            raise CheckpointError(
                f"{self.directory} holds no checkpoint of bc_jax; it has {_names(self.directory)}"
            )
        if step is not None and step not in steps:
            raise CheckpointError(
                f"{self.directory} has no step {step}; it has {', '.join(map(str, steps))}"
            )
        return steps[-1] if step is None else step

    def _document(self, step: int) -> dict[str, Any]:
        path = self._file(step)
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CorruptCheckpointError(f"checkpoint {path} is damaged: {error}") from error
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise CheckpointError(f"{path} was not written by bc_jax")
        if document.get("version") != VERSION:
            raise CheckpointError(
                f"{path} has version {document.get('version')}, and this bc_jax reads {VERSION}"
            )
        missing = {"folder", "leaves", "metadata"} - document.keys()
        if missing:
            raise CorruptCheckpointError(f"checkpoint {path} is damaged: without {sorted(missing)}")
        # Those of earlier versions have none.
        if document.pop("crc32", None) not in (None, _checksum(document)):
            raise CorruptCheckpointError(f"checkpoint {path} is damaged: not as it was written")
        if not _FOLDER.fullmatch(str(document["folder"])):
            raise CorruptCheckpointError(
                f"checkpoint {path} is damaged: its folder is {document['folder']!r}"
            )
        return document

    def _described(self, step: int) -> tuple[dict[str, Any], list[_Leaf]]:
        """What a checkpoint's file says, and the leaves that it describes."""
        document = self._document(step)
        try:
            leaves = [_Leaf(**{**d, "shape": tuple(d["shape"])}) for d in document["leaves"]]
        except (TypeError, KeyError) as error:
            raise CorruptCheckpointError(
                f"checkpoint {self._file(step)} is damaged: a leaf is not described as it must be "
                f"({type(error).__name__}: {error})"
            ) from error
        return document, leaves

    def _read(self, step: int, like: Tree) -> tuple[Tree, dict[str, Any]]:
        document, saved = self._described(step)
        wanted, tree = jax.tree_util.tree_flatten_with_path(like)
        _check_structure(self._file(step), saved, [_describe(*leaf) for leaf in wanted])
        folder = self.directory / document["folder"]
        by_path = {leaf.path: (leaf, i) for i, leaf in enumerate(saved)}
        written, there = document.get("files", {}), checksums(folder)
        if changed := [name for name in written if there.get(name) != written[name]]:
            what = "not as it was written" if changed[0] in there else "missing"
            raise CorruptCheckpointError(f"checkpoint {folder} is damaged: {changed[0]} is {what}")
        try:
            arrays = _read_arrays(folder, saved)
        except Exception as error:  # orbax and tensorstore raise many kinds
            why = _short(error)
            raise CorruptCheckpointError(f"checkpoint {folder} is damaged: {why}") from error
        leaves = []
        for path, target in wanted:
            leaf, i = by_path[jax.tree_util.keystr(path)]
            if zlib.crc32(np.ascontiguousarray(arrays[i]).tobytes()) != leaf.crc32:
                raise CorruptCheckpointError(
                    f"checkpoint {folder} is damaged: the checksum of {leaf.path} is not its own"
                )
            leaves.append(_unpack(arrays[i], leaf, target))
        return jax.tree_util.tree_unflatten(tree, leaves), document["metadata"]

    def _remove_leftovers(self) -> None:
        """Removes folders and temporary files that belong to no checkpoint."""
        kept = set()
        for step in self.steps():
            try:
                kept.add(self._document(step).get("folder"))
            except CheckpointError:
                # Which folder is a damaged file's cannot be told: leave all of that step.
                kept.update(path.name for path in self.directory.glob(f"{step:08d}-*"))
        for path in self.directory.iterdir():
            of_no_file = _FOLDER.fullmatch(path.name) and path.name not in kept
            if of_no_file or _UNFINISHED_FOLDER.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)
            elif UNFINISHED.fullmatch(path.name):
                path.unlink(missing_ok=True)


def _names(folder: Path) -> str:
    """The first few names in a folder, for a message."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    return ", ".join(names[:5]) + ", ..." * (len(names) > 5) or "nothing"


def _checksum(document: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(document).encode())


def _short(error: Exception) -> str:
    """What an error says, without the pages that tensorstore adds of its own settings."""
    return str(error).split("\n")[0].split(" [tensorstore_spec")[0] or type(error).__name__


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _describe(path: Any, leaf: Any) -> _Leaf:
    name = jax.tree_util.keystr(path)
    if _is_key(leaf):
        return _Leaf(name, tuple(leaf.shape), str(leaf.dtype))
    if isinstance(leaf, bool | int | float | np.generic):
        leaf = np.asarray(leaf)
    if not hasattr(leaf, "shape") or np.dtype(leaf.dtype) == object:
        raise CheckpointError(f"{name or 'the tree'} is a {type(leaf).__name__}, not an array")
    return _Leaf(name, tuple(leaf.shape), np.dtype(leaf.dtype).name)


def _pack(tree: Any) -> tuple[list[_Leaf], list[np.ndarray]]:
    """Each leaf's description and, as a NumPy array, its content."""
    leaves, arrays = [], []
    for path, value in jax.tree_util.tree_flatten_with_path(tree)[0]:
        leaf = _describe(path, value)
        key = str(jax.random.key_impl(value)) if _is_key(value) else None
        array = np.asarray(jax.random.key_data(value) if key else value)
        crc32 = zlib.crc32(np.ascontiguousarray(array).tobytes())
        leaves.append(dataclasses.replace(leaf, key=key, crc32=crc32))
        arrays.append(array)
    return leaves, arrays


def _unpack(array: np.ndarray, leaf: _Leaf, target: Any) -> Any:
    """A stored array as the kind of leaf that `target` is."""
    if leaf.key:
        return jax.random.wrap_key_data(array, impl=leaf.key)
    if isinstance(target, bool | int | float):
        return array.item()
    if isinstance(target, np.ndarray | np.generic):
        return array if isinstance(target, np.ndarray) else array[()]
    bound = isinstance(target, jax.Array) and target.committed  # to devices
    return jax.device_put(array, target.sharding if bound else None)


def _check_structure(path: Path, saved: list[_Leaf], wanted: list[_Leaf]) -> None:
    """Raises CheckpointError where the saved leaves are not the wanted ones."""
    there = {leaf.path: str(leaf) for leaf in saved}
    asked = {leaf.path: str(leaf) for leaf in wanted}
    differences = [
        *(f"{name} is missing" for name in asked if name not in there),
        *(f"{name} was not asked for" for name in there if name not in asked),
        *(
            f"{name} is {there[name]} and {asked[name]} was asked for"
            for name in asked
            if name in there and there[name] != asked[name]
        ),
    ]
    if differences:
        more = f", and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise CheckpointError(
            f"checkpoint {path} was saved with another model, policy or optimizer: "
            f"{', '.join(differences[:5])}{more}; restore it with the config in its metadata"
        )


def _stored(array: np.ndarray, i: int) -> dict[str, np.ndarray]:
    # An array without elements cannot be stored, and its shape says all.
    return {f"leaf_{i:05d}": array} if array.size else {}


@contextlib.contextmanager
def _told_once() -> Iterator[None]:
    """Keep orbax from logging, trace and all, the errors that it raises too."""
    logger = logging.getLogger("absl")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _write_arrays(folder: Path, arrays: list[np.ndarray]) -> None:
    import orbax.checkpoint as ocp

    stored = {name: a for i, array in enumerate(arrays) for name, a in _stored(array, i).items()}
    with _told_once(), ocp.StandardCheckpointer() as checkpointer:
        # Something must be stored even of a tree that has no elements.
        checkpointer.save(folder, {"count": np.asarray(len(arrays)), **stored})


def _read_arrays(folder: Path, leaves: list[_Leaf]) -> list[np.ndarray]:
    import orbax.checkpoint as ocp

    targets = [_target(leaf) for leaf in leaves]
    stored = {name: a for i, target in enumerate(targets) for name, a in _stored(target, i).items()}
    with _told_once(), ocp.StandardCheckpointer() as checkpointer:
        read = checkpointer.restore(folder, {"count": np.asarray(0), **stored})
    return [np.asarray(read.get(f"leaf_{i:05d}", target)) for i, target in enumerate(targets)]


def _target(leaf: _Leaf) -> np.ndarray:
    """An array of the shape and dtype that a leaf is stored as."""
    if leaf.key:
        words = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=leaf.key)))
        return np.zeros(leaf.shape + words.shape, words.dtype)
    return np.zeros(leaf.shape, np.dtype(leaf.dtype))
