"""The paper's objective and policy network to the letter, trained on the whole clip, then measured.

    python train.py --config configs/pedestrians_paper.py
    python evaluate.py --config configs/pedestrians_paper.py \
        --checkpoint runs/pedestrians_paper/checkpoints

Cost: more per frame than ESPNet itself, for the policy network is the larger of the two.
Expect: the executed fraction settles beside the target, not on it; docs/results.md has the tables.
"""

from bc_jax.config import BlockConfig, Config, DataConfig, EvaluateConfig, PolicyConfig


def get_config() -> Config:
    return Config(
        name="pedestrians_paper",
        blocks=BlockConfig(size=(64, 64), capacities=16),
        policy=PolicyConfig.paper(target=0.3),
        data=DataConfig(source="pedestrians"),
        evaluate=EvaluateConfig(
            policies=("random", "difference", "learned", "oracle"), picture=300
        ),
    )
