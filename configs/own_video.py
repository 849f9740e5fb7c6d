r"""A video of one's own, of any length: learn on all of it, then compare the policies on all of it.

    python train.py --config configs/own_video.py --name mine --data.source video.mp4
    python evaluate.py --config configs/own_video.py --name mine --data.source video.mp4 \
      --checkpoint runs/mine/checkpoints

Learning takes no labels, but it has seen the frames that are then measured; to measure on later
ones, train with `--data.frames 300` and evaluate with `--evaluate.start 300`.

Cost: a minute or two to compile, then as the video is long.
"""

from bc_jax.config import BlockConfig, Config, DataConfig, EvaluateConfig, PolicyConfig


def get_config() -> Config:
    return Config(
        name="own_video",
        blocks=BlockConfig(size=(64, 64), capacities=8),
        policy=PolicyConfig.light(target=0.3),
        data=DataConfig(source="pedestrians"),
        evaluate=EvaluateConfig(
            policies=("random", "difference", "learned", "oracle"), picture=20, video_frames=100
        ),
    )
