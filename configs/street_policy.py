r"""The paper's protocol on generated streets: warm up on training clips, measure on other ones.

    python train.py --config configs/street_policy.py
    python evaluate.py --config configs/street_policy.py --table \
      --checkpoint runs/street_policy/checkpoints

Other targets: `--policy.target 0.3 --name NAME` in both commands. Cameras of one kind alone:
`--evaluate.source 'street:val/0-99?camera=fixed'` (or slow, or driving).

Cost: 10,000 frames to warm up on and 2,000 to measure.
"""

from bc_jax.config import (
    BlockConfig,
    Config,
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    PolicyConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        name="street_policy",
        model=ModelConfig(name="swiftnet_street"),
        blocks=BlockConfig(size=(128, 128)),
        policy=PolicyConfig.light(target=0.5),
        # 500 clips of 20 frames.
        data=DataConfig(source="street:train/0-499", size=(512, 1024)),
        train=TrainConfig(train_interval=3, checkpoint_every=1000),
        evaluate=EvaluateConfig(
            source="street:val/0-99",
            policies=("random", "static", "difference", "learned"),
            warm_up=40,
            picture=115,
        ),
    )
