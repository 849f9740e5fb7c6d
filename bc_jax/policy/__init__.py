"""Which blocks to execute: a small network that learns online, and policies to compare with."""

from bc_jax.policy.baselines import (
    baseline_grid,
    block_difference,
    difference_grid,
    diffuse_rounding,
    oracle_grid,
    random_grid,
    static_grid,
)
from bc_jax.policy.budget import block_price, spend_budget
from bc_jax.policy.cost import count_macs
from bc_jax.policy.gain import Gain
from bc_jax.policy.inputs import policy_inputs, policy_pixels
from bc_jax.policy.learner import (
    Look,
    Observation,
    PolicyState,
    information_gain,
    init,
    learn,
    logits,
    look,
    next_age,
    policy_macs,
    track,
)
from bc_jax.policy.network import PolicyNet
from bc_jax.policy.prior import FIRST_GAIN, next_running_gain
from bc_jax.policy.reinforce import exact_policy_gradient_loss, reinforce_loss
from bc_jax.policy.rewards import (
    block_max,
    block_mean,
    block_rewards,
    chosen_rewards,
    class_change_gain,
    cost_reward,
    information_gain_detection,
    information_gain_segmentation,
    running_fraction,
    total_variation_gain,
)
from bc_jax.policy.sampling import fill_capacity, log_prob, sample_grid, topk_grid
from bc_jax.policy.settings import PolicyConfig

__all__ = [
    "FIRST_GAIN",
    "Gain",
    "Look",
    "Observation",
    "PolicyConfig",
    "PolicyNet",
    "PolicyState",
    "baseline_grid",
    "block_difference",
    "block_max",
    "block_mean",
    "block_price",
    "block_rewards",
    "chosen_rewards",
    "class_change_gain",
    "cost_reward",
    "count_macs",
    "difference_grid",
    "diffuse_rounding",
    "exact_policy_gradient_loss",
    "fill_capacity",
    "information_gain",
    "information_gain_detection",
    "information_gain_segmentation",
    "init",
    "learn",
    "log_prob",
    "logits",
    "look",
    "next_age",
    "next_running_gain",
    "oracle_grid",
    "policy_inputs",
    "policy_macs",
    "policy_pixels",
    "random_grid",
    "reinforce_loss",
    "running_fraction",
    "sample_grid",
    "spend_budget",
    "static_grid",
    "topk_grid",
    "total_variation_gain",
    "track",
]
