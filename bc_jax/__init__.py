"""Any JAX network, block-sparse in time, with an execution policy that learns online."""

from bc_jax import policy, sparse
from bc_jax.policy import PolicyConfig, PolicyNet
from bc_jax.runner import Runner, RunnerState, Steps
from bc_jax.sparse import BlockCopy, FrameState, Report, blockcopy

__version__ = "0.1.0"
__all__ = [
    "BlockCopy",
    "FrameState",
    "PolicyConfig",
    "PolicyNet",
    "Report",
    "Runner",
    "RunnerState",
    "Steps",
    "__version__",
    "blockcopy",
    "policy",
    "sparse",
]
