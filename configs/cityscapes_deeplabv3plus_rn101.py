r"""The paper's protocol on Cityscapes with DeepLabV3+, ResNet-101.

    python -m bc_jax.convert --model deeplabv3plus_rn101 --checkpoint FILE.pth --output weights
    python train.py --config configs/cityscapes_deeplabv3plus_rn101.py
    python evaluate.py --config configs/cityscapes_deeplabv3plus_rn101.py --table \
      --checkpoint runs/cityscapes_deeplabv3plus_rn101/checkpoints

The policy warms up on the first 500 training clips and is measured on all of validation: mIoU on
the labelled 20th frame, GMACs over all frames. $CITYSCAPES_DATASET is the folder that holds
leftImg8bit_sequence and gtFine. Other targets: `--policy.target 0.3 --name NAME` in both commands.

Cost: 10,000 frames to warm up on, 10,000 to measure; dense 632 GMACs each; state 468 MB.
Expect: the supplement has mIoU 76.2 dense, and 69.8, 74.9 and 75.8 at targets 0.3, 0.5 and 0.7.
"""

import os

from bc_jax.config import (
    BlockConfig,
    Config,
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    PolicyConfig,
    TrainConfig,
)

ROOT = os.environ.get("CITYSCAPES_DATASET", "cityscapes")


def get_config() -> Config:
    return Config(
        name="cityscapes_deeplabv3plus_rn101",
        model=ModelConfig(name="deeplabv3plus_rn101", weights="weights/deeplabv3plus_rn101.npz"),
        blocks=BlockConfig(size=(128, 128)),
        policy=PolicyConfig.paper(target=0.5),
        # 500 clips of 20 frames.
        data=DataConfig(source=f"cityscapes:{ROOT}/train", frames=500 * 20),
        train=TrainConfig(train_interval=3, checkpoint_every=1000),
        evaluate=EvaluateConfig(
            source=f"cityscapes:{ROOT}/val", policies=("random", "static", "learned"), warm_up=40
        ),
    )
