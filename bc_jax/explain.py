"""Tell what of a network runs on blocks, what it costs and keeps, and what to change for speed.

Nothing is computed: the network is traced for the size of the frames.
"""

import dataclasses

import jax
import jax.numpy as jnp

from bc_jax import blockcopy, build, command_line
from bc_jax.config import Config, from_command_line
from bc_jax.data import padded_size
from bc_jax.limits import check_sides


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The arguments of this command itself."""

    # Height and width of the frames; None is what data.source has.
    size: tuple[int, int] | None = None

    def __post_init__(self):
        check_sides(self, "", "size")


def main(argv=None) -> None:
    """Read the settings, explain, and say what cannot be in one line."""
    config, arguments = from_command_line(__doc__, argv, extra=Arguments, default=Config())
    with command_line.errors_told():
        explain(config, arguments)


def explain(config: Config, arguments: Arguments) -> None:
    """Print the report of the config's network."""
    network = build.network(config)
    size = arguments.size or build.evaluation_frames(config).size
    height, width = padded_size(size, config.blocks.size)
    frames = jax.ShapeDtypeStruct((config.data.streams, height, width, 3), jnp.uint8)
    print(blockcopy(network.apply_fn, config.blocks.size).explain(network.params, frames))


if __name__ == "__main__":
    main()
