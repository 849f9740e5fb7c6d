"""A real network on a real clip: learn for 300 frames, then compare the policies on 100 later ones.

    python train.py --config configs/quickstart.py
    python evaluate.py --config configs/quickstart.py --checkpoint runs/quickstart/checkpoints

Cost: minutes on 2 CPU cores, much of it compiling, which later runs are spared.
Expect: see the README's table.
"""

from bc_jax.config import (
    BlockConfig,
    Config,
    DataConfig,
    EvaluateConfig,
    PolicyConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        name="quickstart",
        blocks=BlockConfig(size=(64, 64), capacities=8),
        policy=PolicyConfig.light(target=0.3),
        data=DataConfig(source="pedestrians", frames=300),
        train=TrainConfig(checkpoint_every=100),
        evaluate=EvaluateConfig(
            policies=("all", "random", "difference", "paper", "learned", "oracle"),
            start=300,
            frames=100,
            picture=60,
            video_frames=60,
        ),
    )
