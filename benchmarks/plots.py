"""Plots of a folder of results. Needs Matplotlib.

python -m benchmarks.plots benchmarks/results/DEVICE --output docs/figures
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from bc_jax.view import plot_times
from bc_jax.view.plots import COLOURS, legend_below, new_figure, save_figure
from benchmarks.step import PARTS


def read_rows(folder: str | Path) -> list[dict]:
    """The rows of all files; of what was measured twice, those of the newer file.

    Raises:
        ValueError: the folder has no rows.
    """
    contents = [json.loads(path.read_text()) for path in Path(folder).glob("*.json")]
    contents.sort(key=lambda content: content["environment"]["time"])
    newest = {}
    for content in contents:
        measured: dict = {}
        for row in content["rows"]:
            of = case_of(row) if "model" in row else row.get("dtype")
            measured.setdefault((row["benchmark"], of), []).append(row)
        newest |= measured
    if not newest:
        raise ValueError(f"{folder} has no file of rows; python -m benchmarks.run writes some")
    return [row for rows in newest.values() for row in rows]


def case_of(row: dict) -> str:
    """What a row is of, in words; what is as usual is left out."""
    words = [row["model"], f"{row['size'][0]}x{row['size'][1]}"]
    words += [row["dtype"]] * (row["dtype"] != "float32")
    words += [f"blocks of {row['block']}"] * (row["block"] != 128)
    return " ".join([*words, *[f"{row['streams']} streams"] * (row["streams"] > 1)])


def plot_efficiency(path: Path, rows: Iterable[dict]) -> Path:
    """Efficiency against the executed fraction, a line for each case of `benchmarks.network`."""
    lines: dict[str, list[dict]] = {}
    for row in rows:
        if row["executed"]:  # of none, nothing is gained and nothing lost
            lines.setdefault(case_of(row), []).append(row)
    figure, axes = new_figure((9, 5.2))
    for number, (name, found) in enumerate(sorted(lines.items())):
        found = sorted(found, key=lambda row: row["fraction"])
        at, middle = (np.array([row[f] for row in found]) for f in ("fraction", "efficiency"))
        # A tenth of the calls were faster than p10, and a tenth slower than p90.
        ends = [[row["sparse_ms"] / row[f"sparse_{p}_ms"] for row in found] for p in ("p90", "p10")]
        low, high = (middle * np.array(end) for end in ends)
        style = {"color": COLOURS[number % len(COLOURS)], "marker": "osD^vP*X"[number % 8]}
        style["linestyle"] = "-" if number < len(COLOURS) else "--"
        spread = [np.maximum(0, middle - low), np.maximum(0, high - middle)]
        axes.errorbar(at, middle, spread, label=name, linewidth=1.8, elinewidth=0.8, **style)
    axes.axhline(1, color="#444444", linestyle="--", linewidth=1)
    axes.set(xlabel="blocks executed, as a fraction", xlim=(0, 1.03))
    axes.set(ylabel="fraction × dense time / sparse time", ylim=(0, None))
    axes.set_title("Efficiency of the block-sparse network (1 is ideal; bars: p10 to p90)")
    legend_below(axes, 2 if len(lines) > 1 else 1)
    return save_figure(figure, path)


def plot_steps(path: Path, rows: list[dict]) -> Path:
    """What a frame takes, part by part, in percent of the dense network; of `benchmarks.step`.

    Of each case only the lowest fraction is drawn.
    """
    lowest: dict[str, float] = {}
    for row in rows:
        lowest[case_of(row)] = min(row["fraction"], lowest.get(case_of(row), 1.0))
    bars = {
        f"{case_of(row)}, {row['policy']} at {row['fraction']:.2f}": {
            part: 100 * row[f"{part}_ms"] / row["dense_ms"] for part in PARTS
        }
        for row in sorted(rows, key=case_of)
        if row["fraction"] == lowest[case_of(row)]
    }
    unit = "percent of the dense network's time"
    return plot_times(path, bars, title="The whole step of a frame", unit=unit)


def plot_roofline(path: Path, rows: list[dict]) -> Path:
    """What each layer of one network reaches, beside what the device allows."""
    layers = [row for row in rows if row["part"] != "network" and row["macs"]]
    compute, bandwidth = rows[0]["macs_per_second"], rows[0]["bytes_per_second"]
    figure, axes = new_figure((9, 5.2))
    reached = []
    for number, (kind, share) in enumerate((("dense", 1.0), ("sparse", layers[0]["fraction"]))):
        macs = share * np.array([row["macs"] for row in layers])
        moved = np.array([row[f"{kind}_bytes"] for row in layers])
        milliseconds = np.array([row[f"{kind}_ms"] for row in layers])
        spent = milliseconds * [row["times"] for row in layers]
        at, speed = macs / moved, macs / (1e-3 * milliseconds) / 1e9
        reached.append(at)
        label = "dense" if kind == "dense" else f"on tiles, {share:.2f} of the blocks"
        style = {"color": COLOURS[number], "marker": "os"[number], "alpha": 0.65}
        axes.scatter(at, speed, 25 + 400 * spent / spent.sum(), label=label, zorder=3, **style)
    ends = np.concatenate([*reached, [compute / bandwidth]])
    x = np.geomspace(ends.min() / 2, ends.max() * 2, 200)
    roof = np.minimum(compute, x * bandwidth) / 1e9
    said = f"{compute / 1e9:.3g} GMAC/s, {bandwidth / 1e9:.3g} GB/s (measured)"
    axes.plot(x, roof, color="#444444", linewidth=1.5, label=said)
    axes.set(xscale="log", yscale="log", xlabel="multiply-accumulates per byte", ylabel="GMAC/s")
    axes.set_title(f"Convolutions of {case_of(rows[0])} (area: share of their time)")
    legend_below(axes, 3)
    return save_figure(figure, path)


# What `benchmarks.scaling` changes, as the axes are named.
_CHANGES = {
    "fraction": "executed fraction of the blocks",
    "size": "height x width of the frames (pixels)",
    "streams": "streams",
    "block": "side of a block (pixels)",
    "dtype": "type",
}


def plot_scaling(path: Path, rows: list[dict]) -> Path:
    """Milliseconds against what was changed, a panel for each axis of `benchmarks.scaling`."""
    axes_of = {name: [row for row in rows if row["axis"] == name] for name in _CHANGES}
    axes_of = {name: found for name, found in axes_of.items() if len(found) > 1}
    figure, panels = new_figure((9, 2.2 * len(axes_of)), rows=len(axes_of), sharex=False)
    for (name, found), axes in zip(axes_of.items(), panels, strict=True):
        found = sorted(found, key=lambda row: row[name])
        labels = [_value(row, name) for row in found]
        for number, kind in enumerate(("dense", "sparse")):
            values = [row[f"{kind}_ms"] for row in found]
            style = {"color": COLOURS[number], "marker": "os"[number]}
            style["linestyle"] = "" if name == "dtype" else "-"  # nothing lies between types
            axes.plot(labels, values, label=kind, **style)
        axes.set(ylabel="ms per frame", xlabel=_CHANGES[name])
        axes.set_ylim(0, 1.1 * max(max(row["dense_ms"], row["sparse_ms"]) for row in found))
    panels[0].set_title(f"Time per frame, all streams together: {rows[0]['model']}")
    panels[0].legend(frameon=False, loc="lower right")
    return save_figure(figure, path)


def _value(row: dict, axis: str) -> str:
    value = row[axis]
    return f"{value[0]}x{value[1]}" if axis == "size" else f"{value:.3g}" if axis == "fraction" else str(value)  # fmt: skip  # noqa: E501


def write_plots(folder: str | Path, output: str | Path) -> list[Path]:
    """Draw what the folder's rows allow; returns the pictures' paths."""
    output, of = Path(output), {}
    for row in read_rows(folder):
        of.setdefault(row["benchmark"], []).append(row)
    drawn = []
    if "network" in of:
        drawn.append(plot_efficiency(output / "efficiency.png", of["network"]))
    if "step" in of:
        drawn.append(plot_steps(output / "step.png", of["step"]))
    for benchmark, plot in (("roofline", plot_roofline), ("scaling", plot_scaling)):
        kept: dict[str, list[dict]] = {}
        for row in of.get(benchmark, ()):
            kept.setdefault(row["model"] if benchmark == "scaling" else case_of(row), []).append(
                row
            )
        for name, rows in kept.items():
            drawn.append(plot(output / f"{benchmark}-{name.replace(' ', '-')}.png", rows))
    return drawn


def main(folder: str, /, output: str = "docs/figures") -> None:
    """Draw and name the pictures.

    Args:
        folder: of results, such as benchmarks/results/DEVICE.
        output: folder that the pictures are written to.
    """
    print(*write_plots(folder, output), sep="\n")


if __name__ == "__main__":
    import tyro

    from bc_jax.command_line import errors_told

    with errors_told():
        tyro.cli(main, description=__doc__)
