"""The backend that programs are compiled for, and how."""

import functools
import os

import jax

_ORDER = "xla_gpu_command_buffer_scheduling_mode"
_GRAPHS = "xla_gpu_enable_command_buffer"
_KINDS = "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,DYNAMIC_SLICE_FUSION"
_OPTIONS = {
    "cpu": {
        # XLA's YNNPACK convolution is several times slower than its Eigen one on small images
        # without padding, which is what tiles with a halo are; an empty list of fusions leaves them
        # to Eigen.
        "xla_cpu_experimental_ynn_fusion_type": "",
        # Without this pass `jax.lax.optimization_barrier` keeps what several read from being
        # computed once for each of them.
        "xla_disable_hlo_passes": "cse_barrier_expander",
    },
    "gpu": {
        # Convolutions belong to the graphs of kernels that are started at once; left out, as XLA
        # has it, they leave gaps between themselves and all else.
        _GRAPHS: _KINDS + ",CONVOLUTION",
        "xla_gpu_graph_min_graph_size": "1",
        # Within a graph, kernels that do not need each other run side by side.
        _ORDER: "CONCURRENT",
    },
}


def on_cpu() -> bool:
    """Whether programs run on a CPU."""
    return jax.default_backend() == "cpu"


def on_gpu() -> bool:
    """Whether programs run on a GPU."""
    return jax.default_backend() == "gpu"


def compiler_options(*, in_order: bool = False) -> dict[str, str]:
    """What to give `jax.jit(..., compiler_options=)` for block-sparse programs on this backend.

    Args:
        in_order: for a program whose operations all need the one before, as those of a network on
            whole frames do: a GPU then looks for none to run side by side.
    """
    options = dict(_OPTIONS.get(jax.default_backend(), {}))
    if in_order:
        options.pop(_ORDER, None)
    if _GRAPHS in options and not _convolves_while_compiling():
        options[_GRAPHS] = _KINDS
    return {name: value for name, value in options.items() if _has(name, value)}


def _convolves_while_compiling() -> bool:
    """Whether XLA compiles all programs in this process and times the ways of each convolution.

    cuDNN loads a kernel when it first runs, which fails while a graph is recorded. What comes from
    a cache on disk has not run yet.
    """
    cached = jax.config.jax_enable_compilation_cache and jax.config.jax_compilation_cache_dir
    flags = os.environ.get("XLA_FLAGS", "")
    return not cached and not any(word in flags for word in ("autotune", "deterministic"))


@functools.cache
def _has(name: str, value: str) -> bool:
    try:
        jax.jit(jax.lax.optimization_barrier, compiler_options={name: value}).lower(0).compile()
    except Exception:  # a version of XLA without the option, or the need of it
        return False
    return True
