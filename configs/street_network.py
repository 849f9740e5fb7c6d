"""A small SwiftNet, trained with labels on generated streets: the weights that come with bc_jax.

    python train.py --config configs/street_network.py

Cost: three quarters of an hour on 2 CPU cores that others shared, 2 GB.
Expect: 69.2 % mIoU on the last frames of 100 clips of street:val. The log of the run that made the
weights is bc_jax/models/weights/swiftnet_street.csv, its mIoU by class swiftnet_street.json.
"""

from bc_jax.config import Config, ModelConfig, TaskConfig, TrainConfig


def get_config() -> Config:
    return Config(
        name="street_network",
        model=ModelConfig(name="swiftnet_rn18", options={"base_width": 24, "decoder_width": 64}),
        train=TrainConfig(checkpoint_every=100, log_every=10),
        task=TaskConfig(
            source="street:train",
            steps=1500,
            batch_size=8,
            crop=(256, 512),
            scale=(0.5, 1.5),
            crops_per_frame=2,
            batches_per_clip=8,
            learning_rate=2e-3,
            warm_up=100,
            ema=0.995,
            class_balance=0.25,
            loss_stride=2,
            validate_every=250,
            weights_dtype="float16",
        ),
    )
