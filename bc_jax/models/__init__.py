"""Segmentation networks as plain Flax modules, and `load`, which readies one for video."""

from .espnet import ESPNet
from .network import NAMES, Network, load
from .swiftnet import SwiftNet
from .variables import read_variables, write_variables

__all__ = ["NAMES", "ESPNet", "Network", "SwiftNet", "load", "read_variables", "write_variables"]
