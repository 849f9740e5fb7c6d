"""The TFDS builder `street_video`: generated clips, all frames with labels and boxes."""

import dataclasses

import numpy as np
import tensorflow_datasets as tfds

from bc_jax.data.labels import CLASSES
from bc_jax.data.street import Clip, StreetConfig
from bc_jax.data.tfds_builders.png import png


@dataclasses.dataclass(kw_only=True)
class StreetVideoConfig(tfds.core.BuilderConfig):
    """A version of the data set: what the clips are like, and how many each split has."""

    street: StreetConfig = dataclasses.field(default_factory=StreetConfig)
    train: int = 500
    val: int = 100
    test: int = 100


class StreetVideo(tfds.core.GeneratorBasedBuilder):
    """Clips of a generated street; see `bc_jax.data.street`."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = (
        StreetVideoConfig(name="half", description="512x1024, every third clip a camera's."),
        StreetVideoConfig(
            name="fixed",
            description="512x1024, the camera stands still.",
            street=StreetConfig(camera="fixed"),
        ),
        StreetVideoConfig(
            name="small",
            description="256x512, every third clip a camera's.",
            street=StreetConfig(size=(256, 512)),
        ),
    )

    def _info(self) -> tfds.core.DatasetInfo:
        height, width = self.builder_config.street.size
        return self.dataset_info_from_configs(
            description="Generated street clips with the 19 Cityscapes classes.",
            features=tfds.features.FeaturesDict(
                {
                    "clip": tfds.features.Tensor(shape=(), dtype=np.int32),
                    "frames": tfds.features.Sequence(
                        tfds.features.Image(shape=(height, width, 3), encoding_format="png")
                    ),
                    # Training numbers 0 to 18.
                    "labels": tfds.features.Sequence(
                        tfds.features.Image(shape=(height, width, 1), encoding_format="png")
                    ),
                    # Rows of frame, class, track, top, left, bottom, right.
                    "boxes": tfds.features.Tensor(shape=(None, 7), dtype=np.int32),
                }
            ),
            metadata=tfds.core.MetadataDict({"classes": list(CLASSES)}),
        )

    def _split_generators(self, dl_manager):
        config = self.builder_config
        return {
            split: self._generate_examples(split, getattr(config, split))
            for split in ("train", "val", "test")
        }

    def _generate_examples(self, split: str, clips: int):
        for index in range(clips):
            frames = list(Clip(self.builder_config.street, split, index))
            boxes = [(t, *box) for t, frame in enumerate(frames) for box in frame.boxes]
            yield (
                f"{index:05d}",
                {
                    "clip": index,
                    "frames": [png(frame.image) for frame in frames],
                    "labels": [png(frame.labels) for frame in frames],
                    "boxes": np.array(boxes, np.int32).reshape(-1, 7),
                },
            )
