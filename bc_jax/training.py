"""A training run on disk: what is saved, when it may be gone on with, and how it stops.

Two folders of checkpoints. `checkpoints` holds what a policy is: parameters, statistics,
optimizer, running cost, key; it is small, and `evaluate.py` reads it. `streams` holds what the
streams remember, which only the run itself goes on with. The streams are saved first and two of
them are kept, so that the newest policy always finds its own.
"""

import dataclasses
import json
import math
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from bc_jax.checkpoint import Checkpointer, CheckpointError, CorruptCheckpointError
from bc_jax.config import Config, ConfigError, from_json, to_json
from bc_jax.data import padded_size
from bc_jax.models import TRAINED
from bc_jax.models.variables import Variables, checksum
from bc_jax.policy import PolicyState
from bc_jax.provenance import provenance
from bc_jax.runner import Runner, RunnerState

FIGURES = (
    *("executed", "running_cost", "multiplier", "probability", "reward", "loss"),
    *("information_gain", "skipped_updates", "skipped_frames", "ms"),
)
# What may change between two parts of one run, whose course it does not alter.
_FREE = (
    *("name", "data.passes", "train.checkpoint_every", "train.keep"),
    *("train.log_every", "train.directory", "evaluate"),
)
# In the first pass what was played is the same however many frames are to come; in a later one a
# whole pass has had another length.
_FREE_IN_FIRST_PASS = (*_FREE, "data.frames")
# What a policy and its network are. Not what the network computes in: model.dtype may differ.
_POLICY = ("model.name", "model.options", "blocks.size", "policy")
# What parameters come of that are drawn at random.
_DRAWN = ("model.weights", "seed")
# What may change between learning and evaluating: how it goes on learning, not what it is.
_FREE_POLICY = tuple(
    f"policy.{name}"
    for name in (
        *("target", "gamma", "momentum", "multiplier_rate", "budget_rate", "learning_rate"),
        *("prior_learning_rate", "weight_decay"),
    )
)


def goes_on(config: Config, latest: int | None, *, fresh: bool, resume: bool) -> bool:
    """Whether a run goes on from its newest checkpoint; ValueError where it is to and cannot."""
    if fresh and resume:
        raise ValueError("--fresh starts over and --resume goes on; give one of them")
    if resume and latest is None:
        raise ValueError(f"{config.directory} has no checkpoint to go on from; leave out --resume")
    return latest is not None and not fresh


def shapes(config: Config, runner: Runner, size: tuple[int, int], streams: int) -> RunnerState:
    """The runner's state for frames of a size, as shapes: what a checkpoint is read into."""
    shape = (streams, *padded_size(size, config.blocks.size), 3)
    frames = jax.ShapeDtypeStruct(shape, np.uint8)
    return jax.eval_shape(runner.steps.init, jax.random.key(0), runner.params, frames)


def newest_metadata(checkpoints: Checkpointer) -> dict:
    """What was saved beside the newest checkpoint that is whole, for a run that is to go on.

    Raises:
        CheckpointError: there is none.
    """
    try:
        return checkpoints.metadata(fallback=True)
    except CorruptCheckpointError as error:
        raise CorruptCheckpointError(f"{error}; --fresh starts over") from error


class Saved:
    """The checkpoints of one run.

    Args:
        config: of the run; says where they are and how many are kept.
    """

    def __init__(self, config: Config):
        self.config = config
        self.folders = (config.directory / "checkpoints", config.directory / "streams")
        self._policies = Checkpointer(self.folders[0], keep=config.train.keep)
        self._streams = Checkpointer(self.folders[1], keep=2)
        # The network's checksum, and what saves: neither changes.
        self._parameters: str | None = None
        self._provenance: dict | None = None

    @property
    def latest(self) -> int | None:
        """The frame of the newest checkpoint, or None."""
        return self._policies.latest_step()

    def clear(self) -> None:
        """Remove them all."""
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)

    def save(self, runner: Runner, position: dict) -> None:
        """Write where a run stands after the runner's last frame.

        Args:
            runner: between two frames.
            position: `Batches.position` after the same frame.
        """
        state = runner.state
        frame = int(state.frame)
        metrics = {name: _json_number(value) for name, value in runner.metrics.items()}
        self._streams.save(frame, state.replace(policy=None), {"metrics": metrics})
        self._parameters = self._parameters or checksum(runner.params)
        self._provenance = self._provenance or provenance()
        metadata = {
            "config": json.loads(to_json(self.config)),
            "position": position,
            "parameters": self._parameters,
            **self._provenance,
        }
        self._policies.save(frame, _kept(state), metadata)

    def check(self) -> None:
        """Raise ConfigError where the run that is there was made with other settings."""
        metadata = newest_metadata(self._policies)
        saved = saved_config(metadata, self.folders[0])
        # The position of a run that trains a network has no passes; its settings are others anyway.
        begun = metadata.get("position", {}).get("pass", 0) + 1
        free = _FREE_IN_FIRST_PASS if begun == 1 else _FREE
        different = differences(saved, self.config, free=free)
        if different and not differences(saved, self.config, free=_FREE_IN_FIRST_PASS):
            different += f" (it can change in the first pass alone, and the run is in pass {begun})"
        if different:
            raise ConfigError(
                f"{self.config.directory} holds a run with other settings: {different}; "
                "give it those, choose another --name, or start over with --fresh"
            )

    def restore(self, runner: Runner, like: RunnerState) -> dict:
        """Put a runner where the newest checkpoint that is whole stands.

        Args:
            runner: that has not seen a frame.
            like: from `shapes`.

        Returns:
            The position in the data.

        Raises:
            CheckpointError: no checkpoint is whole, or it is of another policy or size of frames.
        """
        damage = []
        for step in sorted(set(self._policies.steps()), reverse=True):
            try:
                kept, metadata = self._policies.restore(_kept(like), step=step)
                state, about = self._streams.restore(like.replace(policy=None), step=step)
            except CorruptCheckpointError as error:
                damage.append(str(error))
                continue
            except CheckpointError as error:
                if step in self._streams.steps():
                    raise
                damage.append(str(error))
                continue
            if damage:
                warnings.warn(f"going back to frame {step}: {'; '.join(damage)}", stacklevel=2)
            runner.state = state.replace(policy=kept["policy"])
            runner.metrics = {
                name: np.float32(np.nan if value is None else value)
                for name, value in about["metrics"].items()
            }
            return metadata["position"]
        raise CorruptCheckpointError(
            f"no checkpoint of {self.config.directory} can be gone on with: {'; '.join(damage)}; "
            "--fresh starts over"
        )


def load_policy(
    directory: str | Path, config: Config, params: Variables, like: Callable[[], RunnerState]
) -> tuple[PolicyState, int, dict]:
    """The policy of the newest checkpoint in a folder, when it was saved, and where it is from.

    Args:
        directory: a run's `checkpoints`.
        config: that the policy is to serve; what the policy is must be the same, what it aims at
            and how fast it learns may differ, and so may what the network computes in.
        params: of that config's network. They must be those that the policy was trained with:
            drawn from the same seed, or of equal values wherever they were read from.
        like: gives the state of a runner with that config, from `shapes`.

    Returns:
        The policy, the frame, and what it was trained by: config and provenance.

    Raises:
        CheckpointError: it is missing, damaged, or of another policy, network or block size.
    """
    checkpoints = Checkpointer(directory)
    metadata = checkpoints.metadata()
    saved = saved_config(metadata, directory)
    drawn = _DRAWN if _is_drawn(saved) or _is_drawn(config) else ()
    different = differences(saved, config, only=_POLICY + drawn, free=_FREE_POLICY)
    if not different and not drawn and metadata.get("parameters") not in (None, checksum(params)):
        different = (
            f"the network's parameters had other values, model.weights was "
            f"{saved.model.weights!r} and is {config.model.weights!r}"
        )
    if different:
        raise CheckpointError(
            f"{directory} holds a policy that was trained with other settings: {different}; "
            "give it the config that it was trained with"
        )
    kept, _ = checkpoints.restore(_kept(like()))
    about = {name: value for name, value in metadata.items() if name != "position"}
    return kept["policy"], int(kept["frame"]), about


def _is_drawn(config: Config) -> bool:
    """Whether the network's parameters are random: see `build.network`."""
    return config.model.weights is None and config.model.name not in TRAINED


def differences(
    saved: Config, given: Config, *, only: tuple[str, ...] = ("",), free: tuple[str, ...] = ()
) -> str:
    """The fields in which two configs differ, with both values; "" where they do not.

    Args:
        saved: the one.
        given: the other.
        only: fields, or parts of them, that are compared.
        free: those that are not.
    """
    before, now = _flat(dataclasses.asdict(saved)), _flat(dataclasses.asdict(given))
    return ", ".join(
        f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and _within(name, only) and not _within(name, free)
    )


def figures(runner: Runner) -> dict[str, float]:
    """What is logged of the runner's last frame, `FIGURES`; NaN before anything is learnt."""
    state, metrics = runner.state, runner.metrics
    policy = state.policy
    return {name: math.nan for name in FIGURES} | {
        "executed": float(np.mean(runner.outcome.grid)),
        "running_cost": float(policy.executed_fraction),
        "multiplier": float(policy.multiplier),
        **{
            name: float(metrics[name])
            for name in ("probability", "reward", "loss", "information_gain")
            if name in metrics
        },
        "skipped_updates": int(policy.skipped_updates),
        "skipped_frames": int(np.sum(state.skipped_frames)),
        "ms": round(1e3 * sum(runner.times.values()), 3),
    }


def _kept(state: RunnerState) -> dict:
    return {"policy": state.policy, "key": state.key, "frame": state.frame}


def saved_config(metadata: dict, directory: str | Path) -> Config:
    """The config in a checkpoint's metadata; CheckpointError where there is none."""
    try:
        return from_json(json.dumps(metadata["config"]))
    except (KeyError, ConfigError) as error:
        raise CheckpointError(f"{directory} was not written by this train.py: {error}") from error


def _flat(fields: dict, part: str = "") -> dict:
    flat = {}
    for name, value in fields.items():
        if isinstance(value, dict) and f"{part}{name}" != "model.options":
            flat |= _flat(value, f"{part}{name}.")
        else:
            flat[f"{part}{name}"] = value
    return flat


def _within(name: str, parts: tuple[str, ...]) -> bool:
    return any(part in ("", name) or name.startswith(f"{part}.") for part in parts)


def _json_number(value) -> float | None:
    return float(value) if np.isfinite(value) else None
