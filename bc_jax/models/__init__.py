"""Segmentation networks as plain Flax modules, and `load`, which readies one for video."""

from .espnet import ESPNet
from .network import NAMES, Network, load
from .variables import read_variables, write_variables

__all__ = ["NAMES", "ESPNet", "Network", "load", "read_variables", "write_variables"]
