"""The backend that programs are compiled for, and how."""

import functools

import jax

# XLA's YNNPACK convolution is several times slower than its Eigen one on small images without
# padding, which is what tiles with a halo are; an empty list of fusions leaves them to Eigen.
_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}


def on_cpu() -> bool:
    """Whether programs run on a CPU."""
    return jax.default_backend() == "cpu"


def compiler_options() -> dict[str, str]:
    """What to give `jax.jit(..., compiler_options=)` for block-sparse programs on this backend."""
    return dict(_CPU_OPTIONS) if on_cpu() and _has_cpu_options() else {}


@functools.cache
def _has_cpu_options() -> bool:
    try:
        jax.jit(lambda: 0, compiler_options=_CPU_OPTIONS).lower().compile()
    except Exception:  # a version of XLA without the option, nor the slow convolution
        return False
    return True
