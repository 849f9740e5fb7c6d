"""What a figure depends on: the machine, the versions, the commit, the command."""

import datetime
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax

from bc_jax import __version__


def provenance() -> dict:
    """Device, versions, commit, command, time, and settings of JAX, as JSON's types."""
    device = jax.devices()[0]
    packages = ("jax", "jaxlib", "flax", "numpy", "optax")
    return {
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            "devices": jax.device_count(),
            "system": platform.platform(),
        },
        "versions": {
            "bc_jax": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in packages},
        },
        "commit": _commit(),
        "command": f"{_program()} {shlex.join(sys.argv[1:])}".rstrip(),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "matmul_precision": jax.config.jax_default_matmul_precision,
        # Where programs come out of a cache, the time to compile is the time to read them.
        "compilation_cache": bool(jax.config.jax_compilation_cache_dir),
    }


def device_name() -> str:
    """The first device's name: a GPU's, or the processor's."""
    device = jax.devices()[0]
    return _processor() if device.platform == "cpu" else device.device_kind


def _program() -> str:
    """What the command line began with: a script's name, or `python -m` and a module's."""
    name = Path(sys.argv[0]).name
    module = getattr(sys.modules["__main__"], "__spec__", None)
    if module is not None and name == f"{module.name.split('.')[-1]}.py":
        return f"python -m {module.name}"
    return name


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout that this file is in, with '-dirty' where files were changed.

    Results do not count: a run that writes them anew has measured what the commit holds. Where the
    files have come without their history, $BC_JAX_COMMIT may say which commit they are of.
    """
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return os.environ.get("BC_JAX_COMMIT")

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        sources = ("--", ".", ":(exclude)benchmarks/results")
        changed = git("status", "--porcelain", "--untracked-files=no", *sources)
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
