"""Pictures: panels of a frame, plots of a run, and video of both."""

from bc_jax.view.layers import TITLES, layers
from bc_jax.view.methods import Method, plot_methods
from bc_jax.view.panels import panel
from bc_jax.view.plots import plot_executed, plot_log, plot_times, plot_tradeoff
from bc_jax.view.video import VideoWriter

__all__ = [
    "TITLES",
    "Method",
    "VideoWriter",
    "layers",
    "panel",
    "plot_executed",
    "plot_log",
    "plot_methods",
    "plot_times",
    "plot_tradeoff",
]
