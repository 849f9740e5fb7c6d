"""The 19 Cityscapes classes: their training numbers, and those in Cityscapes' files."""

import numpy as np

# Training numbers 0 to 18, in order, and each class's number in *_gtFine_labelIds.png.
_CITYSCAPES_IDS = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
CLASSES = tuple(_CITYSCAPES_IDS)
IGNORE = 255  # the label of a pixel that does not count


def _training_numbers() -> np.ndarray:
    table = np.full(256, IGNORE, np.uint8)
    table[list(_CITYSCAPES_IDS.values())] = np.arange(len(CLASSES))
    table.flags.writeable = False
    return table


TRAIN_IDS = _training_numbers()  # uint8 [256]: Cityscapes' number -> training number or IGNORE
