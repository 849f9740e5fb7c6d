"""Segmentation networks as plain Flax modules, and `load`, which readies one for video."""

from .deeplab import DeepLabV3Plus
from .espnet import ESPNet
from .network import NAMES, TRAINED, Network, load
from .swiftnet import SwiftNet
from .variables import read_variables, write_variables

__all__ = [
    "NAMES",
    "TRAINED",
    "DeepLabV3Plus",
    "ESPNet",
    "Network",
    "SwiftNet",
    "load",
    "read_variables",
    "write_variables",
]
