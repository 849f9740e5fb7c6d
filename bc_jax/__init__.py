"""Any JAX network, block-sparse in time, with an execution policy that learns online."""

from bc_jax.sparse import BlockCopy, FrameState, Report, blockcopy

__version__ = "0.1.0"
__all__ = ["BlockCopy", "FrameState", "Report", "__version__", "blockcopy"]
