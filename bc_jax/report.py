"""One page of a run: `report.html`, a single file that shows all that the run's folder holds.

    python -m bc_jax.report runs/quickstart

Tables, plots, pictures and video stand in the page itself, and nothing is loaded from elsewhere.
What a folder lacks is left out: a training run alone has no comparison of policies.
"""

import argparse
import base64
import html
import json
import string
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from bc_jax import command_line
from bc_jax.files import write_text
from bc_jax.measurement import policy_of
from bc_jax.results import cells
from bc_jax.view import TITLES, plot_log, plot_times
from bc_jax.view.layers import GAIN_MOST, GAIN_POWER
from bc_jax.view.plots import read_log

NAME = "report.html"
_CURVES = (
    *("reward", "information_gain", "loss", "running_cost", "multiplier"),
    *("miou", "learning_rate"),
)
# Viridis in even steps: what the pictures' colour map is, without Matplotlib.
_VIRIDIS = np.array([
    (68, 1, 84), (71, 45, 123), (59, 82, 139), (44, 114, 142), (33, 145, 140), (40, 174, 128),
    (94, 201, 98), (173, 220, 48), (253, 231, 37),
])  # fmt: skip
_LARGEST_VIDEO = 12_000_000  # bytes that are put into the page


def write(directory: str | Path) -> Path:
    """Write the page of a run into its folder.

    Args:
        directory: of a training run, an evaluation, or both.

    Returns:
        The page's path.

    Raises:
        ValueError: the folder holds neither results.json nor metrics.csv, or one that is damaged.
    """
    directory = Path(directory)
    results = _json(directory / "results.json")
    metrics = _log(directory / "metrics.csv")
    if not results and not metrics:
        raise ValueError(
            f"{directory} holds no run: it has neither results.json (of evaluate.py) nor "
            "metrics.csv with a row (of train.py)"
        )
    checkpoint = _newest_checkpoint(directory)
    trained = checkpoint.get("metadata", {}).get("config", {})
    frames = int(metrics["step"][-1]) if metrics else None
    training = {"config": trained, "frames": checkpoint.get("step", frames)} if metrics else {}
    config = results.get("config") or trained
    sections = {
        "Summary": _summary(results, training),
        "Frames": _viewer(directory / "views", config),
        "Where blocks were executed": _frequencies(results, directory / "views"),
        "Executed fraction over time": _executed(directory, metrics),
        "Accuracy against cost": _picture(
            directory / "tradeoff.png", "Share of pixels that differ from the dense network's."
        ),
        "Time per part": _times(results),
        "Learning curves": _curves(directory, metrics),
        "Video": _video(directory / "video.mp4"),
        "Settings and versions": _settings(results, trained),
    }
    sections = {title: body for title, body in sections.items() if body}
    anchors = {title: title.lower().replace(" ", "-") for title in sections}
    template = (Path(__file__).parent / "view" / "report.html").read_text(encoding="utf-8")
    page = string.Template(template).substitute(
        title=html.escape(trained.get("name") or config.get("name") or directory.name),
        about=_about(results, config, training),
        contents=" ".join(f'<a href="#{anchors[t]}">{html.escape(t)}</a>' for t in sections),
        sections="\n".join(
            f'<section id="{anchors[title]}"><h2>{html.escape(title)}</h2>\n{body}</section>'
            for title, body in sections.items()
        ),
        viridis=", ".join(_colour(value) for value in np.linspace(0, 1, 9)),
    )
    path = directory / NAME
    write_text(path, page)
    return path


def _about(results: dict, config: dict, training: dict) -> str:
    """What was measured, or trained where nothing was; how long it was trained; the device."""
    facts = []
    model, data = config.get("model", {}), config.get("data", {})
    if model:
        measured = config.get("evaluate", {}).get("source") if results else None
        facts.append(f"{model.get('name')} on {measured or data.get('source')}")
    if "frame_size" in results:
        height, width = results["frame_size"]
        facts.append(f"{width} × {height} pixels")
    if "blocks" in config:
        facts.append("blocks of {} × {}".format(*config["blocks"]["size"]))
    if "policy" in config:
        targets = results.get("targets", [config["policy"]["target"]])
        facts.append(f"target {', '.join(f'{target:g}' for target in targets)}")
    if training:
        facts.append(f"trained for {training['frames']} frames")
    device = results.get("device", {})
    if device:
        facts.append(f"{device.get('processor') or device.get('kind')} ({device.get('platform')})")
    return html.escape(" · ".join(facts))


def _summary(results: dict, training: dict) -> str:
    if not results:
        return ""
    titles, *lines = cells(results["rows"], without=("disagreement",))
    head = "".join(f'<th scope="col">{html.escape(title)}</th>' for title in titles)
    rows = ""
    for line in lines:
        name, *figures = map(html.escape, line)
        rows += f'<tr><th scope="row">{name}</th>'
        rows += "".join(f"<td>{figure}</td>" for figure in figures) + "</tr>\n"
    warnings = [*_apart(results, training), *results.get("warnings", ())]
    said = "".join(f'<p class="warning">{html.escape(each)}</p>' for each in warnings)
    note = (
        "Per frame of one stream; times are medians on this machine, and the speed-up compares "
        "the whole with the fastest dense version. Agreement is the share of pixels with the dense "
        "network's class; gap closed is the share of the way from random to oracle."
    )
    return (
        f'{said}<div class="scroll"><table><thead><tr>{head}</tr></thead>\n'
        f'<tbody>{rows}</tbody></table></div>\n<p class="about">{note}</p>'
    )


def _apart(results: dict, training: dict) -> list[str]:
    """Where the policy that was measured is not what the training in the folder has come to."""
    policies = {policy_of(row["policy"]) for row in results["rows"]}
    known = "checkpoint_of_this_run" in results
    if not (training and known and "learned" in policies) or training["config"].get("task"):
        return []
    stands = f"the training in this folder, which stands at frame {training['frames']}"
    if not results["checkpoint_of_this_run"]:
        began = results["checkpoint"] or "a cold start"
        return [f"these figures are of a policy that began from {began}, and not from {stands}"]
    began = results["checkpoint_frames"]
    frame = max(began[name] for name in began if policy_of(name) == "learned")
    if frame == training["frames"]:
        return []
    return [f"these figures are of the policy after frame {frame} of {stands}: evaluate it again"]


def _viewer(folder: Path, config: dict) -> str:
    """The frames' views, two at a time, with a slider from one to the other."""
    frames = sorted(path for path in folder.glob("[0-9]*") if path.is_dir())
    images, names = "", []
    for frame in frames:
        for name in TITLES:
            path = frame / f"{name}.jpg"
            if path.is_file():
                names += [] if name in names else [name]
                said = f"{TITLES[name]} of frame {int(frame.name)}"
                images += (
                    f'<p>{said}</p><img data-frame="{int(frame.name)}" data-view="{name}" '
                    f'alt="{said}" src="{_data(path)}">\n'
                )
    if not images:
        return ""
    views = {name: TITLES[name] for name in names}
    most = GAIN_MOST[config.get("policy", {}).get("gain", "tv")]
    middle = most * 0.5 ** (1 / GAIN_POWER)
    right = "blocks" if "blocks" in views else names[-1]
    return (
        '<div class="viewer"><div class="controls">'
        + _choice("frame", {str(int(f.name)): f"frame {int(f.name)}" for f in frames}, None)
        + _choice("left", views, names[0])
        + _choice("right", views, right)
        + '<input type="range" min="0" max="100" value="50" data-role="slider" '
        'aria-label="from the one view to the other"></div>'
        f'<div class="stage">{images}<div class="edge" data-role="edge"></div></div></div>\n'
        '<p class="about">Frames are counted from the first one measured. Amber: executed in this '
        f"frame. Information gain: violet is 0, green {middle:g}, yellow {most:g} or more; "
        "probability: violet is 0, green 0.5, yellow 1.</p>"
    )


def _choice(role: str, options: dict[str, str], chosen: str | None) -> str:
    items = "".join(
        f'<option value="{value}"{" selected" if value == chosen else ""}>{html.escape(text)}'
        "</option>"
        for value, text in options.items()
    )
    return f'<select data-role="{role}" aria-label="{role}">{items}</select>'


def _frequencies(results: dict, views: Path) -> str:
    """A map of the blocks of the policy that is drawn, over a picture of the video."""
    known = results.get("execution_frequency", {})
    names = [name for name in ("learned", "paper", *known) if name in known and name != "all"]
    if not names or np.ndim(known[names[0]]) != 2:
        return ""
    grid = np.array(known[names[0]], float)
    (height, width), block = results["frame_size"], results["config"]["blocks"]["size"]
    picture = next(iter(sorted(views.glob("*/frame.jpg"))), None)
    under = f'<image href="{_data(picture)}" width="{width}" height="{height}"/>' if picture else ""
    cells = ""
    for (y, x), value in np.ndenumerate(grid):
        top, left = y * block[0], x * block[1]
        h, w = min(block[0], height - top), min(block[1], width - left)
        cells += (
            f'<rect x="{left}" y="{top}" width="{w}" height="{h}" fill="{_colour(value)}" '
            f'fill-opacity="0.72"><title>row {y}, column {x}: {value:.1%}</title></rect>'
        )
    return (
        f'<figure><svg class="heat" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="how often each block was executed">{under}{cells}</svg>'
        '<div class="bar"></div><div class="ends"><span>0 %</span><span>100 %</span></div>'
        f"<figcaption>Share of the frames in which '{html.escape(names[0])}' executed each block, "
        f"from {grid.min():.1%} to {grid.max():.1%}; point at a block for its figure."
        "</figcaption></figure>"
    )


def _executed(directory: Path, metrics: dict) -> str:
    shown = _picture(directory / "executed.png", "In the evaluation, frame by frame.")
    if "executed" not in metrics:
        return shown
    log = directory / "metrics.csv"
    return shown + _plot(lambda path: plot_log(path, log, ["executed"]), "While training.")


def _times(results: dict) -> str:
    parts = {
        row["policy"]: {
            "network": row["ms_network"],
            "policy": row["ms_policy"],
            "learning": max(0.0, row["ms_per_frame"] - row["ms_network"] - row["ms_policy"]),
        }
        for row in results.get("rows", ())
        if row["ms_per_frame"] is not None
    }
    if not parts:
        return ""
    return _plot(lambda path: plot_times(path, parts), "Milliseconds per frame, by part")


def _curves(directory: Path, metrics: dict) -> str:
    names = [n for n in _CURVES if n in metrics and np.isfinite(metrics[n]).any()]
    if not names:
        return ""
    log = directory / "metrics.csv"
    return _plot(lambda path: plot_log(path, log, names), "Learning curves: " + ", ".join(names))


def _video(path: Path) -> str:
    if not path.is_file() or path.stat().st_size > _LARGEST_VIDEO:
        return ""
    return f'<video controls loop muted aria-label="video of the run" src="{_data(path)}"></video>'


def _settings(results: dict, trained: dict) -> str:
    """Facts of the evaluation, and all settings: of the training, and the evaluation's if other."""
    facts = {
        **results.get("versions", {}),
        "commit": results.get("commit"),
        "command": results.get("command"),
        "checkpoint": results.get("checkpoint"),
        "device": ", ".join(f"{k} {v}" for k, v in results.get("device", {}).items()),
        "dense version": results.get("dense", {}).get("version"),
        "state": f"{results['state_bytes'] / 1e6:.1f} MB" if "state_bytes" in results else None,
        "fallbacks": ", ".join(results.get("fallbacks", ())) or ("none" if results else None),
    }
    rows = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>'
        for name, value in facts.items()
        if value
    )
    measured = results.get("config", {})
    settings = {"All settings": trained or measured}
    if trained and measured not in ({}, trained):
        settings = {"Settings of the training": trained, "Settings of the evaluation": measured}
    details = "\n".join(
        f"<details><summary>{title}</summary><pre>{html.escape(json.dumps(config, indent=2))}"
        "</pre></details>"
        for title, config in settings.items()
        if config
    )
    return f'<table class="facts">{rows}</table>\n{details}'


def _plot(draw: Callable[[Path], object], alt: str) -> str:
    """A plot as a part of the page; nothing where Matplotlib is not there."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plot.png"
        try:
            draw(path)
        except ImportError:
            return "<p>Plots need Matplotlib: pip install matplotlib</p>"
        return _picture(path, alt)


def _picture(path: Path, alt: str) -> str:
    if not path.is_file():
        return ""
    alt = html.escape(alt)
    return (
        f'<figure><img class="plot" src="{_data(path)}" alt="{alt}">'
        f"<figcaption>{alt}</figcaption></figure>"
    )


def _data(path: Path) -> str:
    kinds = {".png": "image/png", ".jpg": "image/jpeg", ".mp4": "video/mp4"}
    return f"data:{kinds[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _colour(value: float) -> str:
    at = np.linspace(0, 1, len(_VIRIDIS))
    return "#" + "".join(f"{round(np.interp(value, at, c)):02x}" for c in _VIRIDIS.T)


def _json(path: Path) -> dict:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _log(path: Path) -> dict[str, np.ndarray]:
    has_rows = path.is_file() and path.read_text(encoding="utf-8").count("\n") > 1
    return read_log(path) if has_rows else {}


def _newest_checkpoint(directory: Path) -> dict:
    """What the file of the training's newest checkpoint says."""
    newest = max((directory / "checkpoints").glob("*.json"), default=None)
    return _json(newest) if newest else {}


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page of each run that is named."""
    parser = argparse.ArgumentParser(prog="bc-jax report", description=main.__doc__)
    parser.add_argument("run", nargs="+", help="folder of a run, such as runs/quickstart")
    with command_line.errors_told():
        for run in parser.parse_args(argv).run:
            print(write(run))


if __name__ == "__main__":
    main()
