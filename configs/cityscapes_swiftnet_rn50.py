r"""The paper's protocol on Cityscapes with SwiftNet, ResNet-50.

    python -m bc_jax.convert --model swiftnet_rn50 --checkpoint FILE.pth --output weights
    python train.py --config configs/cityscapes_swiftnet_rn50.py
    python evaluate.py --config configs/cityscapes_swiftnet_rn50.py --table \
      --checkpoint runs/cityscapes_swiftnet_rn50/checkpoints

The policy warms up on the first 500 training clips and is measured on all of validation: mIoU on
the labelled 20th frame, GMACs over all frames. $CITYSCAPES_DATASET is the folder that holds
leftImg8bit_sequence and gtFine. Other targets: `--policy.target 0.3 --name NAME` in both commands.

Cost: 10,000 frames to warm up on, 10,000 to measure; dense 205 GMACs each; state 141 MB.
Expect: the supplement has mIoU 77.7 dense, and 70.8, 76.4 and 77.4 at targets 0.3, 0.5 and 0.7.
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
        name="cityscapes_swiftnet_rn50",
        model=ModelConfig(name="swiftnet_rn50", weights="weights/swiftnet_rn50.npz"),
        blocks=BlockConfig(size=(128, 128)),
        policy=PolicyConfig.paper(target=0.5),
        # 500 clips of 20 frames.
        data=DataConfig(source=f"cityscapes:{ROOT}/train", frames=500 * 20),
        train=TrainConfig(train_interval=3, checkpoint_every=1000),
        evaluate=EvaluateConfig(
            source=f"cityscapes:{ROOT}/val", policies=("random", "static", "learned"), warm_up=40
        ),
    )
