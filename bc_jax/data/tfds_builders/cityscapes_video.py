"""The TFDS builder `cityscapes_video`: clips of 20 frames whose last one is labelled."""

import numpy as np
import tensorflow_datasets as tfds

from bc_jax.data.cityscapes import CLIP_FRAMES, SPLITS, check, clips, read_labels
from bc_jax.data.labels import CLASSES, IGNORE
from bc_jax.data.source import shown
from bc_jax.data.tfds_builders.png import png


class CityscapesVideo(tfds.core.GeneratorBasedBuilder):
    """Cityscapes' video clips, from files that are already on this machine.

    Args:
      size: (H, W) that all files must have.
      **kwargs: as every TFDS builder.
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Unpack leftImg8bit_sequence_trainvaltest.zip and gtFine_trainvaltest.zip from "
        "www.cityscapes-dataset.com into manual_dir, so that it holds the folders "
        "leftImg8bit_sequence and gtFine; splits that are not there are left out."
    )

    def __init__(self, *, size: tuple[int, int] = (1024, 2048), **kwargs):
        self._size = tuple(size)
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        height, width = self._size
        return self.dataset_info_from_configs(
            description="Cityscapes' clips: the 20 frames up to each labelled one.",
            homepage="https://www.cityscapes-dataset.com",
            features=tfds.features.FeaturesDict(
                {
                    "name": tfds.features.Text(),
                    "frames": tfds.features.Sequence(
                        tfds.features.Image(shape=(height, width, 3), encoding_format="png"),
                        length=CLIP_FRAMES,
                    ),
                    # Of the last frame: training numbers 0 to 18, 255 where it does not count.
                    "labels": tfds.features.Image(shape=(height, width, 1), encoding_format="png"),
                }
            ),
            metadata=tfds.core.MetadataDict({"classes": list(CLASSES)}),
        )

    def _split_generators(self, dl_manager):
        root = dl_manager.manual_dir
        there = [s for s in SPLITS if (root / "leftImg8bit_sequence" / s).is_dir()]
        if not there:
            raise ValueError(
                f"{root} holds no folder leftImg8bit_sequence/{'|'.join(SPLITS)}; "
                f"{self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            )
        problems = check(root, there, size=self._size)
        if problems:
            listed = "\n".join(map(str, problems[:50]))
            raise ValueError(
                f"{len(problems)} files are not as they should be, {shown(self._size)} and whole "
                f"(the first {min(50, len(problems))} of them):\n{listed}"
            )
        return {split: self._generate_examples(root, split) for split in there}

    def _generate_examples(self, root, split: str):
        for clip in clips(root, split):
            labels = np.full(self._size, IGNORE, np.uint8)
            if clip.labels is not None:
                labels = read_labels(clip.labels)
            yield (
                clip.name,
                {
                    "name": clip.name,
                    "frames": [path.read_bytes() for path in clip.frames],
                    "labels": png(labels),
                },
            )
