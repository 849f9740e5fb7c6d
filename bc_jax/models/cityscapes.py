"""Names and colours of the Cityscapes classes, in the order of their training numbers."""

import numpy as np

_CLASSES = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
    "background": (0, 0, 0),
}


def class_names(num_classes: int) -> tuple[str, ...]:
    """Names of `num_classes` classes: Cityscapes' 19, those and background, else numbers."""
    if num_classes in (19, 20):
        return tuple(_CLASSES)[:num_classes]
    return tuple(f"class {i}" for i in range(num_classes))


def palette(num_classes: int) -> np.ndarray:
    """RGB colours, uint8 [num_classes, 3]: Cityscapes' own for 19 or 20, else well-spread ones."""
    if num_classes in (19, 20):
        return np.array(list(_CLASSES.values())[:num_classes], np.uint8)
    # The bits of a class number, spread over the three channels from the highest bit down.
    numbers = np.arange(num_classes)
    colours = np.zeros((num_classes, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((numbers >> (3 * bit + channel) & 1) << (7 - bit)).astype(
                np.uint8
            )
    return colours
