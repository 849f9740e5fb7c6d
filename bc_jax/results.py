"""What an evaluation leaves behind: a table, JSON, CSV, plots, a picture and a video."""

import csv
import dataclasses
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from bc_jax import build
from bc_jax.config import Config, to_json
from bc_jax.data import Batch, crop
from bc_jax.evaluation import DENSE, LEARNING, MATCHED, Evaluation, Measurement, Row
from bc_jax.view import VideoWriter, panel, plot_executed, plot_tradeoff

_COLUMNS = (
    ("policy", "policy", "{}", 1),
    ("executed", "executed_fraction", "{:.3f}", 1),
    ("GMACs", "macs_per_frame", "{:.2f}", 1e-9),
    ("network ms", "ms_network", "{:.1f}", 1),
    ("whole ms", "ms_per_frame", "{:.1f}", 1),
    ("speedup", "speedup", "{:.2f}", 1),
    ("agreement", "agreement", "{:.4f}", 1),
    ("disagreement", "disagreement", "{:.4f}", 1),
    ("mIoU to dense", "miou", "{:.3f}", 1),
    ("mIoU", "miou_labels", "{:.3f}", 1),
    ("mIoU last", "miou_labels_last", "{:.3f}", 1),
    ("gap closed", "gap_closed", "{:.2f}", 1),
)


def table(rows: list[dict]) -> str:
    """The rows of `Evaluation.results` as a table in Markdown that is aligned as text too.

    The columns that compare with labels are left out where there are none.
    """
    labelled = any(row["miou_labels"] is not None for row in rows)
    columns = [c for c in _COLUMNS if labelled or not c[1].startswith("miou_labels")]
    lines = [[title for title, *_ in columns]]
    for row in rows:
        lines.append([_cell(row[field], form, unit) for _, field, form, unit in columns])
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    lines.insert(1, ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])])
    return "\n".join(
        "| "
        + " | ".join(
            [line[0].ljust(widths[0])]
            + [cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True)]
        )
        + " |"
        for line in lines
    )


def notes(evaluation: Evaluation) -> str:
    """What a reader of the table must know."""
    dense = evaluation.dense
    versions = ", ".join(f"{name} {ms:.1f} ms" for name, ms in dense.milliseconds.items())
    matched = [name for name in MATCHED if name in evaluation.rows]
    lines = [
        f"Dense is the fastest of: {versions}. Times are medians per frame; 'whole' is policy, "
        "network and learning; speedup compares it with dense.",
        "Agreement: pixels of the dense network's class. Gap closed: (random - policy) / "
        "(random - oracle) in disagreement. The first frame, all executed, counts nowhere.",
    ]
    if np.any(evaluation.dense_row.labels):
        lines.append(
            "mIoU: with the true labels, at the frames' resolution, over all labelled frames but "
            "clips' first ones; 'last': over clips' last frames."
        )
    if "learned" in evaluation.rows and matched:
        lines.append(f"{', '.join(matched)}: in each frame as many blocks as 'learned' executed.")
    return "\n".join(lines)


def write(evaluation: Evaluation, rows: list[dict], directory: Path, checkpoint) -> None:
    """Write results.json, results.md, frames.csv and two plots into a folder.

    Args:
        evaluation: that is over.
        rows: its results.
        directory: is made where it is missing.
        checkpoint: what the learnt policy began from, or None.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config = evaluation.config
    about = {
        "rows": rows,
        "target": evaluation.target,
        "checkpoint": None if checkpoint is None else str(checkpoint),
        "frame_size": list(evaluation.size),
        "dense": {
            "version": evaluation.dense.version,
            "ms_in_warm_up": evaluation.dense.milliseconds,
        },
        "state_bytes": evaluation.report.state_bytes,
        "fallbacks": sorted({row.name for row in evaluation.report.fallbacks}),
        "config": json.loads(to_json(config)),
        **provenance(),
    }
    _write(directory / "results.json", json.dumps(about, indent=2, allow_nan=False) + "\n")
    text = f"# {config.name}\n\n{table(rows)}\n\n{notes(evaluation)}\n"
    _write(directory / "results.md", text)
    _write_frames(directory / "frames.csv", [evaluation.dense_row, *evaluation.rows.values()])
    compared = {name: row for name, row in evaluation.rows.items() if name not in ("all", "none")}
    if compared:
        # Where blocks are matched to the learnt policy's, one curve stands for all.
        shown = {n: r for n, r in compared.items() if n in LEARNING} or compared
        executed = {n: [m.executed for m in r.measurements[1:]] for n, r in shown.items()}
        plot_executed(directory / "executed.png", executed, evaluation.target)
    points = {
        row["policy"]: [(row["executed_fraction"], row["disagreement"])]
        for row in rows
        if row["policy"] not in (DENSE, "none")
    }
    if points:
        plot_tradeoff(directory / "tradeoff.png", points)


def provenance() -> dict:
    """The machine, the versions, the commit and the command line."""
    import flax
    import jaxlib

    device = jax.devices()[0]
    return {
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        },
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
            "flax": flax.__version__,
            "numpy": np.__version__,
        },
        "commit": _commit(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


class Film:
    """The picture and the video of one row: frame, prediction, executed blocks, gain.

    Args:
        config: says which frame and how many are drawn.
        evaluation: whose rows are drawn: the learnt policy's, else the first that selects.
    """

    def __init__(self, config: Config, evaluation: Evaluation):
        self._config, self._evaluation = config, evaluation
        names = [*LEARNING, *(n for n in evaluation.rows if n not in ("all", "none", *LEARNING))]
        name = next((n for n in names if n in evaluation.rows), None)
        self._row = evaluation.rows[name] if name else next(iter(evaluation.rows.values()))
        self._start = build.evaluation_start(config)
        self._video: VideoWriter | None = None
        self.files: list[Path] = []

    def frame(self, batch: Batch) -> None:
        """Draw the frame that the evaluation has just seen, where it is wanted."""
        settings, directory = self._config.evaluate, self._config.directory
        index = len(self._row.measurements) - 1
        in_video = index < settings.video_frames
        if not in_video and index != settings.picture:
            return
        picture = self._picture(batch, self._row.measurements[-1])
        if index == settings.picture:
            from PIL import Image

            directory.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(directory / "frame.png")
            self.files.append(directory / "frame.png")
        if in_video:
            if self._video is None:
                self._video = VideoWriter(directory / "video.mp4", settings.video_fps)
                self.files.append(self._video.path)
            self._video.write(picture)

    def close(self) -> None:
        """Finish the video."""
        if self._video is not None:
            self._video.close()

    def _picture(self, batch: Batch, measured: Measurement) -> np.ndarray:
        runner, network = self._row.runner, self._evaluation.network
        state = np.asarray(runner.state.frame_state.frames[0])
        probabilities = None
        if runner.steps.learns:
            probabilities = 1 / (1 + np.exp(-np.asarray(runner.decision.scores[0])))
        return panel(
            batch.frames[0],
            self._row.classes[0],
            np.asarray(runner.outcome.grid[0]),
            crop(state, self._evaluation.size, axes=(0, 1)),
            np.asarray(runner.outcome.gain[0]),
            probabilities,
            palette=network.palette,
            class_names=network.class_names,
            figures={
                "frame": self._start + int(batch.index[0, 1]),
                "target": self._evaluation.target,
                "executed": measured.executed,
                "agreement": 1 - measured.disagreement,
            },
            title=f"{network.name}, policy: {self._row.name}",
            block_size=self._config.blocks.size,
            width=1280,
        )


def _write_frames(path: Path, rows: list[Row]) -> None:
    names = [field.name for field in dataclasses.fields(Measurement)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["policy", *names])
        for row in rows:
            for m in row.measurements:
                values = (getattr(m, name) for name in names)
                writer.writerow([row.name, *(int(v) if isinstance(v, bool) else v for v in values)])


def _write(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def _cell(value, form: str, unit: float) -> str:
    if value is None:
        return ""
    return form.format(value if isinstance(value, str) else value * unit)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def _commit() -> str | None:
    """The commit of the checkout that this file is in, with '+' where files were changed."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        asked = [["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]]
        said = [
            subprocess.run(
                ["git", "-C", str(root), *what], capture_output=True, text=True, check=True
            ).stdout.strip()
            for what in asked
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    return said[0] + ("+" if said[1] else "")
