"""The documentation's figures, drawn from the clip that comes with the package.

    python docs/figures.py

Takes about a minute on 2 CPU cores, compiling included.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import bc_jax
from bc_jax import command_line, models
from bc_jax.data import crop, open_source
from bc_jax.view import panel, plot_executed
from bc_jax.view.drawing import EXECUTED, font

FOLDER = Path(__file__).parent / "figures"
BLOCK, FRAMES, TARGET = 64, 80, 0.3
REMEMBERED = (86, 180, 233)


def main() -> None:
    """Run the policy on the clip's beginning, and draw its last frame and its course."""
    command_line.prepare()
    network = models.load("espnet_cityscapes")
    policy = bc_jax.PolicyConfig.light(target=TARGET)
    runner = bc_jax.Runner(
        network.apply_fn, network.params, block_size=BLOCK, policy=policy, capacity_steps=8
    )
    source = open_source("pedestrians", frames=FRAMES)
    executed = []
    for frame in source:
        logits = runner(frame)
        executed.append(float(runner.outcome.grid.mean()))
    FOLDER.mkdir(exist_ok=True)
    grid = np.asarray(runner.outcome.grid[0])
    picture = panel(
        frame,
        np.asarray(crop(logits, source.size, network.stride)[0].argmax(-1)),
        grid,
        np.asarray(runner.state.frame_state.frames[0]),
        np.asarray(runner.outcome.gain[0]),
        1 / (1 + np.exp(-np.asarray(runner.decision.scores[0]))),
        palette=network.palette,
        class_names=network.class_names,
        figures={"frame": FRAMES - 1, "target": TARGET, "executed": executed[-1]},
        title=f"{network.name}, policy: learned",
        block_size=BLOCK,
        width=1280,
    )
    Image.fromarray(picture).save(FOLDER / "panel.jpg", quality=85)
    halo(frame, grid).save(FOLDER / "halo.jpg", quality=90)
    plot_executed(FOLDER / "executed.png", {"learned": executed[1:]}, TARGET)


def halo(frame: np.ndarray, grid: np.ndarray, width: int = 12) -> Image.Image:
    """One executed block, the ring of pixels that its layers read, and where they come from."""
    gh, gw = grid.shape
    inner = [
        (y, x)
        for y, x in np.argwhere(grid)
        if 0 < y < gh - 1 and 0 < x < gw - 1 and not grid[y - 1 : y + 2, x - 1 : x + 2].all()
    ]
    # The one with most neighbours of both kinds.
    y, x = max(
        inner, key=lambda at: -abs(grid[at[0] - 1 : at[0] + 2, at[1] - 1 : at[1] + 2].sum() - 5)
    )
    scale, top, left = 3, (y - 1) * BLOCK, (x - 1) * BLOCK
    part = frame[top : top + 3 * BLOCK, left : left + 3 * BLOCK]
    side, text = 3 * BLOCK * scale, 84
    picture = Image.new("RGB", (side, side + text), "white")
    picture.paste(Image.fromarray(part).resize((side, side), Image.Resampling.BILINEAR))
    draw = ImageDraw.Draw(picture, "RGBA")
    block, ring = BLOCK * scale, width * scale
    for row in range(3):
        for column in range(3):
            if (row, column) == (1, 1):
                continue
            now = grid[y - 1 + row, x - 1 + column]
            box = [column * block, row * block, (column + 1) * block, (row + 1) * block]
            read = [
                max(box[0], block - ring), max(box[1], block - ring),
                min(box[2], 2 * block + ring), min(box[3], 2 * block + ring),
            ]  # fmt: skip
            draw.rectangle(read, fill=(*(EXECUTED if now else REMEMBERED), 150))
    for edge in (block, 2 * block):
        draw.line((edge, 0, edge, side), fill=(255, 255, 255, 160), width=2)
        draw.line((0, edge, side, edge), fill=(255, 255, 255, 160), width=2)
    draw.rectangle((block, block, 2 * block, 2 * block), outline=EXECUTED, width=6)
    small = font(19)
    lines = (
        (EXECUTED, "executed in this frame"),
        (REMEMBERED, "remembered from an earlier frame"),
    )
    for number, (colour, said) in enumerate(lines):
        at = side + 16 + 32 * number
        draw.rectangle((8, at, 28, at + 20), fill=colour)
        draw.text((38, at + 10), said, (27, 31, 36), small, anchor="lm")
    return picture


if __name__ == "__main__":
    main()
