"""One step of training with labels, as a pure function of a `TaskState`."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from bc_jax.models import Network
from bc_jax.models.layers import resize_bilinear
from bc_jax.supervised.settings import TaskConfig

# The running average looks back on no more than a part of the steps there were.
_AVERAGED = 10.0
# Old share, a step, in the running frequencies of the classes.
_FREQUENCY_DECAY = 0.99


@struct.dataclass
class TaskState:
    """All that training carries from step to step.

    Attributes:
        step: int32 [], steps done.
        params: float32, the network's.
        batch_stats: float32, batch norm's running statistics.
        optimizer: of optax.
        average: {'params': ..., 'batch_stats': ...}, their running average over the steps.
        frequency: float32 [classes], each class's share of the labels, a running average.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    optimizer: Any
    average: Any
    frequency: jax.Array


def cross_entropy(logits: jax.Array, labels: jax.Array, class_weights: jax.Array) -> jax.Array:
    """Mean of `-log softmax(logits)[label]` over the pixels that count, weighted by class.

    Args:
        logits: float [N, h, w, C]; resized bilinearly to the labels' size.
        labels: uint8 [N, H, W]; a pixel of 255 does not count.
        class_weights: float32 [C].

    Returns:
        float32 []; 0 where no pixel counts.
    """
    logits = resize_bilinear(logits.astype(jnp.float32), labels.shape[1:])
    # Sums over one-hot classes: their gradient is a product, where that of an index is a scatter.
    chosen = jax.nn.one_hot(labels, logits.shape[-1])  # all 0 for 255
    wrong = jax.nn.logsumexp(logits, axis=-1) - jnp.sum(chosen * logits, axis=-1)
    weights = jnp.sum(chosen * class_weights.reshape(1, 1, 1, -1), axis=-1)
    total = jnp.sum(weights)
    return jnp.sum(weights * wrong) / jnp.where(total > 0, total, 1.0)


def one_of_each_square(labels: jax.Array, side: int, number: jax.Array) -> jax.Array:
    """The pixel of each square of `side` that a number chooses; in turn, all of them.

    Args:
        labels: [N, H, W]; H and W are multiples of the side.
        side: >= 1.
        number: int32 [], such as the step's.

    Returns:
        [N, H / side, W / side].
    """
    n, height, width = labels.shape
    squares = labels.reshape(n, height // side, side, width // side, side)
    row, column = jnp.divmod(number % side**2, side)
    rows = jax.lax.dynamic_index_in_dim(squares, row, 2, keepdims=False)
    return jax.lax.dynamic_index_in_dim(rows, column, 3, keepdims=False)


def learning_rate(settings: TaskConfig) -> optax.Schedule:
    """Step -> learning rate: it rises evenly, and falls to 0 at the last step."""
    after = settings.steps - settings.warm_up
    fall = (
        optax.cosine_decay_schedule(settings.learning_rate, after)
        if settings.schedule == "cosine"
        else optax.polynomial_schedule(settings.learning_rate, 0.0, 0.9, after)
    )
    if not settings.warm_up:
        return fall
    first = settings.learning_rate / settings.warm_up
    rise = optax.linear_schedule(first, settings.learning_rate, settings.warm_up)
    return optax.join_schedules([rise, fall], [settings.warm_up])


@dataclasses.dataclass(frozen=True, eq=False)
class TaskLearner:
    """Trains a network; its functions are pure and can be compiled.

    Attributes:
        network: with a `train_fn`.
        settings: how.
    """

    network: Network
    settings: TaskConfig

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        settings, rate = self.settings, learning_rate(self.settings)

        def decayed(params):
            return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

        if settings.optimizer == "adamw":
            return optax.adamw(rate, weight_decay=settings.weight_decay, mask=decayed)
        return optax.chain(
            optax.add_decayed_weights(settings.weight_decay, mask=decayed),
            optax.sgd(rate, momentum=settings.momentum, nesterov=True),
        )

    def init(self, variables: Any) -> TaskState:
        """The state before the first step, from {'params': ..., 'batch_stats': ...}."""
        classes = len(self.network.class_names)
        return TaskState(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables["batch_stats"],
            optimizer=self._optimizer.init(variables["params"]),
            average=jax.tree.map(jnp.copy, dict(variables)),
            frequency=jnp.full(classes, 1 / classes),
        )

    def step(
        self, state: TaskState, frames: jax.Array, labels: jax.Array
    ) -> tuple[TaskState, jax.Array]:
        """One step.

        Args:
            state: before it.
            frames: uint8 [N, H, W, 3].
            labels: uint8 [N, H, W], classes; 255 does not count.

        Returns:
            The state after it, and the loss, float32 [].
        """
        frequency = self._frequency(state, labels)
        class_weights = jnp.maximum(frequency, 1e-4) ** -self.settings.class_balance
        compared = one_of_each_square(labels, self.settings.loss_stride, state.step)

        def loss(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            logits, batch_stats = self.network.train_fn(variables, frames)
            return cross_entropy(logits, compared, class_weights), batch_stats

        (value, batch_stats), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        change, optimizer = self._optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, change)
        now = {"params": params, "batch_stats": batch_stats}
        decay = self._decay(state.step)
        return TaskState(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            optimizer=optimizer,
            average=jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, state.average, now),
            frequency=frequency,
        ), value

    def _decay(self, step: jax.Array) -> jax.Array:
        """The old share in the average's next step: `min(ema, t / (t + 10))` after t steps.

        0 in the first one, so that nothing of the random weights is left.
        """
        return jnp.minimum(self.settings.ema, step / (step + _AVERAGED))

    def _frequency(self, state: TaskState, labels: jax.Array) -> jax.Array:
        few = labels[:, ::4, ::4]  # tell enough
        counts = jnp.sum(jax.nn.one_hot(few, state.frequency.size), axis=(0, 1, 2))
        now = counts / jnp.maximum(1.0, jnp.sum(counts))
        decay = jnp.minimum(_FREQUENCY_DECAY, state.step / (state.step + 1.0))
        return decay * state.frequency + (1 - decay) * now
