"""The backend that programs are compiled for, and how."""

import functools
import os
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

_ORDER = "xla_gpu_command_buffer_scheduling_mode"
_GRAPHS = "xla_gpu_enable_command_buffer"
_KINDS = "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,DYNAMIC_SLICE_FUSION"
_YNNPACK = "xla_cpu_experimental_ynn_fusion_type"
_PRODUCTS = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
# How much faster than float32 products of bfloat16 are where a CPU has units for them: twice.
_GAIN = 1.2
_ROUNDS = 25
HALVES = (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16))
# cuBLAS adds bias, residual and ReLU to a product, where kernels of Triton leave sums of other
# results to a kernel of their own.
_TRITON = "xla_gpu_enable_triton_gemm"
_OPTIONS = {
    "cpu": {
        # XLA's YNNPACK convolution is several times slower than its Eigen one on small images
        # without padding, which is what tiles with a halo are; an empty list of fusions leaves them
        # to Eigen.
        _YNNPACK: "",
        # Without this pass `jax.lax.optimization_barrier` keeps what several read from being
        # computed once for each of them.
        "xla_disable_hlo_passes": "cse_barrier_expander",
    },
    "gpu": {
        # Convolutions belong to the graphs of kernels that are started at once; left out, as XLA
        # has it, they leave gaps between themselves and all else.
        _GRAPHS: _KINDS + ",CONVOLUTION",
        "xla_gpu_graph_min_graph_size": "1",
        # Products of the same array are not made one, whose results would be cut apart.
        "xla_gpu_dot_merger_threshold_mb": 0,
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


def jit(
    function: Callable, *, in_order: bool = False, prepared: type | tuple = (), **options
) -> Callable:
    """`jax.jit` with the compiler's options for what it is called with: see `compiler_options`.

    Args:
        function: what to compile.
        in_order: as `compiler_options` takes it.
        prepared: the type of a first argument that knows `half_of` all arguments, as `half`, and
            whose arrays are each one of their own. XLA hands cuBLAS parts of arrays that it cannot
            read (JAX 0.11), so that a GPU's products of halves are its for such an argument alone.
        **options: of `jax.jit`.

    Returns:
        What `jax.jit` does, or the like of it: something to call, and to lower for arguments. Where
        it is called within another program or a derivative, which have options of their own, it has
        none.
    """
    within = jax.jit(function, **options)

    @functools.cache
    def compiled(half: str | None) -> Callable:
        chosen = compiler_options(in_order=in_order, half=half)
        return jax.jit(function, compiler_options=chosen, **options)

    def suits(*args, **kwargs) -> Callable:
        leaves = jax.tree.leaves((args, kwargs))  # once a frame, of hundreds of arrays
        if any(issubclass(kind, jax.core.Tracer) for kind in {*map(type, leaves)}):
            return within
        if args and isinstance(args[0], prepared):
            return compiled(args[0].half)
        return compiled(half_of(leaves) if on_cpu() else None)

    @functools.wraps(function, updated=())
    def call(*args, **kwargs):
        return suits(*args, **kwargs)(*args, **kwargs)

    call.lower = lambda *args, **kwargs: suits(*args, **kwargs).lower(*args, **kwargs)
    return call


def half_of(tree) -> str | None:
    """The dtype of 16 bits that floats of a pytree have, "bfloat16" where both are; or None."""
    dtypes = {getattr(leaf, "dtype", None) for leaf in jax.tree.leaves(tree)}
    return next((half.name for half in HALVES if half in dtypes), None)


def compiler_options(
    *, in_order: bool = False, half: str | None = None, once: bool = False
) -> dict[str, str | int | bool]:
    """What to give `jax.jit(..., compiler_options=)` for block-sparse programs on this backend.

    Args:
        in_order: for a program whose operations all need the one before, as those of a network on
            whole frames do: a GPU then looks for none to run side by side.
        half: "bfloat16" or "float16" for a program of such arrays: some CPUs have units for the
            first, and a GPU's products are of other libraries.
        once: for a program that runs once, which a CPU's compiler need not take pains with.
    """
    options = dict(_OPTIONS.get(jax.default_backend(), {}))
    if in_order:
        options.pop(_ORDER, None)
    if half == "bfloat16" and _YNNPACK in options and multiplies_bfloat16():
        options[_YNNPACK] = _PRODUCTS
    if once and on_cpu():
        options["xla_backend_optimization_level"] = 1
    if _GRAPHS in options and not _convolves_while_compiling():
        options[_GRAPHS] = _KINDS
    elif _GRAPHS in options and half:
        options[_TRITON] = False
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
def _has(name: str, value: str | int | bool) -> bool:
    try:
        jax.jit(jax.lax.optimization_barrier, compiler_options={name: value}).lower(0).compile()
    except Exception:  # a version of XLA without the option, or the need of it
        return False
    return True


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 faster than float32; measured, in 0.1 seconds.

    XLA has units for them used by YNNPACK alone, which is slow on a CPU that lacks them.
    """
    if not _has(_YNNPACK, _PRODUCTS):
        return False
    usual, calls = compiler_options(), {}
    for dtype, options in ((jnp.float32, usual), (jnp.bfloat16, usual | {_YNNPACK: _PRODUCTS})):
        arrays = [np.ones(shape, dtype) for shape in ((1024, 512), (512, 256))]
        product = jax.jit(
            lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32),
            compiler_options=options,
        )
        # Compiled first: within a trace, a call would become part of it.
        calls[dtype] = functools.partial(product.lower(*arrays).compile(), *arrays)
    seconds = {dtype: [] for dtype in calls}
    for _ in range(_ROUNDS):
        for dtype, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds[dtype].append(time.perf_counter() - start)
    # The fastest call is the one that nothing else on the machine was in the way of.
    return min(seconds[jnp.float32]) > _GAIN * min(seconds[jnp.bfloat16])
