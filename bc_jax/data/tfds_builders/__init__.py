"""Clips as TensorFlow Datasets, written and read without TensorFlow.

from bc_jax.data.tfds_builders import StreetVideo

builder = StreetVideo(file_format="array_record")
builder.download_and_prepare()
clip = builder.as_data_source("val")[0]  # clip["frames"]: T times uint8 [H, W, 3]
"""

from bc_jax.data.tfds_builders.cityscapes_video import CityscapesVideo
from bc_jax.data.tfds_builders.street_video import StreetVideo, StreetVideoConfig

__all__ = ["CityscapesVideo", "StreetVideo", "StreetVideoConfig"]
