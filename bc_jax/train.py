"""Train a policy online, on video, without labels; or a network, with them.

Frame by frame: the policy picks blocks, the network runs on them, and at every few frames the
policy learns from what changed. The folder of the run (runs/NAME) gets metrics.csv, checkpoints and
report.html; a run that was stopped continues from its last checkpoint, bit for bit. Compiled
programs are kept in ~/.cache/bc_jax ($BC_JAX_CACHE names another folder, 'off' none).

A config with a `task` trains the network itself, see `bc_jax/supervised/run.py`.
"""

import dataclasses

from bc_jax import blockcopy, build, command_line, outputs, report, training
from bc_jax.config import Config, from_command_line
from bc_jax.data import TruncatedVideo, pad_to_blocks
from bc_jax.files import alone
from bc_jax.logs import Logger
from bc_jax.supervised import run as supervised

SHOWN = ("executed", "running_cost", "reward", "information_gain", "ms")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The arguments of this command itself."""

    # Start over: remove the checkpoints, the metrics and the evaluation that the run's folder has.
    fresh: bool = False
    # Insist on going on: without a checkpoint in the run's folder, stop.
    resume: bool = False


def main(argv=None) -> None:
    """Read the settings, train, and say what cannot be in one line."""
    config, arguments = from_command_line(__doc__, argv, extra=Arguments)
    command_line.prepare()
    with command_line.errors_told():
        train(config, arguments)


def train(config: Config, arguments: Arguments) -> None:
    """Train, from the beginning or from where the run's folder stands."""
    busy = (
        f"another process is training in {config.directory}; wait for it, or choose another --name"
    )
    with alone(config.directory, otherwise=busy):
        if config.task is not None:
            supervised.train(config, fresh=arguments.fresh, resume=arguments.resume)
        else:
            _train_policy(config, arguments)


def _train_policy(config: Config, arguments: Arguments) -> None:
    saved = training.Saved(config)
    asked = {"fresh": arguments.fresh, "resume": arguments.resume}
    goes_on = training.goes_on(config, saved.latest, **asked)
    if goes_on:
        saved.check()

    network = build.network(config)
    frames = build.training_frames(config)
    sparse = blockcopy(network.apply_fn, config.blocks.size)
    runner = build.runner(
        config, sparse, network.params, config.policy, on_compile=lambda what: compiling(what)
    )

    like = training.shapes(config, runner, frames.size, config.data.streams)
    if arguments.fresh:  # not before all else has proved to be there, and to fit
        saved.clear()
        outputs.clear(config.directory)
    step = 0
    if goes_on:
        position = saved.restore(runner, like)
        frames = build.training_frames(config, position)
        step = int(runner.state.frame)
        print(f"going on after frame {step} of the run in {config.directory}", flush=True)

    log = Logger(
        config.directory / "metrics.csv",
        total=frames.length and frames.length * config.data.passes,
        resume=step or None,
        every=config.train.log_every,
        show=SHOWN,
    )

    def compiling(what: str) -> None:
        log.progress.update(step, note=f"compiling {what}, once")

    last = step
    with log, command_line.stopping() as asked_to_stop:
        try:
            for batch in frames:
                padded, _ = pad_to_blocks(batch.frames, config.blocks.size)
                runner(padded, batch.reset)
                step += 1
                log.write(step, training.figures(runner))
                if step % config.train.checkpoint_every == 0:
                    saved.save(runner, frames.position)
                    last = step
                if asked_to_stop():
                    break
        except TruncatedVideo:
            if step > last:
                saved.save(runner, frames.position)
            raise
        stopped = asked_to_stop()
        if step > last:
            saved.save(runner, frames.position)
    if log.file.rows:
        report.write(config.directory)
    print(f"{'stopped' if stopped else 'done'} after frame {step}: {config.directory}")
    if stopped:
        raise SystemExit(130)


if __name__ == "__main__":
    main()
