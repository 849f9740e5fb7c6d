"""What every test runs under: the platform, strict rank promotion, a compilation cache."""

import os
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Set in the environment, before jax is imported, so that subprocesses inherit them.
# BC_JAX_TEST_PLATFORM=cuda,cpu runs the tests on a GPU.
if "BC_JAX_TEST_PLATFORM" in os.environ:
    os.environ["JAX_PLATFORMS"] = os.environ["BC_JAX_TEST_PLATFORM"]
else:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["KERAS_BACKEND"] = "jax"
# Most of the tests' time is compiling: spare the machine code's optimization, which is XLA's matter
# (one test in test_sparse_properties.py compiles as users do). One's own flags come last, and win.
FAST = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if metadata.version("jaxlib").startswith("0.10."):  # 0.12 ends a process for it
    FAST += " --xla_cpu_use_fusion_emitters=false"
if os.environ["JAX_PLATFORMS"] == "cpu":
    # Not on a GPU, where programs that come from disk are other ones: see `compiler_options`.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
    os.environ["XLA_FLAGS"] = f"{FAST} {os.environ.get('XLA_FLAGS', '')}"

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


def _gpu_missing() -> str | None:
    """Why the GPU tests cannot run, or None."""
    asked = os.environ["JAX_PLATFORMS"]
    try:
        platform = jax.default_backend()
    except RuntimeError as error:
        return f"needs a GPU, and jax finds none with JAX_PLATFORMS={asked}: {error}"
    if platform == "gpu":
        return None
    return (
        f"needs a GPU, and jax runs on {platform} with JAX_PLATFORMS={asked}; "
        "where there is one, say BC_JAX_TEST_PLATFORM=cuda,cpu"
    )


def pytest_collection_modifyitems(items):
    marked = [item for item in items if item.get_closest_marker("gpu")]
    reason = _gpu_missing() if marked else None
    if reason:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="module", autouse=True)
def _programs_of_one_file():
    """Free the compiled programs: those of all files need more mappings than Linux lets one have.

    JAX 0.12 then ends the process; the limit is vm.max_map_count, 65530.
    """
    yield
    jax.clear_caches()
