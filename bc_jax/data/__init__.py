"""Frames: where they come from, how they are padded, and how streams play them."""

from bc_jax.data.clips import Batch, Batches, batches
from bc_jax.data.folder import natural_key
from bc_jax.data.opening import open_labelled, open_source, shipped_clips
from bc_jax.data.padding import crop, pad_to_blocks, padded_size
from bc_jax.data.source import Labelled, Source, TruncatedVideo

__all__ = [
    "Batch",
    "Batches",
    "Labelled",
    "Source",
    "TruncatedVideo",
    "batches",
    "crop",
    "natural_key",
    "open_labelled",
    "open_source",
    "pad_to_blocks",
    "padded_size",
    "shipped_clips",
]
