"""A run that trains a network with labels: loop, checkpoints, and the weights it leaves behind.

The folder of the run (runs/NAME) gets checkpoints, metrics.csv, weights.npz, validation.json and
report.html. A run that was stopped continues from its last checkpoint, bit for bit.
"""

import contextlib
import json
import math
import shutil
import time

import jax
import numpy as np

from bc_jax import build, command_line, outputs, report, training
from bc_jax.checkpoint import Checkpointer
from bc_jax.config import Config, ConfigError, to_json
from bc_jax.data.labels import CLASSES
from bc_jax.data.pipeline import Augmentation, TrainingBatches
from bc_jax.files import write_text
from bc_jax.logs import Logger
from bc_jax.metrics import class_iou, miou
from bc_jax.models import read_variables, write_variables
from bc_jax.provenance import provenance
from bc_jax.sparse import compiler_options
from bc_jax.supervised.learner import TaskLearner, TaskState, learning_rate
from bc_jax.supervised.validation import Validation, class_table, labelled_frames

SHOWN = ("loss", "miou", "examples_per_second")
# What may change between two parts of one run, whose course it does not alter.
_FREE = (
    *("name", "policy", "data", "evaluate", "train", "task.workers", "task.validate_every"),
    *("task.validation", "task.validation_size", "task.validation_frames", "task.final_frames"),
    "task.weights_dtype",
)


def train(config: Config, *, fresh: bool = False, resume: bool = False) -> None:
    """Train the network of a config, from the beginning or from where the run's folder stands.

    Args:
        config: with a `task`.
        fresh: start over: remove the checkpoints and the evaluation that are there.
        resume: insist on going on.

    Raises:
        ConfigError: the folder holds a run with other settings, or the network has too few classes.
        ValueError: the loss is no longer finite, the data are not there, or there is nothing to go
            on from.
    """
    settings = config.task
    saved = Checkpointer(config.directory / "checkpoints", keep=config.train.keep)
    goes_on = training.goes_on(config, saved.latest_step(), fresh=fresh, resume=resume)
    network = build.network(config)
    if network.train_fn is None or len(network.class_names) < len(CLASSES):
        raise ConfigError(
            f"{config.model.name} has {len(network.class_names)} classes, and the labels "
            f"{len(CLASSES)}; give model.options num_classes {len(CLASSES)}"
        )
    learner = TaskLearner(network, settings)
    state, position = learner.init(network.params), None
    if goes_on:
        state, position = _restored(saved, config, state)
    batches = _batches(config, position)
    if fresh:  # not before all else has proved to be there
        shutil.rmtree(saved.directory, ignore_errors=True)
        outputs.clear(config.directory)
    step, every = int(state.step), config.train.log_every
    log = Logger(
        config.directory / "metrics.csv",
        total=settings.steps,
        resume=step or None,
        every=every,
        show=SHOWN,
    )
    if step:
        print(f"going on after step {step} of the run in {config.directory}", flush=True)

    advance = jax.jit(learner.step, donate_argnums=0, compiler_options=compiler_options())
    rate = learning_rate(settings)
    validation = Validation(network, config.blocks.size)
    frames = None
    last = step
    with log, contextlib.closing(batches), command_line.stopping() as asked_to_stop:
        log.progress.update(step, note="compiling, once")
        clock, counted = time.perf_counter(), step
        while step < settings.steps and not asked_to_stop():
            batch = next(batches)
            state, loss = advance(state, *batch)
            step += 1
            measured = step % settings.validate_every == 0
            if step % every and not measured and step % config.train.checkpoint_every:
                continue
            if not np.isfinite(loss):
                raise ValueError(
                    f"the loss is {loss} at step {step}; lower task.learning_rate, and start over "
                    "with --fresh, or under another --name"
                )
            figures = {
                "loss": float(loss),
                "learning_rate": float(rate(step - 1)),
                "miou": math.nan,
                "examples_per_second": (step - counted)
                * settings.batch_size
                / (time.perf_counter() - clock),
            }
            if measured:
                if frames is None:
                    frames = list(_validation_frames(config, settings.validation_frames))
                confusion = validation(_kept(state, settings), frames)
                figures["miou"] = miou(confusion, classes=len(CLASSES))
            log.write(step, figures)
            if step % config.train.checkpoint_every == 0:
                _save(saved, config, state, batches)
                last = step
            if measured or step % every == 0:
                clock, counted = time.perf_counter(), step
        if step > last:
            _save(saved, config, state, batches)
    if step < settings.steps:
        print(f"stopped after step {step}: {config.directory}")
        raise SystemExit(130)
    _finish(config, state, validation)
    if log.file.rows:
        report.write(config.directory)
    print(f"done after step {step}: {config.directory}")


def _batches(config: Config, position: dict | None) -> TrainingBatches:
    settings = config.task
    return TrainingBatches(
        settings.source,
        settings.batch_size,
        Augmentation(settings.crop, settings.scale, settings.flip),
        size=settings.size,
        frames_per_clip=settings.frames_per_clip,
        crops_per_frame=settings.crops_per_frame,
        batches_per_clip=settings.batches_per_clip,
        seed=config.seed,
        workers=settings.workers,
        position=position,
    )


def _restored(saved: Checkpointer, config: Config, like: TaskState) -> tuple[TaskState, dict]:
    """The newest checkpoint that is whole, and the position in the data."""
    before = training.saved_config(training.newest_metadata(saved), saved.directory)
    different = training.differences(before, config, free=_FREE)
    if different:
        raise ConfigError(
            f"{config.directory} holds a run with other settings: {different}; give it those, "
            "choose another --name, or start over with --fresh"
        )
    state, metadata = saved.restore(like, fallback=True)
    return state, metadata["position"]


def _save(saved: Checkpointer, config: Config, state: TaskState, batches: TrainingBatches) -> None:
    metadata = {"config": json.loads(to_json(config)), "position": batches.position, **provenance()}
    saved.save(int(state.step), state, metadata)


def _kept(state: TaskState, settings) -> dict:
    """What is validated and kept: the running average, or the weights themselves."""
    if settings.ema:
        return state.average
    return {"params": state.params, "batch_stats": state.batch_stats}


def _validation_frames(config: Config, number: int):
    settings = config.task
    return labelled_frames(settings.validation, number, size=settings.validation_size)


def _finish(config: Config, state: TaskState, validation: Validation) -> None:
    """Write weights.npz, and tell and keep what they are good for as they are read back."""
    settings, path = config.task, config.directory / "weights.npz"
    write_variables(path, _kept(state, settings), dtype=settings.weights_dtype)
    frames = _validation_frames(config, settings.final_frames)
    number = 0

    def counted():
        nonlocal number
        for frame in frames:
            number += 1
            yield frame

    confusion = validation(read_variables(path), counted())
    ious, mean = class_iou(confusion)[: len(CLASSES)], miou(confusion, classes=len(CLASSES))
    print(f"{class_table(ious)}\nmIoU          {mean:6.1%} on {settings.validation}")
    found = {
        "validation": settings.validation,
        "frames": number,
        "miou": mean,
        "class_iou": {
            name: None if math.isnan(iou) else float(iou)
            for name, iou in zip(CLASSES, ious, strict=True)
        },
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "bytes": path.stat().st_size,
        "config": json.loads(to_json(config)),
        **provenance(),
    }
    text = json.dumps(found, indent=2, allow_nan=False) + "\n"
    write_text(config.directory / "validation.json", text)
