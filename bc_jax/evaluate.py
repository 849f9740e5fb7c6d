"""Compare policies with the dense network, on the same frames and on this machine's clock.

Every policy sees every frame; those that learn go on learning. The folder of the run (runs/NAME)
gets report.html, which shows it all, and what it is made of: results.json, results.md, frames.csv,
executed.png, tradeoff.png, frame.png, video.mp4 and views/; with --table also the supplement's
Table 1 with this run's rows: table.md, table.json and table.png. What an earlier evaluation left in
that folder is there until the new one is over, and then replaced, all of it. One that is stopped
before the last frame is written where there is no other; a camera has no last frame.
Compiled programs are kept in ~/.cache/bc_jax ($BC_JAX_CACHE names another folder, 'off' none).
"""

import dataclasses

from bc_jax import build, command_line, outputs, report, results, table
from bc_jax.config import Config, ConfigError, from_command_line
from bc_jax.data import TruncatedVideo
from bc_jax.evaluation import Evaluation
from bc_jax.film import Film
from bc_jax.logs import Progress
from bc_jax.typed import check_finite


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The arguments of this command itself."""

    # Folder of checkpoints that the row "learned" begins from, "{target}" in it standing for the
    # row's target; None begins from a cold start.
    checkpoint: str | None = None
    # Write Table 1 of the paper's supplement with this run's rows beside its own.
    table: bool = False
    # The device's TFLOPS in float32, which normalise the table's times; None leaves that out.
    tflops: float | None = None

    def __post_init__(self):
        check_finite(self, "")
        if self.tflops is not None and not self.tflops > 0:
            raise ConfigError(f"tflops is {self.tflops}; a device has a number above 0")


def main(argv=None) -> None:
    """Read the settings, evaluate, and say what cannot be in one line."""
    config, arguments = from_command_line(__doc__, argv, extra=Arguments)
    command_line.prepare()
    with command_line.errors_told():
        evaluate(config, arguments)


def evaluate(config: Config, arguments: Arguments) -> None:
    """Go through the frames once, and write what was found."""
    step, damage, checkpoint = 0, None, arguments.checkpoint
    outputs.check_apart(config.directory, config.evaluate.source or config.data.source)
    network = build.network(config)
    frames = build.evaluation_frames(config)
    if arguments.table and not frames.labelled:
        raise ValueError("--table compares mIoU, and these frames have no labels")
    progress = Progress(frames.length)
    evaluation = Evaluation(
        config,
        network,
        frames.size,
        checkpoint=checkpoint,
        on_compile=lambda what: progress.update(step, note=f"compiling {what}, once"),
    )

    with outputs.replaced(config.directory) as folder:
        film = Film(evaluation, results.wanted(config, frames.length, folder))
        with progress, film, command_line.stopping() as asked_to_stop:
            try:
                for batch in frames:
                    evaluation.frame(batch)
                    film.frame(batch)
                    step += 1
                    progress.update(step, evaluation.glance())
                    if asked_to_stop():
                        break
            except TruncatedVideo as error:  # what was measured before stands
                if not step:
                    raise
                damage = error
            stopped = asked_to_stop() and step < (frames.length or 0)
        if stopped and (config.directory / "results.json").exists():
            print(f"stopped after frame {step}: {config.directory} keeps the earlier evaluation")
            raise SystemExit(130)
        rows = evaluation.results()
        results.write(evaluation, rows, folder, checkpoint)
    results.plot(evaluation, rows, config.directory)
    report.write(config.directory)
    print(results.table(rows))
    print(results.notes(evaluation))
    if arguments.table:
        table.write([table.read_run(config.directory, arguments.tflops)], config.directory)
    print(f"{f'stopped after frame {step}, ' if stopped else ''}written to {config.directory}")
    if damage:
        raise damage
    if stopped:
        raise SystemExit(130)


if __name__ == "__main__":
    main()
