"""The policy that learns while the video plays: state in, state out.

A frame: `logits`, sample a grid, execute it, `track`; every n-th frame also `learn`. Where it is
known before the frame that it will be learnt from, `look` in place of `logits` keeps what `learn`
needs, which otherwise looks at the frame once more.
"""

from collections.abc import Callable

import flax
import jax
import jax.numpy as jnp
import optax

from bc_jax.policy import rewards as rw
from bc_jax.policy.budget import spend_budget
from bc_jax.policy.cost import count_macs
from bc_jax.policy.inputs import policy_inputs, resize_nearest
from bc_jax.policy.network import PolicyNet
from bc_jax.policy.prior import WEIGHTS, prior_features, prior_scores
from bc_jax.policy.reinforce import reinforce_loss
from bc_jax.policy.settings import PolicyConfig

__all__ = [
    "Look",
    "Observation",
    "PolicyConfig",
    "PolicyState",
    "init",
    "learn",
    "logits",
    "look",
    "next_age",
    "policy_macs",
    "track",
]

# Beyond this a probability is 0 or 1 to float precision, and the gradient is gone.
_LARGEST_LOGIT = 30.0


@flax.struct.dataclass
class Observation:
    """What the policy knows before a frame is executed."""

    frames: jax.Array  # [N, H, W, 3] uint8 or float in [0, 1]: this frame
    frame_state: jax.Array  # like frames: each block's pixels when it was last executed
    outputs: jax.Array  # [N, h, w, classes] float: the logits held from the previous frame
    grid: jax.Array  # [N, Gh, Gw] bool: what was executed in the previous frame
    age: jax.Array  # [N, Gh, Gw] int32: frames since each block was executed; 0 is the last one
    # [N, Gh, Gw] float32: what each block gains when executed, see `next_running_gain`; None where
    # nobody keeps it, and the prior does without.
    running_gain: jax.Array | None = None


@flax.struct.dataclass
class PolicyState:
    """All that the policy has learnt."""

    params: dict  # of the network and, where there is one, the prior; float32
    batch_stats: dict  # the network's running statistics
    opt_state: optax.OptState
    executed_fraction: jax.Array  # f32[]: sigma, running
    multiplier: jax.Array  # f32[]: lambda, the price of a block in gain (constrained objective)
    overrun: jax.Array  # f32[]: share of the blocks to take off the target (constrained objective)
    step: jax.Array  # i32[]: updates made
    skipped_updates: jax.Array  # i32[]: updates left out since something was not finite


@flax.struct.dataclass
class Look:
    """A look at a frame that can be learnt from."""

    out: jax.Array  # [N, Gh, Gw] float32: the logits, not finite where the observation is not
    batch_stats: dict  # the network's running statistics after it
    pullback: Callable  # from a gradient by `out` to (the gradient by the parameters,)

    @property
    def logits(self) -> jax.Array:
        """What `logits` returns: [N, Gh, Gw] float32, finite."""
        return jnp.nan_to_num(self.out)


def _grid_shape(observation: Observation) -> tuple[int, int]:
    return observation.grid.shape[1:]


def _block_size(observation: Observation) -> tuple[int, int]:
    (h, w), (gh, gw) = observation.frames.shape[1:3], _grid_shape(observation)
    if h % gh or w % gw:
        raise ValueError(f"a frame of {h}x{w} does not divide into {gh}x{gw} blocks")
    return h // gh, w // gw


def _network(config: PolicyConfig, block_size: tuple[int, int], **fields) -> PolicyNet:
    return PolicyNet(
        block_pixels=config.block_pixels(block_size),
        widths=config.widths,
        blocks_per_stage=config.blocks_per_stage,
        head_width=config.head_width,
        decay=config.batch_norm_decay,
        zero_init=config.prior,
        **fields,
    )


def _inputs(observation: Observation, config: PolicyConfig) -> jax.Array:
    block_size = _block_size(observation)
    return policy_inputs(
        observation.frames,
        observation.frame_state,
        observation.outputs,
        observation.age if config.age_input else observation.grid,
        block_size=block_size,
        scale=config.scale(block_size),
    )


def _optimizers(config: PolicyConfig) -> dict[str, optax.GradientTransformation]:
    """RMSprop as in PyTorch: decay into the gradient, alpha 0.99, eps 1e-8 beside the root."""

    def rmsprop(rate, decay):
        return optax.chain(
            optax.add_decayed_weights(decay),
            optax.scale_by_rms(decay=0.99, eps=1e-8, eps_in_sqrt=False),
            optax.scale(-rate),
        )

    optimizers = {"network": rmsprop(config.learning_rate, config.weight_decay)}
    if config.prior:
        optimizers["prior"] = rmsprop(config.prior_learning_rate, 0.0)
    return optimizers


def _budget(overrun: jax.Array, config: PolicyConfig) -> jax.Array:
    """Mean probability that a frame is allowed."""
    return jnp.clip(config.target - overrun, 0.0, 1.0)


def _apply(params, batch_stats, overrun, observation, config, train):
    """Returns the logits and the new running statistics."""
    network = _network(config, _block_size(observation))
    variables = {"params": params["network"], "batch_stats": batch_stats}
    inputs = _inputs(observation, config)
    if train:
        out, updated = network.apply(variables, inputs, True, mutable=["batch_stats"])
        batch_stats = updated["batch_stats"]
    else:
        out = network.apply(variables, inputs, False)
    if config.prior:
        features = prior_features(
            observation.frames,
            observation.frame_state,
            observation.outputs,
            observation.running_gain,
            _grid_shape(observation),
        )
        out += prior_scores(params["prior"], features, observation.age)
    if config.objective == "constrained":
        # A network gone wrong must not leave the budget without an answer.
        out = spend_budget(jnp.nan_to_num(out), _budget(overrun, config))
    return jnp.clip(out, -_LARGEST_LOGIT, _LARGEST_LOGIT), batch_stats


def init(key: jax.Array, observation: Observation, config: PolicyConfig) -> PolicyState:
    """Returns a policy that has learnt nothing yet.

    Args:
      key: for the network's parameters.
      observation: arrays, or shapes under `jax.eval_shape`, of the video to come.
      config: the settings.

    Raises:
      ValueError: frame, grid and config do not fit together.
    """
    network = _network(config, _block_size(observation))
    variables = network.init(key, _inputs(observation, config), False)
    params = {"network": variables["params"]}
    if config.prior:
        params["prior"] = {name: jnp.float32(value) for name, value in WEIGHTS.items()}
    return PolicyState(
        params=params,
        batch_stats=variables["batch_stats"],
        opt_state={name: tx.init(params[name]) for name, tx in _optimizers(config).items()},
        executed_fraction=jnp.float32(config.target),
        multiplier=jnp.float32(0),
        overrun=jnp.float32(0),
        step=jnp.int32(0),
        skipped_updates=jnp.int32(0),
    )


def logits(
    state: PolicyState, observation: Observation, config: PolicyConfig, *, train: bool = True
) -> jax.Array:
    """Returns each block's logit, [N, Gh, Gw] float32, finite whatever the observation holds.

    Args:
      state: the policy.
      observation: of this frame.
      config: the settings.
      train: normalise with this frame's statistics, as `learn` does, so that what is sampled is
        what is scored; False takes the running statistics, for a policy that no longer learns.
    """
    out, _ = _apply(state.params, state.batch_stats, state.overrun, observation, config, train)
    return jnp.nan_to_num(out)


def look(state: PolicyState, observation: Observation, config: PolicyConfig) -> Look:
    """Returns what `logits` does in training, with the means to learn from it.

    Args:
      state: the policy.
      observation: of this frame.
      config: the settings.
    """

    def seen(params):
        return _apply(params, state.batch_stats, state.overrun, observation, config, True)

    out, pullback, batch_stats = jax.vjp(seen, state.params, has_aux=True)
    return Look(out, batch_stats, pullback)


def next_age(age: jax.Array, executed_grid: jax.Array) -> jax.Array:
    """Returns the age after a frame: 0 where it was executed, else one more; int32."""
    return jnp.where(executed_grid, 0, age + 1).astype(jnp.int32)


def information_gain(
    prev: jax.Array, new: jax.Array, grid_shape: tuple[int, int], config: PolicyConfig
) -> jax.Array:
    """Returns what each block's outputs gained, in the config's measure: [N, Gh, Gw] float32.

    Args:
      prev: logits held from the previous frame [N, h, w, classes].
      new: logits after this frame, same shape.
      grid_shape: (Gh, Gw).
      config: the settings.
    """
    if config.gain == "kl":
        gain = rw.information_gain_segmentation(prev, new, scale=config.gain_scale)
        return rw.block_max(gain, grid_shape)
    measure = {"change": rw.class_change_gain, "tv": rw.total_variation_gain}[config.gain]
    return rw.block_mean(measure(prev, new, scale=config.gain_scale), grid_shape)


def policy_macs(observation: Observation, config: PolicyConfig) -> int:
    """Returns the multiply-accumulates of one `logits`; arrays or shapes, nothing is computed."""
    network = _network(config, _block_size(observation), convolve=jax.lax.conv_general_dilated)
    inputs = jax.eval_shape(lambda o: _inputs(o, config), observation)
    variables = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, False), inputs)
    return count_macs(lambda v, x: network.apply(v, x, False), variables, inputs)


def _rewards(state, gain, config):
    if config.objective == "paper":
        cost = rw.cost_reward(state.executed_fraction, config.target)
        return rw.block_rewards(gain, cost, gamma=config.gamma)
    # R(1) = IG - lambda is the paper's form, with the price of a block for its cost.
    return rw.block_rewards(gain, -state.multiplier, gamma=1.0)


def _all_finite(tree) -> jax.Array:
    return jnp.isfinite(jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])).all()


def _observed_finite(observation, weight, config):
    """Whether all that the policy looks at is finite in the streams that count: bool."""
    block_pixels = config.block_pixels(_block_size(observation))
    size = tuple(g * p for g, p in zip(_grid_shape(observation), block_pixels, strict=True))
    seen = [observation.frames, observation.frame_state, observation.outputs]
    seen = [resize_nearest(x, size) for x in seen if jnp.issubdtype(x.dtype, jnp.floating)]
    finite = [jnp.isfinite(x).all(axis=(1, 2, 3)) | (weight == 0) for x in seen]
    return jnp.stack(finite).all()


def learn(
    state: PolicyState,
    observation: Observation,
    sampled_grid: jax.Array,
    executed_grid: jax.Array,
    new_outputs: jax.Array,
    config: PolicyConfig,
    *,
    weight: jax.Array | None = None,
    gain: jax.Array | None = None,
    looked: Look | None = None,
) -> tuple[PolicyState, dict[str, jax.Array]]:
    """Makes one REINFORCE step (Eq. 11) from one frame.

    Where the observation, the gain, the loss or a gradient is not finite, nothing is learnt and
    `skipped_updates` goes up; nor is anything where no stream counts.

    Args:
      state: the policy.
      observation: what `logits` was given.
      sampled_grid: the actions that the policy drew [N, Gh, Gw] bool; these are scored.
      executed_grid: the blocks that were executed, same shape: capacity may add or drop some.
      new_outputs: logits after this frame [N, h, w, classes].
      config: the settings.
      weight: streams that count, bool [N]; a stream whose first frame this is does not. None
        counts all.
      gain: information gain per block [N, Gh, Gw], for outputs that are not segmentation logits;
        None computes it from `observation.outputs` and `new_outputs`.
      looked: from `look` at this observation, with the parameters that the policy still has; None
        looks at it now.

    Returns:
      (state, metrics): metrics are float32 scalars.
    """
    if gain is None:
        gain = information_gain(observation.outputs, new_outputs, _grid_shape(observation), config)
    if weight is None:
        weight = jnp.ones(gain.shape[:1], bool)
    counted = weight.astype(jnp.float32)
    # A block that was not executed gained nothing; outputs that reach across blocks aside.
    gain = jnp.where(executed_grid & (counted > 0)[:, None, None], gain, 0)
    rewards = rw.chosen_rewards(sampled_grid, *_rewards(state, gain, config))

    looked = look(state, observation, config) if looked is None else looked
    out, batch_stats = looked.out, looked.batch_stats
    loss, by_out = jax.value_and_grad(reinforce_loss)(out, sampled_grid, rewards, weight=counted)
    (grads,) = looked.pullback(by_out)
    finite = _all_finite((loss, grads, gain)) & _observed_finite(observation, counted, config)
    any_counts = counted.sum() > 0
    good = finite & any_counts

    params, opt_state = {}, {}
    for name, tx in _optimizers(config).items():
        old = state.params[name]
        updates, opt_state[name] = tx.update(grads[name], state.opt_state[name], old)
        params[name] = optax.apply_updates(old, updates)
    multiplier = state.multiplier
    if config.objective == "constrained":
        ran = counted[:, None, None] * executed_grid.astype(jnp.float32)
        paid = jnp.sum(gain * ran) / jnp.maximum(ran.sum(), 1)
        multiplier += config.multiplier_rate * (paid - multiplier)
    learnt = {
        "params": params,
        "batch_stats": batch_stats,
        "opt_state": opt_state,
        "multiplier": multiplier,
    }
    kept = {name: getattr(state, name) for name in learnt}
    state = state.replace(
        **jax.tree.map(lambda new, old: jnp.where(good, new, old), learnt, kept),
        step=state.step + good.astype(jnp.int32),
        skipped_updates=state.skipped_updates + (any_counts & ~finite).astype(jnp.int32),
    )
    blocks = jnp.maximum(counted.sum(), 1) * sampled_grid[0].size

    def mean(x):
        return jnp.sum(x.astype(jnp.float32) * counted[:, None, None]) / blocks

    metrics = {
        "loss": loss,
        "reward": mean(rewards),
        "information_gain": mean(gain),
        "probability": mean(jax.nn.sigmoid(out)),
        "sampled": mean(sampled_grid),
        "executed": mean(executed_grid),
        "executed_fraction": state.executed_fraction,
        "multiplier": state.multiplier,
        "overrun": state.overrun,
        "updated": good.astype(jnp.float32),
        "skipped_updates": state.skipped_updates.astype(jnp.float32),
    }
    return state, metrics


def track(
    state: PolicyState,
    executed_grid: jax.Array,
    config: PolicyConfig,
    *,
    weight: jax.Array | None = None,
) -> PolicyState:
    """Follows the executed fraction; every frame, whether it learns or not.

    sigma <- m sigma + (1 - m) executed; overrun <- overrun + rate (executed - tau), between what
    would leave a tenth of the target and what would allow every block.

    Args:
      state: the policy.
      executed_grid: [N, Gh, Gw] bool.
      config: the settings.
      weight: streams that count, bool [N]; without any, nothing changes. None counts all.
    """
    per_stream = executed_grid.mean(axis=(1, 2), dtype=jnp.float32)
    counted = jnp.ones_like(per_stream) if weight is None else weight.astype(jnp.float32)
    executed = jnp.sum(per_stream * counted) / jnp.maximum(counted.sum(), 1)
    sigma = rw.running_fraction(state.executed_fraction, executed, momentum=config.momentum)
    overrun = state.overrun + config.budget_rate * (executed - config.target)
    overrun = jnp.clip(overrun, config.target - 1, 0.9 * config.target)
    any_counts = counted.sum() > 0
    return state.replace(
        executed_fraction=jnp.where(any_counts, sigma, state.executed_fraction),
        overrun=jnp.where(any_counts, overrun, state.overrun),
    )
