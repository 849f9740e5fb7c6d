"""What settings can be at most: sizes, frame rates and seeds."""

from typing import Any

from bc_jax.typed import ConfigError, field_name

# The longest side, in pixels, of a frame or a block.
MOST_SIDE = 2**14
# Frames per second of a video that is written: the least and the most.
FPS = 0.001, 1000
# The least width, in pixels, of a picture of all that happens: its lines have to be read.
LEAST_WIDTH = 960
# JAX makes keys of 32 bits: a greater seed would be that of a smaller one again.
MOST_SEED = 2**32 - 1


def check_sides(config: Any, part: str, *names: str) -> None:
    """Raises ConfigError where a size (height, width), not None, has a side that no frame has."""
    for name in names:
        size = getattr(config, name)
        if size is not None and min(size) < 1:
            raise ConfigError(f"{field_name(part, name)} {size} has a side below 1")
        if size is not None and max(size) > MOST_SIDE:
            raise ConfigError(
                f"{field_name(part, name)} {size} has a side above {MOST_SIDE} pixels, the most"
            )


def check_width(width: int) -> None:
    """Raises ConfigError, a ValueError, where no picture is that wide."""
    if not LEAST_WIDTH <= width <= MOST_SIDE or width % 2:
        raise ConfigError(
            f"width is {width}; it is even and at least {LEAST_WIDTH}, at most {MOST_SIDE}"
        )


def check_fps(config: Any, part: str, name: str) -> None:
    """Raises ConfigError where the field, not None, is no frame rate of a video."""
    value = getattr(config, name)
    if value is not None and not FPS[0] <= value <= FPS[1]:
        why = "no frame rate" if value > 0 else "not above 0"
        raise ConfigError(
            f"{field_name(part, name)} {value} is {why}; it can be {FPS[0]} to {FPS[1]} frames per "
            "second"
        )
