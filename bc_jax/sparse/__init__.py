"""Block-sparse execution in time: the transformation `blockcopy` and its parts."""

from bc_jax.lowering import compiler_options
from bc_jax.sparse.advice import BlockSparsityWarning
from bc_jax.sparse.allocator import keep_memory
from bc_jax.sparse.blocks import Blocks, block_index, combine, executed_grid, split
from bc_jax.sparse.explain import Report
from bc_jax.sparse.findings import Row
from bc_jax.sparse.halo import Halo, exchange_halo
from bc_jax.sparse.state import FrameState
from bc_jax.sparse.transform import BlockCopy, Prepared, blockcopy

__all__ = [
    "BlockCopy", "BlockSparsityWarning", "Blocks", "FrameState", "Halo", "Prepared", "Report",
    "Row", "block_index", "blockcopy", "combine", "compiler_options", "exchange_halo",
    "executed_grid", "keep_memory", "split",
]  # fmt: skip
