"""Settings of a run: typed, checked, from a Python file, JSON or the command line.

A file `configs/NAME.py` has `get_config() -> Config`; the command line overrides any field of it
(`--policy.target 0.3`); JSON, in checkpoints and results, says what a run was made with.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import io
import re
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NoReturn, TypeVar

from bc_jax.limits import MOST_SEED, check_fps, check_sides
from bc_jax.models import NAMES
from bc_jax.policy import PolicyConfig
from bc_jax.policy.baselines import NAMES as BASELINES
from bc_jax.supervised import TaskConfig
from bc_jax.typed import (
    ConfigError,
    check_at_least,
    check_at_most,
    check_types,
    decode_json,
    to_json,
)

__all__ = [
    "BlockConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "EvaluateConfig",
    "ModelConfig",
    "PolicyConfig",
    "TaskConfig",
    "TrainConfig",
    "from_command_line",
    "from_json",
    "load",
    "to_json",
]

Dtype = Literal["float32", "bfloat16", "float16"]
PolicyName = Literal[*BASELINES, "learned", "paper"]

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Which network is run, and with which parameters."""

    # The network, one of bc_jax.models.NAMES; espnet_cityscapes and swiftnet_street have weights.
    name: str = "espnet_cityscapes"
    # Fields of the network's module, such as num_classes 19.
    options: dict[str, int | float | str] = dataclasses.field(default_factory=dict, hash=False)
    # File of parameters (.npz); None takes those that come with the network, else random ones.
    weights: str | None = None
    # What the network computes in; the policy is float32 whatever this says.
    dtype: Dtype = "float32"

    def __post_init__(self):
        check_types(self, "model")
        if self.name not in NAMES:
            raise ConfigError(f"model.name is {self.name!r}; it can be {', '.join(NAMES)}")
        if "dtype" in self.options:
            raise ConfigError("model.options has 'dtype': that is model.dtype")
        for name, value in self.options.items():
            least = 2 if name == "num_classes" else 1  # a policy looks at how classes compare
            if not isinstance(value, str) and value < least:
                raise ConfigError(f"model.options.{name} is {value}, and {least} is the least")


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """How frames are cut into blocks, and for how many of them programs are compiled."""

    # Height and width of a block, in pixels.
    size: tuple[int, int] = (128, 128)
    # Capacities that a program is compiled for, when first needed: this many equal steps up to
    # all blocks. Fewer compile less often and pad more.
    capacities: int = 16
    # Whether every frame executes the target's share of the blocks exactly, as one program: the
    # same cost each time, and what a GPU is fastest with.
    fixed: bool = False
    # Whether the first frame compiles what every stream needs, and another thread the other
    # capacities when they are first needed, so that no other frame waits for the compiler. A frame
    # whose own program is not there yet runs in a larger one, which rounds differently.
    background: bool = False

    def __post_init__(self):
        check_types(self, "blocks")
        check_at_least(self, "blocks", 1, "capacities")
        check_sides(self, "blocks", "size")
        if min(self.size) < 8:
            raise ConfigError(f"blocks.size {self.size} is too small: 8 pixels is the least")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which frames are run."""

    # A video file, a folder of images, a camera ("camera:0"), the shipped clip "pedestrians",
    # generated clips ("street:val/0-99?camera=fixed") or Cityscapes' ("cityscapes:ROOT/val").
    source: str = "pedestrians"
    # Height and width that frames are resized to; None keeps the source's.
    size: tuple[int, int] | None = None
    # The first frame that is used, from 0.
    start: int = 0
    # How many frames are used; None goes on to the end. A run that is still in its first pass can
    # continue with more of them.
    frames: int | None = None
    # How often training runs through the clip.
    passes: int = 1
    # Streams run together, each on its own stretch of the clip.
    streams: int = 1

    def __post_init__(self):
        check_types(self, "data")
        check_at_least(self, "data", 0, "start")
        check_at_least(self, "data", 1, "passes", "streams")
        check_sides(self, "data", "size")
        if self.frames is not None:
            check_at_least(self, "data", 1, "frames")
        if not self.source:
            raise ConfigError(
                "data.source is empty: give a file, a folder, 'camera:0' or 'pedestrians'"
            )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """When the policy learns, and what a training run leaves behind."""

    # The policy learns from every n-th frame (the paper: 4, and 3 for segmentation).
    train_interval: int = 3
    # A checkpoint is written after every so many frames, and at the end.
    checkpoint_every: int = 200
    # How many checkpoints are kept, the newest ones.
    keep: int = 3
    # A row of metrics is written every so many frames.
    log_every: int = 10
    # Folder for checkpoints, metrics and results; None is runs/NAME.
    directory: str | None = None

    def __post_init__(self):
        check_types(self, "train")
        check_at_least(self, "train", 1, "train_interval", "checkpoint_every", "keep", "log_every")


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Which policies are compared, on what, and what is drawn."""

    # The table's rows, beside the dense network's.
    policies: tuple[PolicyName, ...] = ("all", "random", "difference", "learned", "oracle")
    # Executed fraction that the compared policies are held to; None is the policy's own target.
    target: float | None = None
    # Several such fractions in its place; each has rows of its own, named as in learned@0.3.
    targets: tuple[float, ...] = ()
    # What is measured on; None is data.source. A source given here is measured from beginning to
    # end where start and frames are None.
    source: str | None = None
    # The first frame that is measured, counted in the source; None is data.start.
    start: int | None = None
    # How many frames are measured; None is data.frames.
    frames: int | None = None
    # Frames at the beginning whose times do not count. Frames for which something is compiled
    # do not count either. Where no frame is left, there are no times, and a warning says so.
    warm_up: int = 10
    # Checkpoints that the row "paper" begins from; None begins from a cold start.
    paper_checkpoint: str | None = None
    # Which measured frame, from 0, is drawn as a picture; the last one where there are fewer;
    # None draws none.
    picture: int | None = 100
    # Frames of the video that is drawn; 0 draws none.
    video_frames: int = 100
    # Frames per second of that video.
    video_fps: float = 10.0
    # Colours of the classes: the data set's usual ones, or ones that colour-blind people can tell
    # apart too.
    colours: Literal["usual", "distinct"] = "usual"

    def __post_init__(self):
        check_types(self, "evaluate")
        check_at_least(self, "evaluate", 0, "warm_up", "video_frames")
        if not self.policies:
            raise ConfigError(
                "evaluate.policies names none; give one or more of "
                f"{', '.join(typing.get_args(PolicyName))}"
            )
        if len(set(self.policies)) != len(self.policies):
            raise ConfigError(f"evaluate.policies names one twice: {' '.join(self.policies)}")
        if self.target is not None and self.targets:
            raise ConfigError("evaluate.target and evaluate.targets are both given: give one")
        for name, held in (("target", () if self.target is None else (self.target,)),
                           ("targets", self.targets)):  # fmt: skip
            for value in held:
                if not 0 < value <= 1:
                    raise ConfigError(f"evaluate.{name} {value} is not in (0, 1]")
        if len(set(self.targets)) != len(self.targets):
            raise ConfigError(f"evaluate.targets has one twice: {self.targets}")
        if self.source == "":
            raise ConfigError("evaluate.source is empty: give a source, or None for data.source")
        if self.frames is not None:
            check_at_least(self, "evaluate", 2, "frames")  # the first one only fills the memory
        if self.start is not None:
            check_at_least(self, "evaluate", 0, "start")
        if self.picture is not None:
            check_at_least(self, "evaluate", 0, "picture")
        check_fps(self, "evaluate", "video_fps")


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that a run depends on."""

    # The run's name, and its folder's under runs/.
    name: str = "debug"
    # Every random number of the run comes from this.
    seed: int = 0
    # The network.
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    # The blocks.
    blocks: BlockConfig = dataclasses.field(default_factory=BlockConfig)
    # The policy that picks the blocks, and how it learns.
    policy: PolicyConfig = dataclasses.field(default_factory=PolicyConfig)
    # The frames.
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    # Training.
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    # Evaluation.
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)
    # How the network itself is trained, with labels; None: it is given, and the policy learns.
    task: TaskConfig | None = None

    def __post_init__(self):
        check_types(self, "")
        check_at_least(self, "", 0, "seed")
        check_at_most(self, "", MOST_SEED, "seed")
        if not self.name or self.name in (".", "..") or set(self.name) & set("/\\\0"):
            raise ConfigError(f"name {self.name!r} cannot be a folder's")
        if self.task is not None and self.task.validate_every % self.train.log_every:
            raise ConfigError(
                f"task.validate_every {self.task.validate_every} is no multiple of "
                f"train.log_every {self.train.log_every}, whose rows the mIoU stands in"
            )

    @property
    def directory(self) -> Path:
        """The folder that the run writes to."""
        return Path(self.train.directory or Path("runs") / self.name)


def load(path: str | Path) -> Config:
    """Runs a Python file and returns its `get_config()`.

    Args:
      path: the file, such as `configs/quickstart.py`.

    Raises:
      ConfigError: there is no such file, it has no `get_config`, or that returns no `Config`.
    """
    path = Path(path)
    if not path.is_file():
        folder, what = path.parent, f"there is no config {path}"
        if path.is_dir():
            folder, what = path, f"{path} is a folder, not a config"
        beside = ", ".join(sorted(p.name for p in folder.glob("[!_]*.py")))
        raise ConfigError(f"{what}; {folder} has {beside or 'none at all'}")
    if path.suffix != ".py":
        raise ConfigError(f"config {path} is not a Python file (.py)")
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, "get_config", None)):
        raise ConfigError(f"config {path} has no function get_config() -> bc_jax.config.Config")
    config = module.get_config()
    if not isinstance(config, Config):
        raise ConfigError(
            f"get_config() of {path} returned {type(config).__name__}, not bc_jax.config.Config"
        )
    return config


def from_json(text: str, cls: type[T] = Config) -> T:
    """Reads what `to_json` wrote of a `Config`, or of the part `cls`.

    Fields that are not there take their defaults.

    Raises:
      ConfigError: it is not JSON, has a field that `cls` has not, or a value of another type.
    """
    return decode_json(text, cls)


def from_command_line(
    description: str,
    argv: Sequence[str] | None = None,
    *,
    extra: type[T] | None = None,
    default: Config | None = None,
) -> tuple[Config, T | None]:
    """Reads `--config FILE`, overrides of any field, and a script's own arguments.

    `--policy.target 0.3` overrides the file's value; `--help` lists every field with the file's
    value as the default. An error is written to stderr, and the exit code is 2.

    Args:
      description: what `--help` says first, a script's `__doc__`.
      argv: the arguments; None is `sys.argv[1:]`.
      extra: a dataclass of the script's own arguments, such as `checkpoint`; it has defaults only.
      default: the settings without `--config`; None insists on it.

    Returns:
      The config, and an instance of `extra` (None where there is none).

    Raises:
      SystemExit: 0 after `--help`, 2 for an invalid argument.
    """
    import tyro

    argv = list(sys.argv[1:] if argv is None else argv)
    script = Path(sys.argv[0]).name
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, prog=script)
    chooser.add_argument("--config")
    path = chooser.parse_known_args(argv)[0].config
    wants_help = "-h" in argv or "--help" in argv
    if path is None and default is None and not wants_help:
        there = ", ".join(sorted(str(p) for p in Path("configs").glob("[!_]*.py")))
        _exit(script, f"which settings? --config FILE{there and f'; there are {there}'}")
    try:
        config = (default or Config()) if path is None else load(path)
    except ValueError as error:
        _exit(script, str(error) if isinstance(error, ConfigError) else f"{path}: {error}")

    flat = tyro.conf.arg(name="")
    chosen = tyro.conf.arg(help="The Python file of settings to start from.")
    parts = [
        ("config", Annotated[str, chosen], path or "none"),
        ("settings", Annotated[Config, flat], config),
    ]
    if extra is not None:
        parts.insert(1, ("arguments", Annotated[extra, flat], extra()))
    line = dataclasses.make_dataclass("Arguments", [part[:2] for part in parts], frozen=True)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            read = tyro.cli(
                line,
                prog=script,
                description=description,
                args=argv,
                default=line(*(part[2] for part in parts)),
                use_underscores=True,
                config=(tyro.conf.AvoidSubcommands,),
            )
    except ConfigError as error:  # of what stands at the top; tyro tells those of parts itself
        _exit(script, str(error))
    except SystemExit as stop:
        if stop.code:
            _exit(script, _one_line(said.getvalue()))
        raise
    return read.settings, getattr(read, "arguments", None)


def _one_line(box: str) -> str:
    """A message of tyro without its frame, help text and line breaks."""
    lines = [line.strip("│ ") for line in box.splitlines() if line[:1] not in ("╭", "╰")]
    sections = re.split(r"\n[─-]+\n", "\n".join(lines))
    # Where the terminal has no frames to draw, the title is the first section.
    message, *more = sections if "│" in box else sections[1:] or sections
    meant = [
        re.findall(r"^--[^\s,]+", section, re.M) for section in more if section[:7] == "Perhaps"
    ]
    if meant:
        message += f"; did you mean {', '.join(meant[0])}?"
    return re.sub(r"\[/?bold\]", "", " ".join(message.split())).replace(" settings.", " ")


def _exit(script: str, message: str) -> NoReturn:
    print(f"{script}: error: {message}", file=sys.stderr)
    raise SystemExit(2)
