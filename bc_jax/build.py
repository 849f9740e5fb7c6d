"""From a config to the things that it describes: network, frames, runner."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bc_jax import data
from bc_jax.config import Config, ConfigError
from bc_jax.models import TRAINED, Network, load, read_variables
from bc_jax.policy import PolicyConfig
from bc_jax.runner import Runner
from bc_jax.sparse import BlockCopy


def network(config: Config) -> Network:
    """The network of `config.model`; without weights of its own, random ones from the seed.

    Raises:
        ConfigError: the options or the weights are not the network's, or frames of whole blocks
            are not of a size that it takes.
    """
    found, size = _load(config), config.blocks.size
    possible = data.padded_size(size, found.multiple)
    if possible != size:
        raise ConfigError(
            f"blocks.size is {size}, and {found.name} takes frames whose sides are multiples of "
            f"{found.multiple}; give {possible}"
        )
    return found


def _load(config: Config) -> Network:
    model = config.model
    options = {**model.options, "dtype": jnp.dtype(model.dtype)}
    try:
        if model.weights is not None:
            return load(model.name, params=read_variables(model.weights), **options)
        if model.name in TRAINED:
            return load(model.name, **options)
        return load(model.name, key=jax.random.key(config.seed), **options)
    except OSError as error:
        where = error.filename or model.weights
        raise ConfigError(f"model.weights {where}: {error.strerror or error}") from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model: {error}") from error


def training_frames(config: Config, position: dict | None = None) -> data.Batches:
    """The frames of `config.data`, from a position that was saved on."""
    streams, passes = config.data.streams, config.data.passes
    start, frames = config.data.start, config.data.frames
    source = _source(config, config.data.source, start, frames, begins="data.start")
    return data.batches(source, streams, passes=passes, position=position)


def evaluation_frames(config: Config, *, begins: str | None = None) -> data.Batches:
    """The frames that `config.evaluate` asks for, of its own source or of `config.data`.

    Args:
        config: the settings.
        begins: what says which frame is the first, for messages; None is the setting that does.
    """
    frames = config.evaluate.frames
    if frames is None and config.evaluate.source is None:
        frames = config.data.frames
    spec = config.evaluate.source or config.data.source
    own = config.evaluate.start is not None or config.evaluate.source is not None
    begins = begins or ("evaluate.start" if own else "data.start")
    source = _source(config, spec, evaluation_start(config), frames, begins=begins)
    return data.batches(source, config.data.streams)


def evaluation_start(config: Config) -> int:
    """The first frame of `evaluation_frames`, counted in the source."""
    if config.evaluate.start is not None:
        return config.evaluate.start
    return config.data.start if config.evaluate.source is None else 0


def _source(
    config: Config, spec: str, start: int, frames: int | None, *, begins: str
) -> data.Source:
    whole = data.open_source(spec, size=config.data.size)
    try:
        if start and start == whole.length:  # which leaves none
            raise ValueError(
                f"start {start} is beyond the end of {whole.name}: it has {start} frames"
            )
        return whole.segment(start, frames)
    except ValueError as error:
        raise ConfigError(f"{error}; {begins} says where to begin") from error


def runner(
    config: Config,
    sparse: BlockCopy,
    params,
    policy: PolicyConfig | str,
    *,
    target: float | None = None,
    on_compile: Callable[[str], None] | None = None,
) -> Runner:
    """A runner with the config's settings.

    Args:
        config: the settings.
        sparse: the network, from `blockcopy`; runners that are given the same share its programs.
        params: its parameters.
        policy: settings of a policy that learns, or the name of one that does not.
        target: executed fraction of one that does not; None is `config.policy.target`.
        on_compile: see `Runner`.
    """
    learns = isinstance(policy, PolicyConfig)
    target = policy.target if learns else target or config.policy.target
    fixed = config.blocks.fixed and policy not in ("all", "none")
    return Runner(
        sparse,
        params,
        policy=policy,
        target=target,
        capacity=target if fixed else None,
        background=config.blocks.background,
        train_interval=config.train.train_interval,
        capacity_steps=config.blocks.capacities,
        seed=config.seed,
        on_compile=on_compile,
    )
