"""What the command-line tools share: fast programs, kept on disk; stopping; errors in one line."""

import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from bc_jax.checkpoint import CheckpointError
from bc_jax.sparse import keep_memory


def prepare() -> None:
    """Set this process up for speed: its memory kept, its compiled programs on disk."""
    keep_memory()
    use_compilation_cache()


def use_compilation_cache() -> Path | None:
    """Keep compiled programs on disk, so that they are compiled once and not once a run.

    The folder is $BC_JAX_CACHE ('off' for none), else JAX's own $JAX_COMPILATION_CACHE_DIR, else
    ~/.cache/bc_jax. On a GPU frames are faster without one: see `docs/performance.md`.

    Returns:
        The folder, or None where it is off.
    """
    asked = os.environ.get("BC_JAX_CACHE") or os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if asked == "off":
        return None
    folder = Path(asked or "~/.cache/bc_jax").expanduser()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    return folder


@contextlib.contextmanager
def stopping(signals=(signal.SIGINT, signal.SIGTERM)) -> Iterator[Callable[[], bool]]:
    """Let a loop end between two frames: yields a function that says whether it is to.

    The first Ctrl-C asks it to stop; a second one interrupts as usual.
    """
    asked = []

    def ask(number, _):
        asked.append(number)
        signal.signal(number, before[number])

    before = {number: signal.signal(number, ask) for number in signals}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def errors_told() -> Iterator[None]:
    """Say what cannot be in one line on stderr, and exit with 1; other errors keep their trace.

    Warnings are one line too.
    """
    name, form = Path(sys.argv[0]).name, warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"{name}: warning: {message}\n"
    try:
        yield
    except (ValueError, CheckpointError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            print(flush=True)  # raises it again where it is the reader of this who has left
        print(f"{name}: error: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    finally:
        warnings.formatwarning = form
