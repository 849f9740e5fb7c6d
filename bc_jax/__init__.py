"""Any JAX network, block-sparse in time, with an execution policy that learns online."""

__version__ = "0.1.0"
