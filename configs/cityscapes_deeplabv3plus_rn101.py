r"""The paper's protocol on Cityscapes with DeepLabV3+, ResNet-101.

    python -m bc_jax.convert --model deeplabv3plus_rn101 --checkpoint FILE.pth --output weights
    python train.py --config configs/cityscapes_deeplabv3plus_rn101.py
    python evaluate.py --config configs/cityscapes_deeplabv3plus_rn101.py --table \
      --checkpoint runs/cityscapes_deeplabv3plus_rn101/checkpoints

All but the network is as in cityscapes_swiftnet_rn50.py, which says more.

Cost: 10,000 frames to warm up on, 10,000 to measure; dense 632 GMACs each; state 468 MB.
Expect: the supplement has mIoU 76.2 dense, and 69.8, 74.9 and 75.8 at targets 0.3, 0.5 and 0.7.
"""

import dataclasses
from pathlib import Path

from bc_jax.config import Config, ModelConfig, load


def get_config() -> Config:
    return dataclasses.replace(
        load(Path(__file__).with_name("cityscapes_swiftnet_rn50.py")),
        name="cityscapes_deeplabv3plus_rn101",
        model=ModelConfig(name="deeplabv3plus_rn101", weights="weights/deeplabv3plus_rn101.npz"),
    )
