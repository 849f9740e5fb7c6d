"""What a long run says: a CSV file of figures, and a progress line on the terminal."""

import csv
import io
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TextIO

from bc_jax.files import write_text


class MetricsFile:
    """A CSV file with a row per step; a run that resumes goes on after the step it resumes from.

    The first row decides the columns. Rows are written at once, so a killed run loses none.

    Args:
      path: the file; its folder is made.
      resume: the step that the run goes on after: later rows, and one that was cut short, are
        removed. None begins the file anew.
    """

    def __init__(self, path: str | Path, *, resume: int | None = None):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._columns: list[str] | None = None
        self.rows = 0  # that the file has, its header aside
        rows = [] if resume is None else _whole_rows(self.path, resume)
        if rows:
            self._columns = rows[0]
            self.rows = len(rows) - 1
        # In one step: a run killed while it resumes keeps the file.
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        write_text(self.path, text.getvalue())

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Adds a row.

        Raises:
          ValueError: the figures' names are not the columns'.
        """
        row = {"step": step, **figures}
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if self._columns is None:
                self._columns = list(row)
                writer.writerow(self._columns)
            if set(row) != set(self._columns):
                raise ValueError(
                    f"{self.path} has the columns {', '.join(self._columns)}, "
                    f"and the row has {', '.join(row)}"
                )
            writer.writerow([row[name] for name in self._columns])
        self.rows += 1


class Progress:
    """A line that tells how far a run is, how long it will take, and a few of its figures.

    On a terminal it is drawn over itself, at most every `interval` seconds. Elsewhere a new line is
    printed, at most every `pause` seconds. The last step is always shown.

    Args:
      total: steps of the whole run; None where it is not known, as with a camera.
      start: the step that the run goes on after; it does not count for the time left.
      stream: where to write; None is stderr.
      interval: seconds between drawings on a terminal.
      pause: seconds between lines elsewhere.
      clock: tells seconds.
    """

    def __init__(
        self,
        total: int | None,
        *,
        start: int = 0,
        stream: TextIO | None = None,
        interval: float = 0.2,
        pause: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total, self.start = total, start
        self._stream = sys.stderr if stream is None else stream
        self._tty = self._stream.isatty()
        self._pause = interval if self._tty else pause
        self._clock = clock
        self._began = self._counted = clock()
        self._shown = float("-inf")
        self._noted: float | None = None  # since when something else than steps goes on
        self._width = 0

    def update(self, step: int, figures: Mapping[str, float] | None = None, note: str = "") -> None:
        """Shows that `step` steps are done; where it is too soon, nothing.

        Args:
          step: steps done.
          figures: what to show beside them.
          note: what is going on, such as compiling; shown at once.
        """
        now = self._clock()
        if self._noted is not None:  # what took once does not count for the time left
            self._counted += now - self._noted
        self._noted = now if note else None
        if not note and step != self.total and now - self._shown < self._pause:
            return
        self._shown = now
        done = f"{step}" if self.total is None else f"{step}/{self.total}"
        shown = " ".join(f"{name} {value:.4g}" for name, value in (figures or {}).items())
        self._draw("  ".join(part for part in (done, self._left(step, now), shown, note) if part))

    def close(self) -> None:
        """Ends the line."""
        if self._tty and self._width:
            self._stream.write("\n")
            self._stream.flush()
            self._width = 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _left(self, step: int, now: float) -> str:
        if self.total is None or step <= self.start:
            return ""
        if step >= self.total:
            return f"{_duration(now - self._began)} in all"
        took = now - self._counted
        return f"{_duration(took / (step - self.start) * (self.total - step))} left"

    def _draw(self, text: str) -> None:
        if self._tty:
            # Cut to the terminal's width, for a wrapped line cannot be drawn over.
            try:
                columns = os.get_terminal_size(self._stream.fileno()).columns
            except (OSError, ValueError):
                columns = 80
            text = text[: columns - 1]
            self._stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self._stream.write(text + "\n")
        self._stream.flush()


class Logger:
    """A `MetricsFile` and a `Progress` together, for a training loop.

    Args:
      path: the CSV file.
      total: steps of the whole run, or None.
      resume: the step that the run goes on after, or None for a new one.
      every: a row is written at every so many steps.
      show: which figures the progress line has; None shows all.
      stream: where the progress line goes; None is stderr.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        total: int | None,
        resume: int | None = None,
        every: int = 1,
        show: tuple[str, ...] | None = None,
        stream: TextIO | None = None,
    ):
        self.file = MetricsFile(path, resume=resume)
        self.progress = Progress(total, start=resume or 0, stream=stream)
        self._every, self._show = every, show

    def write(self, step: int, figures: Mapping[str, float], note: str = "") -> None:
        """Shows a step's figures, and keeps them where its number is a multiple of `every`."""
        figures = {name: float(value) for name, value in figures.items()}
        if step % self._every == 0:
            self.file.write(step, figures)
        names = figures if self._show is None else [n for n in self._show if n in figures]
        self.progress.update(step, {name: figures[name] for name in names}, note)

    def close(self) -> None:
        """Ends the progress line."""
        self.progress.close()

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _whole_rows(path: Path, step: int) -> list[list[str]]:
    """The header and the rows up to a step; a row cut short by a kill is left out."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        text = file.read()
    lines = list(csv.reader(text[: text.rfind("\n") + 1].splitlines()))
    if not lines or lines[0][:1] != ["step"]:
        return []
    header, *rows = lines
    return [header, *(r for r in rows if len(r) == len(header) and int(r[0]) <= step)]


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
