"""The policy's settings, typed and checked."""

import dataclasses
import math
from typing import Literal

import jax

from bc_jax.policy.inputs import policy_pixels
from bc_jax.policy.network import plan_strides
from bc_jax.typed import check_finite, check_names


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
    """How the policy looks, what it is rewarded for, and how it learns.

    Numbers may be traced, but for those that say what the network is and where it looks: one
    program then serves many of their values, and `jax.vmap` runs these at once. What is traced is
    not checked.
    """

    # What is maximised: the paper's reward, IG + gamma * s|s|; or the gain that the budget buys,
    # IG - lambda with a learnt price lambda, the mean probability being held at the target.
    objective: Literal["paper", "constrained"] = "constrained"
    # Fraction of the blocks to execute, in (0, 1].
    target: float = 0.3
    # Information gain of a block: its pixels' largest KL divergence ("kl", the paper's), the share
    # of its pixels that change class ("change"), or their mean total variation ("tv").
    gain: Literal["kl", "change", "tv"] = "tv"
    # The resolution at which the gain looks at the output, as a share of the frame's: 0.25 is all
    # of an output of stride 4. (Of the output's own, where `learn` is called without `Steps`.)
    gain_scale: float = 0.25
    # Weight of the cost in the paper's reward.
    gamma: float = 5.0
    # Momentum of the running executed fraction sigma.
    momentum: float = 0.9
    # The price of a block, lambda, moves by this share towards what an executed block gains, at
    # every update (constrained only).
    multiplier_rate: float = 0.05
    # By this share of (executed - target), each frame's budget is less than the last one's
    # (constrained only): what capacity adds to the sampled blocks is taken off again.
    budget_rate: float = 0.1
    # RMSprop's step size for the network.
    learning_rate: float = 2e-4
    # RMSprop's step size for the prior's weights.
    prior_learning_rate: float = 5e-3
    # Added to the network's gradient, times its parameters.
    weight_decay: float = 1e-3
    # Channels of the policy network's stages.
    widths: tuple[int, ...] = (8, 16, 32)
    # Residual blocks in a stage.
    blocks_per_stage: int = 1
    # Channels of the head's convolutions.
    head_width: int = 32
    # Policy pixels on a block's longer side: the resolution that the policy looks at. The paper's
    # is 32, that is 1/4 of the frame's resolution with blocks of 128 pixels.
    pixels_per_block: int = 16
    # Decay of the batch norm's running statistics.
    batch_norm_decay: float = 0.98
    # The network corrects, from zero, a prior of a few weights: on the block's pixel difference,
    # running gain, class borders and age.
    prior: bool = True
    # The network sees exp(-age / 4) of each block in place of the previous grid.
    age_input: bool = True

    def __post_init__(self):
        check_finite(self, "policy")
        for name, options in (
            ("objective", ("paper", "constrained")),
            ("gain", ("kl", "change", "tv")),
        ):
            if getattr(self, name) not in options:
                raise ValueError(
                    f"policy.{name} is {getattr(self, name)!r}; possible are {', '.join(options)}"
                )
        for name, low, high, allowed in (
            ("target", 0, 1, "above 0, at most 1"),
            ("learning_rate", 0, float("inf"), "above 0"),
            ("budget_rate", 0, 1, "above 0, at most 1"),
            ("gain_scale", 0, 1, "1 / a whole number"),
        ):
            if _known(value := getattr(self, name)) and not low < value <= high:
                raise ValueError(f"policy.{name} is {value}; it must be {allowed}")
        for name in ("gamma", "weight_decay", "prior_learning_rate"):
            if _known(value := getattr(self, name)) and not value >= 0:
                raise ValueError(f"policy.{name} is {value}; it must be at least 0")
        for name in ("momentum", "batch_norm_decay", "multiplier_rate"):
            if _known(value := getattr(self, name)) and not 0 <= value < 1:
                raise ValueError(f"policy.{name} is {value}; it must be in [0, 1)")
        if abs(round(1 / self.gain_scale) * self.gain_scale - 1) > 1e-6:
            raise ValueError(f"policy.gain_scale {self.gain_scale} is not 1 / a whole number")
        if not self.widths or min(*self.widths, self.head_width, self.blocks_per_stage) < 1:
            raise ValueError(
                f"policy.widths {self.widths}, head_width {self.head_width} and blocks_per_stage "
                f"{self.blocks_per_stage} must all be at least 1"
            )
        plan_strides((self.pixels_per_block, self.pixels_per_block), len(self.widths))

    def scale(self, block_size: tuple[int, int]) -> float:
        """Returns the resolution that the policy looks at, as a share of the frame's."""
        return self.pixels_per_block / max(block_size)

    def block_pixels(self, block_size: tuple[int, int]) -> tuple[int, int]:
        """Returns the policy pixels per block, (vertical, horizontal).

        Raises:
          ValueError: the block's shorter side is not a whole number of them.
        """
        common = math.gcd(*block_size)
        height, width = (side // common for side in block_size)
        if self.pixels_per_block % max(height, width):
            raise ValueError(
                f"policy.pixels_per_block is {self.pixels_per_block}; for blocks whose sides are "
                f"as {height} to {width} it must be a multiple of {max(height, width)}"
            )
        return policy_pixels(block_size, self.scale(block_size))

    @classmethod
    def paper(cls, **changes) -> "PolicyConfig":
        """Returns the paper's settings to the letter, `changes` aside.

        The network is that of the authors' release, layer by layer. At 1024x2048 with 19 classes
        its convolutions are 7.5 GMACs, 6.6 of them without the stem; 6.5 are reported for it.
        """
        settings = {
            "objective": "paper",
            "target": 0.5,
            "gain": "kl",
            "learning_rate": 1e-4,
            "widths": (32, 64, 128),
            "head_width": 128,
            "pixels_per_block": 32,
            "prior": False,
            "age_input": False,
        }
        return cls._changed("paper", settings, changes)

    @classmethod
    def constrained(cls, **changes) -> "PolicyConfig":
        """Returns the objective with a budget that is held, the default, `changes` aside."""
        return cls._changed("constrained", {}, changes)

    @classmethod
    def light(cls, **changes) -> "PolicyConfig":
        """Returns the default at a few per cent of a light network's cost, `changes` aside."""
        return cls._changed("light", {"widths": (8, 16, 32), "pixels_per_block": 8}, changes)

    @classmethod
    def _changed(cls, name: str, settings: dict, changes: dict) -> "PolicyConfig":
        check_names(changes, cls, f"PolicyConfig.{name}")
        return cls(**{**settings, **changes})


def _known(value) -> bool:
    """Whether a number has a value yet."""
    return not isinstance(value, jax.core.Tracer)
