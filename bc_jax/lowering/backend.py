"""The backend that programs are compiled for, and how."""

import functools

import jax

_CPU_OPTIONS = {
    # XLA's YNNPACK convolution is several times slower than its Eigen one on small images without
    # padding, which is what tiles with a halo are; an empty list of fusions leaves them to Eigen.
    "xla_cpu_experimental_ynn_fusion_type": "",
    # Without this pass `jax.lax.optimization_barrier` keeps what several read from being computed
    # once for each of them.
    "xla_disable_hlo_passes": "cse_barrier_expander",
}


def on_cpu() -> bool:
    """Whether programs run on a CPU."""
    return jax.default_backend() == "cpu"


def compiler_options() -> dict[str, str]:
    """What to give `jax.jit(..., compiler_options=)` for block-sparse programs on this backend."""
    return {name: value for name, value in _CPU_OPTIONS.items() if on_cpu() and _has(name)}


@functools.cache
def _has(option: str) -> bool:
    options = {option: _CPU_OPTIONS[option]}
    try:
        jax.jit(jax.lax.optimization_barrier, compiler_options=options).lower(0).compile()
    except Exception:  # a version of XLA without the option, or the need of it
        return False
    return True
