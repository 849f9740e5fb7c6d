"""The command `bc-jax`, which is also `python -m bc_jax`.

train, evaluate, visualize, explain, bench, convert, report, table.
"""

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator, Sequence

from bc_jax import __version__

COMMANDS = {
    "train": "train a policy online, on video, without labels; or a network, with them",
    "evaluate": "compare policies with the dense network",
    "visualize": "draw a video of what happens on any video",
    "explain": "tell what of a network runs on blocks, what it costs, and what to change",
    "bench": "time a network with a part of its blocks executed, beside the dense one",
    "convert": "convert a PyTorch checkpoint",
    "report": "write the page of a run",
    "table": "write the paper's Table 1 with runs beside it",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one of the commands with the arguments that follow its name."""
    try:
        with _reader_may_leave():
            _run(argv)
    except KeyboardInterrupt:
        print("bc-jax: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def _run(argv: Sequence[str] | None) -> None:
    argv = list(sys.argv[1:] if argv is None else argv)
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help"):
        print(_usage())
    elif name == "--version":
        print(f"bc-jax {__version__}")
    elif name in COMMANDS:
        sys.argv = [f"bc-jax {name}", *argv[1:]]  # what the command calls itself
        importlib.import_module(f"bc_jax.{name}").main(argv[1:])
    else:
        print(f"bc-jax: error: no command {name!r}; there are {', '.join(COMMANDS)}",
              file=sys.stderr)  # fmt: skip
        raise SystemExit(2)


@contextlib.contextmanager
def _reader_may_leave() -> Iterator[None]:
    """End without a word where the output's reader has read enough, as `| head` does."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def _usage() -> str:
    lines = [f"  {name.ljust(10)} {what}" for name, what in COMMANDS.items()]
    return "\n".join(["usage: bc-jax COMMAND ...; bc-jax COMMAND --help", "", *lines])


if __name__ == "__main__":
    main()
