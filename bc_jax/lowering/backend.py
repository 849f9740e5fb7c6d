"""The backend that programs are compiled for, and how."""

import functools

import jax

_ORDER = "xla_gpu_command_buffer_scheduling_mode"
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
        "xla_gpu_enable_command_buffer": (
            "FUSION,CUBLAS,CUBLASLT,CUDNN,CONVOLUTION,CUSTOM_CALL,DYNAMIC_SLICE_FUSION"
        ),
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
    options = _OPTIONS.get(jax.default_backend(), {})
    return {
        name: value
        for name, value in options.items()
        if not (in_order and name == _ORDER) and _has(name, value)
    }


@functools.cache
def _has(name: str, value: str) -> bool:
    try:
        jax.jit(jax.lax.optimization_barrier, compiler_options={name: value}).lower(0).compile()
    except Exception:  # a version of XLA without the option, or the need of it
        return False
    return True
