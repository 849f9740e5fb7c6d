"""The whole path in seconds: a small network, small frames, few of them. Its figures mean nothing.

    python train.py --config configs/debug.py
    python evaluate.py --config configs/debug.py --checkpoint runs/debug/checkpoints

Cost: half a minute each once compiled, nearly all of it tracing.
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
        name="debug",
        model=ModelConfig(
            name="swiftnet_rn18",
            options={"base_width": 4, "decoder_width": 6, "num_classes": 4},
        ),
        blocks=BlockConfig(size=(32, 32), capacities=2),
        policy=PolicyConfig(
            target=0.5, widths=(4,), head_width=4, pixels_per_block=8, gain_scale=0.25
        ),
        data=DataConfig(source="pedestrians", size=(96, 128), frames=24),
        train=TrainConfig(checkpoint_every=8, log_every=2),
        evaluate=EvaluateConfig(
            policies=("all", "random", "static", "difference", "learned", "oracle"),
            start=24,
            frames=8,
            warm_up=2,
            picture=4,
            video_frames=6,
        ),
    )
