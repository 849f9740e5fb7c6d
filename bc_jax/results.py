"""What an evaluation leaves behind: a table, JSON, CSV and plots."""

import csv
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bc_jax.config import Config, to_json
from bc_jax.evaluation import Evaluation
from bc_jax.files import write_text
from bc_jax.film import Wanted
from bc_jax.measurement import DENSE, LEARNING, MATCHED, Measurement, Row, policy_of
from bc_jax.provenance import provenance
from bc_jax.view import plot_executed, plot_tradeoff

# An executed fraction so far from the target, as a share of it, is worth a word; so are
# probabilities of executed and skipped blocks that differ by less than this.
_FAR, _ALIKE = 0.15, 0.05
# Frames of which every view is kept, spread over an evaluation.
_VIEWS = 4

# Of a row of results: each figure's heading, its form, and the unit that it is shown in.
_FIGURES = {
    "policy": ("policy", "{}", 1),
    "executed_fraction": ("executed", "{:.3f}", 1),
    "macs_per_frame": ("GMACs", "{:.2f}", 1e-9),
    "ms_network": ("network ms", "{:.1f}", 1),
    "ms_policy": ("policy ms", "{:.1f}", 1),
    "ms_learning": ("learning ms", "{:.1f}", 1),
    "ms_per_frame": ("whole ms", "{:.1f}", 1),
    "speedup": ("speedup", "{:.2f}", 1),
    "agreement": ("agreement", "{:.4f}", 1),
    "disagreement": ("disagreement", "{:.4f}", 1),
    "miou": ("mIoU to dense", "{:.3f}", 1),
    "miou_labels": ("mIoU", "{:.3f}", 1),
    "miou_labels_last": ("mIoU last", "{:.3f}", 1),
    "gap_closed": ("gap closed", "{:.2f}", 1),
}


def cells(rows: list[dict], *, without: Sequence[str] = ()) -> list[list[str]]:
    """The headings, and then each row of `Evaluation.results`, as text.

    The columns that compare with labels are left out where there are none.

    Args:
        rows: the results.
        without: fields that are left out.
    """
    labelled = any(row.get("miou_labels") is not None for row in rows)
    fields = [f for f in _FIGURES if labelled or not f.startswith("miou_labels")]
    fields = [f for f in fields if f not in without]
    shown = [[_cell(row.get(f), *_FIGURES[f][1:]) for f in fields] for row in rows]
    return [[_FIGURES[f][0] for f in fields], *shown]


def table(rows: list[dict]) -> str:
    """The rows of `Evaluation.results` as a table in Markdown."""
    return markdown(cells(rows, without=("ms_policy", "ms_learning")))


def markdown(lines: list[list[str]], *, texts: int = 1) -> str:
    """A table in Markdown that is aligned as text too.

    Args:
        lines: the headings, and then each row.
        texts: so many columns, the first ones, are aligned to the left.
    """
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rule = ["-" * w if i < texts else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    aligned = [
        [cell.ljust(w) if i < texts else cell.rjust(w) for i, (cell, w) in enumerate(pairs)]
        for pairs in (zip(line, widths, strict=True) for line in [lines[0], rule, *lines[1:]])
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in aligned)


def notes(evaluation: Evaluation) -> str:
    """What a reader of the table must know."""
    dense = evaluation.dense
    versions = ", ".join(f"{name} {ms:.1f} ms" for name, ms in dense.milliseconds.items())
    policies = {row.policy for row in evaluation.rows.values()}
    matched = [name for name in MATCHED if name in policies]
    lines = [
        f"Dense is the version that was the fastest beforehand: {versions}. Times are medians per "
        "frame; 'whole' is policy, network and learning; speedup compares it with dense.",
        "Agreement: pixels of the dense network's class. Gap closed: (random - policy) / "
        "(random - oracle) in disagreement. The first frame, all executed, counts nowhere.",
    ]
    if np.any(evaluation.dense_row.labels):
        lines.append(
            "mIoU: with the true labels, at the frames' resolution, over all labelled frames but "
            "clips' first ones; 'last': over clips' last frames."
        )
    if evaluation.config.blocks.fixed:
        lines.append(
            "blocks.fixed: a frame is one program of the target's blocks, and what a policy takes "
            "is part of 'network'; 'all' executes all."
        )
    if "learned" in policies and matched:
        lines.append(f"{', '.join(matched)}: as many blocks in each frame as 'learned' executed.")
    lines += [f"Warning: {each}" for each in warnings(evaluation, evaluation.results())]
    return "\n".join(lines)


def warnings(evaluation: Evaluation, rows: list[dict]) -> list[str]:
    """What of the rows is not as a user would expect, and what can be done."""
    said = _untimed(evaluation, rows)
    for row in rows:
        name, target, executed = row["policy"], row["target"], row["executed_fraction"]
        if policy_of(name) not in LEARNING:
            continue
        if abs(executed - target) > _FAR * target:
            remedy = "give it more frames to learn from"
            if evaluation.policy(name, target).objective == "paper":
                remedy = "the paper's cost settles near it; policy.objective constrained holds it"
            said.append(
                f"'{name}' executed {executed:.3f} of the blocks, and its target is {target:g}: "
                f"{remedy}"
            )
        if row["probability_gap"] is not None and row["probability_gap"] < _ALIKE:
            said.append(
                f"'{name}' does not tell blocks apart: those it executed had a probability only "
                f"{row['probability_gap']:.3f} above the others'; give it more frames, blocks of "
                "another size, or a higher policy.learning_rate"
            )
    if evaluation.report.whole_macs > 0.5 * evaluation.report.macs:
        said.append(
            f"{evaluation.report.whole_macs / evaluation.report.macs:.0%} of the network runs on "
            "whole frames whatever the grid; explain tells why"
        )
    return said


def _untimed(evaluation: Evaluation, rows: list[dict]) -> list[str]:
    """Which rows have no times, and why."""
    names = [row["policy"] for row in rows if not row["timed_frames"]]
    if DENSE in names:
        frames, warm_up = len(evaluation.dense_row.measurements), evaluation.config.evaluate.warm_up
        return [
            f"there are no times: of the {frames} frames measured, none that counts comes after "
            f"the first {warm_up} (evaluate.warm_up), whose times are left out; raise "
            "evaluate.frames, or lower evaluate.warm_up"
        ]
    if names:
        shown = ", ".join(f"'{name}'" for name in names)
        return [
            f"there are no times of {shown}: something was compiled for each frame after the "
            "warm-up; raise evaluate.frames"
        ]
    return []


def write(evaluation: Evaluation, rows: list[dict], directory: Path, checkpoint) -> None:
    """Write results.json, results.md and frames.csv into a folder.

    Args:
        evaluation: that is over.
        rows: its results.
        directory: that is there.
        checkpoint: what the learnt policy began from, or None.
    """
    config = evaluation.config
    own = (config.directory / "checkpoints").resolve()
    about = {
        "rows": rows,
        "targets": list(evaluation.targets),
        "checkpoint": None if checkpoint is None else str(checkpoint),
        "checkpoint_of_this_run": checkpoint is not None and Path(checkpoint).resolve() == own,
        "checkpoint_frames": evaluation.began_after,
        "checkpoint_trained_by": evaluation.trained_by,
        "frame_size": list(evaluation.size),
        "dense": {
            "version": evaluation.dense.version,
            "ms_in_warm_up": evaluation.dense.milliseconds,
        },
        "state_bytes": evaluation.report.state_bytes,
        "dense_macs": evaluation.report.macs,
        "warnings": warnings(evaluation, rows),
        "execution_frequency": {
            name: np.round(row.frequency, 4).tolist() for name, row in evaluation.rows.items()
        },
        "fallbacks": sorted({row.name for row in evaluation.report.fallbacks}),
        "config": json.loads(to_json(config)),
        **provenance(),
    }
    write_text(directory / "results.json", json.dumps(about, indent=2, allow_nan=False) + "\n")
    text = f"# {config.name}\n\n{table(rows)}\n\n{notes(evaluation)}\n"
    write_text(directory / "results.md", text)
    _write_frames(directory / "frames.csv", [evaluation.dense_row, *evaluation.rows.values()])


def plot(evaluation: Evaluation, rows: list[dict], directory: Path) -> None:
    """Draw executed.png and tradeoff.png into a folder; arguments as for `write`."""
    compared = {name: row for name, row in evaluation.rows.items() if row.target is not None}
    if compared:
        # Where blocks are matched to the learnt policy's, one curve stands for all.
        shown = {n: r for n, r in compared.items() if r.policy in LEARNING} or compared
        executed = {
            name: [m.executed if m.counts else math.nan for m in row.measurements]
            for name, row in shown.items()
        }
        one = evaluation.targets[0] if len(evaluation.targets) == 1 else None
        plot_executed(directory / "executed.png", executed, one)
    points = {}  # policy -> its point at each target
    for row in rows:
        if row["policy"] not in (DENSE, "none"):
            point = (row["executed_fraction"], row["disagreement"])
            points.setdefault(policy_of(row["policy"]), []).append(point)
    if points:
        plot_tradeoff(directory / "tradeoff.png", points)


def wanted(config: Config, length: int | None, directory: Path) -> Wanted:
    """What an evaluation draws: as the settings say, and a few frames' views.

    Args:
        config: with the settings.
        length: how many frames are measured, where that is known.
        directory: where it goes.
    """
    settings, picture = config.evaluate, directory / "frame.png"
    kept = set() if length is None else {round(length * (k + 0.5) / _VIEWS) for k in range(_VIEWS)}
    if settings.picture is not None:
        kept.add(settings.picture)
    return Wanted(
        video=directory / "video.mp4" if settings.video_frames else None,
        fps=settings.video_fps,
        video_frames=settings.video_frames,
        picture=lambda index: picture if index == settings.picture else None,
        last=None if settings.picture is None else picture,
        views=lambda index: directory / "views" / f"{index:06d}" if index in kept else None,
    )


def _write_frames(path: Path, rows: list[Row]) -> None:
    names = [field.name for field in dataclasses.fields(Measurement)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["policy", *names])
        for row in rows:
            for m in row.measurements:
                writer.writerow([row.name, *(_figure(getattr(m, name)) for name in names)])


def _figure(value):
    if isinstance(value, bool):
        return int(value)
    return "" if value != value else value  # not a number: nothing is known


def _cell(value, form: str, unit: float) -> str:
    if value is None:
        return ""
    return form.format(value if isinstance(value, str) else value * unit)
