"""Generated street clips with the 19 Cityscapes classes: images, labels, boxes, optical flow."""

from bc_jax.data.street.clip import Box, Clip, Frame
from bc_jax.data.street.settings import SPLITS, StreetConfig

__all__ = ["SPLITS", "Box", "Clip", "Frame", "StreetConfig"]
