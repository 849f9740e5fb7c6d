"""The whole clip once, from a cold start, learning included: how good is a policy from frame 0 on?

    python evaluate.py --config configs/pedestrians.py

Cost: a quarter of an hour or so on 2 CPU cores; the row `paper` takes most of it.
Expect: docs/results.md has the tables.
"""

from bc_jax.config import BlockConfig, Config, DataConfig, EvaluateConfig, PolicyConfig


def get_config() -> Config:
    return Config(
        name="pedestrians",
        blocks=BlockConfig(size=(64, 64), capacities=16),
        policy=PolicyConfig.light(target=0.3),
        data=DataConfig(source="pedestrians"),
        evaluate=EvaluateConfig(
            policies=("all", "none", "random", "difference", "paper", "learned", "oracle"),
            picture=300,
        ),
    )
