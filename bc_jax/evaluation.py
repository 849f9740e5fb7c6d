"""Policies compared with the dense network, side by side, frame by frame.

In every frame the dense network and then each policy run once, timed one after the other, so that
what slows the machine down slows all of them down. Where there is a learnt policy, those that it is
compared with execute as many blocks as it did, frame by frame: `gap_closed` is at equal compute.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from bc_jax import build
from bc_jax.checkpoint import Checkpointer, CheckpointError
from bc_jax.config import Config
from bc_jax.data import Batch, crop, pad_to_blocks, padded_size
from bc_jax.data.labels import IGNORE
from bc_jax.measurement import DENSE, MATCHED, Measurement, Row, close_gaps, policy_of, summary
from bc_jax.metrics import confusion
from bc_jax.models import Network
from bc_jax.models.layers import resize_bilinear
from bc_jax.policy import PolicyConfig
from bc_jax.programs import Dense
from bc_jax.runner import Runner
from bc_jax.sparse import Report, blockcopy
from bc_jax.training import load_policy, shapes


class Evaluation:
    """A comparison in progress: `frame` for each batch, then `results`.

    Args:
        config: which policies, which targets, which network.
        network: from `build.network`.
        size: (H, W) of the frames.
        checkpoint: folder of checkpoints of the row "learned", '{target}' in it standing for the
            row's target; None begins from a cold start.
        on_compile: told what is about to be compiled.

    Raises:
        CheckpointError: the checkpoint is not there, whether a row begins from it or not; else see
            `load_policy`.
    """

    def __init__(
        self,
        config: Config,
        network: Network,
        size: tuple[int, int],
        *,
        checkpoint: str | None = None,
        on_compile: Callable[[str], None] = lambda what: None,
    ):
        self.config, self.network, self.size = config, network, size
        settings = config.evaluate
        self.targets = settings.targets or (settings.target or config.policy.target,)
        self._told: set[str] = set()
        self._on_compile = on_compile
        self._sparse = blockcopy(network.apply_fn, config.blocks.size)
        self._classes = jax.jit(lambda logits: jnp.argmax(logits, axis=-1).astype(jnp.uint8))
        # The labels are the frames' size, and so, for them, are the logits.
        large = padded_size(size, config.blocks.size)
        self._classes_of_pixels = jax.jit(lambda logits: pixel_classes(logits, large))
        self._frame = 0
        self.dense: Dense | None = None
        self.dense_row = Row(DENSE, None)
        # Of each row that may have one: the option that says where it is, and what it says.
        checkpoints = {
            "learned": ("--checkpoint", checkpoint),
            "paper": ("evaluate.paper_checkpoint", settings.paper_checkpoint),
        }
        if checkpoint is not None:  # it is to be there where no row begins from it, too
            with _naming("--checkpoint", checkpoint):
                for target in self.targets:
                    Checkpointer(_folder(checkpoint, target)).metadata()
        # Of each row that began from a checkpoint: the frame that its training stood at, and what
        # it was trained by.
        self.began_after: dict[str, int] = {}
        self.trained_by: dict[str, dict] = {}
        self._order: dict[str, float | None] = {}  # name -> target, as in the table
        for target in self.targets:
            for name in settings.policies:
                held = name not in ("all", "none")
                several = held and len(self.targets) > 1
                self._order[f"{name}@{target:g}" if several else name] = target if held else None
        # The learnt policy first: it says how many blocks the others get.
        names = sorted(self._order, key=lambda name: policy_of(name) != "learned")
        self.rows = {name: self._row(name, checkpoints.get(policy_of(name))) for name in names}

    def policy(self, name: str, target: float | None) -> PolicyConfig | str:
        """What a row of that name and target runs with."""
        name = policy_of(name)
        if name == "learned":
            return dataclasses.replace(self.config.policy, target=target)
        return PolicyConfig.paper(target=target) if name == "paper" else name

    def frame(self, batch: Batch) -> None:
        """Run the dense network and every policy on one frame of each stream."""
        padded, _ = pad_to_blocks(batch.frames, self.config.blocks.size)
        if self.dense is None:
            self.dense = Dense(self.network, padded, self._on_compile)
        outputs, took = self.dense(padded)
        correct = self._predicted(outputs)
        kept = batch.counts
        total = math.prod(self._sparse.grid_shape(padded))
        timed = self._frame >= self.config.evaluate.warm_up
        times = (0.0, took, 0.0)
        whole = (self._frame, bool(kept.any()), timed, total, 1.0, 0.0)
        _add(self.dense_row, Measurement(*whole, *times), correct, correct, kept, self._names)
        self._compare(self.dense_row, outputs, batch)
        counts = {}  # target -> blocks that the learnt policy executed
        for row in self.rows.values():
            runner = row.runner
            given = runner(
                padded,
                batch.reset,
                dense=outputs if row.policy == "oracle" else None,
                count=counts.get(row.target) if row.policy in MATCHED else None,
            )
            grid = np.asarray(runner.outcome.grid)
            if row.policy == "learned":
                counts[row.target] = int(grid.sum())
            row.classes = self._predicted(given)
            wrong = row.classes[kept] != correct[kept]
            measured = Measurement(
                frame=self._frame,
                counts=bool(kept.any()),
                timed=timed and not runner.compiled,
                blocks=int(grid.sum()),
                executed=float(grid[kept].mean()) if kept.any() else 1.0,
                disagreement=float(wrong.mean()) if kept.any() else 0.0,
                policy_ms=1e3 * runner.times["policy"],
                network_ms=1e3 * runner.times["network"],
                learning_ms=1e3 * runner.times["learning"],
                probability_gap=_probability_gap(runner, grid, kept),
            )
            row.executions = row.executions + grid[kept].sum(axis=0)
            row.chances += int(kept.sum())
            _add(row, measured, row.classes, correct, kept, self._names)
            self._compare(row, given, batch)
        self._frame += 1

    def results(self) -> list[dict]:
        """A row of figures for the dense network and each policy, in the config's order.

        Raises:
            ValueError: no frame counts: only first frames were seen.
        """
        order = [self.dense_row, *(self.rows[name] for name in self._order)]
        if not any(m.counts for m in self.dense_row.measurements):
            raise ValueError(
                f"{self._frame} frames are too few: all is executed in the first of a stream, and "
                "figures begin with the second"
            )
        streams = self.config.data.streams
        dense_ms = None
        figures = []
        for row in order:
            figures.append(summary(row, self.cost(row), self.config.train.train_interval, streams))
            dense_ms = figures[0]["ms_per_frame"]
            took = figures[-1]["ms_per_frame"]
            figures[-1]["speedup"] = dense_ms / took if dense_ms and took else None
        close_gaps(figures)
        return figures

    def glance(self) -> dict[str, float]:
        """Each policy's disagreement in the last frame, said before the first of them."""
        last = {name: row.measurements[-1].disagreement for name, row in self.rows.items()}
        return {("" if i else "disagreement: ") + name: last[name] for i, name in enumerate(last)}

    @functools.cached_property
    def report(self) -> Report:
        """What of the network runs where, and what it costs."""
        height, width = padded_size(self.size, self.config.blocks.size)
        shape = (self.config.data.streams, height, width, 3)
        frames = jax.ShapeDtypeStruct(shape, jnp.uint8)
        return self._sparse.explain(self.network.params, frames)

    @property
    def _names(self) -> int:
        return len(self.network.class_names)

    def _row(self, name: str, begins: tuple[str, str | None] | None) -> Row:
        option, checkpoint = begins or ("", None)
        config, target = self.config, self._order[name]
        policy = self.policy(name, target)
        runner = build.runner(
            config, self._sparse, self.network.params, policy,
            target=target, on_compile=self._compiling(name),
        )  # fmt: skip
        if checkpoint is not None and runner.steps.learns:
            streams = config.data.streams
            with _naming(option, checkpoint):
                learnt, self.began_after[name], self.trained_by[name] = load_policy(
                    _folder(checkpoint, target),
                    dataclasses.replace(config, policy=policy),
                    self.network.params,
                    lambda: shapes(config, runner, self.size, streams),
                )
            shape = (streams, *padded_size(self.size, config.blocks.size), 3)
            runner.state = runner.start(np.zeros(shape, np.uint8)).replace(policy=learnt)
        return Row(name, runner, target=target)

    def _compiling(self, name: str) -> Callable[[str], None]:
        def tell(what: str) -> None:
            # The network's programs belong to all rows.
            text = what if what.startswith("network") else f"{what} of '{name}'"
            if text not in self._told:
                self._told.add(text)
                self._on_compile(text)

        return tell

    def _predicted(self, outputs) -> np.ndarray:
        logits = next(iter(self.rows.values())).runner.steps.logits(outputs)
        return crop(np.asarray(self._classes(logits)), self.size, self.network.stride)

    def _compare(self, row: Row, outputs, batch: Batch) -> None:
        """Add to a row how its classes stand to the labels, where the frame counts and has any."""
        if batch.labels is None:
            return
        counts = batch.counts & (batch.labels != IGNORE).any((1, 2))
        if not counts.any():
            return
        logits = next(iter(self.rows.values())).runner.steps.logits(outputs)
        classes = crop(np.asarray(self._classes_of_pixels(logits)), self.size)
        for kept, name in ((counts, "labels"), (counts & batch.last, "labels_last")):
            if kept.any():
                found = confusion(classes[kept], batch.labels[kept], classes=self._names)
                setattr(row, name, getattr(row, name) + found)
        row.labelled += int(counts.sum())
        row.labelled_last += int((counts & batch.last).sum())

    def cost(self, row: Row) -> Callable[[float], float]:
        """Multiply-accumulates, all streams, as a function of the blocks executed."""
        if row.runner is None:
            return lambda blocks: float(self.report.macs)
        steps = row.runner.steps
        policy = steps.policy_macs(row.runner.state)
        # Learning keeps the look that it was sampled from; its gradient costs as much as two looks.
        policy *= 1 + 2 / steps.train_interval if row.runner.learning else 1
        return lambda blocks: self.report.macs_at(blocks) + policy


def _folder(checkpoint: str, target: float) -> str:
    """The folder of checkpoints of a target."""
    return checkpoint.replace("{target}", f"{target:g}")


@contextlib.contextmanager
def _naming(option: str, checkpoint: str) -> Iterator[None]:
    """Say in an error which option the checkpoint was given by."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{option} {checkpoint}: {error}") from error


def pixel_classes(logits: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Logits [N, h, w, C], resized bilinearly to `size`, to their classes: uint8 [N, H, W]."""
    large = resize_bilinear(logits.astype(jnp.float32), size)
    return jnp.argmax(large, axis=-1).astype(jnp.uint8)


def _add(row: Row, measured: Measurement, classes, correct, kept, number: int) -> None:
    row.measurements.append(measured)
    if measured.counts:
        row.confusion = row.confusion + confusion(classes[kept], correct[kept], classes=number)


def _probability_gap(runner: Runner, grid: np.ndarray, kept: np.ndarray) -> float:
    grid = grid[kept]
    if not runner.steps.learns or grid.all() or not grid.any():
        return math.nan
    probability = 1 / (1 + np.exp(-np.asarray(runner.decision.scores)[kept]))
    return float(probability[grid].mean() - probability[~grid].mean())
