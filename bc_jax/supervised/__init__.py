"""Training of the network itself, with labels: settings, loss, one step."""

from bc_jax.supervised.learner import TaskLearner, TaskState, cross_entropy, learning_rate
from bc_jax.supervised.settings import TaskConfig

__all__ = [
    "TaskConfig",
    "TaskLearner",
    "TaskState",
    "cross_entropy",
    "learning_rate",
]
