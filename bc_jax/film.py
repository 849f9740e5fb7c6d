"""What is drawn of an evaluation as it goes: a video, pictures, single views."""

import dataclasses
import math
import statistics
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bc_jax import build
from bc_jax.data import Batch, crop
from bc_jax.evaluation import Evaluation
from bc_jax.measurement import LEARNING, MATCHED, Measurement, Row
from bc_jax.view import VideoWriter, layers, panel
from bc_jax.view.colours import distinct
from bc_jax.view.layers import GAIN_MOST

# Figures that run along are means over so many frames.
_WINDOW = 25
# The width of the views that are kept one by one, and their quality as JPEG.
_VIEW_WIDTH, _QUALITY = 768, 88


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is drawn, of frames that are counted from 0 at the first one measured.

    Attributes:
        video: path of an mp4 file, or None.
        fps: of the video.
        video_frames: how many frames it has at most; None for all.
        picture: from a frame's number to the path of its picture, or None; None draws none.
        last: path of a picture of the last frame, which is drawn where `picture` drew none.
        views: from a frame's number to the folder of its views, or None; None keeps none.
        width: of picture and video in pixels, at most.
    """

    video: Path | None = None
    fps: float = 10.0
    video_frames: int | None = None
    picture: Callable[[int], Path | None] | None = None
    last: Path | None = None
    views: Callable[[int], Path | None] | None = None
    width: int = 1280


class Film:
    """Draws one row of an evaluation: the learnt policy's, else the first that selects.

    Args:
        evaluation: whose rows are drawn.
        wanted: what is drawn.
    """

    def __init__(self, evaluation: Evaluation, wanted: Wanted):
        self._evaluation, self._wanted = evaluation, wanted
        # From the most to the least wanted; of several targets the first.
        order = (*LEARNING, *MATCHED, "all", "none")
        self._row = min(evaluation.rows.values(), key=lambda row: order.index(row.policy))
        self._start = build.evaluation_start(evaluation.config)
        # At the beginning, so that what cannot be written is told before anything is drawn.
        self._video = None if wanted.video is None else VideoWriter(wanted.video, wanted.fps)
        self._drawn = False  # whether there is a picture
        self._batch: Batch | None = None  # the last one seen

    def frame(self, batch: Batch) -> np.ndarray | None:
        """Draw the frame that the evaluation has just seen, where it is wanted.

        Returns:
            The picture, uint8 [H, W, 3], or None where there is none.
        """
        wanted, index = self._wanted, len(self._row.measurements) - 1
        self._batch = batch
        ends = wanted.video_frames
        in_video = self._video is not None and (ends is None or index < ends)
        path = wanted.picture(index) if wanted.picture else None
        folder = wanted.views(index) if wanted.views else None
        if folder is not None:
            self._write_views(batch, folder)
        if not in_video and path is None:
            return None
        picture = self.picture(batch)
        if path is not None:
            _save(picture, path)
            self._drawn = True
        if in_video:
            self._video.write(picture)
        return picture

    def close(self) -> None:
        """Finish the video, and see that there is a picture."""
        self._finish_video()
        if self._wanted.last is not None and not self._drawn and self._batch is not None:
            _save(self.picture(self._batch), self._wanted.last)
            count = len(self._row.measurements)
            warnings.warn(
                f"{self._wanted.last.name} shows the last frame, {count - 1}: the one asked for is "
                f"not in the {count} measured",
                stacklevel=2,
            )

    def __enter__(self) -> "Film":
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            self.close()
        else:
            self._finish_video()  # what was drawn before an error is a valid video

    def _finish_video(self) -> None:
        if self._video is not None and self._video.frames:
            self._video.close()

    def picture(self, batch: Batch) -> np.ndarray:
        """The panel of the frame that the evaluation has just seen."""
        network, settings = self._evaluation.network, self._evaluation.config
        return panel(
            **self._seen(batch),
            class_names=network.class_names,
            figures={
                "frame": self._start + int(batch.index[0, 1]),
                **running_figures(self._evaluation, self._row),
            },
            title=f"{network.name}, policy: {self._row.name}",
            width=self._wanted.width,
            block_size=settings.blocks.size,
        )

    def _seen(self, batch: Batch) -> dict:
        """The arguments that `panel` and `layers` share."""
        runner = self._row.runner
        network = self._evaluation.network
        usual = self._evaluation.config.evaluate.colours == "usual"
        state = np.asarray(runner.state.frame_state.frames[0])
        probabilities, most = None, 1.0
        if runner.steps.learns:
            most = GAIN_MOST[runner.steps.policy.gain]
            probabilities = 1 / (1 + np.exp(-np.asarray(runner.decision.scores[0])))
        return {
            "frame": batch.frames[0],
            "prediction_classes": self._row.classes[0],
            "executed": np.asarray(runner.outcome.grid[0]),
            "frame_state": crop(state, self._evaluation.size, axes=(0, 1)),
            "information_gain": np.asarray(runner.outcome.gain[0]),
            "probabilities": probabilities,
            "palette": network.palette if usual else distinct(len(network.class_names)),
            "gain_max": most,
        }

    def _write_views(self, batch: Batch, folder: Path) -> None:
        height, width = self._evaluation.size
        factor = min(1, _VIEW_WIDTH / width)
        views = layers(
            **self._seen(batch),
            block_size=self._evaluation.config.blocks.size,
            size=(round(height * factor), round(width * factor)),
        )
        for name, view in views.items():
            _save(view, folder / f"{name}.jpg")


def running_figures(evaluation: Evaluation, row: Row) -> dict[str, object]:
    """What a viewer wants to know of a row, up to the last frame measured.

    Executed fraction and cost are the last frame's; times are medians, and the speed-up their
    ratio, over the last frames in which nothing was compiled.
    """
    last = row.measurements[-1]
    streams = evaluation.config.data.streams
    recent = [m for m in row.measurements[-_WINDOW:] if m.counts and m.timed]
    counted = [m.executed for m in row.measurements if m.counts]
    dense = [m.network_ms for m in evaluation.dense_row.measurements[-_WINDOW:] if m.timed]
    took = _whole_ms(recent, row)
    dense_ms = statistics.median(dense) if dense else math.nan
    return {
        "target": "–" if row.target is None else row.target,
        "executed": last.executed,
        "mean executed": statistics.fmean(counted) if counted else last.executed,
        "GMACs": 1e-9 * evaluation.cost(row)(last.blocks) / streams,
        "dense GMACs": 1e-9 * evaluation.report.macs / streams,
        "ms": _shown(took / streams),
        "dense ms": _shown(dense_ms / streams),
        "speed-up": _shown(dense_ms / took, "{:.2f} ×"),
        "agreement": f"{1 - last.disagreement:.1%}",
    }


def _whole_ms(recent: list[Measurement], row: Row) -> float:
    """Policy, network and the policy's learning, spread over the frames from update to update."""
    if not recent:
        return math.nan
    learning = [m.learning_ms for m in recent if m.learning_ms]
    update = statistics.median(learning) if learning else 0.0
    each = statistics.median(m.policy_ms + m.network_ms for m in recent)
    return each + update / row.runner.steps.train_interval


def _shown(value: float, form: str = "{:.1f}") -> str:
    return form.format(value) if math.isfinite(value) else "–"


def _save(picture: np.ndarray, path: Path) -> None:
    from PIL import Image

    quality = {"quality": _QUALITY} if path.suffix == ".jpg" else {}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path, **quality)
    except OSError as error:
        raise OSError(f"picture {path} cannot be written: {error.strerror or error}") from error
