"""Draw a video of what happens: frame, prediction, executed blocks, frame state, information gain.

A policy that learns, from a checkpoint or a cold start, runs on any video, beside the dense
network; a strip tells executed fraction, cost, times, speed-up and agreement as they go. Ctrl-C
ends the video where it is. Compiled programs are kept in ~/.cache/bc_jax ($BC_JAX_CACHE names
another folder, 'off' none).
"""

import contextlib
import dataclasses
import sys
from pathlib import Path

from bc_jax import build, command_line
from bc_jax.config import BlockConfig, Config, ConfigError, PolicyConfig, from_command_line
from bc_jax.data import TruncatedVideo
from bc_jax.data.opening import path_of
from bc_jax.evaluation import Evaluation
from bc_jax.film import Film, Wanted
from bc_jax.limits import check_fps, check_width
from bc_jax.logs import Progress
from bc_jax.typed import check_at_least, check_finite
from bc_jax.view.display import displayed

# Without --config: the network that comes with weights, and a light policy.
DEFAULT = Config(
    name="visualize",
    blocks=BlockConfig(size=(64, 64), capacities=8),
    policy=PolicyConfig.light(target=0.3),
)


# What this command has arguments of its own for.
_INSTEAD = {
    "--data.frames": "--frames",
    "--data.start": "--start",
    "--evaluate.frames": "--frames",
    "--evaluate.start": "--start",
    "--evaluate.source": "--input",
    "--evaluate.picture": "--stills",
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The arguments of this command itself."""

    # What is drawn: a video file, a folder of images, camera:0, or whatever else data.source can
    # be, such as pedestrians and street:val/0-9; None is data.source.
    input: str | None = None
    # The video that is written, an mp4 file; it lies apart from the input.
    output: str = "out.mp4"
    # Folder of checkpoints that the policy begins from; None begins from a cold start.
    checkpoint: str | None = None
    # The first frame that is drawn, from 0.
    start: int = 0
    # How many frames are drawn; None goes on to the end.
    frames: int | None = None
    # Every so many frames a picture is kept as PNG, in a folder beside the video; 0 keeps none.
    stills: int = 0
    # Frames per second of the video; None is the input's, or 10 where that is not known.
    fps: float | None = None
    # Largest width of the picture in pixels, even and at least 960; the picture is at most 16:9.
    width: int = 1920
    # Show the picture as it is made: in a window, or in the terminal where there is none.
    display: bool = False

    def __post_init__(self):
        check_finite(self, "")
        check_at_least(self, "", 0, "start", "stills")
        if self.frames is not None:
            check_at_least(self, "", 1, "frames")
        check_fps(self, "", "fps")
        check_width(self.width)


def main(argv=None) -> None:
    """Read the settings, draw, and say what cannot be in one line."""
    argv = sys.argv[1:] if argv is None else argv
    config, arguments = from_command_line(__doc__, argv, extra=Arguments, default=DEFAULT)
    command_line.prepare()
    with command_line.errors_told():
        for name in _INSTEAD.keys() & {word.split("=")[0] for word in argv}:
            raise ConfigError(f"{name} is for other commands; {_INSTEAD[name]} says what is drawn")
        visualize(config, arguments)


def visualize(config: Config, arguments: Arguments) -> None:
    """Go through the frames once, and draw each of them."""
    config = only_learned(config, arguments)
    check_apart(config.data.source, arguments)
    network = build.network(config)
    frames = build.evaluation_frames(config, begins="--start")
    progress = Progress(frames.length)
    step = 0
    evaluation = Evaluation(
        config,
        network,
        frames.size,
        checkpoint=arguments.checkpoint,
        on_compile=lambda what: progress.update(step, note=f"compiling {what}, once"),
    )
    wanted = what_is_drawn(arguments, frames.fps)
    film = Film(evaluation, wanted)
    with contextlib.ExitStack() as stack:
        stack.enter_context(film)
        stack.enter_context(progress)
        asked_to_stop = stack.enter_context(command_line.stopping())
        show = stack.enter_context(displayed(arguments.display))
        try:
            for batch in frames:
                evaluation.frame(batch)
                picture = film.frame(batch)
                step += 1
                progress.update(step, evaluation.glance())
                if not show(picture) or asked_to_stop():
                    break
        except TruncatedVideo as error:  # what was drawn before stands
            if not step:
                raise
            print(f"the input ends early: {error.happened}")
    print(f"{step} frames: {wanted.video}")


def only_learned(config: Config, arguments: Arguments) -> Config:
    """The config with the input, and with the learnt policy as the only one."""
    source = config.data.source if arguments.input is None else arguments.input
    data = dataclasses.replace(
        config.data, source=source, start=arguments.start, frames=arguments.frames
    )
    drawn = dataclasses.replace(
        config.evaluate,
        policies=("learned",),
        targets=config.evaluate.targets[:1],
        source=None,
        start=None,
        frames=None,
        picture=None,
    )
    return dataclasses.replace(config, data=data, evaluate=drawn)


def check_apart(source: str, arguments: Arguments) -> None:
    """Raise ConfigError where what is written would lie on, in or around what is read."""
    read, video = path_of(source), Path(arguments.output)
    if read is None:
        return
    there = read.resolve()
    for written in (video, stills_folder(video))[: 2 if arguments.stills else 1]:
        place = written.resolve()
        if place == there or there in place.parents or place in there.parents:
            raise ConfigError(
                f"--output {video} would write to {written}, and the input is {read}: give an "
                "--output that is apart from it"
            )


def stills_folder(video: Path) -> Path:
    """The folder of the pictures that are kept beside a video."""
    return video.with_name(f"{video.stem}_stills")


def what_is_drawn(arguments: Arguments, fps: float | None) -> Wanted:
    """The video and, every so many frames, a picture."""
    video = Path(arguments.output)
    folder, every = stills_folder(video), arguments.stills

    def picture(index: int) -> Path | None:
        return folder / f"{index:06d}.png" if every and index % every == 0 else None

    return Wanted(
        video=video, fps=arguments.fps or fps or 10.0, picture=picture, width=arguments.width
    )


if __name__ == "__main__":
    main()
