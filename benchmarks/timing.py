"""Clocks, the machine's description, and files of results."""

import dataclasses
import datetime
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax
import numpy as np

import bc_jax

ROOT = Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds per call.

    Attributes:
        median: of all repeats.
        p10: a tenth of the calls are faster.
        p90: a tenth of the calls are slower.
    """

    median: float
    p10: float
    p90: float


def alternate(
    functions: dict[str, Callable[[], object]], *, repeats: int, warm_up: int = 2
) -> dict[str, Timing]:
    """Time functions in turn, so that whatever else the machine does falls on all of them.

    Every second round runs backwards, so that none always follows the same other one.

    Args:
        functions: by name; each is called without arguments, and its result is waited for.
        repeats: rounds that count.
        warm_up: rounds before them that do not.

    Returns:
        A Timing per name.

    Raises:
        ValueError: where repeats is not positive or warm_up is negative.
    """
    if repeats < 1 or warm_up < 0:
        raise ValueError(f"repeats is {repeats} and warm_up {warm_up}; at least 1 and 0 are needed")
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    order = list(functions)
    for turn in range(warm_up + repeats):
        for name in order if turn % 2 == 0 else reversed(order):
            start = time.perf_counter()
            jax.block_until_ready(functions[name]())
            elapsed = time.perf_counter() - start
            if turn >= warm_up:
                seconds[name].append(elapsed)
    return {
        name: Timing(*map(float, np.percentile(s, (50, 10, 90)))) for name, s in seconds.items()
    }


def efficiency(fraction: float, dense: float, sparse: float) -> float:
    """Ideal time over measured time, fraction * dense / sparse; 1 is ideal."""
    return fraction * dense / sparse


def environment() -> dict:
    """What a figure depends on: device, versions, commit, settings, load of the machine."""
    device = jax.devices()[0]
    return {
        "device": device_name(),
        "platform": device.platform,
        "devices": jax.device_count(),
        "cpu": _cpu(),
        "cores": _cores(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "bc_jax": bc_jax.__version__,
        "versions": {name: _version(name) for name in ("jax", "jaxlib", "flax", "numpy", "optax")},
        "commit": _commit(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "matmul_precision": jax.config.jax_default_matmul_precision,
        # Where programs come out of a cache, compile_seconds is the time to read them.
        "compilation_cache": bool(jax.config.jax_compilation_cache_dir),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def device_name() -> str:
    """The first device's name: a GPU's, or the processor's."""
    device = jax.devices()[0]
    return _cpu() if device.platform == "cpu" else device.device_kind


def write_rows(path: str | Path, rows: list[dict], **more) -> Path:
    """Write {"environment", "rows", **more} as JSON, whole or not at all.

    Args:
        path: the file; folders on the way are made.
        rows: measurements, of JSON's types.
        **more: further entries beside the rows.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"environment": environment(), **more, "rows": rows}, indent=1)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(content + "\n")
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    return path


def table(rows: list[dict], columns: dict[str, str]) -> str:
    """Rows as aligned text.

    Args:
        rows: measurements; what a row lacks is left empty.
        columns: heading -> format with the row's fields, such as "{sparse_ms:.1f}".
    """
    lines = [list(columns)]
    for row in rows:
        lines.append([_cell(form, row) for form in columns.values()])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
    text.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(line.rstrip() for line in text)


def _cell(form: str, row: dict) -> str:
    try:
        return form.format(**row)
    except KeyError:
        return ""


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit, with "-dirty" where files differ from it; None outside a repository."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, check=True, text=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
