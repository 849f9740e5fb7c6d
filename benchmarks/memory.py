"""Memory, compiling, and the time to the first frame: a process of its own, from its start.

python -m benchmarks.memory --model swiftnet_rn18 --size 1024 2048

The first row is of an empty cache of compiled programs, the second of the one that the first has
filled. Each runs `Runner` with the light policy on a few frames of noise.
"""

import concurrent.futures
import contextlib
import multiprocessing
import os
import tempfile
import time

import jax
import jax.monitoring

from bc_jax.runner import Runner
from benchmarks import cases
from benchmarks.cases import DEFAULT, Case, load
from benchmarks.clip import process_bytes
from benchmarks.step import POLICIES

COLUMNS = {
    **cases.NETWORK,
    "cache": "{cache}",
    "first frame s": "{first_frame_seconds:.1f}",
    "compile s": "{compile_seconds:.1f}",
    "programs": "{programs}",
    "state MB": "{state_MB:.1f}",
    "process MB": "{process_MB:.0f}",
    "device MB": "{device_MB:.0f}",
}
_COMPILED = "/jax/core/compile/backend_compile_duration"


def measure(case: Case = DEFAULT, *, frames: int = 12, target: float = 0.3) -> list[dict]:
    """A row without, and one with compiled programs on disk.

    Args:
        case: the network.
        frames: how many are run.
        target: fraction of the blocks that is executed.
    """
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for name in ("empty", "filled"):
            rows.append(case.row("memory") | {"cache": name} | apart(case, frames, target, cache))
    return rows


def apart(case: Case, frames: int, target: float, cache: str) -> dict:
    """What `watch` sees in a new process, with compiled programs in the folder `cache`."""
    # Python starts the process with this environment. On a GPU two processes share the memory.
    settings = {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    before = {name: os.environ.get(name) for name in settings}
    context = multiprocessing.get_context("spawn")
    try:
        os.environ.update(settings)
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(watch, case, frames, target, time.time()).result()
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def watch(case: Case, frames: int, target: float, start: float) -> dict:
    """Run some frames, and tell what they took.

    Args:
        case: the network.
        frames: how many, 1 or more.
        target: fraction of the blocks that is executed.
        start: when the process was asked for, of `time.time()`.
    """
    compiled = []
    with _listening(lambda event, seconds, **_: event == _COMPILED and compiled.append(seconds)):
        loaded = load(case)
        told: list[str] = []
        policy = POLICIES["light"](target=target)
        runner = Runner(loaded.sparse, loaded.params, policy=policy, on_compile=told.append)
        for number in range(frames):
            jax.block_until_ready(runner(loaded.frames[number % 2]))
            if number == 0:
                first = time.time() - start
    device = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    state = loaded.sparse.explain(loaded.params, loaded.frames[0]).state_bytes
    return {
        "frames": frames,
        "first_frame_seconds": first,
        "compile_seconds": sum(compiled),
        "programs": len(told),
        "programs_with_helpers": len(compiled),  # of single operations too
        "network_programs": sum(what.startswith("network") for what in told),
        "state_MB": state / 1e6,
        "process_MB": process_bytes() / 1e6,
        "device_MB": None if device is None else device / 1e6,
    }


@contextlib.contextmanager
def _listening(heard):
    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)


if __name__ == "__main__":
    cases.command(measure, COLUMNS, __doc__)
